"""Random streams named by a seed and keys, independent of global state and of the position in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

from .arrays import whole_number
from .errors import DreamAccelError

_MASK_34 = (1 << 34) - 1
_MASK_37 = (1 << 37) - 1
_MASK_33 = (1 << 33) - 1


def derive_seed(seed: int, *keys: object) -> int:
    """Derive a 63-bit seed from a seed and any number of names: ``derive_seed(0, "network", 12)``.

    Every seed of the library passes here. Numbers of NumPy give the stream of the Python number they are equal to.

    Args:
        seed: any whole number.
        keys: strings, numbers, truth values, None, and tuples of them.

    Returns:
        a whole number in [0, 2^63), the same in every process and version.

    Raises:
        DreamAccelError: the seed is no whole number, or a name is of another type, whose text may differ between
            processes.
    """
    names = (whole_number(seed, "seed"), *map(_as_name, keys))
    digest = hashlib.blake2b(repr(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _as_name(key: object) -> object:
    """The key in Python's own types, whose text depends on nothing but the value."""
    if key is None or isinstance(key, bool):
        return key
    if isinstance(key, str):
        return str(key)
    if isinstance(key, Integral):
        return int(key)
    if isinstance(key, Real):
        return float(key)
    if isinstance(key, tuple):
        return tuple(map(_as_name, key))
    raise DreamAccelError(
        f"a random stream is named by a {type(key).__name__}: names are strings, numbers and tuples of them"
    )


def generator(seed: int, *keys: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator for one combination of seed and names, as :func:`derive_seed` takes them."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *keys))


def hash_rows(rows: Tensor, seed: int | Tensor, *keys: object) -> Tensor:
    """(N,) int64 in [0, 2^63): a pseudo-random number for every row number, the same on every device.

    ``seed`` may be a tensor with results of :func:`derive_seed`, 0-d or one that broadcasts with the rows; keys are
    ignored then.

    Computed by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) from ``seed + row``; int64 products wrap as
    intended.
    """
    z = rows + (seed if isinstance(seed, Tensor) else derive_seed(seed, *keys))
    z = (z ^ ((z >> 30) & _MASK_34)) * -4658895280553007687
    z = (z ^ ((z >> 27) & _MASK_37)) * -7723592293110705685
    z = z ^ ((z >> 31) & _MASK_33)
    return z & torch.iinfo(torch.int64).max


def uniform_rows(rows: Tensor, seed: int | Tensor, *keys: object) -> Tensor:
    """(N,) float32 uniform in (0, 1): the top 23 bits of :func:`hash_rows`, shifted off zero.

    With the half added they fill the 24-bit significand of a float32; another bit would round up to 1.
    """
    return ((hash_rows(rows, seed, *keys) >> 40).float() + 0.5) * 2.0**-23


class Streams:
    """Uniform random numbers of several streams, one tensor of seeds and a counter on the device.

    All streams are drawn from at once, by tensor operations alone: a recorded graph draws on when it is replayed, with
    nothing launched for each stream. The numbers are the same on every device, and those of a stream do not depend on
    the others.

    Args:
        n: streams.
        device: the device of the numbers.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        self._seeds = torch.zeros(n, 1, dtype=torch.int64, device=device)
        self._position = torch.zeros((), dtype=torch.int64, device=device)

    def restart(self, seeds: Sequence[int]) -> None:
        """Begin every stream anew, with a result of :func:`derive_seed` for each."""
        # From pinned memory, so that the host does not wait for a GPU.
        on_host = torch.tensor(seeds, dtype=torch.int64, pin_memory=self._seeds.is_cuda)
        self._seeds.copy_(on_host.unsqueeze(1), non_blocking=True)
        self._position.zero_()

    def uniform(self, count: int) -> Tensor:
        """(n, count) float32 in (0, 1): the next numbers of every stream."""
        rows = self._position + torch.arange(count, device=self._position.device)
        self._position += count
        return uniform_rows(rows, self._seeds)
