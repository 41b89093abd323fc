"""Golden scripts: what the reference answered, step by step, or what the contract wants instead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import GOLDEN
from tests.replication.script import Script, wanted
from tests.spool.kit import contents


def _scripts() -> dict[str, list[dict[str, Any]]]:
    cases = {path.parent.name: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*/expected.json"))}
    found = {name: case["steps"] for name, case in cases.items() if case["kind"] == "script"}
    assert len(found) == 27
    return found


SCRIPTS = _scripts()


def _opens(name: str) -> list[bool]:
    """Of each opening of a primary in a script, whether it names a data path."""
    return ["path" in step["do"] for step in SCRIPTS[name] if step["do"]["op"] == "primary"]


WITH_PATH = [name for name in SCRIPTS if any(_opens(name))]
IN_MEMORY = [name for name in SCRIPTS if name not in WITH_PATH]
#: Those without a path that have a primary at all.
MOVED_TO_DISK = [name for name in IN_MEMORY if _opens(name)]
#: The slot file is all that this one is about.
MOVED_TO_MEMORY = [name for name in WITH_PATH if name != "repl_slot_store_corrupt"]

#: What differs with a spool: its current LSN is at least what it was pruned through, in the reference too.
ON_DISK_INSTEAD = {("repl_no_slots_prune", 6): 50}


def _play(name: str, data_path: Path | None) -> None:
    script, opened = Script(data_path), 0
    try:
        for step in SCRIPTS[name]:
            opens = step["do"]["op"] == "primary"
            opened += opens
            if opened > 1 and data_path is None:
                return  # memory does not outlive its primary
            answer, expected = _sorted(script.do(step)), _sorted(wanted(step))
            if opens and "result" in answer:
                assert answer["result"]["current_lsn"] == expected["result"]["current_lsn"]
            else:
                instead = ON_DISK_INSTEAD.get((name, step["step"])) if data_path and name in MOVED_TO_DISK else None
                assert answer == (expected if instead is None else {"result": instead}), step
            if opens and "raises" in answer:
                return
    finally:
        script.close()


def _sorted(answer: dict[str, Any]) -> dict[str, Any]:
    result = answer.get("result")
    if isinstance(result, list) and result and isinstance(result[0], dict) and "last_sent_lsn" in result[0]:
        return {"result": sorted(result, key=lambda each: str(each["id"]))}  # the reference's are in order of arrival
    return answer


@pytest.mark.parametrize("name", WITH_PATH)
def test_a_script_on_the_data_path_that_it_names(name: str, core: ModuleType, tmp_path: Path) -> None:
    for each in (GOLDEN / name).iterdir():
        if each.name != "expected.json":
            shutil.copyfile(each, tmp_path / each.name)
    given = contents(tmp_path)
    _play(name, tmp_path / "spool.rdb")
    if given:
        assert contents(tmp_path).items() >= given.items()


@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_script_that_names_no_path(name: str) -> None:
    _play(name, None)


@pytest.mark.parametrize("name", MOVED_TO_DISK)
def test_the_same_with_a_data_path(name: str, core: ModuleType, tmp_path: Path) -> None:
    _play(name, tmp_path / "spool.rdb")


@pytest.mark.parametrize("name", MOVED_TO_MEMORY)
def test_the_same_without_its_data_path(name: str) -> None:
    _play(name, None)
