"""What only shows on much data: a long bulk append, an open after a kill, a verification. How much is an option."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from file_cases import after_kill
from limits import append_all, opened, pread_files, sync_all, sync_data
from logs import FRAME_BYTES, PAYLOAD_BYTES, shared_log
from model import Case, Contender, Run

import walspool

__all__ = ["FULL", "SMOKE", "USUAL", "Sizes", "bulk", "killed", "verified"]

#: Frames that fit into one batch of at most 4 MiB.
BATCH_RECORDS = 14_000


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is appended, opened and verified, in bytes."""

    name: str
    appended: int
    opened: int
    verified: int


#: To see that everything runs; its figures say nothing.
SMOKE = Sizes("smoke", 16 << 20, 8 << 20, 16 << 20)
USUAL = Sizes("usual", 512 << 20, 64 << 20, 256 << 20)
FULL = Sizes("full", 4 << 30, 512 << 20, 1 << 30)


def bulk(sizes: Sizes) -> Case:
    """A sustained append in batches of 4 MiB, through as many segments as it takes."""
    calls = max(sizes.appended // (BATCH_RECORDS * FRAME_BYTES), 1)
    amount = calls * BATCH_RECORDS

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payloads = [os.urandom(PAYLOAD_BYTES)] * BATCH_RECORDS
        with walspool.open(folder / "log") as spool:

            def run() -> None:
                for _ in range(calls):
                    spool.append_next_many(payloads)

            yield Run(amount, run, lambda: spool.prune_through(spool.current_lsn))

    limit = _write_and_sync(BATCH_RECORDS * FRAME_BYTES, calls, BATCH_RECORDS)
    return Case(f"bulk append, {_words(sizes.appended)}", "records", ready, {"write+sync": limit})


def _write_and_sync(write_bytes: int, writes: int, records: int) -> Contender:
    """What ``dd oflag=dsync`` does: each write is synced before the next; the file begins anew in each round."""

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        data = os.urandom(write_bytes)
        with opened(folder / "written", os.O_RDWR | os.O_CREAT | os.O_APPEND) as fd:

            def prepare() -> None:
                os.ftruncate(fd, 0)
                sync_all(fd)

            def run() -> None:
                for _ in range(writes):
                    append_all(fd, data)
                    sync_data(fd)

            yield Run(writes * records, run, prepare)

    return ready


def killed(sizes: Sizes, payload_bytes: int) -> Case:
    """An open after a kill, all of the log in one segment."""
    return after_kill(sizes.opened, payload_bytes)


def verified(sizes: Sizes) -> Case:
    """Every byte of every segment, checked."""
    records = sizes.verified // FRAME_BYTES

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        with walspool.open(shared_log(folder.parent, records=records) / "log", read_only=True) as spool:

            def run() -> None:
                report = spool.verify()
                assert report.ok
                assert report.records == records

            yield Run(records, run)

    def segments(folder: Path) -> list[Path]:
        with walspool.open(shared_log(folder.parent, records=records) / "log", read_only=True) as spool:
            return [each.path for each in spool.segments]

    limits = {"pread": pread_files(segments, records)}
    return Case(f"verify, {_words(sizes.verified)}", "records", ready, limits)


def _words(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"
