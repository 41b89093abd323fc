"""What a primary adds to its log: acknowledgements and pulls, appends, wake-ups, reads of the buffer, commits."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from statistics import median

from limits import opened, sync_all, sync_growing, write_all
from logs import FRAME_BYTES, PAYLOAD_BYTES, WARM_UP
from model import Case, Contender, Run
from waking import CHANNELS, hand_over, woken

import walspool

__all__ = [
    "ACK",
    "APPEND",
    "COMMITS",
    "PULL",
    "READ",
    "REPLICATION_CASES",
    "TASKS",
    "WAKE",
]

SLOTS = 100
#: Calls of one run: enough for some of the slot file's lazy flushes to fall into it.
CALLS = 20_000
#: Calls of the reference's habit in one run; each is a flush.
HABIT_CALLS = 40
#: Appends of one run: few, since the disk's moods are shorter than longer runs.
APPENDS = 8
HELD = 100_000
READS = 4_000
READ_PARTS = 200
READ_RECORDS = 100
TASKS = 1_000


@contextmanager
def _primary(folder: Path) -> Iterator[tuple[walspool.PrimaryReplication, list[str]]]:
    """A primary with a log and 100 replicas, and their ids."""
    config = walspool.ReplicationConfig(max_slots=SLOTS, slot_retention_max_lag_lsn=0, segment_bytes=None)
    names = [f"replica-{number:03d}" for number in range(SLOTS)]
    with walspool.PrimaryReplication(folder / "log", config) as primary:
        for name in names:
            primary.register_replica(name)
        for _ in range(WARM_UP):
            primary.commit(bytes(PAYLOAD_BYTES))
        yield primary, names


def _noting(note: Callable[[walspool.PrimaryReplication, str, int], object]) -> Contender:
    """``CALLS`` of ``note`` with LSNs that go up, over all replicas in turn."""

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        with _primary(folder) as (primary, names):
            lsn = 0

            def run() -> None:
                nonlocal lsn
                for name, _ in zip(cycle(names), range(CALLS), strict=False):
                    lsn += 1
                    note(primary, name, lsn)
                primary.prune_retained_wal_through(0)  # prunes nothing, and puts the slots on the disk

            yield Run(CALLS, run)

    return ready


@contextmanager
def _habit(folder: Path) -> Iterator[Run]:
    """The slot file of 100 slots written beside, synced and renamed for each call."""
    with _primary(folder):
        pass
    path = walspool.PrimaryReplication.slot_path_for(folder / "log")
    data, fresh = path.read_bytes(), folder / "fresh"

    def run() -> None:
        for _ in range(HABIT_CALLS):
            with opened(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
                write_all(fd, data, 0)
                sync_all(fd)
            os.rename(fresh, path)

    yield Run(HABIT_CALLS, run)


@contextmanager
def _logical_append(folder: Path) -> Iterator[Run]:
    payload = os.urandom(PAYLOAD_BYTES)
    with _primary(folder) as (primary, _):

        def run() -> None:
            first = primary.current_logical_lsn + 1
            for lsn in range(first, first + APPENDS):
                primary.append_logical_record(lsn, payload)

        yield Run(APPENDS, run)


@contextmanager
def _spool_append(folder: Path) -> Iterator[Run]:
    payload = os.urandom(PAYLOAD_BYTES)
    with walspool.open(folder / "log", segment_bytes=None) as spool:
        for _ in range(WARM_UP):
            spool.append_next(bytes(PAYLOAD_BYTES))

        def run() -> None:
            first = spool.current_lsn + 1
            for lsn in range(first, first + APPENDS):
                spool.append(lsn, payload)

        yield Run(APPENDS, run)


@contextmanager
def _wake_up(folder: Path) -> Iterator[Run]:
    payload = os.urandom(PAYLOAD_BYTES)
    with _primary(folder) as (primary, _):
        spool = primary.logical_wal_spool
        assert spool is not None
        first = before_ns = 0

        def prepare() -> None:
            nonlocal first, before_ns
            first, before_ns = primary.current_logical_lsn, spool.stats().sync_ns_total

        def act(number: int) -> float:
            nonlocal before_ns
            primary.append_logical_record(first + number + 1, payload)
            earlier_ns, before_ns = before_ns, spool.stats().sync_ns_total
            return (before_ns - earlier_ns) / 1e9

        made = woken(act, lambda number: primary.wait_for_logical_lsn_after(first + number, None))
        yield Run(made.amount, made.run, prepare, seconds=made.seconds)


def _reading(behind: Callable[[walspool.WalBuffer], int]) -> Contender:
    """Reads of 100 records behind an LSN from a buffer that is full, and has dropped its oldest.

    A read takes some microseconds, so that one interruption would decide a run: the median of its parts counts.
    """

    @contextmanager
    def ready(_: Path) -> Iterator[Run]:
        buffer, payload = walspool.WalBuffer(HELD), bytes(PAYLOAD_BYTES)
        for lsn in range(1, HELD + HELD // 3):
            buffer.append(lsn, payload)
        assert len(buffer) == HELD
        since, took = behind(buffer), [0.0] * READ_PARTS

        def run() -> None:
            for part in range(READ_PARTS):
                begun = time.perf_counter()
                for _ in range(READS // READ_PARTS):
                    assert len(buffer.read_since(since, READ_RECORDS)) == READ_RECORDS
                took[part] = time.perf_counter() - begun

        yield Run(READS, run, seconds=lambda: median(took) * READ_PARTS)

    return ready


@contextmanager
def _commits(folder: Path) -> Iterator[Run]:
    payload = os.urandom(PAYLOAD_BYTES)
    with _primary(folder) as (primary, _), asyncio.Runner() as runner:
        spool = primary.logical_wal_spool
        assert spool is not None

        async def together() -> None:
            await asyncio.gather(*(primary.acommit(payload) for _ in range(TASKS)))

        def flushed() -> tuple[int, int]:
            now = spool.stats()
            return now.appends, now.flushes

        yield Run(TASKS, lambda: runner.run(together()), flushed=flushed)


ACK = Case(
    "ack, 100 slots",
    "acks",
    _noting(lambda primary, name, lsn: primary.ack_replica_lsn(name, lsn, lsn)),
    {"fsync+rename": _habit},
)
PULL = Case(
    "pull, 100 slots",
    "pulls",
    _noting(lambda primary, name, lsn: primary.note_replica_pull(name, lsn)),
    {"fsync+rename": _habit},
)
APPEND = Case("append_logical_record", "records", _logical_append, {"spool append": _spool_append})
WAKE = Case("wake-up, sync left out", "wake-ups", _wake_up, {name: hand_over(each) for name, each in CHANNELS.items()})
READ = Case(
    "buffer read at the end",
    "reads",
    _reading(lambda buffer: buffer.current_lsn - READ_RECORDS),
    {
        "in the middle": _reading(lambda buffer: buffer.current_lsn - HELD // 2),
        "at the start": _reading(lambda buffer: buffer.pruned_through),
    },
)
COMMITS = Case(
    "acommit, 1,000 at once", "commits", _commits, {"growing batch": sync_growing(FRAME_BYTES * TASKS, 1, TASKS)}
)

#: In the order of the table.
REPLICATION_CASES = [ACK, PULL, APPEND, WAKE, READ, COMMITS]
