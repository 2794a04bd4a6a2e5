"""Parameters of an estimator: their checks, and ``get_params``, ``set_params``, tags and text for scikit-learn.

scikit-learn is imported by none of it but ``__sklearn_tags__``, which scikit-learn alone calls.
"""

from __future__ import annotations

import inspect
from numbers import Real
from typing import Any, TypeVar

from .. import ops
from ..arrays import whole_number
from ..errors import DreamAccelError, choices
from ..runtime.distributed import Ranks

INITS = ("random", "k-means++", "labels")

Self = TypeVar("Self", bound="Parameters")


class Parameters:
    """Base of a clusterer whose constructor stores every argument in an attribute of the same name, as it is given."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name.

        Args:
            deep: makes no difference, as no parameter is an estimator.
        """
        return {name: getattr(self, name) for name in _arguments(type(self))}

    def set_params(self: Self, **parameters: Any) -> Self:
        """Set arguments of the constructor for the next fit; results of the last one stay.

        Returns:
            self.

        Raises:
            DreamAccelError: an unknown name, or a value that the constructor refuses. Nothing is set then.
        """
        known = self.get_params()
        for name in parameters:
            if name not in known:
                raise choices(f"parameter of {type(self).__name__}", name, known)
        type(self)(**{**known, **parameters})  # Refuses what the constructor refuses.
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        shown = []
        for name, argument in _arguments(type(self)).items():
            value = getattr(self, name)
            if hasattr(value, "shape"):
                shown.append(f"{name}=<{type(value).__name__} of shape {tuple(value.shape)}>")
            elif value != argument.default:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_tags__(self) -> Any:
        """Tags that scikit-learn reads of every step of a pipeline: a clusterer and transformer without target."""
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="clusterer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            classifier_tags=None,
            regressor_tags=None,
        )


def check_parameters(
    n_clusters: Any, max_iter: Any, tol: Any, init: Any, seed: Any, precision: Any, empty: Any
) -> None:
    """Refuse what :class:`BatchedKMeans` cannot be fitted with."""
    whole_number(n_clusters, "n_clusters", least=1)
    whole_number(max_iter, "max_iter", least=0)
    # NaN compares as False.
    if not isinstance(tol, Real) or not float(tol) >= 0:
        raise DreamAccelError(f"tol is {tol!r}: it must be a number, at least 0")
    if isinstance(init, str) and init not in INITS:
        raise choices("init", init, (*INITS, "centroids of shape (G, K, D)"))
    whole_number(seed, "seed")
    if precision not in ops.PRECISIONS:
        raise choices("precision", precision, ops.PRECISIONS)
    if empty not in ops.EMPTY_POLICIES:
        raise choices("empty-cluster policy", empty, ops.EMPTY_POLICIES)


def _arguments(estimator: type) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(estimator).parameters)


def streamed_rows(chunk_rows: Any, device: Any, ranks: Ranks) -> int | None:
    """The most rows that are streamed at a time; None if they are not streamed.

    Raises:
        DreamAccelError: ``chunk_rows`` is no whole number from 1, or is missing where only streams have the other two.
    """
    if chunk_rows is not None:
        return whole_number(chunk_rows, "chunk_rows", least=1)
    if device is not None:
        raise DreamAccelError("device is given without chunk_rows: rows that are not streamed are taken where x is")
    if ranks.count > 1:
        raise DreamAccelError(
            f"{ranks.count} ranks without chunk_rows: ranks share the chunks of streamed rows, so give it"
        )
    return None
