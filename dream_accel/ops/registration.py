"""Registration of an operator with ``torch.library`` from one declaration: the signature of its public function.

A file of this package declares an operator as a function without a body::

    def _check(x: Tensor, offsets: Tensor) -> None: ...

    def _outputs(x: Tensor) -> Tensor: ...

    @operator(check=_check, outputs=_outputs)
    def example(x: Tensor, offsets: Tensor, *, precision: str = "fp32") -> Tensor:
        \"\"\"Documentation.\"\"\"

Schema, implementation, fake version and public function follow from it, so an argument is added in one place here, and
in the backends that read it.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from ..backends import choose

NAMESPACE = "dream_accel"

Declared = TypeVar("Declared", bound=Callable[..., Any])

_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    list[Tensor]: "Tensor[]",
    int: "SymInt",
    float: "float",
    bool: "bool",
    str: "str",
}
"""Names in a schema of the types of parameters and results.

A table of its own, because the types that ``torch.library.infer_schema`` takes depend on the version of PyTorch.
"""


def operator(
    *,
    outputs: Callable[..., Any],
    check: Callable[..., None] = lambda: None,
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
    name: str | None = None,
    library: torch.library.Library | None = None,
) -> Callable[[Declared], Declared]:
    """Register the operator that the decorated function declares, and return the function that calls it.

    Keyword-only parameters are keyword-only for callers of the function; the operator ``torch.ops.dream_accel.<name>``
    takes all arguments by position or by name. ``check`` and ``outputs`` receive those arguments whose names they have
    as parameters.

    Args:
        outputs: returns uninitialised results of the shapes, dtypes and devices of the real ones.
        check: raises DreamAccelError for arguments that do not fit. It is called before a backend is chosen and before
            ``outputs``, so it may look at shapes, dtypes and devices but not at values.
        backward: derivative of the operator, as for ``torch.library.register_autograd``. Default: results carry no
            gradient.
        setup_context: keeps what ``backward`` needs.
        name: of the operator, and of the function of a backend that computes it. Default: that of the function.
        library: registers in this library instead of ``dream_accel`` and for as long as it exists; for tests.

    Raises:
        TypeError: a parameter has a type that schemas lack, or ``check`` or ``outputs`` takes a parameter that the
            declaration lacks.
    """

    def register(declared: Declared) -> Declared:
        op = name or declared.__name__
        qualified = f"{NAMESPACE if library is None else library.ns}::{op}"
        parameters = inspect.signature(declared).parameters
        defaults = tuple(parameter.default for parameter in parameters.values())
        checked, described = _by_name(check, list(parameters)), _by_name(outputs, list(parameters))

        def compute(*args: Any) -> Any:
            args += defaults[len(args) :]  # The dispatcher leaves out trailing arguments that equal their defaults.
            checked(args)
            run = getattr(choose(op, *args), op)
            # A registered derivative already keeps autograd from recording what a backend does.
            if backward is not None or not torch.is_grad_enabled():
                return run(*args)
            with torch.no_grad():
                return run(*args)

        def fake(*args: Any) -> Any:
            args += defaults[len(args) :]
            checked(args)
            return described(args)

        torch.library.define(qualified, schema(declared), lib=library)
        torch.library.impl(qualified, "default", compute, lib=library)
        torch.library.register_fake(qualified, fake, lib=library)
        if backward is not None:
            torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=library)
        call_operator = getattr(getattr(torch.ops, qualified.split("::")[0]), op).default

        @functools.wraps(declared)
        def call(*args: Any, **kwargs: Any) -> Any:
            declared(*args, **kwargs)  # Has no body: Python refuses here what the signature does not take.
            return call_operator(*args, **kwargs)

        return call  # type: ignore[return-value]

    return register


def schema(declared: Callable[..., Any]) -> str:
    """The schema of a declaration, ``"(Tensor x, str precision=\\"fp32\\") -> Tensor"``.

    Raises:
        TypeError: a type that is not in the table of schema types.
    """
    types = get_type_hints(declared)
    parameters = [
        _in_schema(types[parameter.name], declared) + " " + parameter.name + _default_in_schema(parameter.default)
        for parameter in inspect.signature(declared).parameters.values()
    ]
    returned = types["return"]
    parts = get_args(returned) if get_origin(returned) is tuple else (returned,)
    results = ", ".join(_in_schema(part, declared) for part in parts)
    return f"({', '.join(parameters)}) -> " + (f"({results})" if len(parts) > 1 else results)


def _in_schema(annotation: Any, declared: Callable[..., Any]) -> str:
    if annotation not in _SCHEMA_TYPES:
        known = ", ".join(_SCHEMA_TYPES.values())
        raise TypeError(f"{declared.__qualname__} has a {annotation}, which schemas lack: they hold {known}")
    return _SCHEMA_TYPES[annotation]


def _default_in_schema(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return ""
    return "=" + (json.dumps(default) if isinstance(default, str) else repr(default))


def _by_name(function: Callable[..., Any], names: Sequence[str]) -> Callable[[Sequence[Any]], Any]:
    """``function`` of all arguments in order, of which it receives those it names."""
    wanted = list(inspect.signature(function).parameters)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise TypeError(
            f"{function.__qualname__} takes {unknown[0]}, which the operator lacks: it has {', '.join(names)}"
        )
    if wanted == list(names):
        return lambda args: function(*args)
    positions = [names.index(name) for name in wanted]
    return lambda args: function(*[args[i] for i in positions])
