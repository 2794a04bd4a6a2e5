"""Selection of the gradients that a distance compares, by number of dimensions or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import DreamAccelError, choices
from .checks import check_choice

LAYER_RULES = ("conv", "weights", "all")

Gradients = Sequence[Tensor] | Mapping[str, Tensor]
Layers = str | Sequence[str]


def select_layers(gradients: Gradients, layers: Layers, per_class: bool = False) -> list[int]:
    """Positions of the selected gradients.

    Args:
        gradients: tensors, or tensors by name; (G, *param) with ``per_class``. Parameters may be passed instead.
        layers: ``"conv"`` the 4-d ones, ``"weights"`` all but 1-d, ``"all"``, or a list of names, for which
            ``gradients`` must be a mapping.
        per_class: the tensors carry a leading class dimension.

    Raises:
        DreamAccelError: an unknown rule or name.
    """
    if not isinstance(layers, str):
        return _select_names(gradients, layers)
    check_choice("layer rule", layers, LAYER_RULES)
    tensors = tensors_of(gradients)
    if layers == "all":
        return list(range(len(tensors)))
    dims = [g.dim() - per_class for g in tensors]
    return [i for i, dim in enumerate(dims) if (dim == 4 if layers == "conv" else dim != 1)]


def tensors_of(gradients: Gradients) -> list[Tensor]:
    """The tensors without their names, in order."""
    return list(gradients.values() if isinstance(gradients, Mapping) else gradients)


def paired(real: Gradients, synthetic: Gradients) -> tuple[list[Tensor], list[Tensor]]:
    """Both sides as lists, the real one in the order of the synthetic one where they have names.

    Raises:
        DreamAccelError: only one side has names, or they differ.
    """
    if isinstance(real, Mapping) != isinstance(synthetic, Mapping):
        raise DreamAccelError("only one of real and synthetic has names: pass two lists or two mappings")
    if isinstance(real, Mapping) and isinstance(synthetic, Mapping):
        different = sorted(set(real) ^ set(synthetic))
        if different:
            raise DreamAccelError(f"{different[0]!r} is in one of real and synthetic only: give both the same names")
        return [real[name] for name in synthetic], list(synthetic.values())
    return list(real), list(synthetic)  # type: ignore[arg-type]


def _select_names(gradients: Gradients, names: Sequence[str]) -> list[int]:
    if not isinstance(gradients, Mapping):
        raise DreamAccelError(
            "layers is a list of names and the gradients have none: pass them as mappings {name: gradient}"
        )
    place = {name: i for i, name in enumerate(gradients)}
    for name in names:
        if name not in place:
            raise choices("layer name", name, place)
    return sorted({place[name] for name in names})
