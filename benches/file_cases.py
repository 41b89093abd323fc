"""Opening and pruning: what costs per file, not per record."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from limits import CHUNK, opened, pread_crc, pread_file, sync_all, sync_path, write_all
from logs import (
    FRAME_BYTES,
    FRAME_OVERHEAD,
    PAYLOAD_BYTES,
    RECORDS,
    WARM_UP,
    build_log,
    copy_log,
    killed_log,
    shared_log,
    wal_of,
)
from model import Case, Contender, Run

import walspool

__all__ = ["CLOSED_200", "FILE_CASES", "PRUNE_100", "after_kill"]

#: The closed log has seven sealed segments and an active one that is about half full.
SEALED_BYTES = 4 << 20
PRUNE_RECORDS = 28_000
PRUNE_SEGMENT_BYTES = 1 << 20
SMALL_SEGMENT_BYTES = 256 << 10
#: A segment is sealed once it has reached its size, which takes nine of the batches that logs are built in.
SMALL_SEGMENT_RECORDS = 9 * (SMALL_SEGMENT_BYTES // FRAME_BYTES // 8)


@contextmanager
def _processors(count: int) -> Iterator[None]:
    """This thread, and those that it starts, on so many processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def after_kill(size_bytes: int, payload_bytes: int) -> Case:
    """Open a log of one segment as a killed writer left it, on one processor and on two."""
    records = size_bytes // (payload_bytes + FRAME_OVERHEAD)

    def opening(processors: Callable[[], AbstractContextManager[None]]) -> Contender:
        @contextmanager
        def ready(folder: Path) -> Iterator[Run]:
            left, copy = killed_log(folder.parent, records, payload_bytes), folder / "copy"
            with ExitStack() as stack:

                def prepare() -> None:
                    stack.close()
                    copy_log(left, copy)

                def run() -> None:
                    with processors():
                        spool = stack.enter_context(walspool.open(copy / "log", segment_bytes=None))
                    assert spool.recovery.records == records + WARM_UP

                yield Run(1, run, prepare)

        return ready

    def left_file(folder: Path) -> Path:
        return wal_of(killed_log(folder.parent, records, payload_bytes))

    limits = {"pread": pread_file(left_file, 1), "pread+crc": pread_crc(left_file, 1)}
    name = f"open killed, {size_bytes >> 20} MiB, {payload_bytes} B"
    if not hasattr(os, "sched_setaffinity"):
        missing = {"2 processors": "this system can't keep a thread on one processor"}
        return Case(name, "opens", opening(nullcontext), limits, missing)
    one = opening(partial(_processors, 1))
    if len(os.sched_getaffinity(0)) < 2:
        return Case(name, "opens", one, limits, {"2 processors": "there is one processor"})
    return Case(name, "opens", one, {**limits, "2 processors": opening(partial(_processors, 2))})


def _closed_log(segment_bytes: int, records: int, segments: int) -> Contender:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        data_path = build_log(folder / "closed", segment_bytes=segment_bytes, records=records) / "log"
        with ExitStack() as stack:

            def run() -> None:
                spool = stack.enter_context(walspool.open(data_path, segment_bytes=segment_bytes))
                assert spool.recovery.records == records

            run()
            with walspool.open(data_path, read_only=True) as spool:
                found = len(spool.segments)
                assert found == segments, f"{found} of {segments} segments were built"
            yield Run(1, run, stack.close)

    return ready


def _small_segments(segments: int) -> Contender:
    """A closed log of so many segments, the last one half full."""
    records = (segments - 1) * SMALL_SEGMENT_RECORDS + SMALL_SEGMENT_RECORDS // 2
    return _closed_log(SMALL_SEGMENT_BYTES, records, segments)


def _closed_file(folder: Path) -> Path:
    """The active segment of a closed log with sealed ones before it."""
    return wal_of(shared_log(folder.parent, segment_bytes=SEALED_BYTES))


def _pruned(segment_bytes: int, records: int, through: Callable[[walspool.LogicalWalSpool], int]) -> Contender:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        whole = shared_log(folder.parent, segment_bytes=segment_bytes, records=records)
        copy = folder / "copy"
        with ExitStack() as stack:
            spool: walspool.LogicalWalSpool
            lsn = 0

            def prepare() -> None:
                nonlocal spool, lsn
                stack.close()
                copy_log(whole, copy)
                spool = stack.enter_context(walspool.open(copy / "log", segment_bytes=segment_bytes))
                lsn = through(spool)

            def run() -> None:
                assert spool.prune_through(lsn).records == lsn

            yield Run(1, run, prepare)

    return ready


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
        _replace_state(copy)
        _cut_file(copy / cut.path.name, stays_from)
        for name in goes:
            os.unlink(copy / name)
        sync_path(copy)

    yield Run(1, run, lambda: copy_log(whole, copy))


def _replace_state(folder: Path) -> None:
    """Replace the log's state as a prune does: written into the spare file that is there, synced and renamed."""
    state = wal_of(folder).with_name(f"{wal_of(folder).name}.state")
    spare = state.with_name(f"{state.name}.spare")
    with opened(spare, os.O_RDWR | os.O_CREAT) as fd:
        write_all(fd, state.read_bytes(), 0)
        sync_all(fd)
    os.rename(spare, state)
    sync_path(folder)


def _cut_file(path: Path, stays_from: int) -> None:
    """Replace a file by what is behind ``stays_from``."""
    fresh = path.with_name("fresh")
    with opened(path, os.O_RDONLY) as source, opened(fresh, os.O_RDWR | os.O_CREAT) as target:
        offset = stays_from
        while data := os.pread(source, CHUNK, offset):
            write_all(target, data, offset - stays_from)
            offset += len(data)
        sync_all(target)
    os.rename(fresh, path)


PRUNED_SEGMENTS = 100
_PRUNED_RECORDS = PRUNED_SEGMENTS * SMALL_SEGMENT_RECORDS + SMALL_SEGMENT_RECORDS // 2


def _hundredth(spool: walspool.LogicalWalSpool) -> int:
    """The end of the last segment that goes."""
    assert len(spool.segments) == PRUNED_SEGMENTS + 1
    return spool.segments[PRUNED_SEGMENTS - 1].last_lsn or 0


@contextmanager
def _unlink_all(folder: Path) -> Iterator[Run]:
    """Unlink 100 segments and their sidecars, with the same syncs."""
    whole = shared_log(folder.parent, segment_bytes=SMALL_SEGMENT_BYTES, records=_PRUNED_RECORDS)
    with walspool.open(whole / "log", read_only=True) as spool:
        goes = [each.path.name for each in spool.segments[:PRUNED_SEGMENTS]]
    copy = folder / "copy"

    def run() -> None:
        _replace_state(copy)
        for name in goes:
            os.unlink(copy / name)
            os.unlink(copy / f"{name}.idx")
        sync_path(copy)

    yield Run(1, run, lambda: copy_log(whole, copy))


CLOSED_200 = Case("open closed, 200 segments", "opens", _small_segments(200), {"2 segments": _small_segments(2)})
PRUNE_100 = Case(
    "prune 100 segments",
    "prunes",
    _pruned(SMALL_SEGMENT_BYTES, _PRUNED_RECORDS, _hundredth),
    {"unlink": _unlink_all},
)

#: In the order of the table.
FILE_CASES = [
    after_kill(28 << 20, PAYLOAD_BYTES),
    Case(
        "open closed, 6 sidecars",
        "opens",
        _closed_log(SEALED_BYTES, RECORDS, 7),
        {"pread active": pread_file(_closed_file, 1)},
    ),
    CLOSED_200,
    Case(
        "prune half of 8 MB",
        "prunes",
        _pruned(PRUNE_SEGMENT_BYTES, PRUNE_RECORDS, lambda _: PRUNE_RECORDS // 2),
        {"copy+unlink": _copy_and_unlink},
    ),
    PRUNE_100,
]
