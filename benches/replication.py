"""A primary beside what it must not cost, in interleaved rounds on one disk. See README.md in this folder.

``python benches/replication.py [--dir FOLDER] [--core rust|python] [--rounds N] [--json FILE]``
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from figures import Figure, figure
from model import available_cores
from place import DEFAULT_FOLDER, NotADisk, place_of, scratch
from ratios import FEWEST_ROUNDS, heading, measure, rows
from replication_cases import ACK, APPEND, COMMITS, PULL, READ, REPLICATION_CASES, WAKE

import walspool

__all__ = ["main"]


#: Both contenders of that case mostly wait for the disk, which differs more than they do: many short rounds tell.
ROUNDS_TIMES = {APPEND.name: 40}


def _figures(results: dict[str, Any], core: str) -> Iterator[Figure]:
    """The figures with goals, from what ``measure`` gave for each case."""

    def ratios(case: str, limit: str) -> list[float]:
        found: list[float] = results[case]["cores"][core]["ratios"][limit]["rounds"]
        return found

    for case in (ACK, PULL):
        yield figure(f"{case.unit}/s, over fsync and rename for each", ratios(case.name, "fsync+rename"), at_least=50)
    appends = ratios(APPEND.name, "spool append")
    yield figure("append_logical_record/s, over the bare spool's append", appends, at_least=0.9)
    wake = results[WAKE.name]
    yield figure("wake-up, less the sync, us", _micros(wake["cores"][core]["rates"]))
    for limit in WAKE.limits:
        yield figure(f"the same by hand, {limit}, us", _micros(wake["limits"][limit]["rates"]))
    read = results[READ.name]
    places = [read["cores"][core]["rates"], *(each["rates"] for each in read["limits"].values())]
    spreads = [max(each) / min(each) for each in zip(*places, strict=True)]
    yield figure("buffer reads, fastest over slowest place", spreads, at_most=1.5)
    yield figure("flushes of 1,000 acommit calls", results[COMMITS.name]["cores"][core]["flushes"], at_most=50)


def _micros(rates: list[float]) -> list[float]:
    return [1e6 / each for each in rates]


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="replication.py", description="a primary beside what it must not cost")
    parser.add_argument(
        "--dir", type=Path, default=DEFAULT_FOLDER, help="a folder on the disk to measure (%(default)s)"
    )
    cores = available_cores()
    parser.add_argument("--core", choices=cores, default=cores[0], help="the core to measure (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help=f"at least {FEWEST_ROUNDS} (%(default)s)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    if given.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds must be at least {FEWEST_ROUNDS}")
    return given


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit 2 where it can't be measured."""
    given = _arguments(arguments)
    try:
        place = place_of(given.dir)
    except NotADisk as error:
        print(f"replication.py: {error}", file=sys.stderr)
        return 2
    print(f"walspool {walspool.__version__}, {given.rounds} rounds; core: {given.core}\n{place}\n")
    print(heading([given.core]), flush=True)
    started = time.monotonic()
    results = {}
    with scratch(given.dir) as disk:
        for case in REPLICATION_CASES:
            rounds = given.rounds * ROUNDS_TIMES.get(case.name, 1)
            results[case.name] = measure(case, [given.core], rounds, disk)
            print("\n".join(rows(results[case.name])), flush=True)
    figures = list(_figures(results, given.core))
    print("", *figures, f"\n{time.monotonic() - started:.0f} s", sep="\n")
    if given.json is not None:
        facts = {
            "walspool": walspool.__version__,
            "core": given.core,
            "rounds": given.rounds,
            "place": place.facts(),
            "figures": [asdict(each) for each in figures],
            "results": list(results.values()),
        }
        given.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
