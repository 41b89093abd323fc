"""Where the demo works, and what is left of it; the steps of ``--local`` in order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import typer

import walspool
from walspool.cli import output, progress
from walspool.cli.bench.work import RecordsMissing
from walspool.cli.demo.figures import measure
from walspool.cli.demo.kills import record_with_kills
from walspool.cli.demo.report import Pruned, Result
from walspool.cli.demo.tree import DemoFailed, Tree, rebuild
from walspool.cli.scratch import scratch

__all__ = ["Tell", "local", "run"]

#: Called with a step's name and what came of it.
Tell = Callable[[str, str], None]


class _Found(Protocol):
    """What all steps came to."""

    def facts(self) -> dict[str, Any]: ...

    def print_table(self) -> None: ...


def run(work: Callable[[Path, Tell], _Found], directory: Path | None, *, keep: bool, as_json: bool) -> None:
    """Do the work and print what came of it; exit code 1 where a step came out other than promised."""

    def tell(step: str, text: str) -> None:
        if not as_json:
            output.line(f"{step:<9} {output.on_one_line(text)}")
            output.flush()

    try:
        with _folder(directory, keep) as folder:
            result = work(folder, tell)
    except (DemoFailed, RecordsMissing) as error:
        if as_json:
            output.document({"ok": False, "failure": str(error)})
        output.complain(str(error))
        raise typer.Exit(1) from error
    if as_json:
        output.document(result.facts())
    else:
        result.print_table()


@contextlib.contextmanager
def _folder(directory: Path | None, keep: bool) -> Iterator[Path]:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise typer.BadParameter(f"--dir {directory} is not empty")
        yield directory
        return
    with scratch("demo", keep=keep) as folder:
        yield folder


def local(folder: Path, tell: Tell) -> Result:
    """A log and the process that writes it; ``DemoFailed`` at the first step that comes out other than promised."""
    from walspool import core

    started = time.monotonic()
    tree = Tree.of_standard_library()
    data_path = folder / "tree"
    tell("source", f"{tree.root}: {output.count(len(tree.names), 'file')}, {output.size(tree.bytes)}")
    log = walspool.LogicalWalSpool.path_for(data_path)
    tell("log", f"{log}, written by a process of its own on the {core.name} core")
    kills = record_with_kills(tree, data_path, lambda kill: tell(f"kill {kill.number}", kill.sentence()))
    before = time.perf_counter()
    with walspool.open(data_path) as spool:
        reopen_ms = (time.perf_counter() - before) * 1000
        records, log_bytes, segments = spool.record_count, spool.size_bytes, len(spool.segments)
        tell("written", f"{output.count(records, 'record')}, {output.size(log_bytes)} in {segments} segments")
        with progress.waiting("rebuilding"):
            rebuilt = rebuild(spool, folder / "rebuilt")
            tree.compare(folder / "rebuilt")
        tell("rebuilt", f"{output.count(rebuilt, 'file')} from the log alone, all identical by SHA-256")
    pruned = _prune_half(data_path, records)
    tell("pruned", f"{output.count(pruned.records, 'record')} removed, {output.size(pruned.bytes_freed)} freed")
    tell("goes on", f"reopened: oldest LSN {pruned.oldest_lsn}, next LSN {pruned.next_lsn}")
    with progress.waiting("measuring"):
        figures = measure(folder)
    return Result(
        source=tree.root,
        core=core.name,
        records=records,
        source_bytes=tree.bytes,
        log_bytes=log_bytes,
        segments=segments,
        kills=kills,
        files_identical=rebuilt,
        reopen_ms=reopen_ms,
        pruned=pruned,
        figures=figures,
        seconds=time.monotonic() - started,
    )


def _prune_half(data_path: Path, records: int) -> Pruned:
    """Prune the older half, open anew, append one more, and hold the log to its promises."""
    half = records // 2
    with walspool.open(data_path) as spool:
        report = spool.prune_through(half)
    with walspool.open(data_path) as spool:
        oldest, next_lsn = spool.oldest_lsn, spool.append_next(b"the log goes on")
    pruned = Pruned(report.records, report.bytes_freed, oldest, next_lsn)
    if (report.records, oldest, next_lsn) != (half, half + 1, records + 1):
        raise DemoFailed(f"a prune through LSN {half} of {records} came out as {pruned}")
    return pruned
