"""Runs seeds, in as many processes as wanted."""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.conftest import TESTED, use_core
from tests.simulation.history import Broken
from tests.simulation.world import run

__all__ = ["ENOUGH", "HAPPENS", "core_of", "main", "run_seed"]

#: Storms in which nothing happens would prove nothing: these words are among what happened.
HAPPENS = frozenset({"killed", "powerless", "promoted", "prunes", "snapshot", "refuses", "commits"})

#: So many seeds have all of it.
ENOUGH = 40


def core_of(seed: int) -> str:
    """The plain core takes its turn: its logs are the same, and it alone may lose power."""
    return TESTED[-1 if seed % 4 == 3 else 0]


def run_seed(seed: int, folder: Path) -> set[str]:
    """The words of what happened; ``Broken`` where an invariant does not hold."""
    use_core(core_of(seed))
    try:
        history = run(seed, folder / str(seed))
    finally:
        use_core(TESTED[0])
    return {word for event in history.events for word in event.split() if word.isalpha()}


def _begin() -> None:
    """What a process does first: fewer collections, and no words about each sidecar that a power loss took."""
    gc.set_threshold(100_000)
    logging.disable()


def _try_seed(task: tuple[int, Path]) -> tuple[int, set[str], str | None]:
    try:
        return task[0], run_seed(*task), None
    except Broken as error:
        return task[0], set(), str(error)


def _run_all(seeds: Iterable[int], jobs: int, folder: Path) -> tuple[int, set[str]]:
    """How many seeds broke a promise, each told when it is found, and the words of what happened in the others."""
    broken, happened = 0, set()
    tasks = [(seed, folder) for seed in seeds]
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(jobs, _begin) as pool:
        for count, (_, words, failure) in enumerate(pool.imap_unordered(_try_seed, tasks, chunksize=8), 1):
            happened |= words
            if failure is not None:
                broken += 1
                print(failure, flush=True)
            if count % 1000 == 0:
                print(f"{count} seeds in {time.monotonic() - started:.0f} s, {broken} broken", flush=True)
    return broken, happened


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds; exit code 1 when one breaks a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Storms over real logs.")
    parser.add_argument("--seeds", type=int, default=40, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args(arguments)
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="walspool-seeds-", dir=memory if memory.is_dir() else None))
    started = time.monotonic()
    try:
        broken, happened = _run_all(range(given.first, given.first + given.seeds), given.jobs, folder)
    finally:
        shutil.rmtree(folder)
    print(f"{given.seeds} seeds in {time.monotonic() - started:.0f} s, {broken} broken")
    missing = HAPPENS - happened if given.seeds >= ENOUGH else set()
    if missing:
        print(f"nowhere happened: {', '.join(sorted(missing))}")
    return 1 if broken or missing else 0
