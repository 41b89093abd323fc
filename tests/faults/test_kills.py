"""Writers and primaries are killed many times (`WALSPOOL_KILLS`); each acknowledged record is there afterwards.

So is each slot, nowhere ahead of what its replica acknowledged, and every record that it holds.
"""

import os
from pathlib import Path

import pytest
from tests.lab.build import CORES, run_program

KILLS = int(os.environ.get("WALSPOOL_KILLS", "10"))


@pytest.mark.parametrize("core", CORES)
def test_a_killed_writer_loses_nothing(core: str, fast_path: Path) -> None:
    answer = run_program("kills", core, str(fast_path), str(KILLS), "1")
    assert answer["findings"] == []
    assert answer["checked"] > 0, answer


@pytest.mark.parametrize("core", CORES)
def test_a_killed_primary_keeps_its_slots_and_what_they_need(core: str, fast_path: Path) -> None:
    answer = run_program("slot_kills", core, str(fast_path), str(KILLS), "1")
    assert answer["findings"] == []
    assert answer["records"] > KILLS, answer
    assert answer["slots"] > KILLS, answer
    assert answer["lagging"] > 0, answer
