"""The rows of the side-by-side table: what is measured, beside what, and the goal that is set for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from append_cases import ALONE_ROTATING, FRAMES, MANY_1K, MANY_10K, PURE, TASKS_1K, TASKS_100, THREADS_64
from big_cases import Sizes, bulk, killed, verified
from figures import Figure, figure
from file_cases import CLOSED_200, PRUNE_100
from model import Case, absence
from peers import (
    ALONE_4K_AND_PEERS,
    ALONE_AND_PEERS,
    BEST_OF,
    CROWD_AND_PLYVEL,
    ENTRIES_AND_PEERS,
    TUPLES_AND_PEERS,
)
from process_cases import HELP, IMPORT, OPEN
from read_cases import CHANGES, POLARS, READ_FRAMES, SEEK
from waking import FOLLOW

__all__ = ["Goal", "Line", "Work", "lines", "table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be.

    With ``at_least`` the figure is walspool's rate over the limit's, with ``at_most`` its time over the limit's.
    """

    #: The limits; of several, the fastest of each round counts.
    beside: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None
    #: For what is a rate beside walspool's own: the limit's over walspool's, though more is better.
    turned: bool = False
    #: What to call what it is beside, where the limit's name does not say it.
    words: str = ""

    def name(self, best: str = "") -> str:
        """What it is beside; ``best`` is the fastest of several."""
        if self.words or len(self.beside) == 1:
            return self.words or self.beside[0]
        return f"best peer: {best}" if best else f"best of {', '.join(self.beside)}"


@dataclass(frozen=True, slots=True)
class Work:
    """One thing that is measured."""

    section: str
    words: str
    case: Case
    goals: tuple[Goal, ...]
    #: A module without which walspool's own side can't be measured.
    needs: str = ""
    #: Records per flush that are wanted, where that is a goal.
    per_flush: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table, measured or not."""

    section: str
    work: str
    beside: str
    #: ``None`` where it was not measured.
    figure: Figure | None
    #: How much faster than what it is beside, whichever way the figure is put: median, low, high; and the goal for it.
    speed: tuple[float, float, float] | None = None
    speed_goal: float | None = None
    #: Of the fastest limit, and of walspool, in the unit of the case a second.
    rates: tuple[float, float] | None = None
    unit: str = ""
    why: str = ""

    def __str__(self) -> str:
        words = f"{self.work:38} {self.beside:24}"
        if self.figure is None:
            return f"{words} not measured: {self.why}"
        measured = str(self.figure)[58:]
        rates = "" if self.rates is None else f"   {self.rates[0]:,.0f} beside {self.rates[1]:,.0f} {self.unit}/s"
        return f"{words}{measured:46}{rates}{f' ({self.why})' if self.why else ''}".rstrip()


def _faster(goal: float, *beside: str) -> Goal:
    return Goal(beside, at_least=goal)


def _slower(goal: float, *beside: str) -> Goal:
    return Goal(beside, at_most=goal)


def table(sizes: Sizes) -> list[Work]:
    """All of it."""
    zeroed = "sync zeroed"
    return [
        Work(
            "Durable append",
            "256 B, 1 thread",
            ALONE_AND_PEERS,
            (_faster(0.92, zeroed), _faster(1.4, "sync growing"), _faster(1.3, *BEST_OF)),
        ),
        Work("Durable append", "the same with a rotation inside", ALONE_ROTATING, (_faster(0.92, zeroed),)),
        Work("Durable append", "4 KiB, 1 thread", ALONE_4K_AND_PEERS, (_faster(0.90, zeroed),)),
        Work(
            "Durable append",
            "8 threads",
            CROWD_AND_PLYVEL,
            (_faster(5, "own, 1 thread"), _faster(2, "plyvel, 8 threads")),
            per_flush=0.85 * 8,
        ),
        Work("Durable append", "64 threads", THREADS_64, (_faster(15, "own, 1 thread"),)),
        Work("Durable append", "await aappend, 100 tasks", TASKS_100, (_faster(0.5, "one call_soon"),)),
        Work("Durable append", "await aappend, 1,000 tasks", TASKS_1K, (_faster(0.65, "one call_soon"),)),
        Work("Durable append", "append_many, 1,000 records", MANY_1K, (_faster(0.85, zeroed),)),
        Work("Durable append", "append_many, 10,000 records", MANY_10K, (_faster(0.65, zeroed),)),
        Work("Durable append", "append_frames, 1 MiB, verified", FRAMES, (_faster(0.80, zeroed),)),
        Work("Durable append", "sustained bulk append", bulk(sizes), (_faster(0.85, "write+sync"),)),
        Work(
            "Durable append",
            "pure-Python core",
            PURE,
            (Goal(("pure core",), at_least=0.6, turned=True, words="Rust core"),),
        ),
        Work(
            "Read",
            "entries()",
            ENTRIES_AND_PEERS,
            (_faster(0.9, "unpack fields"), _faster(4, "lmdb cursor", "sqlite select")),
        ),
        Work(
            "Read",
            "tuples()",
            TUPLES_AND_PEERS,
            (_faster(1.2, "unpack fields"), _faster(4, "lmdb cursor", "sqlite select")),
        ),
        Work("Read", "read_since, change records", CHANGES, (_faster(5, "json.loads"),)),
        Work("Read", "read_frames, verified", READ_FRAMES, (_faster(0.5, "preadv"),)),
        Work("Read", "arrow_stream into polars", POLARS, (_faster(0.35, "preadv"),), needs="polars"),
        Work("Read", "seek to the middle, one record", SEEK, (_slower(2, "pread 64"),)),
        Work("Read", "a waiting follower", FOLLOW, (_slower(1.3, "eventfd"),)),
        *_opened(sizes, 256, 0.40),
        *_opened(sizes, 4096, 0.55),
        Work("Open and keep", "open closed, 200 segments", CLOSED_200, (_slower(3, "2 segments"),)),
        Work("Open and keep", "prune_through of 100 segments", PRUNE_100, (_slower(1.5, "unlink"),)),
        Work("Open and keep", "verify", verified(sizes), (_faster(0.35, "pread"),)),
        Work("Start", "import walspool", IMPORT, (_slower(1.15, "python -c pass"),)),
        Work("Start", "import, walspool.open(p)", OPEN, (_slower(4, "python -c pass"),)),
        Work("Start", "walspool --help", HELP, (_slower(4, "argparse alone"),)),
    ]


def _opened(sizes: Sizes, payload_bytes: int, goal: float) -> Iterator[Work]:
    yield Work(
        "Open and keep",
        f"open after a kill, {payload_bytes} B",
        killed(sizes, payload_bytes),
        (
            Goal(("pread",), goal, words="pread, 1 thread"),
            Goal(("2 processors",), 1.35, turned=True, words="2 threads over 1"),
        ),
    )


def lines(work: Work, result: Mapping[str, Any] | None, core: str) -> Iterator[Line]:
    """What there is to say of one work: its goals, then what else it was measured beside, then what is missing.

    ``result`` is what ``measure`` gave, ``None`` where ``needs`` is missing.
    """
    if result is None:
        for goal in work.goals:
            yield Line(work.section, work.words, goal.name(), None, why=absence(work.needs))
        return
    shown = set()
    for goal in work.goals:
        here = [label for label in goal.beside if label in result["limits"]]
        absent = [result["missing"][label] for label in goal.beside if label not in here]
        if not here:
            yield Line(work.section, work.words, goal.name(), None, why="; ".join(absent))
            continue
        if len(goal.beside) == 1:
            shown.update(here)
        yield _line(work, result, core, goal, here, absent)
    if work.per_flush is not None:
        yield _per_flush(work, result["cores"][core], work.per_flush)
    for label in result["limits"]:
        if label not in shown:
            yield _line(work, result, core, Goal((label,)), [label], [])
    in_goals = {label for goal in work.goals for label in goal.beside}
    for label, why in result["missing"].items():
        if label not in in_goals:
            yield Line(work.section, work.words, label, None, why=why)


def _line(work: Work, result: Mapping[str, Any], core: str, goal: Goal, here: list[str], absent: list[str]) -> Line:
    mine = result["cores"][core]["rates"]
    theirs = [max(each) for each in zip(*(result["limits"][label]["rates"] for label in here), strict=True)]
    faster = figure("", [a / b for a, b in zip(mine, theirs, strict=True)], goal.at_least)
    slower = figure("", [b / a for a, b in zip(mine, theirs, strict=True)], goal.at_least, goal.at_most)
    other = goal.turned or any(each.at_most is not None for each in work.goals)
    speed = slower if goal.turned else faster
    best = max(here, key=lambda label: float(result["limits"][label]["rate"]))
    return Line(
        work.section,
        work.words,
        goal.name(best),
        slower if other else faster,
        (speed.median, speed.low, speed.high),
        1 / goal.at_most if goal.at_most is not None else goal.at_least,
        (result["cores"][core]["rate"], result["limits"][best]["rate"]),
        result["unit"],
        "; ".join(absent),
    )


def _per_flush(work: Work, mine: Mapping[str, Any], at_least: float) -> Line:
    rounds = [records / flushes for records, flushes in zip(mine["flushed"], mine["flushes"], strict=True)]
    return Line(work.section, work.words, "records per sync", figure("", rounds, at_least))
