"""What the tests of the core share: frames of every layout built by hand, and files opened for a core."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from walspool.errors import WalspoolError
from walspool.spool.bell import Bell

#: Attributes of a ScanReport that both cores must agree on.
FACTS = (
    "records",
    "valid_bytes",
    "file_bytes",
    "base_lsn",
    "first_lsn",
    "last_lsn",
    "highest_lsn",
    "highest_term",
    "last_term",
    "ordered",
    "reframe",
    "v1_bytes",
    "last_wide",
    "tail_crc",
    "marked_bytes",
    "stop",
    "reason",
    "zero_tail",
    "behind_frames",
    "behind_first_lsn",
    "behind_highest_lsn",
    "behind_end",
    "behind_any",
    "foreign",
)

#: The beginning of a frame that is not whole.
BAD_MAGIC_TAIL = b"RDLW\x09 and so on"
MARK_TEMPLATE = b"MARK".ljust(512, b"\x07")


def _sealed(body: bytes) -> bytes:
    return b"RDLW" + body + struct.pack("<I", zlib.crc32(body))


def v3(lsn: int, payload: bytes = b"payload", term: int = 1, timestamp_ms: int = 1000) -> bytes:
    """A version 3 frame."""
    return _sealed(struct.pack("<BQQQI", 3, term, lsn, timestamp_ms, len(payload)) + payload)


def wide(lsn: int, payload: bytes = b"payload", term: int = 1, timestamp_ms: int = 1000, epoch: int = 0) -> bytes:
    """A version 3 frame of the wide layout."""
    return _sealed(struct.pack("<BQQQQI", 3, term, epoch, lsn, timestamp_ms, len(payload)) + payload)


def v2(lsn: int, payload: bytes = b"payload", timestamp_ms: int = 1000) -> bytes:
    """A version 2 frame."""
    return _sealed(struct.pack("<BQQI", 2, lsn, timestamp_ms, len(payload)) + payload)


def v1(lsn: int, payload: bytes = b"payload") -> bytes:
    """A version 1 frame."""
    return b"RDLW" + struct.pack("<BQQ", 1, lsn, len(payload)) + payload


def ambiguous(lsn: int, content: bytes = b"content!", term: int = 1) -> bytes:
    """A version 3 frame whose payload, a tag and the length of the rest, makes it match the wide layout, too."""
    return v3(lsn, struct.pack("<II", 7, len(content)) + content, term)


def flip(data: bytes, offset: int, bit: int = 0) -> bytes:
    """The same bytes with one bit flipped."""
    changed = bytearray(data)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def log(first: int, last: int, payload: bytes = b"payload") -> bytes:
    """Version 3 frames with the LSNs from ``first`` to ``last``."""
    return b"".join(v3(lsn, payload) for lsn in range(first, last + 1))


def facts(report: Any) -> dict[str, Any]:
    """A report as plain values."""
    return {**{fact: getattr(report, fact) for fact in FACTS}, "checkpoints": report.index.checkpoints()}


def fields(entry: Any) -> tuple[Any, ...]:
    """An entry as plain values."""
    return entry.lsn, entry.term, entry.timestamp_ms, entry.payload, entry.version, entry.ownership_epoch


def held_open(folder: Path) -> list[str]:
    """The files below a folder that this process holds open, by name, each as often as it does."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{each}"))
    return sorted(each for each in found if each.startswith(str(folder)))


def open_file(core: ModuleType, path: Path) -> Any:
    """``path`` as the core's File, created if need be."""
    return core.File(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), path)


class Writer:
    """An appender over a file, with a mark beside it."""

    def __init__(self, core: ModuleType, folder: Path, content: bytes = b"", **options: Any) -> None:
        self.core = core
        self.path = folder / "log"
        self.mark_path = folder / "mark"
        self.path.write_bytes(content)
        self.file = open_file(core, self.path)
        mark = open_file(core, self.mark_path)
        options = {"mark": (mark, MARK_TEMPLATE), **options}
        self.appender = core.Appender(self.file, self.path, core.scan_file(self.file, self.path), **options)

    def append(self, lsn: int | None = None, data: bytes = b"payload", term: int | None = None) -> int | None:
        """Append one record with a fixed timestamp."""
        done: int | None = self.appender.append(lsn, data, term, 1000)
        return done

    def mark(self) -> int | None:
        """The LSN that the mark says."""
        sector = self.mark_path.read_bytes()
        if not sector:
            return None
        assert len(sector) == 512
        assert struct.unpack_from("<I", sector, 508)[0] == zlib.crc32(sector[:508])
        assert sector[:32] == MARK_TEMPLATE[:32]
        assert sector[40:508] == MARK_TEMPLATE[40:508]
        return int(struct.unpack_from("<Q", sector, 32)[0])

    def durable(self) -> bytes:
        """The bytes up to the durable end."""
        return self.path.read_bytes()[: self.appender.summary().valid_bytes]

    def entries(self) -> list[tuple[Any, ...]]:
        """What a reader gets."""
        reader = self.core.Reader(self.file, self.path, self.appender.summary())
        return [fields(entry) for entry in reader.read_entries()]

    def lsns(self) -> list[int]:
        """The LSNs that a reader gets."""
        return [entry[0] for entry in self.entries()]


class Future:
    """As much of a future as a core uses."""

    def __init__(self) -> None:
        self.result: Any = None

    def done(self) -> bool:
        return self.result is not None

    def set_result(self, result: int | BaseException) -> None:
        if self.done():
            raise asyncio.InvalidStateError
        self.result = result

    def set_exception(self, exception: BaseException) -> None:
        self.set_result(exception)


def append_each(core: ModuleType, appender: Any, items: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Append ``items`` by their own merits, as tasks would: an LSN or an error each; none where the file was full."""
    inbox = core.Inbox(appender)
    bell = Bell()
    outbox = core.Outbox(bell)
    futures = []
    for item in items:
        futures.append(Future())
        try:
            assert inbox.put(outbox, futures[-1], *item)
        except (TypeError, ValueError, WalspoolError) as error:
            futures[-1].set_exception(error)
    inbox.stop()
    full = inbox.run()
    outbox.resolve()
    bell.close()
    assert full == (not all(future.done() for future in futures))
    return [future.result for future in futures]


def flat(runs: Iterable[Iterable[Any]]) -> list[Any]:
    """The records of an iterator of short lists, none of which is empty."""
    found: list[Any] = []
    for run in runs:
        records = list(run)
        assert records
        found += records
    return found


def read_all(core: ModuleType, path: Path, since_lsn: int = 0) -> list[tuple[Any, ...]]:
    """All entries of the valid prefix of a file."""
    file = open_file(core, path)
    reader = core.Reader(file, path, core.scan_file(file, path), since_lsn=since_lsn)
    return [fields(entry) for entry in reader.read_entries()]
