"""Every state that a power loss can leave opens with everything acknowledged, and nothing else.

`WALSPOOL_CRASH_STATES` sets how many distinct states are checked in all; `python -m tests.lab.campaign` is the same
by hand, for millions.
"""

import os
from pathlib import Path

import pytest
from tests.lab.build import CORES
from tests.lab.campaign import Cell, run_all
from tests.lab.recorder import record
from tests.lab.workloads import WORKLOADS

STATES = int(os.environ.get("WALSPOOL_CRASH_STATES", "900"))


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, str], Cell]:
    """The whole campaign; its cores run beside each other."""
    done = run_all(STATES, jobs=2, seed=1, workloads=list(WORKLOADS), cores=list(CORES))
    return {(cell.workload, cell.core): cell for cell in done}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_power_loss_leaves_what_was_acknowledged(
    cells: dict[tuple[str, str], Cell], workload: str, core: str
) -> None:
    cell = cells[workload, core]
    assert cell.findings == []
    assert cell.states >= STATES // (len(WORKLOADS) * len(CORES))
    share = cell.states / sum(each.states for each in cells.values())
    assert share >= 0.05, f"only {share:.1%} of the states are of {workload} on {core}"


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("workload", ["threads", "rotation", "prune", "slots"])
def test_replaying_a_record_gives_the_directory_byte_for_byte(workload: str, core: str, fast_path: Path) -> None:
    (recording,) = record(workload, core, 2, fast_path, check_replay=True)  # raises where they differ
    assert len(recording.moments) > 50
