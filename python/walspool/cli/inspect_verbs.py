"""The verbs that only look: dump, tail, info, verify, diff. They work beside a live writer and change nothing."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import walspool
from walspool.cli import output, progress
from walspool.cli.app import LSN_MAX, AsHex, AsJson, DataPath, app, data_path, example
from walspool.cli.difference import compare
from walspool.cli.opening import files_of, judge, to_read

__all__ = ["diff", "dump", "info", "tail", "verify"]


@app.command(
    short_help="Print records.",
    epilog=example("walspool dump app.db --since 100 --until 200", "walspool dump app.db --json | head -1"),
)
def dump(
    path: DataPath,
    since: Annotated[int, typer.Option(min=0, max=LSN_MAX, help="Only records above this LSN.")] = 0,
    until: Annotated[int, typer.Option(min=0, max=LSN_MAX, help="Stop before the first record above it.")] = LSN_MAX,
    as_json: AsJson = False,
    as_hex: AsHex = False,
) -> None:
    """Print records: LSN, term, time, payload; with --json an object a line."""
    with to_read(path) as spool:
        for entry in progress.tracked(spool.entries(since), spool.record_count, "reading"):
            if entry.lsn > until:
                break
            _print_entry(entry, as_json, as_hex)
        judge(spool)


@app.command(
    short_help="Print the last records, and follow.",
    epilog=example("walspool tail -f app.db", "walspool tail app.db -n 3 --json"),
)
def tail(
    path: DataPath,
    number: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last records.")] = 10,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for more until interrupted.")] = False,
    as_json: AsJson = False,
    as_hex: AsHex = False,
) -> None:
    """Print the last records, and with -f each new one as it becomes durable."""
    with to_read(path) as spool:
        last = spool.current_lsn
        for entry in _last_entries(spool, number):
            _print_entry(entry, as_json, as_hex)
            last = max(last, entry.lsn)
        if not follow:
            judge(spool)
            return
        output.flush()
        for entry in spool.follow(last):
            _print_entry(entry, as_json, as_hex)
            output.flush()


def _last_entries(spool: walspool.LogicalWalSpool, number: int) -> deque[walspool.Entry]:
    """The last records, reading from near the end where LSNs are dense and further back where they have holes."""
    back = number
    while True:
        since = max(spool.current_lsn - back, 0)
        found = deque(spool.entries(since), maxlen=number)
        if len(found) == number or since == 0:
            return found
        back *= 16


def _print_entry(entry: walspool.Entry, as_json: bool, as_hex: bool) -> None:
    if as_json:
        output.json_line(output.entry_facts(entry, as_hex))
    else:
        output.line(output.entry_line(entry, as_hex))


@app.command(
    short_help="Show LSNs, segments, sizes, state.",
    epilog=example("walspool info app.db", "walspool info app.db --json | jq .current_lsn"),
)
def info(path: DataPath, as_json: AsJson = False) -> None:
    """Show LSNs, term, segments, sizes, and what an open for writing would recover."""
    with to_read(path) as spool:
        facts = _facts(spool, path)
        if as_json:
            output.document(facts)
        else:
            _print_facts(facts)
        judge(spool)


def _facts(spool: walspool.LogicalWalSpool, path: Path) -> dict[str, Any]:
    from walspool import core

    return {
        "path": spool.path,
        "core": core.name,
        "records": spool.record_count,
        "size_bytes": spool.size_bytes,
        "pruned_through": spool.pruned_through,
        "oldest_lsn": spool.oldest_lsn,
        "current_lsn": spool.current_lsn,
        "durable_lsn": spool.durable_lsn,
        "current_term": spool.current_term,
        "position": spool.position(),
        "recovery": spool.recovery,
        "segments": spool.segments,
        "files": [{"name": name, "bytes": size} for name, size in _sizes(path)],
    }


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    """Every file of the log, with its size."""
    for each in sorted(files_of(path), key=lambda each: each.name):
        with contextlib.suppress(FileNotFoundError):  # a live writer has just renamed or removed it
            yield each.name, each.stat().st_size


def _print_facts(facts: dict[str, Any]) -> None:
    recovery: walspool.RecoveryReport = facts["recovery"]
    oldest = facts["oldest_lsn"]
    retained = "none retained" if oldest is None else f"from {oldest} to {facts['current_lsn']}"
    found = recovery.verdict + (f": {recovery.reason}" if recovery.reason else "")
    rows = [
        ("log", output.visible(str(facts["path"]))),
        ("records", f"{facts['records']:,}"),
        ("size", output.size(facts["size_bytes"])),
        ("LSNs", f"{retained}; durable through {facts['durable_lsn']}, pruned through {facts['pruned_through']}"),
        ("term", str(facts["current_term"])),
        ("state", found),
        ("core", facts["core"]),
    ]
    output.columns(rows)
    output.line("segments")
    output.columns([_segment_row(each) for each in facts["segments"]] or [("none",)], indent="  ")
    output.line("files")
    output.columns([(output.visible(each["name"]), output.size(each["bytes"])) for each in facts["files"]], indent="  ")


def _segment_row(segment: walspool.SegmentInfo) -> tuple[str, ...]:
    lsns = "empty" if segment.first_lsn is None else f"LSN {segment.first_lsn} to {segment.last_lsn}"
    kind = "sealed" if segment.sealed else "active"
    records = output.count(segment.records, "record")
    return output.visible(segment.path.name), kind, lsns, records, output.size(segment.bytes)


@app.command(
    short_help="Read and check every byte.", epilog=example("walspool verify app.db", "walspool verify app.db --json")
)
def verify(path: DataPath, as_json: AsJson = False) -> None:
    """Read every byte and check it; exit code 1 and a table of problems when something is damaged."""
    try:
        with to_read(path) as spool, progress.waiting("verifying"):
            report = spool.verify()
    except walspool.SpoolCorrupt as error:  # so damaged that it can't even be opened for reading
        problem = walspool.Problem(error.path, error.offset, error.first_lsn, error.last_lsn, error.reason)
        report = walspool.VerifyReport(ok=False, records=0, bytes=0, segments=0, problems=(problem,))
    if as_json:
        output.document(report)
    else:
        checked = f"{output.count(report.records, 'record')}, {output.size(report.bytes)}"
        output.line(f"{checked}, {output.count(report.segments, 'segment')}: {'ok' if report.ok else 'DAMAGED'}")
        if report.problems:
            output.columns([("file", "offset", "LSNs", "problem"), *map(_problem_row, report.problems)])
    if not report.ok:
        raise typer.Exit(1)


def _problem_row(problem: walspool.Problem) -> tuple[str, ...]:
    offset = "-" if problem.offset is None else str(problem.offset)
    lsns = "-" if problem.first_lsn is None else f"{problem.first_lsn} to {problem.last_lsn}"
    return output.visible(str(problem.path)), offset, lsns, output.on_one_line(problem.reason)


@app.command(
    short_help="Find where two logs first differ.", epilog=example("walspool diff primary/app.db replica/app.db")
)
def diff(
    path: Annotated[Path, typer.Argument(metavar="A", parser=data_path, show_default=False)],
    other: Annotated[Path, typer.Argument(metavar="B", parser=data_path, show_default=False)],
    as_json: AsJson = False,
    as_hex: AsHex = False,
) -> None:
    """Find the first LSN where two logs differ in LSN, term or payload; exit code 1 when they do.

    Timestamps are not compared, since a prune may stamp one. Records that one log has pruned and the other has
    not are left out, provided that both agree about the last of them.
    """
    with to_read(path) as a, to_read(other) as b:
        result = compare(a, b)
        if as_json:
            output.document(result.facts(as_hex))
        else:
            for each in result.sentences(as_hex):
                output.line(each)
        judge(a)
        judge(b)
    if not result.same:
        raise typer.Exit(1)
