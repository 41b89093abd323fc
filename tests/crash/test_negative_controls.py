"""The checker is not blind: whatever kind of sync is reported and not done, it finds what is lost through that."""

import pytest
from tests.lab.build import CORES, run_program

#: The kind of sync that is dropped, a workload in which it matters, and what the findings must say.
LIES = {
    "log": ("single", "lost: acknowledged LSN"),
    "dir": ("rotation", "lost: acknowledged LSN"),
    "state": ("prune", "raised"),
    "cut": ("recovery:aligned", "resurrected"),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("lie", LIES)
def test_a_dropped_sync_is_found(lie: str, core: str) -> None:
    workload, words = LIES[lie]
    answer = run_program("control", core, workload, lie, words)
    assert answer["found"], (
        f"{answer['states']} states of {workload} without syncs of the {lie} showed nothing: {answer}"
    )
