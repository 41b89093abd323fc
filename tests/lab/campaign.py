"""Crash states by the thousand: `python -m tests.lab.campaign --states 1000000 --jobs 2`.

Each core's states are checked by a process of that core. The states are shared out evenly over workloads and cores.
"""

import argparse
import faulthandler
import json
import logging
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.build import CORES, REPOSITORY, fast_folder
from tests.lab.recorder import Recording, record
from tests.lab.states import Builder, state_key
from tests.lab.workloads import WORKLOADS

MAX_FINDINGS = 20


@dataclass
class Cell:
    """What came out for one workload on one core."""

    workload: str
    core: str
    states: int = 0
    seconds: float = 0.0
    recordings: int = 0
    findings: list[str] = field(default_factory=list)


def check_recording(
    recording: Recording, budget: int, seed: int, folder: Path, seen: set[bytes], cell: Cell, limit: int = MAX_FINDINGS
) -> None:
    """Checks up to `budget` states of one history that were not seen before; stops at `limit` findings."""
    checker = recording.kind.checker(folder, recording.options, recording.data)
    budget = max(budget // (1 + recording.bytes // 500_000), 1)  # large files take long
    moments = list(recording.moments)
    rng = random.Random(seed)
    rng.shuffle(moments)
    walks = [(moment, Builder(moment, rng.random()).states()) for moment in moments]
    done, share = 0, max(2, budget // len(walks))
    while walks and done < budget and len(cell.findings) < limit:
        alive = []
        for moment, states in walks:
            expect = recording.kind.expectation(recording.notes_at(moment))
            key = expect.key()
            fresh = stale = 0
            for state in states:
                digest = state_key(state, key)
                if digest in seen:
                    stale += 1
                    if stale > 40:
                        break  # a sample that keeps repeating itself
                    continue
                seen.add(digest)
                fresh, done = fresh + 1, done + 1
                found = checker.check(state, expect)
                if found:
                    cell.findings.append(
                        f"{cell.workload}/{cell.core}, moment of {moment.notes} notes: {'; '.join(found)}"
                    )
                if fresh == share or done == budget or len(cell.findings) >= limit:
                    alive.append((moment, states))
                    break
            if done == budget or len(cell.findings) >= limit:
                break
        walks = alive
    cell.states += done


def run_cell(workload: str, core: str, states: int, seed: int) -> Cell:
    """Records and checks until there are `states` distinct ones. The process must run on `core`."""
    cell = Cell(workload, core)
    seen: set[bytes] = set()
    started = time.monotonic()
    per_recording = max(80, min(1000, states // 12))
    with tempfile.TemporaryDirectory(prefix="walspool-crash-", dir=fast_folder()) as temporary:
        folder = Path(temporary)
        while cell.states < states and len(cell.findings) < MAX_FINDINGS:
            try:
                recordings = record(workload, core, seed, folder)
            except RuntimeError as error:
                cell.findings.append(str(error))
                break
            for recording in recordings:
                faulthandler.dump_traceback_later(600, exit=True)  # a hang becomes an error that shows where
                left = states - cell.states
                budget = min(left, math.ceil(per_recording / len(recordings)))
                if budget > 0:
                    check_recording(recording, budget, seed, folder / "state", seen, cell)
            cell.recordings += 1
            seed += 1
    faulthandler.cancel_dump_traceback_later()
    cell.seconds = time.monotonic() - started
    return cell


def run_here(core: str, workloads: list[str], states: int, seed: int) -> list[Cell]:
    """All cells of this process."""
    import walspool.core

    if walspool.core.name != core:
        raise RuntimeError(f"this process runs on {walspool.core.name}, not on {core}")
    logging.disable(logging.CRITICAL)
    cells = []
    for workload in workloads:
        cells.append(run_cell(workload, core, states, seed))
        print(json.dumps(asdict(cells[-1])), flush=True)
    return cells


def run_apart(core: str, workloads: list[str], states: int, seed: int) -> list[Cell]:
    """The same in a process of that core."""
    command = [sys.executable, "-m", "tests.lab.campaign", "--here", core, "--states", str(states), "--seed", str(seed)]
    env = os.environ | {"WALSPOOL_CORE": core}
    done = subprocess.run([*command, *workloads], env=env, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the campaign on {core} failed:\n{done.stdout[-2000:]}{done.stderr[-6000:]}")
    return [Cell(**json.loads(line)) for line in done.stdout.splitlines()]


def run_all(states: int, jobs: int, seed: int, workloads: list[str], cores: list[str]) -> list[Cell]:
    """The whole campaign, `jobs` processes at a time."""
    per_cell = math.ceil(states / (len(workloads) * len(cores)))
    tasks = (
        [(core, [workload]) for workload in workloads for core in cores]
        if states > 20_000
        else [(core, workloads) for core in cores]
    )
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(run_apart, core, names, per_cell, seed) for core, names in tasks]
        return [cell for task in running for cell in task.result()]


def report(cells: list[Cell]) -> str:
    """A table for people."""
    total = sum(cell.states for cell in cells) or 1
    lines = [f"{'workload':<10} {'core':<7} {'states':>9} {'share':>6} {'runs':>5} {'states/s':>9} {'findings':>8}"]
    for cell in sorted(cells, key=lambda c: (c.workload, c.core)):
        rate = cell.states / cell.seconds if cell.seconds else 0
        lines.append(
            f"{cell.workload:<10} {cell.core:<7} {cell.states:>9} {cell.states / total:>6.1%} {cell.recordings:>5} "
            f"{rate:>9.0f} {len(cell.findings):>8}"
        )
    lines.append(f"{total} distinct states, {sum(c.seconds for c in cells):.0f} s of checking")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.campaign", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help="all by default")
    parser.add_argument("--states", type=int, default=3000, help="distinct states in all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--core", action="append", choices=CORES, help="both by default")
    parser.add_argument("--here", choices=CORES, help=argparse.SUPPRESS)
    options: Any = parser.parse_args(argv)
    if options.here:
        run_here(options.here, options.workloads, options.states, options.seed)
        return 0
    started = time.monotonic()
    cells = run_all(options.states, options.jobs, options.seed, options.workloads, options.core or list(CORES))
    print(report(cells))
    print(f"{time.monotonic() - started:.0f} s")
    findings = [text for cell in cells for text in cell.findings]
    print("\n".join(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
