"""Products of derivatives with factors: the backward pass of the two distances."""

from __future__ import annotations

from torch import Tensor

from ..backends.pairs import derivative_like
from .registration import operator


def _outputs(gradients: list[Tensor], per_class: bool) -> list[Tensor]:
    return [derivative_like(gradient, per_class, 0) for gradient in gradients]


@operator(outputs=_outputs)
def scale_gradients(gradients: list[Tensor], scale: Tensor, per_class: bool) -> list[Tensor]:
    """Multiply every tensor by its column of ``scale``, class by class.

    Args:
        gradients: L floating-point tensors, each (*param) or, with ``per_class``, (G, *param).
        scale: (G, L), one factor per class and tensor; (1, L) without ``per_class``.
        per_class: the tensors carry a leading class dimension.

    Returns:
        L products, shaped and typed like ``gradients``.
    """
