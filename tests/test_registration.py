"""One declaration per operator: what schema, checks, fake version and public function follow from it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support.refusals import refused
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dream_accel.backends import OPERATORS
from dream_accel.errors import DreamAccelError
from dream_accel.ops import registration
from dream_accel.ops.registration import operator

SCHEMAS = {
    "kmeans_assign": (
        "(Tensor x, Tensor offsets, Tensor centroids, Tensor? active=None, Tensor? labels=None, "
        'Tensor? distance=None, str precision="fp32", bool with_distance=True) -> (Tensor, Tensor)'
    ),
    "kmeans_update": (
        "(Tensor x, Tensor offsets, Tensor labels, SymInt n_clusters, Tensor? distance=None, Tensor? previous=None, "
        'Tensor? active=None, str empty="keep") -> (Tensor, Tensor)'
    ),
    "kmeans_iterate": (
        "(Tensor x, Tensor offsets, Tensor centroids, SymInt max_iter, Tensor? tolerance=None, "
        'str precision="fp32", str empty="farthest") -> (Tensor, Tensor, Tensor)'
    ),
    "nearest_members": "(Tensor x, Tensor offsets, Tensor centroids, Tensor labels, SymInt n) -> Tensor",
    "group_products": ("(Tensor a, Tensor a_offsets, Tensor x, Tensor offsets, Tensor centre, SymInt width) -> Tensor"),
    "gram_assign": "(Tensor products, Tensor norms, Tensor offsets, Tensor active, Tensor labels) -> Tensor",
    "gradient_distance": (
        "(Tensor[] real, Tensor[] synthetic, str metric, bool per_class, bool with_grads) -> (Tensor, Tensor, Tensor[])"
    ),
    "feature_distance": (
        "(Tensor[] real, Tensor[] synthetic, str metric, bool per_class, bool with_grads) -> (Tensor, Tensor, Tensor[])"
    ),
    "scale_gradients": "(Tensor[] gradients, Tensor scale, bool per_class) -> Tensor[]",
    "norm_relu_pool": "(Tensor y, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
    "norm_relu_pool_backward": (
        "(Tensor y, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, Tensor of_pooled) -> Tensor"
    ),
    "norm_relu_pool_double_backward": (
        "(Tensor y, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, Tensor of_pooled, Tensor of_of_y) -> "
        "(Tensor, Tensor)"
    ),
}
"""Programs call these with all arguments in order: an argument may be added at the end, with a default."""


def check_widen(x: Tensor, width: int) -> None:
    if width < x.shape[1]:
        raise DreamAccelError(f"width is {width}: it must be at least {x.shape[1]}")


def widened(x: Tensor, width: int) -> Tensor:
    return x.new_empty((x.shape[0], width))


def backend_widen(x: Tensor, others: list[Tensor], width: int, weight: Tensor | None, kind: str, twice: bool) -> Tensor:
    out = x.new_zeros((x.shape[0], width))
    out[:, : x.shape[1]] = x * (1 if weight is None else weight) * (2 if twice else 1)
    return out


@pytest.fixture
def library():
    with torch.library._scoped_library("dream_accel_toy", "FRAGMENT") as library:
        yield library


@pytest.fixture
def widen(library, monkeypatch):
    """A toy operator: everything about it is said in this signature."""
    monkeypatch.setattr(registration, "choose", lambda op, *args: SimpleNamespace(widen=backend_widen))

    @operator(check=check_widen, outputs=widened, library=library)
    def widen(
        x: Tensor,
        others: list[Tensor],
        width: int = 3,
        *,
        weight: Tensor | None = None,
        kind: str = "plain",
        twice: bool = False,
    ) -> Tensor:
        """Columns of zeros behind those of x."""

    return widen


X = torch.ones(2, 2)


class TestDeclaration:
    def test_schema_has_the_parameters_types_and_defaults_of_the_signature(self, widen):
        assert str(torch.ops.dream_accel_toy.widen.default._schema) == (
            "dream_accel_toy::widen(Tensor x, Tensor[] others, SymInt width=3, Tensor? weight=None, "
            'str kind="plain", bool twice=False) -> Tensor'
        )

    def test_several_results_are_a_tuple_in_the_schema(self):
        def two(x: Tensor) -> tuple[Tensor, list[Tensor]]: ...

        assert registration.schema(two) == "(Tensor x) -> (Tensor, Tensor[])"

    def test_function_passes_arguments_by_name_and_fills_in_defaults(self, widen):
        assert widen(X, []).tolist() == [[1, 1, 0], [1, 1, 0]]
        assert widen(X, [], 2, weight=3 * X, twice=True).tolist() == [[6, 6], [6, 6]]
        assert widen(others=[], x=X, width=2).tolist() == [[1, 1], [1, 1]]

    def test_keyword_only_parameters_are_positional_in_the_operator_alone(self, widen):
        assert torch.ops.dream_accel_toy.widen(X, [], 2, None, "plain", True).tolist() == [[2, 2], [2, 2]]
        with pytest.raises(TypeError, match="positional"):
            widen(X, [], 2, None)

    def test_arguments_that_the_signature_lacks_are_a_type_error_as_of_any_function(self, widen):
        with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
            widen(X, [], depth=1)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'others'"):
            widen(X)

    def test_name_and_documentation_are_those_of_the_declaration(self, widen):
        assert widen.__name__ == "widen"
        assert widen.__doc__ == "Columns of zeros behind those of x."

    def test_operator_passes_opcheck_and_compiles_into_one_graph(self, widen):
        torch.library.opcheck(torch.ops.dream_accel_toy.widen.default, (X, [X], 4, X, "plain", True))
        compiled = torch.compile(lambda x: widen(x + 1, [x], twice=True), backend="aot_eager", fullgraph=True)
        assert compiled(X).tolist() == [[4, 4, 0], [4, 4, 0]]


class TestChecks:
    def test_check_refuses_before_a_backend_is_chosen(self, widen, monkeypatch):
        monkeypatch.setattr(registration, "choose", lambda op, *args: pytest.fail("a backend was chosen"))
        assert refused(widen, X, [], 1) == "width is 1: it must be at least 2"
        assert refused(torch.ops.dream_accel_toy.widen, X, [], 1) == "width is 1: it must be at least 2"

    def test_fake_version_has_the_declared_outputs_and_refuses_too(self, widen):
        with FakeTensorMode() as mode:
            x = mode.from_tensor(X)
            assert widen(x, []).shape == (2, 3)
            assert widen(x, [], 7, kind="other").shape == (2, 7)
            assert refused(widen, x, [], 1) == "width is 1: it must be at least 2"

    def test_autograd_does_not_record_what_a_backend_does(self, library, monkeypatch):
        grad_modes = []

        def backend_probe(x: Tensor) -> Tensor:
            grad_modes.append(torch.is_grad_enabled())
            return x.clone()

        monkeypatch.setattr(registration, "choose", lambda op, *args: SimpleNamespace(probe=backend_probe))

        @operator(outputs=lambda x: torch.empty_like(x), library=library)
        def probe(x: Tensor) -> Tensor: ...

        probe(X)
        assert grad_modes == [False]

    def test_a_derivative_is_registered_with_the_operator(self, library, monkeypatch):
        monkeypatch.setattr(registration, "choose", lambda op, *args: SimpleNamespace(double=lambda x: 2 * x))

        @operator(
            outputs=lambda x: torch.empty_like(x),
            backward=lambda ctx, upstream: 2 * upstream,
            setup_context=lambda ctx, inputs, output: None,
            library=library,
        )
        def double(x: Tensor) -> Tensor: ...

        x = X.clone().requires_grad_()
        double(x).sum().backward()
        assert x.grad.tolist() == [[2, 2], [2, 2]]

    def test_a_check_of_something_the_operator_lacks_fails_at_registration(self, library):
        def check(depth: int) -> None: ...

        with pytest.raises(TypeError, match=r"takes depth, which the operator lacks: it has x"):

            @operator(check=check, outputs=lambda x: x, library=library)
            def lacking(x: Tensor) -> Tensor: ...

    def test_a_type_that_schemas_lack_fails_at_registration(self, library):
        with pytest.raises(TypeError, match=r"dict.*schemas lack"):

            @operator(outputs=lambda x: x, library=library)
            def unknown(x: dict) -> Tensor: ...


def test_an_argument_added_to_the_signature_reaches_schema_backend_and_fake_version(library, monkeypatch):
    arrived = []

    def backend_widen(x: Tensor, width: int, factor: float) -> Tensor:
        arrived.append(factor)
        return factor * x.new_ones((x.shape[0], width))

    monkeypatch.setattr(registration, "choose", lambda op, *args: SimpleNamespace(widen=backend_widen))

    # Beside the toy above, ``factor`` is said here and nowhere else: neither check nor outputs mentions it.
    @operator(check=check_widen, outputs=widened, library=library)
    def widen(x: Tensor, width: int, *, factor: float = 2.0) -> Tensor: ...

    assert torch.ops.dream_accel_toy.widen.default._schema.arguments[2].name == "factor"
    assert widen(X, 2).tolist() == [[2, 2], [2, 2]]
    assert widen(X, 2, factor=5.0).tolist() == [[5, 5], [5, 5]]
    assert arrived == [2.0, 5.0]
    with FakeTensorMode() as mode:
        assert widen(mode.from_tensor(X), 4, factor=5.0).shape == (2, 4)


@pytest.mark.parametrize("op", OPERATORS)
def test_schemas_stay_as_programs_call_them(op):
    assert str(getattr(torch.ops.dream_accel, op).default._schema) == f"dream_accel::{op}{SCHEMAS[op]}"
