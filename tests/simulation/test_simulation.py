"""Seeds of storms over real logs: every invariant holds, a seed replays exactly, and planted defects are found.

More of them: ``python -m tests.simulation``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import TESTED, use_core
from tests.simulation.history import Broken
from tests.simulation.planted import PLANTED
from tests.simulation.seeds import ENOUGH, HAPPENS, run_seed
from tests.simulation.world import run

#: Each planted defect is found within so many seeds.
PLANTED_SEEDS = 400


def test_every_seed_keeps_every_promise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # what recovery says of what a power loss took
    happened: set[str] = set()
    for seed in range(ENOUGH):
        happened |= run_seed(seed, tmp_path)
    assert happened >= HAPPENS


@pytest.mark.parametrize("seed", [1, 8])
def test_a_seed_replays_exactly(core: ModuleType, tmp_path: Path, seed: int) -> None:
    first, second = (run(seed, tmp_path / name) for name in ("first", "second"))
    assert first.events == second.events
    assert first.trace.hexdigest() == second.trace.hexdigest()


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    first, plant, power = PLANTED[defect]
    plant(monkeypatch)
    use_core(TESTED[-1 if power else 0])
    try:
        with pytest.raises(Broken):
            _run_all(range(first, first + PLANTED_SEEDS), tmp_path)
    finally:
        use_core(TESTED[0])


def _run_all(seeds: range, folder: Path) -> None:
    for seed in seeds:
        run(seed, folder / str(seed))
