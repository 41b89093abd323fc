"""Seeds of storms over real logs: every invariant holds, a seed replays exactly, and planted defects are found.

``WALSPOOL_SEEDS``: how many seeds; 40 by default.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import TESTED, use_core
from tests.simulation.history import Broken
from tests.simulation.planted import PLANTED
from tests.simulation.world import run

SEEDS = int(os.environ.get("WALSPOOL_SEEDS", "40"))
#: Each planted defect is found within so many seeds.
PLANTED_SEEDS = 400


def test_every_seed_keeps_every_promise(tmp_path: Path) -> None:
    happened: set[str] = set()
    for seed in range(SEEDS):
        # the plain core takes its turn: its logs are the same
        use_core(TESTED[-1 if seed % 4 == 3 else 0])
        try:
            history = run(seed, tmp_path / str(seed))
        finally:
            use_core(TESTED[0])
        happened.update(word for event in history.events for word in event.split() if word.isalpha())
    # storms in which nothing happens would prove nothing
    assert {"killed", "promoted", "prunes", "snapshot", "refuses", "commits"} <= happened


@pytest.mark.parametrize("seed", [1, 8])
def test_a_seed_replays_exactly(core: ModuleType, tmp_path: Path, seed: int) -> None:
    first, second = (run(seed, tmp_path / name) for name in ("first", "second"))
    assert first.events == second.events
    assert first.trace.hexdigest() == second.trace.hexdigest()


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    first, plant = PLANTED[defect]
    plant(monkeypatch)
    with pytest.raises(Broken):
        _run_all(range(first, first + PLANTED_SEEDS), tmp_path)


def _run_all(seeds: range, folder: Path) -> None:
    for seed in seeds:
        run(seed, folder / str(seed))
