"""Ranks: the processes of one run under torchrun, and what they exchange.

A run exchanges little: once per outer iteration what the iteration gave, through host memory, so one group of gloo
serves CPUs and GPUs. Ranks wait for one another within an iteration only where networks train on the whole synthetic
set, or where ranks share the batches of a training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from weakref import ReferenceType, ref

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import DreamAccelError
from .devices import reason_of

T = TypeVar("T")

TIMEOUT = float(os.environ.get("DREAM_ACCEL_RANK_TIMEOUT", "1800"))
"""Seconds that a rank waits for the others at an exchange before it gives up."""
FOR_EVER = 30 * 86_400.0
"""Seconds that are more than any run takes."""
_LEAVE = 10.0
"""Seconds that a rank at its end waits for the others to come to theirs."""


class LostRankError(DreamAccelError):
    """A rank that ended, or that does not come to an exchange."""


class StoppedRankError(DreamAccelError):
    """A rank that refused to go on within an outer iteration, and says so where the others exchange something else."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and this one's place among them.

    Attributes:
        rank: the number of this process, from 0. Rank 0 writes and prints.
        count: the number of processes.
        group: a weak reference to the gloo group that they exchange through; None if there is one process. PyTorch's
            is the only strong one, so that the threads of the group end with it, and not after the interpreter.
    """

    rank: int = 0
    count: int = 1
    group: ReferenceType[Any] | None = None

    @property
    def is_first(self) -> bool:
        """True on the rank that writes and prints."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the device of this rank where ``name`` leaves the choice: its own GPU, if there is one for it."""
        if self.count == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available():
            return name
        return f"cuda:{int(os.environ.get('LOCAL_RANK', self.rank)) % torch.cuda.device_count()}"

    def gathered(self, value: T) -> list[T]:
        """Exchange a value of every rank; return those of all, in their order.

        The values are pickled, which is safe among processes of one run.

        Raises:
            LostRankError: a rank ended, or did not come within :data:`TIMEOUT` seconds.
        """
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        self._exchange(lambda group: dist.all_gather_object(found, value, group=group))
        return found

    def from_first(self, compute: Callable[[], T]) -> T:
        """Return what a function gives on rank 0, the only one that calls it. Its refusal is raised on all ranks.

        Raises:
            DreamAccelError: the function refused.
            LostRankError: as in :meth:`gathered`.
        """
        if self.count == 1:
            return compute()
        found: list[Any] = [None]
        if self.is_first:
            try:
                found = [compute()]
            except DreamAccelError as error:
                found = [error]
        self._exchange(lambda group: dist.broadcast_object_list(found, src=dist.get_global_rank(group, 0), group=group))
        if isinstance(found[0], DreamAccelError):
            raise found[0]
        return found[0]

    def joined(self, part: Tensor) -> Tensor:
        """Return the parts of all ranks, in their order, joined along the first dimension, on the device of the part.

        Raises:
            LostRankError: as in :meth:`gathered`.
            StoppedRankError: another rank came here with something else: the reason why it stopped.
        """
        if self.count == 1:
            return part
        parts = self.gathered(part.detach().cpu())
        for number, each in enumerate(parts):
            if not isinstance(each, Tensor):
                raise StoppedRankError(f"rank {number} stopped: {each}")
        return torch.cat(parts).to(part.device)

    def concluded(self, outcome: T) -> list[T]:
        """Exchange the outcomes of a piece of work, during which ranks exchange tensors by :meth:`joined`.

        A rank that cannot finish the work comes here early, with its reason. The others read it at their next
        :meth:`joined`, and come here too.

        Args:
            outcome: of this rank, not a tensor.

        Returns:
            the outcomes of all ranks in their order, but reasons of ranks that stopped for another one are left out.

        Raises:
            LostRankError: as in :meth:`gathered`.
        """
        while True:
            found = self.gathered(outcome)
            if not any(isinstance(each, Tensor) for each in found):
                return [each for each in found if not isinstance(each, StoppedRankError)]

    def wait(self) -> None:
        """Wait until every rank has come here, however long that takes.

        Raises:
            LostRankError: a rank ended.
        """
        if self.count > 1:
            self._exchange(lambda _: None, FOR_EVER)

    def neighbours(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this rank, when each has neighbouring ones, about as many as the others; maybe none."""
        first, stop = (len(items) * rank // self.count for rank in (self.rank, self.rank + 1))
        return items[first:stop]

    def own(self, items: Sequence[T]) -> list[T]:
        """Return the items of this rank, when they are dealt out in turn."""
        return list(items[self.rank :: self.count])

    def dealt(self, own: Sequence[T]) -> list[T]:
        """Put the items that :meth:`own` dealt out back into their order, from every rank's part.

        Raises:
            LostRankError: as in :meth:`gathered`.
        """
        parts = self.gathered(list(own))
        return [parts[place % self.count][place // self.count] for place in range(sum(map(len, parts)))]

    def _exchange(self, call: Callable[[Any], None], timeout: float = TIMEOUT) -> None:
        failure = self._failure(call, timeout)
        if failure is not None:
            # Raised here, where no frame of its traceback refers to the group.
            raise LostRankError(
                f"rank {self.rank} of {self.count} lost another one ({failure}): the iterations completed are in the "
                "checkpoint; start all ranks again with --resume"
            )

    def _failure(self, call: Callable[[Any], None], timeout: float) -> str | None:
        """The reason why an exchange failed; None if it did not."""
        group = None if self.group is None else self.group()
        try:
            # It names the ranks that are missing, which an exchange does not.
            dist.monitored_barrier(group, timedelta(seconds=timeout), wait_all_ranks=True)
            call(group)
        except RuntimeError as error:
            return reason_of(error)
        return None


ALONE = Ranks()
"""The one process of an ordinary run."""


def shares(costs: Sequence[float], count: int) -> list[range]:
    """Divide items among ranks: each takes neighbouring items, and the largest cost of a rank is as small as possible.

    Args:
        costs: the cost of every item, not negative.
        count: the number of ranks.

    Returns:
        one range of items per rank, in order, none of them empty.

    Raises:
        DreamAccelError: there are more ranks than items.
    """
    n = len(costs)
    if count > n:
        raise DreamAccelError(f"{count} ranks and {n} classes: start at most one rank for each class")
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)
    # least[k][i]: the smallest possible largest cost where k ranks take the first i items; begins[k][i]: where the last
    # of them begins.
    least = [[float("inf")] * (n + 1) for _ in range(count + 1)]
    begins = [[0] * (n + 1) for _ in range(count + 1)]
    least[0][0] = 0.0
    for k in range(1, count + 1):
        for i in range(k, n + 1):
            for j in range(k - 1, i):
                largest = max(least[k - 1][j], total[i] - total[j])
                if largest < least[k][i]:
                    least[k][i], begins[k][i] = largest, j
    found, stop = [], n
    for k in range(count, 0, -1):
        found.append(range(begins[k][stop], stop))
        stop = begins[k][stop]
    return found[::-1]


@contextmanager
def launched_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun, or a launcher like it, has started this process among; one rank if there is no launcher.

    A process group that exists is used and left as it is; one that is made here ends with the block.

    Raises:
        DreamAccelError: the launcher's environment names no place to meet, or the others do not come.
    """
    if dist.is_available() and dist.is_initialized():
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT))
        yield Ranks(dist.get_rank(), dist.get_world_size(), ref(group))
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, count = next(rendezvous("env://"))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=TIMEOUT))
    except (RuntimeError, ValueError) as error:
        raise DreamAccelError(
            f"the ranks do not meet ({reason_of(error)}): start them with torchrun, or unset WORLD_SIZE to run in one "
            "process"
        ) from None
    together = True
    try:
        yield Ranks(rank, count, ref(dist.group.WORLD))
    except LostRankError:
        together = False
        raise
    finally:
        # gloo closes a connection by a reset, which discards what the other side has not read yet.
        together = together and _meet(store, "has what was sent to it", range(count), rank)
        dist.destroy_process_group()
        if together:  # The first rank may hold the store, which the others have just asked.
            _meet(store, "has left", range(1, count) if rank == 0 else range(0), rank)
        del store  # It has a thread, and the traceback of an exception would keep it.


def _meet(store: dist.Store, event: str, ranks: range, rank: int) -> bool:
    """Tell the others of an event, and wait for :data:`_LEAVE` seconds at most until those ranks have told of theirs.

    Returns:
        whether they have. One that was killed, or computes on because only this one ended, has not.
    """
    try:
        store.set(f"dream_accel: rank {rank} {event}", "")
        if ranks:  # Where there is none, the first rank may be gone before it answers.
            store.wait([f"dream_accel: rank {each} {event}" for each in ranks], timedelta(seconds=_LEAVE))
    except RuntimeError:
        return False
    return True
