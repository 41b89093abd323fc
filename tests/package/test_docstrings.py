"""The examples in docstrings do what they show, on both cores."""

from __future__ import annotations

import doctest
import importlib
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.package.sources import modules

EXAMPLES = sorted(name for name, path in modules().items() if ">>> " in path.read_text(encoding="utf-8"))
#: Calls whose docstrings must show an example.
SHOWN = {
    "walspool": ["walspool"],
    "walspool.replication.primary": ["PrimaryReplication"],
    "walspool.replication.retaining": ["RetainingPrimary.explain_retention", "RetainingPrimary.explain_resume"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_run(core: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0, f"no example of {name} is found"
    assert result.failed == 0, "standard output has what came out otherwise"


@pytest.mark.parametrize("name", SHOWN)
def test_what_needs_an_example_has_one(name: str) -> None:
    found = doctest.DocTestFinder().find(importlib.import_module(name))
    shown = {each.name.removeprefix(f"{name}.") for each in found if each.examples}
    assert set(SHOWN[name]) <= shown
