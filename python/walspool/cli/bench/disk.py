"""The disk by itself: what plain calls on a plain file reach, with the frames that the log would write."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from walspool.cli.bench.work import Step

__all__ = ["read_file", "write_and_sync", "zeroed_file"]

ZEROED_BYTES = 16 << 20
CHUNK = 1 << 20

if sys.platform == "darwin":
    import fcntl

    def _sync(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
else:
    _sync = os.fdatasync


@contextlib.contextmanager
def zeroed_file(path: Path) -> Iterator[int]:
    """A file of zeros that are on the disk: writing over them commits no size, the kindest case there is."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for offset in range(0, ZEROED_BYTES, CHUNK):
            _write(fd, bytes(CHUNK), offset)
        os.fsync(fd)
        yield fd
    finally:
        os.close(fd)


def write_and_sync(fd: int, frames: bytes, records: int) -> Step:
    """Write and sync the same frames behind the ones before, and from the file's begin again at its end."""
    offset = 0

    def step() -> int:
        nonlocal offset
        if offset + len(frames) > ZEROED_BYTES:
            offset = 0
        _write(fd, frames, offset)
        _sync(fd)
        offset += len(frames)
        return records

    return step


def read_file(path: Path, records: int) -> Step:
    """Read all of a file, and look at nothing."""

    def step() -> int:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            offset = 0
            while chunk := os.pread(fd, CHUNK, offset):
                offset += len(chunk)
        finally:
            os.close(fd)
        return records

    return step


def _write(fd: int, data: bytes, offset: int) -> None:
    if os.pwrite(fd, data, offset) != len(data):
        raise OSError(errno.EIO, "a write was cut short")
