"""The checker is not blind: whatever kind of sync is reported and not done, it finds what is lost through that."""

import pytest
from tests.lab.build import CORES, run_program

#: The kind of sync that is dropped, a workload in which it matters, and what the findings must say.
LIES = {
    "log": ("single", "lost: acknowledged LSN"),
    "dir": ("rotation", "lost: acknowledged LSN"),
    "state": ("prune", "raised"),
    "cut": ("recovery:aligned", "resurrected"),
    "slots": ("slots", "SlotStoreCorrupt"),
}

#: Workloads that break the package before they use it, and what the findings must say.
BROKEN = {
    "slots-without-flush": "it may be valid at",
    "slots-by-memory": "which are gone",
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("lie", LIES)
def test_a_dropped_sync_is_found(lie: str, core: str) -> None:
    workload, words = LIES[lie]
    answer = run_program("control", core, workload, lie, words)
    assert answer["found"], (
        f"{answer['states']} states of {workload} without syncs of the {lie} showed nothing: {answer}"
    )


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("workload", BROKEN)
def test_a_broken_slot_store_is_found(workload: str, core: str) -> None:
    answer = run_program("control", core, workload, "", BROKEN[workload])
    assert answer["found"], f"{answer['states']} states of {workload} showed nothing: {answer}"
