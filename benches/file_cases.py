"""Opening and pruning: what costs per file, not per record."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from limits import CHUNK, opened, pread_crc, pread_file, sync_all, sync_path, write_all
from logs import FRAME_BYTES, PAYLOAD_BYTES, RECORDS, build_log, copy_log, wal_of
from model import Case, Run

import walspool

__all__ = ["FILE_CASES"]

#: The closed log has seven sealed segments and an active one that is about half full.
SEALED_BYTES = 4 << 20
PRUNE_RECORDS = 28_000
PRUNE_SEGMENT_BYTES = 1 << 20


def _killed_log(folder: Path) -> Path:
    """A log as a killed writer leaves it: copied while it is open, its last batch in place and zeros behind it."""
    live, left = folder / "live", folder / "killed"
    with walspool.open(build_log(live) / "log", segment_bytes=None) as spool:
        for _ in range(80):
            spool.append_next(bytes(PAYLOAD_BYTES))
        copy_log(live, left)
    shutil.rmtree(live)
    return left


@contextmanager
def _open_killed(folder: Path) -> Iterator[Run]:
    left, copy = _killed_log(folder), folder / "copy"
    with ExitStack() as stack:

        def prepare() -> None:
            stack.close()
            copy_log(left, copy)

        def run() -> None:
            spool = stack.enter_context(walspool.open(copy / "log", segment_bytes=None))
            assert spool.recovery.records == RECORDS + 80

        yield Run(1, run, prepare)


@contextmanager
def _open_closed(folder: Path) -> Iterator[Run]:
    data_path = build_log(folder / "closed", segment_bytes=SEALED_BYTES) / "log"
    with ExitStack() as stack:

        def run() -> None:
            spool = stack.enter_context(walspool.open(data_path, segment_bytes=SEALED_BYTES))
            assert spool.recovery.records == RECORDS

        yield Run(1, run, stack.close)


def _closed_file(folder: Path) -> Path:
    """The active segment of a closed log with sealed ones before it."""
    return wal_of(build_log(folder / "closed", segment_bytes=SEALED_BYTES))


def _killed_file(folder: Path) -> Path:
    return wal_of(_killed_log(folder))


@contextmanager
def _prune(folder: Path) -> Iterator[Run]:
    build_log(folder / "whole", segment_bytes=PRUNE_SEGMENT_BYTES, records=PRUNE_RECORDS)
    copy = folder / "copy"
    with ExitStack() as stack:
        spool: walspool.LogicalWalSpool

        def prepare() -> None:
            nonlocal spool
            stack.close()
            copy_log(folder / "whole", copy)
            spool = stack.enter_context(walspool.open(copy / "log", segment_bytes=PRUNE_SEGMENT_BYTES))

        def run() -> None:
            assert spool.prune_through(PRUNE_RECORDS // 2).records == PRUNE_RECORDS // 2

        yield Run(1, run, prepare)


@contextmanager
def _copy_and_unlink(folder: Path) -> Iterator[Run]:
    whole = build_log(folder / "whole", segment_bytes=PRUNE_SEGMENT_BYTES, records=PRUNE_RECORDS)
    with walspool.open(whole / "log", segment_bytes=PRUNE_SEGMENT_BYTES) as spool:
        middle = PRUNE_RECORDS // 2
        goes = [each.path.name for each in spool.segments if each.last_lsn is not None and each.last_lsn <= middle]
        cut = next(each for each in spool.segments if each.last_lsn is not None and each.last_lsn > middle)
        assert cut.first_lsn is not None
        stays_from = (middle + 1 - cut.first_lsn) * FRAME_BYTES
    copy = folder / "copy"

    def run() -> None:
        _cut_file(copy / cut.path.name, stays_from)
        for name in goes:
            os.unlink(copy / name)
        sync_path(copy)

    yield Run(1, run, lambda: copy_log(whole, copy))


def _cut_file(path: Path, stays_from: int) -> None:
    """Replace a file by what is behind ``stays_from``, with a note of it (the LSN floor) made durable before."""
    note, fresh = path.with_name("note"), path.with_name("fresh")
    with opened(note, os.O_RDWR | os.O_CREAT) as fd:
        write_all(fd, bytes(512), 0)
        sync_all(fd)
    os.rename(note, path.with_name("note.kept"))
    sync_path(path.parent)
    with opened(path, os.O_RDONLY) as source, opened(fresh, os.O_RDWR | os.O_CREAT) as target:
        offset = stays_from
        while data := os.pread(source, CHUNK, offset):
            write_all(target, data, offset - stays_from)
            offset += len(data)
        sync_all(target)
    os.rename(fresh, path)


#: In the order of the table.
FILE_CASES = [
    Case(
        "open after a kill, 29 MB",
        "opens",
        _open_killed,
        {"pread": pread_file(_killed_file, 1), "pread+crc": pread_crc(_killed_file, 1)},
    ),
    Case(
        "open closed, 7 sidecars",
        "opens",
        _open_closed,
        {"pread active": pread_file(_closed_file, 1)},
    ),
    Case("prune half of 8 MB", "prunes", _prune, {"copy+unlink": _copy_and_unlink}),
]
