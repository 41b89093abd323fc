"""Logs to read, open and prune: built once for a whole run, then copied where they are to be changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from limits import sync_path

import walspool

__all__ = [
    "FRAME_BYTES",
    "FRAME_OVERHEAD",
    "PAYLOAD_BYTES",
    "RECORDS",
    "SEGMENT_BYTES",
    "WARM_UP",
    "build_log",
    "change_payloads",
    "copy_log",
    "killed_log",
    "random_payloads",
    "shared_log",
    "wal_of",
]

RECORDS = 100_000
PAYLOAD_BYTES = 256
FRAME_OVERHEAD = 37
FRAME_BYTES = PAYLOAD_BYTES + FRAME_OVERHEAD
#: The shipped default.
SEGMENT_BYTES = 64 << 20
#: Zeros ahead are written once a log has seen some flushes, so that much is appended before the first run.
WARM_UP = 80
#: Bytes of one call while a log is built.
_BATCH_BYTES = 4 << 20

#: ``count`` payloads of ``size`` bytes from an LSN on.
Payloads = Callable[[int, int, int], list[bytes]]


def wal_of(folder: Path) -> Path:
    """The active segment of the log in a folder."""
    return walspool.LogicalWalSpool.path_for(folder / "log")


def random_payloads(_first: int, count: int, size: int) -> list[bytes]:
    """Bytes that mean nothing."""
    return [os.urandom(size) for _ in range(count)]


def change_payloads(first: int, count: int, size: int) -> list[bytes]:
    """Change records in JSON, about ``size`` bytes each."""
    around = 153
    return [
        walspool.ChangeRecord(
            term=1,
            lsn=lsn,
            timestamp=1_700_000_000_000 + lsn,
            operation=walspool.ChangeOperation.INSERT,
            collection="orders",
            entity_id=lsn,
            entity_kind="row",
            entity_bytes=os.urandom(max(size - around, 0) // 2),
            metadata={"shard": lsn % 7},
        ).encode()
        for lsn in range(first, first + count)
    ]


def shared_log(
    disk: Path,
    *,
    segment_bytes: int | None = SEGMENT_BYTES,
    records: int = RECORDS,
    payload_bytes: int = PAYLOAD_BYTES,
    payloads: Payloads = random_payloads,
) -> Path:
    """A folder with a closed log, data path ``log``, LSNs from 1, that all share; for readers that change nothing."""
    built = disk / f"built-{records}-{segment_bytes}-{payload_bytes}-{payloads.__name__}"
    if not built.exists():
        fresh = payloads is change_payloads
        batch = min(max(_BATCH_BYTES // (payload_bytes + FRAME_OVERHEAD), 1), 1_000)
        if segment_bytes is not None:  # a batch is written whole, so it must be small beside a segment
            batch = max(min(batch, segment_bytes // (payload_bytes + FRAME_OVERHEAD) // 8), 1)
        with walspool.open(built / "log", segment_bytes=segment_bytes) as spool:
            made = payloads(1, batch, payload_bytes)
            for first in range(1, records + 1, batch):
                spool.append_next_many(made[: records + 1 - first])
                if fresh:
                    made = payloads(first + batch, batch, payload_bytes)
    return built


def build_log(
    folder: Path,
    *,
    segment_bytes: int | None = SEGMENT_BYTES,
    records: int = RECORDS,
    payload_bytes: int = PAYLOAD_BYTES,
    payloads: Payloads = random_payloads,
) -> Path:
    """``folder``, a contender's own, which now holds a copy of such a log."""
    disk = folder.parent.parent
    source = shared_log(
        disk, segment_bytes=segment_bytes, records=records, payload_bytes=payload_bytes, payloads=payloads
    )
    copy_log(source, folder)
    return folder


def killed_log(disk: Path, records: int, payload_bytes: int) -> Path:
    """A folder that all share, with a log of one segment as a killed writer leaves it, zeros behind its last batch.

    It holds ``WARM_UP`` records more than ``records``.
    """
    built = disk / f"killed-{records}-{payload_bytes}"
    if not built.exists():
        live = disk / "live"
        copy_log(shared_log(disk, segment_bytes=None, records=records, payload_bytes=payload_bytes), live)
        with walspool.open(live / "log", segment_bytes=None) as spool:
            for _ in range(WARM_UP):
                spool.append_next(bytes(payload_bytes))
            copy_log(live, built)
        shutil.rmtree(live)
    return built


def copy_log(source: Path, target: Path) -> None:
    """Copy a log's folder over another, all of it on the disk on return, so that no later sync pays for it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for each in (*target.iterdir(), target):
        sync_path(each)
