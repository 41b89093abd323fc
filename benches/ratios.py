"""The table of ratios: walspool beside raw limits, in interleaved rounds on one disk. See README.md in this folder.

``python benches/ratios.py [--dir FOLDER] [--core rust|python|both] [--rounds N] [--case WORD] [--json FILE]``
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from append_cases import APPEND_CASES
from file_cases import FILE_CASES
from model import Case, Run, available_cores, use_core
from place import DEFAULT_FOLDER, NotADisk, own_folder, place_of, scratch
from read_cases import READ_CASES

import walspool
from walspool import core

__all__ = ["FEWEST_ROUNDS", "heading", "main", "measure", "rows"]

CASES = [*APPEND_CASES, *READ_CASES, *FILE_CASES]
FEWEST_ROUNDS = 5


@dataclass(slots=True)
class Measured:
    """One contender of a case: its rate in each round, and what it flushed in it."""

    run: Run
    #: The core of a walspool contender, and the core that is in use where a limit was made ready.
    core_name: str
    rates: list[float] = field(default_factory=list)
    #: Records and flushes of each round, where they are counted.
    flushed: list[tuple[int, int]] = field(default_factory=list)

    def once(self) -> None:
        """One round."""
        use_core(self.core_name)
        self.run.prepare()
        before = self.run.flushed() if self.run.flushed is not None else (0, 0)
        gc.collect()
        started = time.perf_counter()
        self.run.run()
        took = time.perf_counter() - started
        self.rates.append(self.run.amount / (took if self.run.seconds is None else self.run.seconds()))
        if self.run.flushed is not None:
            after = self.run.flushed()
            self.flushed.append((after[0] - before[0], after[1] - before[1]))

    def records_per_flush(self) -> float | None:
        """Over all rounds; ``None`` where it was not counted."""
        flushes = sum(each for _, each in self.flushed)
        return sum(records for records, _ in self.flushed) / flushes if flushes else None


@contextmanager
def _ready(case: Case, cores: list[str], disk: Path) -> Iterator[dict[str, Measured]]:
    with ExitStack() as stack:
        found = {}
        for label, contender in [*((name, case.walspool) for name in cores), *case.limits.items()]:
            use_core(label if label in cores else cores[0])
            folder = stack.enter_context(own_folder(disk))
            found[label] = Measured(stack.enter_context(contender(folder)), core.name)
            stack.callback(use_core, core.name)
        yield found


def measure(case: Case, cores: list[str], rounds: int, disk: Path) -> dict[str, object]:
    """Run one case; what the table and the JSON say of it."""
    with _ready(case, cores, disk) as contenders:
        order = list(contenders.values())
        for each in range(1 + rounds):
            turn = each % len(order)
            for contender in order[turn:] + order[:turn]:
                contender.once()
        for contender in order:
            del contender.rates[0], contender.flushed[:1]  # the first round pays for imports and cold caches
    limits = {label: contenders[label].rates for label in case.limits}
    return {
        "case": case.name,
        "unit": case.unit,
        "limits": {label: {"rate": median(rates), "rates": rates} for label, rates in limits.items()},
        "missing": dict(case.missing),
        "cores": {name: _of_core(contenders[name], limits) for name in cores},
    }


def _of_core(measured: Measured, limits: dict[str, list[float]]) -> dict[str, object]:
    ratios = {
        label: [mine / theirs for mine, theirs in zip(measured.rates, rates, strict=True)]
        for label, rates in limits.items()
    }
    return {
        "rate": median(measured.rates),
        "rates": measured.rates,
        "records_per_flush": measured.records_per_flush(),
        "flushes": [flushes for _, flushes in measured.flushed],
        "flushed": [records for records, _ in measured.flushed],
        "ratios": {
            label: {"median": median(each), "low": min(each), "high": max(each), "rounds": each}
            for label, each in ratios.items()
        },
    }


def heading(cores: list[str]) -> str:
    """The table's first line."""
    columns = "".join(f"  {name + '/s':>11} {'ratio':>7} {'[low-high]':15} {'flush':>6}" for name in cores)
    return f"{'case':24} {'limit':13} {'limit/s':>11}{columns}"


def rows(result: dict[str, object]) -> Iterator[str]:
    """The table's lines of one case, as ``measure`` gave it."""
    limits, cores = result["limits"], result["cores"]
    assert isinstance(limits, dict)
    assert isinstance(cores, dict)
    for number, (label, limit) in enumerate(limits.items()):
        line = f"{'' if number else result['case']:24} {label:13} {_short(limit['rate']):>11}"
        for each in cores.values():
            ratio, flush = each["ratios"][label], each["records_per_flush"]
            spread = f"[{_ratio(ratio['low'])}-{_ratio(ratio['high'])}]"
            rate = "" if number else _short(each["rate"])
            shown = "" if number or flush is None else f"{flush:.1f}"
            line += f"  {rate:>11} {_ratio(ratio['median']):>7} {spread:15} {shown:>6}"
        yield line.rstrip()


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ratios.py", description="walspool beside raw limits, as ratios of rates")
    parser.add_argument(
        "--dir", type=Path, default=DEFAULT_FOLDER, help="a folder on the disk to measure (%(default)s)"
    )
    parser.add_argument("--core", choices=["rust", "python", "both"], default="both", help="the cores to measure")
    parser.add_argument("--rounds", type=int, default=9, help=f"at least {FEWEST_ROUNDS} (%(default)s)")
    parser.add_argument("--case", default="", help="only the cases whose names hold this")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    given = parser.parse_args(arguments)
    if given.rounds < FEWEST_ROUNDS:
        parser.error(f"--rounds must be at least {FEWEST_ROUNDS}")
    return given


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit 2 where it can't be measured."""
    given = _arguments(arguments)
    cores = available_cores() if given.core == "both" else [given.core]
    cases = [case for case in CASES if given.case in case.name]
    if missing := set(cores) - set(available_cores()):
        print(f"ratios.py: the {', '.join(missing)} core is not installed", file=sys.stderr)
        return 2
    try:
        place = place_of(given.dir)
    except NotADisk as error:
        print(f"ratios.py: {error}", file=sys.stderr)
        return 2
    print(f"walspool {walspool.__version__}, {given.rounds} rounds; cores: {', '.join(cores)}\n{place}\n")
    print(heading(cores), flush=True)
    started = time.monotonic()
    results = []
    with scratch(given.dir) as disk:
        for case in cases:
            results.append(measure(case, cores, given.rounds, disk))
            print("\n".join(rows(results[-1])), flush=True)
    print(f"\n{time.monotonic() - started:.0f} s")
    if given.json is not None:
        facts = {"walspool": walspool.__version__, "rounds": given.rounds, "place": place.facts(), "results": results}
        given.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
