"""A file that grows too long is two files; a function, two functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.package.sources import CLONE, PACKAGE, tree

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 70


def _files() -> list[Path]:
    here = [PACKAGE, *(CLONE / each for each in ("tests", "benches", "examples"))]
    return sorted(path for folder in here for path in folder.rglob("*.py"))


@pytest.mark.parametrize("path", _files(), ids=lambda path: "/".join(path.parts[-3:]))
def test_no_file_and_no_function_is_too_long(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, f"{path} has {lines} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path}:{node.lineno} {node.name} has {length} lines"
