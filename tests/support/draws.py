"""Random tensors by seed."""

import torch
from torch import Tensor


def normal(*shape: int, seed: int = 0, mean: float = 0.0, **options) -> Tensor:
    """Standard normal numbers around ``mean``; ``options`` go to ``Tensor.to``."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn + mean).to(**options) if options else drawn + mean
