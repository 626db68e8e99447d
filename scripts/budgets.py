"""The code's budgets: sizes of files and functions, and a few things that are not done here. Exits 1 on a breach.

Budgets are alarms, not aims: a breach says where to look. Generated code is exempt.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("src",)
TESTS = ("tests",)
OTHERS = ("scripts", "bench", "examples")
GENERATED = ("src/micro/rpc/gen/", "tests/gen/", "/proto/")

FILE_P95, FILE_MOST = 450, 600
FUNCTION_P95, FUNCTION_MOST = 35, 60
BANNED_NAMES = {"util", "utils", "helper", "helpers", "common", "misc"}
OWNED = "# owned:"
"""A create_task outside a TaskGroup says on its line, or the one above, who cancels it: `# owned: by the stack`."""


@dataclass
class Findings:
    """What was measured, and what is not as it should be."""

    files: dict[str, int] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)


def python_files(root: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    """Ours, not generated, in a steady order."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if not any(part in name for part in GENERATED) and "/." not in f"/{name}":
                yield path


def measure(root: Path, folders: tuple[str, ...]) -> Findings:
    """Measure all files below the folders."""
    found = Findings()
    for path in python_files(root, folders):
        name = path.relative_to(root).as_posix()
        text = path.read_text()
        lines = text.splitlines()
        found.files[name] = len(lines)
        if path.stem.strip("_") in BANNED_NAMES:
            found.breaches.append(f"{name}: is named {path.stem}: name it for what it holds")
        _walk(ast.parse(text, name), name, lines, found)
    return found


def _walk(tree: ast.Module, name: str, lines: list[str], found: Findings) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.functions[f"{name}:{node.lineno} {node.name}"] = _length(node)
        elif isinstance(node, ast.Global):
            found.breaches.append(f"{name}:{node.lineno}: global: let an object own the state")
        elif isinstance(node, ast.Call) and _is_bare_task(node) and not _is_owned(node, lines):
            found.breaches.append(
                f"{name}:{node.lineno}: a task without an owner: use a TaskGroup, or say `{OWNED} ...`"
            )


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    body = node.body
    docstring = 0
    if (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    ):
        docstring = (body[0].end_lineno or 0) - body[0].lineno + 1
    return (node.end_lineno or node.lineno) - node.lineno + 1 - docstring


def _is_bare_task(node: ast.Call) -> bool:
    """asyncio.create_task, ensure_future and the loop's; a group's own create_task is what we want."""
    match node.func:
        case ast.Name(id="create_task" | "ensure_future"):
            return True
        case ast.Attribute(attr="ensure_future", value=ast.Name(id="asyncio")):
            return True
        case ast.Attribute(attr="create_task", value=ast.Name(id="asyncio" | "loop" | "_loop")):
            return True
        case ast.Attribute(attr="create_task", value=ast.Attribute(attr="loop" | "_loop")):
            return True
        case ast.Attribute(attr="create_task", value=ast.Call()):
            return True
    return False


def _is_owned(node: ast.Call, lines: list[str]) -> bool:
    return any(OWNED in line for line in lines[max(0, node.lineno - 2) : node.end_lineno])


def percentile(values: list[int], share: float) -> int:
    """The smallest value that `share` of all values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(len(ordered) * share * 100) // 100) - 1)] if ordered else 0


def judge(found: Findings) -> list[str]:
    """The breaches, those of size included, each in one line."""
    breaches = list(found.breaches)
    for what, sizes, p95, most in (
        ("files", found.files, FILE_P95, FILE_MOST),
        ("functions", found.functions, FUNCTION_P95, FUNCTION_MOST),
    ):
        breaches += [f"{name}: {size} lines, {most} are the most" for name, size in sizes.items() if size > most]
        measured = percentile(list(sizes.values()), 0.95)
        if measured > p95:
            worst = sorted(sizes, key=lambda name: -sizes[name])[:5]
            listed = ", ".join(f"{name} ({sizes[name]})" for name in worst)
            breaches.append(f"{what}: p95 is {measured} lines, the budget {p95}; the longest: {listed}")
    return breaches


def table(source: Findings, tests: Findings) -> str:
    """What was measured, for people."""
    rows = [("", "count", "p50", "p95", "most", "budget p95", "most")]
    for what, sizes, budget in (
        ("files", source.files, (FILE_P95, FILE_MOST)),
        ("functions", source.functions, (FUNCTION_P95, FUNCTION_MOST)),
        ("test files", tests.files, (FILE_P95, FILE_MOST)),
    ):
        values = list(sizes.values())
        numbers = (len(values), percentile(values, 0.5), percentile(values, 0.95), max(values, default=0), *budget)
        rows.append((what, *map(str, numbers)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main(root: Path = ROOT) -> int:
    source = measure(root, SOURCES)
    tests = measure(root, TESTS)
    # Examples and scripts are for reading: only sizes and names count there. Tests may own their tasks as they like.
    others = measure(root, OTHERS)
    breaches = judge(source)
    breaches += [breach for breach in judge(tests) + judge(others) if "lines" in breach or "is named" in breach]
    lines, test_lines = sum(source.files.values()), sum(tests.files.values())
    print(table(source, tests))
    print(f"source {lines} lines, tests {test_lines}: {test_lines / max(lines, 1):.2f} to 1 (aim: 1)")
    for breach in breaches:
        print(f"budget: {breach}", file=sys.stderr)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
