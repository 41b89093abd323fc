"""One writer: an exclusive ``flock`` on a file that is never unlinked."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from walspool.errors import SpoolLocked
from walspool.spool import files as fs

__all__ = ["WriterLock", "read_lock_file"]

#: Fixed width, so that it is always overwritten whole: the holder's pid and the spool's id.
_TEXT = "{pid:<10d} {spool_id:32s}\n"
_PATTERN = re.compile(rb"(\d{1,10}) *\s([0-9a-f]{32}|) *\n?")
_MAX_BYTES = 64


def read_lock_file(path: Path) -> tuple[int | None, bytes | None]:
    """The pid and the spool id in a lock file, each ``None`` where it can't be read."""
    try:
        fd = fs.open_regular(path)
    except FileNotFoundError:
        return None, None
    try:
        return _parse(fs.pread_exactly(fd, _MAX_BYTES, 0, path))
    finally:
        os.close(fd)


def _parse(text: bytes) -> tuple[int | None, bytes | None]:
    match = _PATTERN.match(text)
    if match is None:
        return None, None
    return int(match[1]), bytes.fromhex(match[2].decode()) or None


class WriterLock:
    """Held from construction on, until ``release``. ``SpoolLocked`` where another writer holds it."""

    def __init__(self, path: Path) -> None:
        fs.refuse_odd_file(path)
        self._path = path
        self._fd = fs.create(path, exclusive=False)
        try:
            _, self.spool_id = _parse(self._take())
            self.sign(self.spool_id)
        except BaseException:
            self.release()
            raise

    def _take(self) -> bytes:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _ = _parse(fs.pread_exactly(self._fd, _MAX_BYTES, 0, self._path))
            raise SpoolLocked(path=self._path, pid=pid) from None
        return fs.pread_exactly(self._fd, _MAX_BYTES, 0, self._path)

    def sign(self, spool_id: bytes | None) -> None:
        """Write this process and the spool's id into the file, for whoever finds it locked."""
        text = _TEXT.format(pid=os.getpid(), spool_id=spool_id.hex() if spool_id else "")
        fs.pwrite_all(self._fd, text.encode(), 0, self._path)
        self.spool_id = spool_id

    def release(self) -> None:
        """Let go, by closing the descriptor only: in a forked child that leaves the parent's lock alone."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
