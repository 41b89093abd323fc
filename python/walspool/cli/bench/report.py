"""What the measurement tells: the table, and one sentence on what limits each kind of work."""

from __future__ import annotations

from collections.abc import Mapping

from walspool.cli import output
from walspool.cli.bench.figures import Figure, Figures

__all__ = ["TITLES", "print_table", "sentence"]

HEADING = ("work", "records/s", "MB/s", "per flush", "ratio", "low", "high", "ratio to")
TITLES = {
    "sync": "disk by itself, a frame a sync",
    "append_1": "append, 1 thread",
    "append_8": "append, 8 threads",
    "append_64": "append, 64 threads",
    "write_batch": "disk by itself, 1,000 frames a sync",
    "append_batch": "append_next_many of 1,000",
    "read_file": "reading the file",
    "replay": "replay, tuples()",
}
#: From this part of its limit on, work is limited by that; below the second one, by something else.
REACHED, MISSED = 0.75, 0.5
#: So far beyond its limit nothing can be: then the pace changed between the two.
IMPOSSIBLE = 1.25
#: Fewer records than this share a flush: then threads gain nothing from each other.
SHARED = 1.5


def print_table(figures: Figures) -> None:
    """The figures for people."""
    rows = [HEADING, *(_row(name, each) for name, each in figures.work.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(HEADING) - 1
    output.columns([[each.rjust(widths[at]) if 0 < at < last else each for at, each in enumerate(row)] for row in rows])


def _row(name: str, figure: Figure) -> tuple[str, ...]:
    per_flush = "" if figure.records_per_flush is None else f"{figure.records_per_flush:,.1f}"
    rates = (TITLES[name], _short(figure.records_per_s), _short(figure.mb_per_s), per_flush)
    ratio = figure.ratio
    if ratio is None:
        return (*rates, "", "", "", "")
    return (*rates, *map(_fraction, (ratio.median, ratio.low, ratio.high)), TITLES[ratio.beside])


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _fraction(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def sentence(work: Mapping[str, Figure]) -> str:
    """What limits each kind of work, as the figures tell."""
    alone, eight, many = (_reached(work[name]) for name in ("append_1", "append_8", "append_64"))
    batches, reading = _reached(work["append_batch"]), _reached(work["replay"])
    if max(alone, eight, many, batches, reading) > IMPOSSIBLE:
        return (
            "These figures contradict each other, so something else kept the disk or the processor busy: measure again."
        )
    clauses = [
        f"One thread is limited by {_limit(alone)}: {_percent(alone)} of the disk's sync rate",
        f"8 threads by {_limit(eight)}: {_flushes(work['append_8'])}",
        f"64 threads by {_limit(many)}: {_flushes(work['append_64'])}",
        f"batches by {_limit(batches)}: {_percent(batches)} of writing and syncing the same bytes",
        f"replay by {_limit(reading, 'the read')}: {_percent(reading)} of reading the file",
    ]
    return "; ".join(clauses) + "."


def _limit(reached: float, limit: str = "the disk") -> str:
    if reached >= REACHED:
        return limit
    return "the processor" if reached < MISSED else f"{limit} and the processor alike"


def _flushes(figure: Figure) -> str:
    rate = f"at {_percent(_reached(figure))} of the sync rate"
    if figure.records_per_flush is None or figure.records_per_flush < SHARED:
        return f"hardly a flush is shared, and they come {rate}"
    return f"{figure.records_per_flush:.1f} records share a flush, and flushes come {rate}"


def _reached(figure: Figure) -> float:
    """What part of its limit work reached: of the disk's syncs by flushes, as records may share one."""
    assert figure.ratio is not None
    shared = figure.records_per_flush if figure.ratio.beside == "sync" else None
    return figure.ratio.median / (shared or 1)


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.01 else "under 1 %"
