"""Names of GPUs, read without torch."""

from __future__ import annotations

import re


def mig_profile(name: str) -> str | None:
    """Return the profile of a MIG slice, such as ``"1g.10gb"``; None for a whole GPU.

    A slice has a part of the multiprocessors, the memory and the L2 cache of its GPU.

    Args:
        name: the name that the driver gives, such as ``"NVIDIA H100 80GB HBM3 MIG 1g.10gb"``.
    """
    found = re.search(r"\bMIG (\S+)", name)
    return None if found is None else found[1]
