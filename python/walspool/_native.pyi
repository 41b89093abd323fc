"""The Rust core: the mechanism of the log, one open file at a time.

Everything here is free of the interpreter's lock while it reads, writes, syncs, checksums or waits for another thread,
and may be called from any number of threads. ``walspool.core`` chooses between this and ``walspool.core.pure``, which
offers the same names.
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeAlias, final

from typing_extensions import Buffer, CapsuleType

from walspool.changes import ChangeRecord

_Path: TypeAlias = str | os.PathLike[str]

class _Bell(Protocol):
    ring_fd: int

__all__ = [
    "Appender",
    "ArrowStream",
    "Entry",
    "EntryRuns",
    "File",
    "Inbox",
    "Index",
    "Outbox",
    "Reader",
    "ScanReport",
    "TupleRuns",
    "build_seek_index",
    "change_term",
    "copy_frames",
    "crc32",
    "decode_frame",
    "decode_sidecar",
    "encode_frame",
    "encode_sidecar",
    "name",
    "open_sealed",
    "read_entries",
    "read_tuples",
    "scan",
    "scan_file",
]

name: str

def crc32(data: Buffer, value: int = 0) -> int:
    """CRC-32/ISO-HDLC (zlib's) of ``data``, going on from ``value``."""

def encode_frame(lsn: int, data: Buffer, *, term: int = 1, timestamp_ms: int = 0) -> bytes:
    """One version 3 frame. ``PayloadTooLarge`` above 256 MiB."""

def decode_frame(buffer: Buffer, offset: int = 0) -> tuple[Entry, int]:
    """The frame at ``offset``, of any layout, and where the next one begins; ``FrameCorrupt`` if it is not whole."""

def change_term(data: Buffer) -> tuple[int, bool] | None:
    """``(term, whether it says so itself)`` of a payload that is a ChangeRecord, else ``None``."""

def scan_file(
    file: File,
    path: _Path,
    *,
    base_lsn: int = 0,
    mark: int | None = None,
    until_lsn: int | None = None,
    resume: ScanReport | None = None,
) -> ScanReport:
    """One read-only pass over a file. A system error is raised as ``OSError``, never taken for damage.

    ``base_lsn`` is the highest LSN before this file, ``mark`` the durable mark. With ``until_lsn`` the pass stops
    before the first frame above it, and judges nothing once it is reached. With ``resume`` it goes on where that
    report ended. A large file is scanned by two threads where there are processors for them, to the same report.
    """

def scan(path: _Path) -> ScanReport:
    """One read-only pass over the file at ``path``."""

def build_seek_index(path: _Path) -> list[tuple[int, int]]:
    """The checkpoints of the file at ``path``: (LSN, offset) of one record in 64."""

def encode_sidecar(spool_id: bytes, prev_lsn: int, report: ScanReport, extra: bytes = b"") -> bytes:
    """The sidecar of the segment that ``report`` describes."""

def decode_sidecar(data: Buffer) -> tuple[bytes, int, ScanReport, bytes]:
    """``(spool_id, prev_lsn, report, extra)`` of a sidecar; ``ValueError`` with the reason when it is none."""

def open_sealed(
    directory: _Path, paths: Sequence[str], suffix: str, spool_id: bytes, *, write: bool = False
) -> list[tuple[File, ScanReport, int] | OSError | None]:
    """Open the sealed segments in ``directory`` that are as their sidecars say: ``(file, report, prev_lsn)``.

    A sidecar's name has the ``suffix``. Compared are spool, size and last checksum; what does not fit is ``None``,
    a call that failed its error. Detached from the interpreter; many are opened by two threads.
    """

def read_tuples(
    file: File, path: _Path, report: ScanReport, since_lsn: int, max_count: int | None = None
) -> tuple[list[tuple[int, bytes]], int]:
    """The first records above ``since_lsn`` as ``Reader.read_tuples`` re-encodes them, and their bytes of payload."""

def read_entries(
    file: File,
    path: _Path,
    report: ScanReport,
    since_lsn: int,
    max_count: int | None = None,
    max_bytes: int | None = None,
) -> tuple[list[Entry], int]:
    """The first records above ``since_lsn`` as ``Reader.read_entries`` gives them, and their bytes of payload."""

def copy_frames(
    reader: Reader, file: File, path: _Path, *, stamp_ms: int, resume: ScanReport | None = None
) -> ScanReport:
    """Write the reader's remaining records to ``file``, behind what ``resume`` says is there; nothing is synced.

    Version 3 frames with a timestamp are copied as they are, all others framed anew, a timestamp of 0 as ``stamp_ms``.
    """

@final
class Entry:
    """One record as it lies in the log. Fields are converted when they are asked for."""

    __match_args__: ClassVar[tuple[str, str, str, str, str, str]]
    def __new__(
        cls,
        lsn: int,
        term: int,
        timestamp_ms: int,
        payload: bytes,
        version: int = 3,
        ownership_epoch: int | None = None,
    ) -> Self: ...
    @property
    def lsn(self) -> int:
        """Its LSN."""

    @property
    def term(self) -> int:
        """Its term; what its payload says where the frame has none."""

    @property
    def timestamp_ms(self) -> int:
        """Milliseconds since the epoch; 0 where there is none."""

    @property
    def payload(self) -> bytes:
        """Its bytes."""

    @property
    def version(self) -> int:
        """The version of its frame: 1, 2 or 3."""

    @property
    def ownership_epoch(self) -> int | None:
        """Its ownership epoch, if its frame has one."""

    def change(self) -> ChangeRecord:
        """The payload as a ``ChangeRecord``; ``RecordDecodeError`` when it is none."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    def __lt__(self, other: object, /) -> bool: ...
    def __le__(self, other: object, /) -> bool: ...
    def __gt__(self, other: object, /) -> bool: ...
    def __ge__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[type[Entry], tuple[Any, ...]]: ...

@final
class File:
    """A descriptor, owned from here on, shared by all holders, and closed when the last one goes."""

    def __new__(cls, fd: int, path: _Path) -> Self: ...
    @property
    def path(self) -> _Path:
        """The path as it was given."""

    def fileno(self) -> int:
        """The descriptor's number."""

@final
class Index:
    """The checkpoints of one file: one for each 64th record. It grows while its file is written."""

    def checkpoints(self) -> list[tuple[int, int]]:
        """All of them, as (LSN, offset), both ascending."""

    def seek(self, since_lsn: int) -> int:
        """Offset of the last one at or below ``since_lsn``, else 0."""

    def __len__(self) -> int: ...

@final
class ScanReport:
    """What one pass found in a file, or what its writer knows of it."""

    @property
    def records(self) -> int:
        """Records in the valid prefix."""

    @property
    def valid_bytes(self) -> int:
        """Where the valid prefix ends."""

    @property
    def file_bytes(self) -> int:
        """Bytes in the file."""

    @property
    def base_lsn(self) -> int:
        """The highest LSN before the file."""

    @property
    def first_lsn(self) -> int | None:
        """LSN of the first record in file order."""

    @property
    def last_lsn(self) -> int | None:
        """LSN of the last record in file order."""

    @property
    def highest_lsn(self) -> int:
        """The highest LSN; ``base_lsn`` without records."""

    @property
    def highest_term(self) -> int:
        """The highest term; 0 without records."""

    @property
    def last_term(self) -> int:
        """The last record's term; 0 without records."""

    @property
    def ordered(self) -> bool:
        """Whether LSNs strictly increase, from ``base_lsn`` on."""

    @property
    def reframe(self) -> bool:
        """Whether a prune must frame some record anew: a legacy or wide one, or one without a timestamp."""

    @property
    def v1_bytes(self) -> int:
        """Where the leading run of version 1 frames ends."""

    @property
    def last_wide(self) -> bool:
        """Whether the last frame has the wide layout."""

    @property
    def tail_crc(self) -> int:
        """The last four bytes of the prefix as a number; 0 when it is empty."""

    @property
    def index(self) -> Index:
        """Its checkpoints."""

    @property
    def marked_bytes(self) -> int:
        """Where the first frame above the mark begins; ``valid_bytes`` without one."""

    @property
    def stop(self) -> str | None:
        """What stopped the prefix, as a class: magic, version, torn, implausible, crc mismatch, legacy; or ``None``."""

    @property
    def reason(self) -> str:
        """The same in words, with the offset; empty when nothing did."""

    @property
    def zero_tail(self) -> bool:
        """Whether only zeros follow the prefix."""

    @property
    def behind_frames(self) -> int:
        """Valid frames behind the first bad one that count."""

    @property
    def behind_first_lsn(self) -> int | None:
        """LSN of the first of them."""

    @property
    def behind_highest_lsn(self) -> int:
        """The highest LSN of them; 0 without any."""

    @property
    def behind_end(self) -> int:
        """Where the last of them ends; 0 without any."""

    @property
    def behind_any(self) -> bool:
        """Whether there is any frame with a matching checksum behind, counted or not."""

    @property
    def foreign(self) -> bool:
        """Whether the file is somebody else's."""

@final
class TupleRuns:
    """What ``Reader.tuple_runs`` gives. Threads may share it: each record goes to one of them."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> Iterable[tuple[int, bytes]]: ...

@final
class EntryRuns:
    """What ``Reader.entry_runs`` gives. Threads may share it: each record goes to one of them."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> Iterable[Entry]: ...

@final
class Reader:
    """Verified reading of the records above an LSN. Each call goes on where the one before it stopped.

    A bad frame, or a file that has become shorter, is ``SpoolCorrupt``; a call that fails has read nothing.
    """

    def __new__(
        cls, file: File, path: _Path, report: ScanReport, *, since_lsn: int = 0, end: int | None = None
    ) -> Self: ...
    @property
    def offset(self) -> int:
        """Where in the file the next record begins."""

    def tuple_runs(self) -> TupleRuns:
        """The records as (LSN, payload) in short lists; behind a failure comes an iterator that raises it."""

    def entry_runs(self) -> EntryRuns:
        """The records as entries in short lists; behind a failure comes an iterator that raises it."""

    def read_tuples(self, max_count: int | None = None, reencode: bool = False) -> list[tuple[int, bytes]]:
        """The next ``max_count`` records. With ``reencode`` a ChangeRecord carries the term of its frame."""

    def read_entries(self, max_count: int | None = None, max_bytes: int | None = None) -> list[Entry]:
        """The next ``max_count`` records with up to ``max_bytes`` of payload, at least one if there is one."""

    def read_frames(self, max_bytes: int) -> tuple[memoryview, int, int | None, int | None]:
        """``(data, records, first_lsn, last_lsn)``: version 3 frames, at least one if there is one.

        ``data`` is read-only, and keeps its bytes whatever is read next.
        """

@final
class ArrowStream:
    """Records as a table for any Arrow consumer: ``lsn``, ``term``, ``timestamp`` (ms, UTC), ``payload``.

    Each consumer gets them from where the readers stand. A timestamp past Arrow's range is the end of that range.
    """

    def __new__(cls, readers: Iterable[Reader]) -> Self: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> CapsuleType:
        """The stream as a capsule. A requested schema is not heeded: there is only one."""

@final
class Appender:
    """The writer of one file, then of the next. Each append returns when its record is durable.

    Threads that append at the same time share one write and one sync. An append is never interrupted before its
    outcome is known.
    """

    def __new__(
        cls,
        file: File,
        path: _Path,
        report: ScanReport,
        *,
        mark: tuple[File, bytes] | None = None,
        segment_bytes: int | None = None,
        floor_lsn: int = 0,
        term: int = 1,
        fill_after: int = 64,
    ) -> Self: ...
    @property
    def durable_lsn(self) -> int:
        """The last durable LSN, or the floor if that is higher."""

    @property
    def current_term(self) -> int:
        """The term below which no append is taken."""

    @property
    def poisoned(self) -> str | None:
        """Why no append is taken any more, or ``None``."""

    @property
    def closed(self) -> bool:
        """Whether it was closed or abandoned."""

    def append(self, lsn: int | None, data: Buffer, term: int | None, timestamp_ms: int | None) -> int | None:
        """Append one record; its LSN, or ``None`` when the file is full and nothing was done."""

    def append_many(
        self, items: Sequence[tuple[int, Buffer]], term: int | None, timestamp_ms: int | None, start: int
    ) -> int:
        """Append ``items[start:]``; the index of the first one that was not, because the file is full."""

    def append_next_many(
        self, payloads: Sequence[Buffer], term: int | None, timestamp_ms: int | None, start: int
    ) -> tuple[int, int | None]:
        """Append ``payloads[start:]`` under the next LSNs; (the first index that was not, the first LSN given)."""

    def append_frames(self, buffer: Buffer, start: int) -> tuple[int, int | None, int | None, int, bool]:
        """Append the whole frames in ``buffer[start:]`` as they are; (records, first LSN, last LSN, end, full)."""

    def hold(self) -> None:
        """Let other threads' appends wait until ``release``."""

    def release(self) -> None:
        """Let them go on."""

    def seal(self) -> ScanReport:
        """Take no more appends, trim the file, and report all of it."""

    def unseal(self) -> None:
        """Go on in the same file."""

    def swap(self, file: File, path: _Path, report: ScanReport) -> None:
        """Go on in another file."""

    def raise_floor(self, lsn: int) -> None:
        """Take no LSN at or below ``lsn``."""

    def raise_term(self, term: int) -> None:
        """Take no term below ``term``; a record without a term gets it."""

    def fence(self, term: int) -> None:
        """Take no record of a term at or below ``term``, but for frames: that term is another primary's."""

    def wait_lsn(self, since_lsn: int, timeout: float | None) -> bool:
        """Wait until a record above ``since_lsn`` is durable; ``False`` after ``timeout`` seconds. Ctrl-C works."""

    def wait_entries(
        self, reader: Reader, since_lsn: int, timeout: float | None, max_count: int, max_bytes: int
    ) -> list[Entry] | None:
        """Wait as ``wait_lsn`` does, then read on with ``reader``, which has come to the end of its file.

        ``None`` after ``timeout`` seconds; nothing where the records are in another file or can't be read.
        """

    def add_listener(self, fd: int) -> None:
        """Write the number 1, as 8 bytes, to ``fd`` after each flush."""

    def remove_listener(self, fd: int) -> None:
        """Stop that; on return no write to ``fd`` is under way."""

    def summary(self) -> ScanReport:
        """What is durable in the current file now."""

    def stats(self) -> dict[str, Any]:
        """Counters, and histograms of sync time and of records per flush."""

    def close(self) -> None:
        """Wait for what is in flight, trim the file, let go of it. May be called twice."""

    def forget(self) -> None:
        """Let go of the file as it is, once what is in flight has ended: nothing is written afterwards."""

    def abandon(self) -> None:
        """Refuse every later call, and touch nothing: for the copy in a forked child."""

@final
class Outbox:
    """Where one event loop finds the results of its appends; the descriptor ``bell.ring_fd`` tells it so."""

    def __new__(cls, bell: _Bell) -> Self: ...
    def resolve(self) -> None:
        """Give every future its result; one that was cancelled meanwhile gets none."""

@final
class Inbox:
    """Takes appends from any number of event loops; one thread at a time is in ``run``."""

    def __new__(cls, appender: Appender) -> Self: ...
    def put(
        self,
        outbox: Outbox,
        future: asyncio.Future[int],
        lsn: int | None,
        data: Buffer,
        term: int | None,
        timestamp_ms: int | None,
    ) -> bool:
        """Leave an append, whose result ``future`` gets by way of ``outbox``; ``False`` after ``stop``.

        To be flushed, it waits for company or for ``release``.
        """

    def release(self) -> None:
        """Have all flushed that waits: a loop has run every task that could add to it."""

    def run(self) -> bool:
        """Append what comes, until the file is full (``True``), or ``stop`` came and nothing is left (``False``)."""

    def fail(self, error: BaseException) -> None:
        """Let all that waits fail with ``error``."""

    def stop(self) -> None:
        """Take no more."""
