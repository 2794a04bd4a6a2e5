"""Products of derivatives with factors: the backward pass of the two distances."""

from __future__ import annotations

from torch import Tensor

from ..backends.pairs import derivative_like
from ..errors import DreamAccelError
from .checks import check_device
from .registration import operator


def _check(gradients: list[Tensor], scale: Tensor, per_class: bool) -> None:
    if scale.dim() != 2 or scale.shape[1] != len(gradients):
        raise DreamAccelError(
            f"scale has shape {tuple(scale.shape)}: expected (G, L), one column for each of {len(gradients)} tensors"
        )
    if not scale.is_floating_point():
        raise DreamAccelError(f"scale is {scale.dtype}: factors must be floating point; convert with scale.float()")
    if not per_class and len(scale) != 1:
        raise DreamAccelError(f"scale has {len(scale)} rows: without per_class it must have 1")
    for i, gradient in enumerate(gradients):
        if not gradient.is_floating_point():
            raise DreamAccelError(f"tensor {i} is {gradient.dtype}: derivatives must be floating point")
        if per_class and gradient.shape[:1] != scale.shape[:1]:
            raise DreamAccelError(
                f"tensor {i} has shape {tuple(gradient.shape)} and scale has {len(scale)} rows: with per_class every "
                "tensor begins with that number of classes"
            )
        check_device("scale", scale, **{f"tensor {i}": gradient})


def _outputs(gradients: list[Tensor], per_class: bool) -> list[Tensor]:
    return [derivative_like(gradient, per_class, 0) for gradient in gradients]


@operator(check=_check, outputs=_outputs)
def scale_gradients(gradients: list[Tensor], scale: Tensor, per_class: bool) -> list[Tensor]:
    """Multiply every tensor by its column of ``scale``, class by class.

    Args:
        gradients: L floating-point tensors, each (*param) or, with ``per_class``, (G, *param).
        scale: (G, L), one factor per class and tensor; (1, L) without ``per_class``.
        per_class: the tensors carry a leading class dimension.

    Returns:
        L products, shaped and typed like ``gradients``.

    Raises:
        DreamAccelError: shapes, dtypes or devices do not fit.
    """
