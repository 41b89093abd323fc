"""A writer with eight threads is killed many times (`WALSPOOL_KILLS`); each acknowledged record is there afterwards."""

import os
from pathlib import Path

import pytest
from tests.lab.build import CORES, run_program

KILLS = int(os.environ.get("WALSPOOL_KILLS", "40"))


@pytest.mark.parametrize("core", CORES)
def test_a_killed_writer_loses_nothing(core: str, fast_path: Path) -> None:
    answer = run_program("kills", core, str(fast_path), str(KILLS), "1")
    assert answer["findings"] == []
    assert answer["checked"] > 0, answer
