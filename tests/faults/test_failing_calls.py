"""The Nth call of each class fails, for each N: an error for that call, nothing acknowledged lost, life goes on.

`WALSPOOL_FAULTS=all` takes every N; otherwise each class and kind of failure gets a sample.
"""

import os
from pathlib import Path

import pytest
from tests.lab.build import CORES, run_program

SAMPLE = {"all": "0"}.get(os.environ.get("WALSPOOL_FAULTS", ""), os.environ.get("WALSPOOL_FAULTS", "4"))


@pytest.mark.parametrize("core", CORES)
def test_each_failing_call_is_answered(core: str, fast_path: Path) -> None:
    answer = run_program("sweep", core, str(fast_path / "log"), SAMPLE, "1", watched=fast_path)
    assert answer["findings"] == []
    counts = answer["counts"]
    assert all(counts[name] >= 3 for name in ("open", "read", "write", "sync", "truncate", "rename", "unlink")), counts
    assert answer["met"] == answer["runs"] > 20, answer
