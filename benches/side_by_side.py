"""The whole table: walspool beside the limits and its peers, each row with its goal. See README.md in this folder.

``python benches/side_by_side.py [--dir FOLDER] [--core rust|python] [--rounds N] [--case WORD] [--full | --smoke]
[--json FILE] [--svg FILE] [--prove-syncs]``
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from big_cases import FULL, SMOKE, USUAL
from model import absence, available_cores
from peers import versions
from place import DEFAULT_FOLDER, NotADisk, Place, place_of, scratch
from plot import draw
from prove_syncs import prove
from ratios import FEWEST_ROUNDS, measure
from table import Line, Work, lines, table

import walspool

__all__ = ["main"]


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="side_by_side.py", description="walspool beside limits and peers, with goals")
    parser.add_argument(
        "--dir", type=Path, default=DEFAULT_FOLDER, help="a folder on the disk to measure (%(default)s)"
    )
    cores = available_cores()
    parser.add_argument("--core", choices=cores, default=cores[0], help="the core to measure (%(default)s)")
    parser.add_argument("--rounds", type=int, help=f"at least {FEWEST_ROUNDS} (7; 1 with --smoke)")
    parser.add_argument("--case", default="", help="only the rows whose work or section holds this")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", dest="sizes", action="store_const", const=FULL, help="4 GiB appended, 512 MiB opened")
    size.add_argument("--smoke", dest="sizes", action="store_const", const=SMOKE, help="that it runs; no true figures")
    parser.set_defaults(sizes=USUAL)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--svg", type=Path, help="draw the table into this file")
    parser.add_argument("--prove-syncs", action="store_true", help="count syncs per append instead (strace)")
    given = parser.parse_args(arguments)
    smoke = given.sizes is SMOKE
    given.rounds = given.rounds or (1 if smoke else 7)
    if given.rounds < FEWEST_ROUNDS and not smoke:
        parser.error(f"--rounds must be at least {FEWEST_ROUNDS}")
    return given


def _works(given: argparse.Namespace) -> list[Work]:
    both = set(available_cores()) == {"rust", "python"}
    found = []
    for work in table(given.sizes):
        if given.case.lower() not in f"{work.section}: {work.words}".lower():
            continue
        if work.words == "pure-Python core" and (given.core != "rust" or not both):
            continue  # that row is about the other core
        found.append(work)
    return found


def _measured(works: list[Work], given: argparse.Namespace, disk: Path) -> tuple[list[Line], list[dict[str, object]]]:
    found: list[Line] = []
    results: list[dict[str, object]] = []
    section = ""
    for work in works:
        if work.section != section:
            section = work.section
            print(f"\n{section}", flush=True)
        result: dict[str, Any] | None = None
        if not absence(work.needs):
            result = measure(work.case, [given.core], given.rounds, disk)
            results.append(result)
        for line in lines(work, result, given.core):
            found.append(line)
            print(line, flush=True)
    return found, results


def _summary(found: list[Line]) -> str:
    goals = [line.figure.met for line in found if line.figure is not None and line.figure.met is not None]
    words = f"{sum(goals)} of {len(goals)} goals met"
    missing = sum(line.figure is None for line in found)
    return words + (f", {missing} lines not measured" if missing else "")


def _heading(given: argparse.Namespace, place: Place) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in versions().items())
    return (
        f"walspool {walspool.__version__}, core: {given.core}, {given.rounds} rounds, sizes: {given.sizes.name}\n"
        f"{place}\npeers: {peers}\n"
        "Figures are walspool's rate over that of what stands beside it, or its time over the other's where the goal\n"
        "is an upper limit; median over the rounds [lowest-highest]."
    )


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit 2 where it can't be measured."""
    given = _arguments(arguments)
    try:
        place = place_of(given.dir)
    except NotADisk as error:
        print(f"side_by_side.py: {error}", file=sys.stderr)
        return 2
    works = _works(given)
    if not works:
        print(f"side_by_side.py: no row holds {given.case!r}", file=sys.stderr)
        return 2
    print(_heading(given, place), flush=True)
    started = time.monotonic()
    with scratch(given.dir) as disk:
        if given.prove_syncs:
            for line in prove(disk):
                print(line, flush=True)
            return 0
        found, results = _measured(works, given, disk)
    print(f"\n{_summary(found)}; {time.monotonic() - started:.0f} s")
    if given.json is not None:
        facts = {
            "walspool": walspool.__version__,
            "core": given.core,
            "rounds": given.rounds,
            "sizes": asdict(given.sizes),
            "place": place.facts(),
            "peers": versions(),
            "lines": [asdict(each) for each in found],
            "results": results,
        }
        given.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if given.svg is not None:
        words = f"{place.file_system}, {place.processors} processors, {given.rounds} rounds, core: {given.core}"
        given.svg.write_text(draw(found, words), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
