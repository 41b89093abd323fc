"""The few file operations, and what each promises."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Final, TypeAlias

from walspool.core.pure.frame import MAGIC

if sys.platform == "darwin":
    import fcntl
elif sys.platform != "linux":
    raise ImportError("walspool runs on Linux and macOS only: it knows no sure way to sync a file elsewhere")

__all__ = ["CHUNK", "File", "Shrunk", "StrPath", "Window", "named", "pread", "pwrite", "status", "sync", "truncate"]

StrPath: TypeAlias = "str | os.PathLike[str]"

#: What a pass over a file reads at once.
CHUNK: Final = 1 << 20


class File:
    """A descriptor that all who use the file share; closed when the last of them goes."""

    _fd = -1

    def __init__(self, fd: int, path: StrPath) -> None:
        self._fd = fd
        self._path = path

    @property
    def path(self) -> StrPath:
        """The path as it was given."""
        return self._path

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self._fd >= 0:
            try:  # noqa: SIM105 - at the interpreter's end this module may be empty: no contextlib
                close(self._fd)
            except OSError:
                pass


class named:
    """Give an ``OSError`` from a descriptor the name of its file. ``contextlib`` would take longer than the call."""

    __slots__ = ("_path",)

    def __init__(self, path: StrPath) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise OSError(error.errno, os.strerror(error.errno or errno.EIO), self._path) from error


def pread(fd: int, path: StrPath, offset: int, length: int) -> bytes:
    """The bytes there; fewer only at the end of the file."""
    with named(path):
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]
        left = length - len(data)
        while left and data:
            data = os.pread(fd, left, offset + length - left)
            pieces.append(data)
            left -= len(data)
    return b"".join(pieces)


def pwrite(file: File, data: bytes, offset: int) -> None:
    """Write all of ``data``. Promises nothing about the disk before a sync."""
    view = memoryview(data)
    with named(file.path):
        while view:
            written = os.pwrite(file.fileno(), view, offset)
            if written == 0:
                raise OSError(errno.EIO, "nothing was written")
            offset += written
            view = view[written:]


def sync(file: File, resized: bool) -> None:
    """All that was written is on stable storage; with ``resized`` the size is, too."""
    with named(file.path):
        if sys.platform == "darwin":
            fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
        elif resized:
            os.fsync(file.fileno())
        else:
            os.fdatasync(file.fileno())


def truncate(file: File, size: int) -> None:
    """Cut the file. Promises nothing about the disk before a sync."""
    with named(file.path):
        os.ftruncate(file.fileno(), size)


def status(file: File) -> os.stat_result:
    """What ``fstat`` says."""
    with named(file.path):
        return os.fstat(file.fileno())


class Shrunk(Exception):
    """The file ended before the end it was known to have; ``Window.end`` is the new one."""


class Window:
    """A file as a source of frames: one buffer that moves through it, forward with each byte read once."""

    def __init__(self, file: File, path: StrPath, end: int, *, chunk: int = CHUNK, hold: int = CHUNK) -> None:
        self.end = end
        self.hold = hold
        self._file = file
        self._path = path
        self._chunk = chunk
        self._start = 0
        self._data = b""
        self._view = memoryview(self._data)
        self._data_end: int | None = None

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes there; fewer only where ``end`` comes first."""
        at = offset - self._start
        stop = at + length
        if at < 0 or stop > len(self._view):
            if offset + length > self.end:
                length = max(self.end - offset, 0)
            at = self._fill(offset, length)
            stop = at + length
        return self._view[at:stop]

    def _fill(self, offset: int, length: int) -> int:
        """Get the bytes there into the buffer; where in it they are."""
        at = offset - self._start
        if at >= 0 and at + length <= len(self._view):
            return at
        kept = self._view[at:] if 0 <= at < len(self._view) else memoryview(b"")
        if length > self._chunk:
            # One large frame: reading the kept bytes again is cheaper than copying all of it.
            kept = memoryview(b"")
        begin = offset + len(kept)
        wanted = min(max(length, self._chunk), self.end - offset) - len(kept)
        data = pread(self._file.fileno(), self._path, begin, wanted)
        if len(data) < wanted:
            self.end = begin + len(data)
            self._data_end = None
        self._data = b"".join((kept, data)) if kept else data
        self._view = memoryview(self._data)
        self._start = offset
        if len(self._view) < length:
            raise Shrunk
        return 0

    def data_end(self) -> int:
        """Where the last byte that is not zero ends; looked for from the end backwards, once."""
        if self._data_end is None:
            end = self.end
            while end:
                start = max(end - self._chunk, 0)
                data = pread(self._file.fileno(), self._path, start, end - start).rstrip(b"\0")
                if data:
                    end = start + len(data)
                    break
                end = start
            self._data_end = end
        return self._data_end

    def magic_at(self, offset: int) -> bool:
        """Whether the magic stands at ``offset``."""
        return offset + len(MAGIC) <= self.end and self.view(offset, len(MAGIC)).tobytes() == MAGIC

    def find_magic(self, offset: int, end: int) -> int:
        """Where the next magic begins at or after ``offset``; ``end`` when there is none before it."""
        while offset < end:
            self.view(offset, min(len(MAGIC), self.end - offset))
            stop = min(len(self._data), end - self._start)
            at = self._data.find(MAGIC, offset - self._start, stop)
            if at >= 0:
                return self._start + at
            if self._start + stop >= end:
                break
            offset = self._start + stop - len(MAGIC) + 1
        return end
