"""The writing half of a log: appends in every form, and pruning. Rotation runs in the caller."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from walspool.errors import StaleTermError
from walspool.records import check_u64, stable_bytes
from walspool.spool.flusher import Flusher
from walspool.spool.interrupt import uninterrupted
from walspool.spool.reading import ReadableLog
from walspool.spool.segments import WriterSegments

if TYPE_CHECKING:
    from walspool.spool.reports import FramesAppended, PruneReport

__all__ = ["WritableLog"]


class WritableLog(ReadableLog):
    """Base of ``LogicalWalSpool``: everything that changes the log."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._prune_lock = threading.Lock()
        self._prunes = 0
        self._flusher = Flusher(path)

    @abstractmethod
    def _segments(self, call: str) -> WriterSegments:
        """The writer's segments; an error, naming ``call``, where there is no writer."""

    # -- appending ----------------------------------------------------------------------------------------------

    def append(self, lsn: int, data: Any, *, term: int | None = None, timestamp_ms: int | None = None) -> None:
        """Append one record; it is on stable storage when this returns.

        ``lsn`` must be above ``current_lsn``; gaps are allowed. ``data`` is bytes-like, at most 256 MiB. ``term``: as
        given, else the ``term`` of a ChangeRecord payload, else ``current_term``. ``timestamp_ms``: Unix time, now
        when left out. ``LsnOrderError``, ``StaleTermError``, ``PayloadTooLarge``, ``SpoolPoisoned``, ``OSError``: the
        record is not in the log.
        """
        segments = self._segments("append")
        check_u64("lsn", lsn)
        while segments.appender.append(lsn, data, term, timestamp_ms) is None:
            segments.rotate()

    def append_with_timestamp(self, lsn: int, timestamp_ms: int, data: Any) -> None:
        """``append`` under the reference's name."""
        self.append(lsn, data, timestamp_ms=timestamp_ms)

    def append_with_term_and_timestamp(self, term: int, lsn: int, timestamp_ms: int, data: Any) -> None:
        """``append`` under the reference's name."""
        self.append(lsn, data, term=term, timestamp_ms=timestamp_ms)

    def append_next(self, data: Any, *, term: int | None = None, timestamp_ms: int | None = None) -> int:
        """``append`` with the LSN after ``current_lsn``, chosen under the same lock; returns it."""
        segments = self._segments("append_next")
        while (lsn := segments.appender.append(None, data, term, timestamp_ms)) is None:
            segments.rotate()
        return lsn

    def append_many(
        self, records: Iterable[tuple[int, Any]], *, term: int | None = None, timestamp_ms: int | None = None
    ) -> None:
        """Append ``(lsn, data)`` records, all durable on return.

        They are checked as a whole first. Above 4 MiB they become durable in several batches; an error in a later one
        carries ``appended_through``.
        """
        segments, items = self._segments("append_many"), list(records)
        start = 0

        def step() -> bool:
            nonlocal start
            start = segments.appender.append_many(items, term, timestamp_ms, start)
            return start == len(items)

        _all_of(segments, step, lambda: items[start - 1][0] if start else None)

    def append_next_many(
        self, payloads: Iterable[Any], *, term: int | None = None, timestamp_ms: int | None = None
    ) -> range:
        """``append_many`` with consecutive LSNs after ``current_lsn``; returns them."""
        segments, items = self._segments("append_next_many"), list(payloads)
        start, first = 0, None

        def step() -> bool:
            nonlocal start, first
            start, part = segments.appender.append_next_many(items, term, timestamp_ms, start)
            first = part if first is None else first
            return start == len(items)

        _all_of(segments, step, lambda: first + start - 1 if first is not None and start else None)
        return range(0) if first is None else range(first, first + len(items))

    def append_frames(self, buffer: Any) -> FramesAppended:
        """Append whole version 3 frames as they are: checked, never re-encoded.

        An incomplete frame at the end is left (``consumed``). ``FrameCorrupt``, ``LsnOrderError`` or ``StaleTermError``
        for a bad one, and nothing of the call is appended.
        """
        from walspool.spool.reports import FramesAppended

        segments = self._segments("append_frames")
        data = stable_bytes(buffer)
        start = records = 0
        first: int | None = None
        last: int | None = None

        def step() -> bool:
            nonlocal start, records, first, last
            count, low, high, start, full = segments.appender.append_frames(data, start)
            records += count
            first, last = low if first is None else first, last if high is None else high
            return not full

        _all_of(segments, step, lambda: last)
        return FramesAppended(records, first, last, start)

    async def aappend(self, lsn: int, data: Any, *, term: int | None = None, timestamp_ms: int | None = None) -> None:
        """``append`` for asyncio: no thread per call; what gathers while a flush runs shares the next.

        Cancelling the await does not cancel the write.
        """
        if self._flusher.inbox is None:
            self._flusher.start(self._segments("aappend"))
        check_u64("lsn", lsn)
        await self._flusher.submit(lsn, data, term, timestamp_ms)

    async def aappend_next(self, data: Any, *, term: int | None = None, timestamp_ms: int | None = None) -> int:
        """``append_next`` for asyncio."""
        if self._flusher.inbox is None:
            self._flusher.start(self._segments("aappend_next"))
        return await self._flusher.submit(None, data, term, timestamp_ms)

    def begin_term(self, term: int) -> None:
        """Go on in ``term``, which is durable on return: records without a term carry it, lower terms are refused.

        ``StaleTermError`` below ``current_term``, and at or below ``fenced_term``.
        """
        segments = self._segments("begin_term")
        current, fenced = segments.appender.current_term, segments.state.fence
        if check_u64("term", term) < current or term <= fenced:
            raise StaleTermError(term=term, current_term=max(current, fenced))
        segments.change_state(term=max(term, segments.state.term))
        segments.appender.raise_term(term)

    def fence(self, term: int) -> None:
        """Another primary is in ``term``: own records need a higher one from now on, durably.

        Appends in ``current_term`` are refused with ``StaleTermError`` until ``begin_term`` goes above it. Frames
        (``append_frames``) come from elsewhere and are not held up. ``OSError``: it holds until the log is closed.
        """
        segments = self._segments("fence")
        check_u64("term", term)
        segments.appender.fence(term)  # first: what can't be written down must hold all the same
        segments.change_state(fence=term)

    # -- pruning ------------------------------------------------------------------------------------------------

    def prune_through(self, lsn: int) -> PruneReport:
        """Drop every record at or below ``lsn``. Appends and reads go on meanwhile.

        Whole segments are unlinked; at most one is rewritten, and what is left of older versions in it becomes version
        3. ``current_lsn`` is at least ``lsn`` afterwards. On a full disk the rewrite is left out.
        """
        segments = self._segments("prune_through")
        check_u64("lsn", lsn)
        return uninterrupted(lambda: self._prune(segments, lsn))

    def _prune(self, segments: WriterSegments, lsn: int) -> PruneReport:
        from walspool.spool.prune import prune_through

        with self._prune_lock:
            self._segments("prune_through")  # it may have been closed meanwhile
            report = prune_through(segments, lsn)
            self._prunes += 1
        return report


def _all_of(segments: WriterSegments, step: Callable[[], bool], done: Callable[[], int | None]) -> None:
    """Repeat ``step`` until it says that all is appended, rotating between; nobody else's records come between."""
    try:
        segments.appender.hold()  # within the try, because Ctrl-C may come right behind it
        while not step():
            segments.rotate()
    except BaseException as error:
        if getattr(error, "appended_through", None) is None and (through := done()) is not None:
            error.appended_through = through  # type: ignore[attr-defined]  # OSError takes attributes as well
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # nothing is held when hold() itself failed
            segments.appender.release()
