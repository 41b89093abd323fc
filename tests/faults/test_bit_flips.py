"""Each bit of each file of a small log is flipped: never a wrong record, never a silent loss.

`WALSPOOL_BIT_FLIPS=all` tries every bit; otherwise it is the size of a sample.
"""

import os
from pathlib import Path

import pytest
from tests.lab.build import CORES, run_program

SAMPLE = {"all": "0"}.get(os.environ.get("WALSPOOL_BIT_FLIPS", ""), os.environ.get("WALSPOOL_BIT_FLIPS", "250"))


@pytest.mark.parametrize("core", CORES)
def test_a_flipped_bit_is_noticed_or_harmless(core: str, fast_path: Path) -> None:
    answer = run_program("bitflips", core, str(fast_path), SAMPLE, "1")
    assert answer["findings"] == []
    assert len(answer["files"]) >= 7, answer["files"]
    assert answer["tried"] >= (int(SAMPLE) or answer["bits"]) * 0.9, answer
    assert any(outcome.endswith("complete") for outcome in answer["outcomes"]), answer
    assert any("SpoolCorrupt" in outcome for outcome in answer["outcomes"]), answer
