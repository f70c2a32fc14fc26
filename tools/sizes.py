"""Report how big modules and functions are. It never fails: splitting a clear function to please a number is worse."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

MODULE_LINES = 500
FUNCTION_LINES = 60
PARAMETERS = 8

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function and where it stands; `lines` without its docstring."""

    place: str
    lines: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Module:
    """One source file; `functions` with methods and nested ones."""

    path: str
    lines: int
    functions: tuple[Function, ...]


def measure(path: Path) -> Module:
    """The sizes of one file. Raises SyntaxError."""
    text = path.read_text(encoding="utf-8")
    functions = (
        Function(place=f"{path}:{node.lineno} {node.name}", lines=_lines(node), parameters=_parameters(node))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, FunctionNode)
    )
    return Module(path=str(path), lines=text.count("\n"), functions=tuple(functions))


def _lines(node: FunctionNode) -> int:
    first = node.body[0]
    docstring = 0
    if len(node.body) > 1 and ast.get_docstring(node) is not None:
        docstring = (first.end_lineno or first.lineno) - first.lineno + 1
    return (node.end_lineno or node.lineno) - node.lineno + 1 - docstring


def _parameters(node: FunctionNode) -> int:
    given = node.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def report(modules: list[Module]) -> Iterator[str]:
    """Lines for people: the band first, then what is over it."""
    functions = [function for module in modules for function in module.functions]
    if len(functions) < 2:
        yield "sizes: nothing to measure"
        return
    lengths = sorted(function.lines for function in functions)
    ninth = quantiles(lengths, n=10)[-1]
    yield (
        f"sizes: {len(modules)} modules, {sum(module.lines for module in modules):,} lines; median module "
        f"{median(module.lines for module in modules):.0f} lines; median function {median(lengths):.0f} lines, "
        f"90 % under {ninth:.0f}"
    )
    yield from _over("modules", MODULE_LINES, "lines", [(module.path, module.lines) for module in modules])
    yield from _over("functions", FUNCTION_LINES, "lines", [(each.place, each.lines) for each in functions])
    yield from _over("functions", PARAMETERS, "parameters", [(each.place, each.parameters) for each in functions])


def _over(what: str, bound: int, unit: str, rows: list[tuple[str, int]]) -> Iterator[str]:
    over = sorted((row for row in rows if row[1] > bound), key=lambda row: -row[1])
    if over:
        yield f"  {what} over {bound} {unit}:"
        yield from (f"    {number:>5}  {place}" for place, number in over)


def main(arguments: list[str]) -> int:
    paths = sorted(path for root in arguments or ["src"] for path in Path(root).rglob("*.py"))
    modules = []
    for path in paths:
        try:
            modules.append(measure(path))
        except SyntaxError as exc:
            print(f"sizes: {path} does not parse: {exc}")
    print("\n".join(report(modules)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
