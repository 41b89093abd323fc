"""Every line has a test that names it, and a planted change that is caught."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.replication.lines import LINES
from tests.replication.planted import CHANGES

_NAME = re.compile(r"\b(?:[5-9]|10)\.[RP]\d+\b")


def _named_in_tests() -> set[str]:
    found: set[str] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.update(_NAME.findall(ast.get_docstring(node) or ""))
    return found


def test_every_line_has_a_test_of_its_own() -> None:
    assert _named_in_tests() == set(LINES)


def test_every_line_has_a_planted_change() -> None:
    assert {change.line for change in CHANGES} == set(LINES)
    assert len(CHANGES) >= 60
    names = [change.name for change in CHANGES]
    assert len(names) == len(set(names))
