"""Host functions of kernels/ are annotated; mypy cannot ask it of them without asking it of Triton kernels too."""

import ast
from pathlib import Path

import pytest

KERNELS = sorted((Path(__file__).parents[1] / "kernels").glob("*.py"))


def functions(path: Path) -> list[tuple[ast.FunctionDef, bool]]:
    """Every function of a module, and whether Triton compiles it."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return [(node, any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)) for node in found]


def parameters(node: ast.FunctionDef) -> list[ast.arg]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    return [argument for argument in every if argument is not None]


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_host_functions_are_annotated(path):
    for node, is_kernel in functions(path):
        if not is_kernel:
            assert node.returns is not None, f"{node.name} has no return type"
            missing = [argument.arg for argument in parameters(node) if argument.annotation is None]
            assert [name for name in missing if name not in ("self", "cls")] == [], node.name
