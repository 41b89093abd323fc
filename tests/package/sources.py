"""The package's own source files, and what a syntax tree says of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import walspool

PACKAGE = Path(walspool.__file__).parent
CLONE = Path(__file__).parents[2]


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it, from walspool or from elsewhere."""
    known = modules()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not used here"
            assert node.module is not None
            for each in node.names:
                whole = f"{node.module}.{each.name}"
                yield whole if whole in known else node.module
