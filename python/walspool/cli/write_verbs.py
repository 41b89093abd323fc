"""The verbs that write: append, prune, repair."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

import walspool
from walspool.cli import output, progress
from walspool.cli.app import LSN_MAX, AsJson, DataPath, app, example
from walspool.cli.feeding import Feed, lines_of, open_input
from walspool.cli.opening import must_exist

__all__ = ["append", "prune", "repair"]


@app.command(
    short_help="Append lines as records.",
    epilog=example("printf 'one\\ntwo\\n' | walspool append app.db", "walspool append app.db events.jsonl --json"),
)
def append(
    path: DataPath,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Read from here, not standard input.", show_default=False)
    ] = None,
    following: Annotated[
        bool, typer.Option("--next/--with-lsn", help="Take the next LSNs, or read lines of LSN, tab, payload.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Append each line as one record and answer its LSN once it is durable.

    Only the newline is taken off; every other byte is kept. What has arrived is appended at once, so a slow
    input never waits for a batch to fill. A log with damaged records is refused: mend it with repair first.
    """
    source, total = open_input(file)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, source)
        bar = stack.enter_context(progress.Bar("appending", total, printing=True))
        spool = stack.enter_context(walspool.open(path, recovery="strict"))
        feed = Feed(spool, following=following, as_json=as_json)
        for batch in lines_of(source):
            feed.append(batch)
            bar.step(sum(map(len, batch)) + len(batch))


@app.command(short_help="Remove old records.", epilog=example("walspool prune app.db --through 1000"))
def prune(
    path: DataPath,
    through: Annotated[int, typer.Option(min=0, max=LSN_MAX, help="The last LSN to remove.", show_default=False)],
    ignore_slots: Annotated[bool, typer.Option("--ignore-slots", help="Remove also what replicas need.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove every record at or below an LSN for good; LSNs go on from where they were.

    What a replica's slot still needs is not removed, unless with --ignore-slots: that replica must then start again.
    """
    must_exist(path)
    with walspool.open(path, recovery="strict") as spool:
        if through > spool.current_lsn:
            raise typer.BadParameter(f"--through {through} is above the last LSN {spool.current_lsn}")
        if not ignore_slots:
            _refuse_what_slots_need(path, through)
        with progress.waiting("pruning"):
            report = spool.prune_through(through)
        oldest = spool.oldest_lsn
    if as_json:
        output.document({**output.plain(report), "oldest_lsn": oldest})
        return
    removed = f"{output.count(report.records, 'record')} and {output.count(report.segments_removed, 'segment')} removed"
    left = "no record is left" if oldest is None else f"the oldest LSN is now {oldest}"
    output.line(f"{removed}, {output.size(report.bytes_freed)} freed; {left}")


def _refuse_what_slots_need(path: Path, through: int) -> None:
    slots = walspool.PrimaryReplication.read_slots(path)
    needing = [each for each in slots if each.valid and each.restart_lsn < through]
    if needing:
        first = min(needing, key=lambda each: each.restart_lsn)
        raise typer.BadParameter(
            f"--through {through} would remove records above LSN {first.restart_lsn}, which the replica {first.id} "
            "needs; look with 'walspool slots list', or say --ignore-slots"
        )


@app.command(
    short_help="Make a damaged log usable.",
    epilog=example("walspool repair app.db --dry-run", "walspool repair app.db --lsn-floor 4200"),
)
def repair(
    path: DataPath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done and given up.")] = False,
    lsn_floor: Annotated[
        int | None,
        typer.Option(min=0, max=LSN_MAX, help="Give LSNs above this one again, even if they were once acknowledged."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a damaged log usable again and say what that gives up; cut bytes are saved beside the log first.

    With --dry-run nothing is changed, and the exit code is 1 when there is something to repair.
    """
    must_exist(path)
    with progress.waiting("repairing"):
        report = walspool.LogicalWalSpool.repair(path, dry_run=dry_run, lsn_floor=lsn_floor)
    if as_json:
        output.document({"dry_run": dry_run, **output.plain(report)})
    else:
        for each in report.actions:
            output.line(f"{'would: ' if dry_run else ''}{output.on_one_line(each)}")
        if not report.changed:
            output.line("nothing to repair")
    if dry_run and report.changed:
        raise typer.Exit(1)
