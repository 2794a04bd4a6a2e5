"""Rows in host memory, read on the device one chunk at a time, by one process or by the ranks that share the chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..runtime.distributed import ALONE, Ranks
from .scaling import Scaling
from .seeding import gather_rows


class Chunk(NamedTuple):
    """Rows that are on the device at one time."""

    rows: slice
    groups: slice
    offsets: Tensor
    """(groups + 1,) int64 on the device, counted from the chunk's first row."""


def cut(bounds: Sequence[int], chunk_rows: int, device: torch.device) -> list[Chunk]:
    """Chunks of at most ``chunk_rows`` rows; ``bounds`` are the offsets, on the host."""
    chunks = []
    first, n_groups = 0, len(bounds) - 1

    def close(last: int) -> None:
        if bounds[last] > bounds[first]:
            offsets = torch.tensor(bounds[first : last + 1]) - bounds[first]
            chunks.append(Chunk(slice(bounds[first], bounds[last]), slice(first, last), offsets.to(device)))

    for g, (start, stop) in enumerate(pairwise(bounds)):
        if stop - bounds[first] <= chunk_rows:
            continue
        close(g)
        first = g
        if stop - start > chunk_rows:
            for row in range(start, stop, chunk_rows):
                end = min(row + chunk_rows, stop)
                chunks.append(Chunk(slice(row, end), slice(g, g + 1), torch.tensor([0, end - row]).to(device)))
            first = g + 1
    close(n_groups)
    return chunks


class HostRows:
    """Rows in host memory, read chunk by chunk on ``device`` and scaled there.

    Attributes:
        chunks: all of them, in the order of the rows.
        own: those that this rank reads, neighbours.
    """

    def __init__(
        self,
        x: Tensor,
        bounds: Sequence[int],
        chunk_rows: int,
        device: torch.device,
        scaling: Scaling | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.x = x
        self.device = device
        self.scaling = scaling
        self.ranks = ranks
        self.chunks = cut(bounds, chunk_rows, device)
        self.own = ranks.neighbours(self.chunks)

    def read(self, chunks: Iterable[Chunk] | None = None) -> Iterator[tuple[Chunk, Tensor]]:
        """Every own chunk with its rows on the device, which are valid until the next chunk is read."""
        chunks = self.own if chunks is None else list(chunks)
        read: Iterator[tuple[Chunk, Tensor]]
        if self.device.type != "cuda":
            read = ((chunk, self.x[chunk.rows].to(self.device)) for chunk in chunks)
        else:
            read = self._read_ahead(chunks)
        scaling = self.scaling
        if scaling is None:
            return read
        return ((chunk, scaling.part(chunk.groups).rows(x, chunk.offsets)) for chunk, x in read)

    def completed(self, values: Tensor) -> Tensor:
        """(N,) values of all rows, from those that every rank has for the rows of its own chunks."""
        own = slice(self.own[0].rows.start, self.own[-1].rows.stop) if self.own else slice(0)
        return values if self.ranks.count == 1 else self.ranks.joined(values[own])

    def any_rank(self, flags: Tensor) -> Tensor:
        """(G,) bool: whether a flag is set on any rank."""
        return self.ranks.joined(flags.unsqueeze(0)).any(dim=0)

    def centroids(self, picks: Tensor) -> Tensor:
        """(G, K, D) the given rows as centroids, scaled, on the device."""
        centroids = gather_rows(self.x, picks.to(self.x.device)).to(self.device)
        return centroids if self.scaling is None else self.scaling.centroids(centroids)

    def _read_ahead(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Tensor]]:
        """Copies one chunk while another is in use, through two pinned buffers and two on the device."""
        longest = max((chunk.rows.stop - chunk.rows.start for chunk in chunks), default=0)
        shape = (2, longest, self.x.shape[1])
        pinned = torch.empty(shape, dtype=self.x.dtype, pin_memory=True)
        on_device = torch.empty(shape, dtype=self.x.dtype, device=self.device)
        copies = torch.cuda.Stream(self.device)
        current = torch.cuda.current_stream(self.device)
        copies.wait_stream(current)
        copied = [torch.cuda.Event() for _ in range(2)]
        used = [torch.cuda.Event() for _ in range(2)]

        def send(i: int) -> None:
            side = i % 2
            source = self.x[chunks[i].rows]
            if i >= 2:
                copied[side].synchronize()
                copies.wait_event(used[side])
            pinned[side, : len(source)].copy_(source)
            with torch.cuda.stream(copies):
                on_device[side, : len(source)].copy_(pinned[side, : len(source)], non_blocking=True)
                copied[side].record(copies)

        for i, chunk in enumerate(chunks):
            if i == 0:
                send(0)
            if i + 1 < len(chunks):
                send(i + 1)
            current.wait_event(copied[i % 2])
            yield chunk, on_device[i % 2, : chunk.rows.stop - chunk.rows.start]
            used[i % 2].record(current)
        # The buffers return to the allocator in the order of the current stream, after the last copy.
        current.wait_stream(copies)
