"""A range of a file as entries, tuples, raw frames or columns; every frame is verified before it is handed out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from walspool.changes import ChangeRecord
from walspool.core.pure.change import change_term
from walspool.core.pure.entry import Entry
from walspool.core.pure.file import File, Shrunk, StrPath, Window, pwrite
from walspool.core.pure.frame import (
    MAGIC,
    MAX_PAYLOAD,
    OVERHEAD,
    TORN,
    V3,
    Bad,
    Frame,
    entry_of,
    frame_parts,
    legacy_term,
    read_frame,
)
from walspool.core.pure.index import Prefix, ScanReport
from walspool.errors import SpoolCorrupt
from walspool.records import MAX_U64, check_u64

__all__ = ["ArrowStream", "Reader", "copy_frames", "read_entries", "read_tuples", "refuse_odd"]

_CHUNK: Final = 256 << 10
_COPY_BYTES: Final = 1 << 20
_ARROW_RECORDS: Final = 1 << 16
_ARROW_BYTES: Final = 2 << 20
_MAX_I64: Final = 2**63 - 1
#: Records of the first list that an iterator gives, and of the longest; bytes of payload that end a list.
_FIRST_RUN: Final = 8
_LONGEST_RUN: Final = 128
_RUN_BYTES: Final = 256 << 10

_Record = TypeVar("_Record")


class Reader:
    """The records above ``since_lsn`` in a file's valid prefix. Each call goes on where the one before stopped."""

    def __init__(
        self, file: File, path: StrPath, report: ScanReport, *, since_lsn: int = 0, end: int | None = None
    ) -> None:
        check_u64("since_lsn", since_lsn)
        self._file = file
        self._path = path
        self._report = report
        self._since = since_lsn
        self._seen = since_lsn
        # A frame is verified and handed out from the same bytes, so it is held whole.
        limit = report.valid_bytes if end is None else end
        self._window = Window(file, path, limit, chunk=_CHUNK, hold=limit)
        self._end = limit
        self._offset, self._wide, self._last = 0, False, report.base_lsn
        # whether all frames so far are of the plain layout
        self._plain = True
        checkpoint = report.index.floor(since_lsn) if report.ordered else None
        if checkpoint is not None:
            lsn, self._offset, self._wide = checkpoint
            self._last = max(lsn - 1, 0)
        if since_lsn >= report.highest_lsn:
            # what it goes on behind once there is more
            self._offset, self._wide = limit, report.last_wide
            self._last = report.base_lsn if report.last_lsn is None else report.last_lsn

    @property
    def offset(self) -> int:
        """Where in the file the next frame begins."""
        return self._offset

    @property
    def base_lsn(self) -> int:
        """The highest LSN before this file."""
        return self._report.base_lsn

    def extend(self, report: ScanReport) -> bool:
        """Go on to the end of what ``report`` knows by now, if that is of the same file; false if not."""
        if report.index is not self._report.index:
            return False
        self._report = report
        self._end = max(self._end, report.valid_bytes)
        self._window = Window(self._file, self._path, self._end, chunk=_CHUNK, hold=self._end)
        return True

    def tuple_runs(self) -> Iterator[Iterable[tuple[int, bytes]]]:
        """The records as (lsn, payload) in short lists; behind a failure comes an iterator that raises it."""
        return _Runs(self, lambda frame: (frame.lsn, self._payload(frame)))

    def entry_runs(self) -> Iterator[Iterable[Entry]]:
        """The records as entries in short lists; behind a failure comes an iterator that raises it."""
        return _Runs(self, lambda frame: entry_of(self._window, frame))

    def again(self) -> Reader:
        """Another reader of what is left of the same range."""
        other = Reader(self._file, self._path, self._report, since_lsn=self._since, end=self._end)
        other._go_back(self._place())
        return other

    def read_tuples(self, max_count: int | None = None, reencode: bool = False) -> list[tuple[int, bytes]]:
        """Up to ``max_count`` records; with ``reencode`` a ChangeRecord carries the term of its frame."""
        records: list[tuple[int, bytes]] = []
        with _Whole(self):
            while max_count is None or len(records) < max_count:
                frame = self._peek()
                if frame is None:
                    break
                payload = self._payload(frame)
                if reencode and frame.term is not None:
                    payload = _with_term(payload, frame.term)
                records.append((frame.lsn, payload))
                self._advance(frame)
        return records

    def read_entries(self, max_count: int | None = None, max_bytes: int | None = None) -> list[Entry]:
        """Up to ``max_count`` records with up to ``max_bytes`` of payload, but at least one where there is one."""
        entries: list[Entry] = []
        size = 0
        with _Whole(self):
            while max_count is None or len(entries) < max_count:
                frame = self._peek()
                if frame is None:
                    break
                size += frame.body_end - frame.body
                if entries and max_bytes is not None and size > max_bytes:
                    break
                entries.append(entry_of(self._window, frame))
                self._advance(frame)
                if max_bytes is not None and size > max_bytes:
                    # The first entry alone is more than was asked for, so none is looked for behind it.
                    break
        return entries

    def read_frames(self, max_bytes: int) -> tuple[memoryview, int, int | None, int | None]:
        """``(data, records, first_lsn, last_lsn)``: version 3 frames, as they lie there or re-framed."""
        data, records, first_lsn, last_lsn, _ = self._frames(max_bytes, None)
        return memoryview(data), records, first_lsn, last_lsn

    def _frames(
        self, max_bytes: int, stamp_ms: int | None
    ) -> tuple[bytes, int, int | None, int | None, list[tuple[int, int, int, int, int]]]:
        """Frames, and of each (bytes, lsn, term, timestamp, checksum); a missing timestamp becomes ``stamp_ms``."""
        pieces: list[Any] = []
        facts: list[tuple[int, int, int, int, int]] = []
        size = 0
        self._plain = True
        with _Whole(self):
            while not (facts and size + self._plain_length() > max_bytes) and (frame := self._peek()) is not None:
                length = frame.body_end - frame.body + OVERHEAD
                if facts and size + length > max_bytes:
                    break
                if frame.plain and (frame.timestamp_ms or stamp_ms is None):
                    pieces.append(self._window.view(frame.end - length, length))
                    facts.append((length, frame.lsn, frame.term or 0, frame.timestamp_ms, frame.tail))
                else:
                    payload = self._payload(frame)
                    term = legacy_term(payload) if frame.term is None else frame.term
                    timestamp_ms = frame.timestamp_ms or stamp_ms or 0
                    parts = frame_parts(frame.lsn, payload, term, timestamp_ms)
                    pieces.extend(parts)
                    facts.append((length, frame.lsn, term, timestamp_ms, int.from_bytes(parts[2], "little")))
                size += length
                self._advance(frame)
        if not facts:
            return b"", 0, None, None, facts
        return b"".join(pieces), len(facts), facts[0][1], facts[-1][1], facts

    def _plain_length(self) -> int:
        """What a plain header says of the next frame's length; 0 where only a look at all of it can tell."""
        try:
            head = self._window.view(self._offset, V3.size)
        except Shrunk:
            return 0
        if self._wide or not self._plain or len(head) < V3.size:
            return 0
        magic, version, _, lsn, _, length = V3.unpack(head)
        plain = magic == MAGIC and version == 3 and length <= MAX_PAYLOAD and lsn > self._last
        return length + OVERHEAD if plain else 0

    def _payload(self, frame: Frame) -> bytes:
        return self._window.view(frame.body, frame.body_end - frame.body).tobytes()

    def _peek(self) -> Frame | None:
        """The next record's frame, verified; those at or below ``since_lsn`` are verified and passed over."""
        while self._offset < self._end:
            legacy = self._offset < self._report.v1_bytes
            try:
                frame = read_frame(self._window, self._offset, self._wide, self._last, legacy)
            except Shrunk:
                frame = TORN
            if isinstance(frame, Bad):
                size = self._window.end
                raise self._corrupt(
                    frame.reason if size == self._end else f"the file ends at {size}, before {self._end}"
                )
            if frame.lsn > self._since:
                return frame
            self._step(frame)
        return None

    def _corrupt(self, reason: str) -> SpoolCorrupt:
        return SpoolCorrupt(
            path=self._path,
            reason=reason,
            offset=self._offset,
            first_lsn=min(self._seen + 1, MAX_U64),
            last_lsn=self._report.highest_lsn,
        )

    def _step(self, frame: Frame) -> None:
        self._wide = frame.wide
        self._plain = self._plain and frame.plain
        self._last = frame.lsn
        self._offset = frame.end

    def _advance(self, frame: Frame) -> None:
        self._seen = frame.lsn
        self._step(frame)

    def _place(self) -> tuple[int, bool, int, int]:
        return self._offset, self._wide, self._last, self._seen

    def _go_back(self, place: tuple[int, bool, int, int]) -> None:
        self._offset, self._wide, self._last, self._seen = place


class _Runs(Iterator[Iterable[_Record]]):
    """A reader's records, some at a time."""

    def __init__(self, reader: Reader, record: Callable[[Frame], _Record]) -> None:
        self._reader = reader
        self._record = record
        self._size = _FIRST_RUN

    def __next__(self) -> Iterable[_Record]:
        reader = self._reader
        records: list[_Record] = []
        payload_bytes = 0
        start = place = reader._place()
        try:
            while len(records) < self._size and payload_bytes < _RUN_BYTES:
                place = reader._place()
                frame = reader._peek()
                if frame is None:
                    break
                records.append(self._record(frame))
                reader._advance(frame)
                payload_bytes += frame.body_end - frame.body
        except BaseException as error:
            if not records or not isinstance(error, SpoolCorrupt):
                reader._go_back(start)
                return _Rest(reader, self._record, error)
            reader._go_back(place)
        if not records:
            raise StopIteration
        self._size = min(self._size * 2, _LONGEST_RUN)
        return records


class _Rest(Iterator[_Record]):
    """What is left of a reader that failed: the failure, and after it record by record whatever can be read.

    A run that raised would end the chain that it is a link of, as if nothing came behind; a link that raises stays.
    """

    def __init__(self, reader: Reader, record: Callable[[Frame], _Record], error: BaseException) -> None:
        self._reader = reader
        self._record = record
        self._error: BaseException | None = error

    def __next__(self) -> _Record:
        error, self._error = self._error, None
        if error is not None:
            raise error
        reader = self._reader
        place = reader._place()
        try:
            frame = reader._peek()
            if frame is not None:
                record = self._record(frame)
                reader._advance(frame)
                return record
        except BaseException:
            reader._go_back(place)
            raise
        raise StopIteration


class _Whole:
    """A call that fails has read nothing: the reader stands where it stood."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._place = reader._place()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            self._reader._go_back(self._place)


def _with_term(payload: bytes, term: int) -> bytes:
    change = change_term(payload)
    if change is None or change[0] == term:
        return payload
    return ChangeRecord.decode(payload).with_term(term).encode()


def read_tuples(
    file: File, path: StrPath, report: ScanReport, since_lsn: int, max_count: int | None = None
) -> tuple[list[tuple[int, bytes]], int]:
    """The first records above ``since_lsn`` as ``Reader.read_tuples`` re-encodes them, and their bytes of payload."""
    refuse_odd(max_count=max_count)
    records = Reader(file, path, report, since_lsn=since_lsn).read_tuples(max_count, reencode=True)
    return records, sum([len(payload) for _, payload in records])


def read_entries(
    file: File,
    path: StrPath,
    report: ScanReport,
    since_lsn: int,
    max_count: int | None = None,
    max_bytes: int | None = None,
) -> tuple[list[Entry], int]:
    """The first records above ``since_lsn`` as ``Reader.read_entries`` gives them, and their bytes of payload."""
    refuse_odd(max_count=max_count, max_bytes=max_bytes)
    entries = Reader(file, path, report, since_lsn=since_lsn).read_entries(max_count, max_bytes)
    return entries, sum([len(each.payload) for each in entries])


def refuse_odd(**limits: int | None) -> None:
    """Refuse what can't be a count or a number of bytes; ``None`` is no limit."""
    for name, value in limits.items():
        if value is not None:
            check_u64(name, value)


def copy_frames(
    reader: Reader, file: File, path: StrPath, *, stamp_ms: int, resume: ScanReport | None = None
) -> ScanReport:
    """Write the reader's remaining records to ``file`` as version 3 frames; the report describes the whole file."""
    check_u64("stamp_ms", stamp_ms)
    prefix = Prefix(reader.base_lsn) if resume is None else Prefix.of(resume)
    while True:
        data, records, _, _, facts = reader._frames(_COPY_BYTES, stamp_ms)
        if not records:
            return prefix.report()
        pwrite(file, data, prefix.valid_bytes)
        for length, lsn, term, timestamp_ms, tail in facts:
            prefix.add(prefix.valid_bytes + length, lsn, term, timestamp_ms, 3, False, tail)


class ArrowStream:
    """The records of ``readers``, one after the other, for whatever takes the Arrow C stream interface."""

    def __init__(self, readers: Iterable[Reader]) -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
        except ImportError:
            raise ImportError("arrow_stream on the pure-Python core needs pyarrow: pip install pyarrow") from None
        self._readers = tuple(readers)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The stream as a capsule; each call begins where the readers stand."""
        arrow = self._arrow
        schema = arrow.schema(
            [
                arrow.field("lsn", arrow.uint64(), nullable=False),
                arrow.field("term", arrow.uint64(), nullable=False),
                arrow.field("timestamp", arrow.timestamp("ms", tz="UTC"), nullable=False),
                arrow.field("payload", arrow.binary(), nullable=False),
            ]
        )
        stream = arrow.RecordBatchReader.from_batches(schema, self._batches(schema))
        return stream.__arrow_c_stream__(requested_schema)

    def _batches(self, schema: Any) -> Iterator[Any]:
        for first in self._readers:
            reader = first.again()
            while entries := reader.read_entries(_ARROW_RECORDS, _ARROW_BYTES):
                columns = (
                    [entry.lsn for entry in entries],
                    [entry.term for entry in entries],
                    [min(entry.timestamp_ms, _MAX_I64) for entry in entries],
                    [entry.payload for entry in entries],
                )
                arrays = [self._arrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
                yield self._arrow.record_batch(arrays, schema=schema)
