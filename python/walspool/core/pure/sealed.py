"""Opening many sealed segments at once, where each is what its sidecar says. What is not so is left to the caller."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final, TypeAlias

from walspool.core.pure.file import File, StrPath, named, pread, status
from walspool.core.pure.index import ScanReport, decode_sidecar

__all__ = ["open_sealed"]

_Opened: TypeAlias = tuple[File, ScanReport, int] | OSError | None

#: What the first read of a sidecar asks for.
_ROOM: Final = 64 << 10


def open_sealed(
    directory: StrPath, paths: Sequence[str], suffix: str, spool_id: bytes, *, write: bool = False
) -> list[_Opened]:
    """For each path ``(file, report, LSN before it)``, where the sidecar of that name and ``suffix`` fits.

    Else the ``OSError`` of a call that failed, or ``None``. All are in ``directory``.
    """
    if len(spool_id) != 16:
        raise ValueError("spool_id must have 16 bytes")
    if not paths:
        return []
    folder = File(os.open(directory, os.O_RDONLY | os.O_CLOEXEC), directory)
    return [_open_one(folder.fileno(), path, path + suffix, spool_id, write) for path in paths]


def _open_one(folder: int, path: str, sidecar: str, spool_id: bytes, write: bool) -> _Opened:
    try:
        file = _open(folder, path, write)
        known = status(file)
        if not stat.S_ISREG(known.st_mode):
            return None
        beside = _read_sidecar(folder, sidecar)
        if beside is None or beside[0] != spool_id or beside[2].valid_bytes != known.st_size:
            return None
        tail = pread(file.fileno(), path, max(known.st_size - 4, 0), 4)
    except OSError as error:
        return error.with_traceback(None)  # a traceback would hold the file open
    _, prev_lsn, report, _ = beside
    return (file, report, prev_lsn) if len(tail) == 4 and int.from_bytes(tail, "little") == report.tail_crc else None


def _open(folder: int, path: str, write: bool) -> File:
    # without O_NONBLOCK a FIFO would wait for a writer
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    with named(path):
        return File(os.open(os.path.basename(path), flags, dir_fd=folder), path)


def _read_sidecar(folder: int, path: str) -> tuple[bytes, int, ScanReport, bytes] | None:
    try:
        file = _open(folder, path, False)
    except FileNotFoundError:
        return None
    data = pread(file.fileno(), path, 0, _ROOM)
    if len(data) == _ROOM:
        data += pread(file.fileno(), path, _ROOM, max(status(file).st_size - _ROOM, 0))
    try:
        return decode_sidecar(data)
    except ValueError:
        return None
