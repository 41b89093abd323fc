"""The reading half of a log: everything that can be asked of a snapshot of its segments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from walspool import core
from walspool.errors import LsnPruned
from walspool.records import Position, check_u64
from walspool.spool import follow as following
from walspool.spool.files import SpoolFiles
from walspool.spool.segments import Snapshot, position_of

if TYPE_CHECKING:
    from walspool.spool.reports import FrameBatch, SegmentInfo, VerifyReport

__all__ = ["ReadableLog"]

T = TypeVar("T")


class ReadableLog(ABC):
    """Base of ``LogicalWalSpool``. Safe to use from any number of threads; readers see only what is durable."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reads = 0
        self._read_bytes = 0

    @abstractmethod
    def _snapshot(self) -> Snapshot:
        """The log as it is now."""

    # -- what it holds ------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The active segment's file, ``DIR/NAME.logical.wal``."""
        return self._path

    @property
    @abstractmethod
    def durable_lsn(self) -> int:
        """The highest LSN that readers see and that survives a crash; at least the LSN floor."""

    @property
    def current_lsn(self) -> int:
        """The highest LSN ever accepted; the next must be above it. It never goes back, a prune included."""
        return self.durable_lsn

    @property
    def oldest_lsn(self) -> int | None:
        """The first retained LSN, ``None`` when the log is empty."""
        return self._snapshot().oldest_lsn()

    @property
    def current_term(self) -> int:
        """The term that an append without a term gets; 1 at first."""
        view = self._snapshot()
        return max(view.state.term, *(each.report.highest_term for each in view.everything()))

    @property
    def fenced_term(self) -> int:
        """The highest term in which another primary was met, 0 for none: own records need a higher one."""
        return self._snapshot().state.fence

    @property
    def record_count(self) -> int:
        """How many records are retained."""
        view = self._snapshot()
        return sum(each.report.records for each in view.everything()) - view.hidden_records()

    @property
    def size_bytes(self) -> int:
        """Bytes of all frames on disk."""
        return sum(each.report.valid_bytes for each in self._snapshot().everything())

    @property
    def pruned_through(self) -> int:
        """Everything at or below this LSN was pruned; 0 when nothing was."""
        return self._snapshot().state.pruned_through

    @property
    def holes(self) -> tuple[tuple[int, int], ...]:
        """LSN ranges (first, last) that were acknowledged and are lost; a read that would cross one raises."""
        return self._snapshot().state.holes

    def extent_after(self, lsn: int) -> tuple[int, int]:
        """How many records above ``lsn`` are retained, and the bytes of their frames on disk.

        Reads at most 64 records of each segment that ``lsn`` falls into.
        """
        return self._snapshot().extent_after(check_u64("lsn", lsn))

    @property
    def segments(self) -> tuple[SegmentInfo, ...]:
        """The files of the log, oldest first, the active one last."""
        view = self._snapshot()
        return (*(each.info(sealed=True) for each in view.sealed), view.active.info(sealed=False))

    def seek_floor_offset(self, since_lsn: int) -> int:
        """Where a read of the records above ``since_lsn`` starts.

        The byte offset of the last checkpoint (one for each 64th record of a segment) at or below ``since_lsn``, 0
        without one; counted from the start of the oldest retained segment, the segments laid end to end.
        """
        return self._snapshot().seek_floor_offset(check_u64("since_lsn", since_lsn))

    def position(self, lsn: int | None = None) -> Position | None:
        """The position of the record ``lsn``, or of the last record; ``None`` where there is no such record.

        The last pruned record still has one: it is the position at the prune boundary, and that of an empty log.
        """
        view = self._snapshot()
        if lsn is None:
            held = [each.report for each in view.everything() if each.report.records]
            lsn = max((each.highest_lsn for each in held), default=0)
            if lsn <= view.state.pruned_through:
                return view.state.boundary
        elif check_u64("lsn", lsn) <= view.state.pruned_through:
            boundary = view.state.boundary
            return boundary if boundary is not None and boundary.lsn == lsn else None
        for segment in view.everything():
            known = segment.report
            if not known.records or known.highest_lsn < lsn or (known.ordered and (known.first_lsn or 0) > lsn):
                continue
            for entry in segment.entries(max(lsn - 1, 0)):
                if entry.lsn == lsn:
                    return position_of(entry)
                if known.ordered:
                    break
        return None

    def position_through(self, lsn: int) -> Position | None:
        """The position of the last record at or below ``lsn``, the prune boundary included; ``None`` without one."""
        exact = self.position(check_u64("lsn", lsn))  # nearly always there is one, and it takes one look at the index
        if exact is not None:
            return exact
        view = self._snapshot()
        state = view.state
        if lsn > state.pruned_through:
            for segment in reversed(view.everything()):
                known = segment.report
                if known.records and not (known.ordered and (known.first_lsn or 0) > lsn):
                    found = segment.count_through(lsn)[1]
                    if found is not None and found.lsn > state.pruned_through:
                        return found
        return state.boundary if state.boundary is not None and state.boundary.lsn <= lsn else None

    # -- reading ------------------------------------------------------------------------------------------------

    def read_since(self, since_lsn: int, max_count: int | None = None) -> list[tuple[int, bytes]]:
        """``(lsn, payload)`` of the records above ``since_lsn``, in order, at most ``max_count``.

        The reference's read: a ChangeRecord whose term differs from its frame's is re-encoded with the frame's term,
        any other payload comes byte for byte. ``SpoolCorrupt`` where a durable record is damaged or lost.
        """
        view, left = self._view_for(since_lsn), max_count
        since, segments, hole = view.after(since_lsn)
        found: list[tuple[int, bytes]] = []
        for segment in segments:
            more, size = core.read_tuples(segment.file, segment.path, segment.report, since, left)
            self._read_bytes += size
            if found:
                found += more
            else:
                found = more
            if left is not None:
                left -= len(more)
                if left == 0:
                    return found  # there may be a hole behind
        if hole is not None and left != 0:
            raise view.lost(since, hole)
        return found

    def read_entries(
        self, since_lsn: int = 0, max_count: int | None = None, *, max_bytes: int | None = None
    ) -> list[core.Entry]:
        """The records above ``since_lsn``: at most ``max_count``, and of at most ``max_bytes`` of payload in all.

        The first comes whatever its size. With ``max_bytes`` a call ends where a segment does, too.
        """
        view, left = self._view_for(since_lsn), max_count
        since, segments, hole = view.after(since_lsn)
        found: list[core.Entry] = []
        for segment in segments:
            more, size = core.read_entries(segment.file, segment.path, segment.report, since, left, max_bytes)
            self._read_bytes += size
            if max_bytes is not None and more:
                return more
            if found:
                found += more
            else:
                found = more
            if left is not None:
                left -= len(more)
                if left == 0:
                    return found
        if hole is not None and left != 0:
            raise view.lost(since, hole)
        return found

    def entries(self, since_lsn: int = 0) -> Iterator[core.Entry]:
        """The records above ``since_lsn`` that are durable now, one by one, in bounded memory."""
        return _flat(each.entry_runs() for each in self._counted(since_lsn))

    def __iter__(self) -> Iterator[core.Entry]:
        return self.entries()

    def tuples(self, since_lsn: int = 0) -> Iterator[tuple[int, bytes]]:
        """``(lsn, payload)`` of the records above ``since_lsn``: the fastest way through a log in Python."""
        return _flat(each.tuple_runs() for each in self._counted(since_lsn))

    def read_frames(self, since_lsn: int, max_bytes: int = 1 << 20) -> FrameBatch:
        """Verified version 3 frames of the records above ``since_lsn``, as they lie on disk: what replication ships.

        At least one frame when there is one; ``records`` is 0 at the end. Legacy frames come re-framed, a missing
        timestamp staying 0.
        """
        from walspool.spool.reports import FrameBatch

        room = _count("max_bytes", max_bytes) or 0
        for reader in self._readers(since_lsn):
            data, records, first, last = reader.read_frames(room)
            if records:
                self._read_bytes += len(data)
                return FrameBatch(data, records, first, last)
        return FrameBatch(memoryview(b""), 0, None, None)

    def arrow_stream(self, since_lsn: int = 0) -> core.ArrowStream:
        """The records above ``since_lsn`` as an Arrow C stream: ``lsn``, ``term``, ``timestamp``, ``payload``.

        For ``polars.from_arrow`` and whatever else takes an object with ``__arrow_c_stream__``. The pure-Python core
        needs ``pyarrow`` for it.
        """
        return core.ArrowStream(self._counted(since_lsn))

    def verify(self) -> VerifyReport:
        """Read every byte of every segment and say what is wrong; changes nothing."""
        from walspool.spool.verify import verify

        return verify(self._snapshot(), self._files())

    # -- following ----------------------------------------------------------------------------------------------

    def follow(self, since_lsn: int, *, timeout: float | None = None) -> Iterator[core.Entry]:
        """The records above ``since_lsn``, then each new one as it becomes durable.

        Ends after ``timeout`` seconds without a record, never without one. ``LsnPruned`` where records above
        ``since_lsn`` were pruned before, or are while it runs. Ctrl-C works.
        """
        check_u64("since_lsn", since_lsn)
        self._refuse_pruned(self._snapshot(), since_lsn)
        return following.follow(self, since_lsn, timeout)

    def afollow(self, since_lsn: int) -> AsyncIterator[core.Entry]:
        """``follow`` for asyncio, without a thread."""
        check_u64("since_lsn", since_lsn)
        self._refuse_pruned(self._snapshot(), since_lsn)
        return following.afollow(self, since_lsn)

    @abstractmethod
    def wait_for_lsn_after(self, since_lsn: int, timeout: float | None) -> bool:
        """Wait until the log is past ``since_lsn``: True, or False after ``timeout`` seconds. Decodes nothing."""

    @abstractmethod
    def reading_on(self, lsn: int) -> following.ReadOn:
        """For one who has read everything up to ``lsn``: what waits for the next records and gives them."""

    async def await_lsn_after(self, since_lsn: int) -> bool:
        """``wait_for_lsn_after`` for asyncio, without a thread and without a limit."""
        return await following.await_lsn_after(self, check_u64("since_lsn", since_lsn))

    def entries_after(self, lsn: int) -> Iterator[core.Entry]:
        """``entries``, refusing to skip what was pruned."""
        view = self._snapshot()
        self._refuse_pruned(view, lsn)
        return _flat(each.entry_runs() for each in view.readers(lsn))

    def some_after(self, lsn: int, max_count: int, max_bytes: int) -> list[core.Entry]:
        """``read_entries``, refusing to skip what was pruned."""
        view = self._snapshot()
        self._refuse_pruned(view, lsn)
        for reader in view.readers(lsn):
            return reader.read_entries(max_count, max_bytes)
        return []

    @abstractmethod
    def wakeup(self) -> following.Wakeup:
        """A descriptor that becomes readable when more is durable."""

    # -- the parts ----------------------------------------------------------------------------------------------

    def _files(self) -> SpoolFiles:
        return SpoolFiles(self._path)

    def _view_for(self, since_lsn: int) -> Snapshot:
        """The log as it is now, for a read of the records above ``since_lsn``."""
        check_u64("since_lsn", since_lsn)
        self._reads += 1
        return self._snapshot()

    def _readers(self, since_lsn: int) -> Iterator[core.Reader]:
        return self._view_for(since_lsn).readers(since_lsn)

    def _counted(self, since_lsn: int) -> Iterator[core.Reader]:
        return self._count_bytes(self._readers(since_lsn))

    def _count_bytes(self, readers: Iterator[core.Reader]) -> Iterator[core.Reader]:
        for reader in readers:
            start = reader.offset
            yield reader
            self._read_bytes += reader.offset - start

    def _refuse_pruned(self, view: Snapshot, lsn: int) -> None:
        state = view.state
        last_pruned = state.boundary.lsn if state.boundary is not None else state.pruned_through
        if lsn < last_pruned:
            raise LsnPruned(path=self._path, lsn=lsn, pruned_through=last_pruned)


def _flat(runs: Iterable[Iterable[Iterable[T]]]) -> Iterator[T]:
    # nothing here runs once per record in Python: the lists and both chains are C
    return chain.from_iterable(chain.from_iterable(runs))


def _count(name: str, value: int | None) -> int | None:
    return None if value is None else check_u64(name, value)
