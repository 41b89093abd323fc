"""Logs to read, open and prune: built once for a whole run, then copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from limits import sync_path

import walspool

__all__ = ["FRAME_BYTES", "FRAME_OVERHEAD", "PAYLOAD_BYTES", "RECORDS", "build_log", "copy_log", "wal_of"]

RECORDS = 100_000
PAYLOAD_BYTES = 256
FRAME_OVERHEAD = 37
FRAME_BYTES = PAYLOAD_BYTES + FRAME_OVERHEAD


def wal_of(folder: Path) -> Path:
    """The active segment of the log in a folder."""
    return walspool.LogicalWalSpool.path_for(folder / "log")


def build_log(folder: Path, *, segment_bytes: int | None = None, records: int = RECORDS) -> Path:
    """``folder``, which now holds a closed log of ``records`` with the data path ``folder/log``, LSNs from 1."""
    built = folder.parent.parent / f"built-{records}-{segment_bytes}"
    if not built.exists():
        payloads = [os.urandom(PAYLOAD_BYTES) for _ in range(1_000)]
        with walspool.open(built / "log", segment_bytes=segment_bytes) as spool:
            for _ in range(records // len(payloads)):
                spool.append_next_many(payloads)
    copy_log(built, folder)
    return folder


def copy_log(source: Path, target: Path) -> None:
    """Copy a log's folder over another, all of it on the disk on return, so that no later sync pays for it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for each in (*target.iterdir(), target):
        sync_path(each)
