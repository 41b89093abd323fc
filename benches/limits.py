"""The raw limits: what a plain loop over a plain file reaches on this disk. They check and promise nothing else."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from model import Contender, Run

__all__ = [
    "CHUNK",
    "append_all",
    "opened",
    "pread_crc",
    "pread_file",
    "pread_files",
    "preadv_file",
    "sync_data",
    "sync_growing",
    "sync_path",
    "sync_zeroed",
    "unpack_crc",
    "unpack_fields",
    "unpack_file",
    "unpack_list",
    "write_all",
]

#: Bytes of one read.
CHUNK = 1 << 20

if sys.platform == "darwin":

    def sync_all(fd: int) -> None:
        """Data and size to stable storage, past the drive's cache."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

    sync_data = sync_all
else:
    sync_all, sync_data = os.fsync, os.fdatasync


def sync_path(path: Path) -> None:
    """Sync a file or a directory by its name."""
    fd = os.open(path, os.O_RDONLY)
    try:
        sync_all(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """``pwrite`` of all of it."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def append_all(fd: int, data: bytes) -> None:
    """``write`` of all of it."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor for as long as the block lasts."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def sync_zeroed(write_bytes: int, writes: int, records: int = 1, *, runs: int = 1) -> Contender:
    """``writes`` times ``pwrite`` of ``write_bytes`` holding ``records``, and ``fdatasync``, into synced zeros.

    The zeros that ``prepare`` writes are enough for ``runs``.
    """
    return lambda folder: _sync_zeroed(folder, write_bytes, writes, records, runs)


@contextmanager
def _sync_zeroed(folder: Path, write_bytes: int, writes: int, records: int, runs: int) -> Iterator[Run]:
    data = os.urandom(write_bytes)
    with opened(folder / "zeroed", os.O_RDWR | os.O_CREAT) as fd:
        offset = 0

        def prepare() -> None:
            write_all(fd, bytes(write_bytes * writes * runs), offset)
            sync_all(fd)

        def run() -> None:
            nonlocal offset
            for _ in range(writes):
                write_all(fd, data, offset)
                sync_data(fd)
                offset += write_bytes

        yield Run(writes * records, run, prepare)


def sync_growing(write_bytes: int, writes: int, records: int = 1) -> Contender:
    """``writes`` times ``write`` of ``write_bytes`` holding ``records`` to a file that grows, and ``fdatasync``."""
    return lambda folder: _sync_growing(folder, write_bytes, writes, records)


@contextmanager
def _sync_growing(folder: Path, write_bytes: int, writes: int, records: int) -> Iterator[Run]:
    data = os.urandom(write_bytes)
    with opened(folder / "growing", os.O_RDWR | os.O_CREAT) as fd:

        def run() -> None:
            for _ in range(writes):
                append_all(fd, data)
                sync_data(fd)

        yield Run(writes * records, run)


def _whole(path: Path, amount: int, chunk: int, look: Callable[[bytes], object]) -> AbstractContextManager[Run]:
    """Read all of a file by ``chunk`` bytes and hand each to ``look``."""

    @contextmanager
    def ready() -> Iterator[Run]:
        with opened(path, os.O_RDONLY) as fd:

            def run() -> None:
                offset = 0
                while data := os.pread(fd, chunk, offset):
                    look(data)
                    offset += len(data)

            yield Run(amount, run)

    return ready()


def pread_file(path: Callable[[Path], Path], amount: int) -> Contender:
    """``pread`` of a whole file; ``path`` finds it from the contender's folder."""
    return lambda folder: _whole(path(folder), amount, CHUNK, len)


def pread_files(paths: Callable[[Path], list[Path]], amount: int) -> Contender:
    """``pread`` of some whole files, one after the other."""

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        with ExitStack() as stack:
            each = [stack.enter_context(_whole(path, 1, CHUNK, len)) for path in paths(folder)]

            def run() -> None:
                for whole in each:
                    whole.run()

            yield Run(amount, run)

    return ready


def preadv_file(path: Callable[[Path], Path], amount: int) -> Contender:
    """``preadv`` of a whole file into one buffer, which is used again for each part."""

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        # whole pages: behind a few bytes of malloc's own, some processors copy at a fifth of the rate
        buffers = [mmap.mmap(-1, CHUNK)]
        with opened(path(folder), os.O_RDONLY) as fd:

            def run() -> None:
                offset = 0
                while done := os.preadv(fd, buffers, offset):
                    offset += done

            yield Run(amount, run)

    return ready


def pread_crc(path: Callable[[Path], Path], amount: int) -> Contender:
    """``pread`` of a whole file and a checksum over it."""
    return lambda folder: _whole(path(folder), amount, CHUNK, zlib.crc32)


def unpack_file(path: Callable[[Path], Path], amount: int, payload_bytes: int) -> Contender:
    """``pread`` and ``struct.iter_unpack`` of frames of one size, to ``(lsn, payload)``, unverified."""
    frame = struct.Struct(f"<13xQ12x{payload_bytes}s4x")

    def look(data: bytes) -> None:
        for _lsn, _payload in frame.iter_unpack(data):
            pass

    return lambda folder: _whole(path(folder), amount, CHUNK // frame.size * frame.size, look)


def unpack_fields(path: Callable[[Path], Path], amount: int, payload_bytes: int) -> Contender:
    """The same with every field of the frame unpacked."""
    frame = struct.Struct(f"<4sBQQQI{payload_bytes}sI")

    def look(data: bytes) -> None:
        for _magic, _version, _term, _lsn, _timestamp_ms, _length, _payload, _crc in frame.iter_unpack(data):
            pass

    return lambda folder: _whole(path(folder), amount, CHUNK // frame.size * frame.size, look)


def unpack_list(path: Callable[[Path], Path], amount: int, payload_bytes: int) -> Contender:
    """The same into one list."""
    frame = struct.Struct(f"<13xQ12x{payload_bytes}s4x")

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        found: list[tuple[int, bytes]] = []
        chunk = CHUNK // frame.size * frame.size
        with _whole(path(folder), amount, chunk, lambda data: found.extend(frame.iter_unpack(data))) as whole:

            def run() -> None:
                whole.run()
                found.clear()

            yield Run(amount, run)

    return ready


def unpack_crc(path: Callable[[Path], Path], amount: int, payload_bytes: int) -> Contender:
    """``(lsn, payload)`` as a plain loop verifies them: ``struct.iter_unpack`` and zlib's CRC-32 of each frame."""
    frame = struct.Struct(f"<13xQ12x{payload_bytes}s4x")
    covered = struct.Struct(f"<4x{frame.size - 8}sI")

    def look(data: bytes) -> None:
        for (_lsn, _payload), (body, crc) in zip(frame.iter_unpack(data), covered.iter_unpack(data), strict=True):
            if zlib.crc32(body) != crc:
                raise ValueError("a damaged frame")

    return lambda folder: _whole(path(folder), amount, CHUNK // frame.size * frame.size, look)
