"""The writer of the active file: order and term checks, batches, holding and sealing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from walspool.core.pure.file import File, StrPath
from walspool.core.pure.flush import Batch, Flusher, Mark
from walspool.core.pure.frame import OVERHEAD, copy_buffer, copy_payload
from walspool.core.pure.frames import RawFrame, split_frames
from walspool.core.pure.index import Prefix, ScanReport
from walspool.core.pure.order import Checked, check_all, check_start, checked, following
from walspool.core.pure.waiters import Waiters
from walspool.core.pure.waiting import Waited
from walspool.errors import SpoolClosed, SpoolPoisoned, WalspoolError
from walspool.records import check_u64

__all__ = ["Appender"]

_Result = TypeVar("_Result")


class Appender(Waited):
    """One for the life of a writer. Any number of threads may use it; appends go one after the other."""

    def __init__(
        self,
        file: File,
        path: StrPath,
        report: ScanReport,
        *,
        mark: tuple[File, bytes] | None = None,
        segment_bytes: int | None = None,
        floor_lsn: int = 0,
        term: int = 1,
        fill_after: int = 64,
    ) -> None:
        if segment_bytes is not None:
            check_u64("segment_bytes", segment_bytes)
        check_u64("floor_lsn", floor_lsn)
        check_u64("term", term)
        check_u64("fill_after", fill_after)
        self._floor = floor_lsn
        self._term = term
        #: Records of this log's own have a term above it.
        self._fence = -1
        self._sealed = False
        self._closed = False
        self._abandoned = False
        # Taken by appends, before the mutex. Reentrant, so that a holder's own appends go through. Sealing passes by
        # it, since a holder's rotation may run in another thread.
        self._door = threading.RLock()
        # Taken for all that writes.
        self._mutex = threading.RLock()
        # Held, under the mutex, from before a batch is begun until it is published: what a signal handler or a
        # destructor calls in the same thread passes the mutex, and is found out by this one.
        self._busy = threading.Lock()
        self._close_wanted = False
        self._waiters = Waiters()
        self._flusher = Flusher(
            file,
            path,
            report,
            mark=None if mark is None else Mark(*mark),
            segment_bytes=segment_bytes,
            fill_after=fill_after,
            published=self._waiters.wake,
        )

    # What is durable.

    @property
    def durable_lsn(self) -> int:
        """The last durable LSN, or the floor where that is higher."""
        self._own()
        return max(self._floor, self._flusher.durable.highest_lsn)

    @property
    def current_term(self) -> int:
        """The term that a new record has at least."""
        self._own()
        return max(self._term, self._flusher.durable.highest_term)

    @property
    def poisoned(self) -> str | None:
        """Why nothing is written any more, or ``None``."""
        self._own()
        return self._flusher.poisoned

    @property
    def closed(self) -> bool:
        """Whether it was closed or abandoned."""
        return self._closed or self._abandoned

    def summary(self) -> ScanReport:
        """What is durable now in the current file; the index is shared."""
        self._own()
        return Prefix.of(self._flusher.durable).report()

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and histograms of sync time and of records per flush."""
        self._own()
        return self._flusher.stats()

    # Appending.

    def append(self, lsn: int | None, data: Any, term: int | None, timestamp_ms: int | None) -> int | None:
        """Append one record and return its LSN when it is durable; ``None`` when the segment is full."""
        self._own()
        wanted, payload, term, stamp = checked((lsn, data, term, timestamp_ms))

        def work() -> int | None:
            self._ready()
            batch = Batch(self._flusher.durable)
            given = self._add(batch, wanted, payload, term, stamp)
            if self._full():
                return None
            self._flusher.flush(batch)
            return given

        with self._door:
            return self._turn(work)

    def append_many(
        self, items: Sequence[tuple[int, Any]], term: int | None, timestamp_ms: int | None, start: int
    ) -> int:
        """Append ``items`` from ``start`` on; the index of the first that was not appended because the file is full."""

        def item(index: int) -> tuple[int, Any]:
            pair = items[index]
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise TypeError(f"records[{index}]: must be a tuple (lsn, data)")
            lsn, data = pair
            check_u64("lsn", lsn, f"records[{index}]: ")
            return lsn, data

        return self._append_all(len(items), item, term, timestamp_ms, start)[0]

    def append_next_many(
        self, payloads: Sequence[Any], term: int | None, timestamp_ms: int | None, start: int
    ) -> tuple[int, int | None]:
        """Like ``append_many`` with the LSNs that follow; also the first LSN that this call gave."""
        end, first = self._append_all(len(payloads), lambda index: (None, payloads[index]), term, timestamp_ms, start)
        return end, first if end > start else None

    def append_frames(self, buffer: Any, start: int) -> tuple[int, int | None, int | None, int, bool]:
        """Append the version 3 frames in ``buffer`` from byte ``start`` on, as they are.

        ``(records, first_lsn, last_lsn, end, full)``: ``end`` is where the first byte that was not appended lies.
        """
        self._own()
        check_start(start)
        frames, bad = split_frames(memoryview(copy_buffer(buffer)), start)

        def work() -> int:
            self._ready()
            last_lsn, last_term = self._position(None)
            for frame in frames:
                last_lsn, last_term = following(last_lsn, last_term, -1, frame.lsn, frame.term, b"", None)
            if bad is not None:
                raise bad
            return self._run(0, len(frames), lambda batch, index: _take_frame(batch, frames[index]))

        with self._door:
            end = self._turn(work)
        if end == 0:
            return 0, None, None, start, bool(frames)
        return end, frames[0].lsn, frames[end - 1].lsn, frames[end - 1].end, end < len(frames)

    def append_each(self, items: Sequence[Checked]) -> list[int | Exception]:
        """Append ``items`` by their own merits: an LSN or an error each, of fewer than given when the file is full."""
        self._own()
        results: list[int | Exception] = []

        def work() -> None:
            while len(results) < len(items):
                before = len(results)
                self._append_some(items, results)
                if len(results) == before:
                    break

        with self._door:
            self._turn(work)
        return results

    def _append_some(self, items: Sequence[Checked], results: list[int | Exception]) -> None:
        """One batch of ``append_each``."""
        batch = Batch(self._flusher.durable)
        good: list[int] = []
        for at in range(len(results), len(items)):
            try:
                lsn, payload, term, timestamp_ms = items[at]
                self._ready()
                if not batch.fits(len(payload) + OVERHEAD):
                    break
                lsn = self._add(batch, lsn, payload, term, timestamp_ms)
                if self._full():
                    break
            except (WalspoolError, TypeError, ValueError) as error:
                results.append(error)
            else:
                good.append(at)
                results.append(lsn)
        try:
            if good:
                self._flusher.flush(batch)
        except (WalspoolError, OSError) as error:
            for at in good:
                results[at] = error

    def _append_all(
        self,
        count: int,
        item: Callable[[int], tuple[int | None, Any]],
        term: int | None,
        timestamp_ms: int | None,
        start: int,
    ) -> tuple[int, int]:
        """The index of the first item not appended because the file is full, and the LSN that came next before."""
        self._own()
        check_start(start)
        _, _, term, stamp = checked((None, b"", term, timestamp_ms))

        def take(batch: Batch, index: int) -> bool:
            lsn, data = item(index)
            payload = copy_payload(data, index)
            if batch.fits(len(payload) + OVERHEAD):
                self._add(batch, lsn, payload, term, stamp, index)
                return True
            return False

        def work() -> tuple[int, int]:
            self._ready()
            first = self._position(None)[0] + 1
            if start == 0:
                check_all(*self._position(None), self._fence, map(item, range(count)), term)
            return self._run(start, count, take), first

        with self._door:
            return self._turn(work)

    def _run(self, start: int, count: int, take: Callable[[Batch, int], bool]) -> int:
        """Batch after batch; the index of the first item not appended because the file is full."""
        index, through = start, None
        try:
            while index < count and not self._full():
                batch = Batch(self._flusher.durable)
                while index < count and take(batch, index):
                    index += 1
                self._flusher.flush(batch)
                through = batch.after.last_lsn
        except BaseException as error:
            if through is not None:
                error.appended_through = through  # type: ignore[attr-defined]
            raise
        return index

    def _position(self, batch: Batch | None) -> tuple[int, int]:
        """LSN and term that the next record must be above, and not below."""
        known = self._flusher.durable if batch is None else batch.after
        return max(self._floor, known.highest_lsn), max(self._term, known.highest_term)

    def _add(
        self,
        batch: Batch,
        lsn: int | None,
        payload: bytes,
        term: int | None,
        timestamp_ms: int,
        index: int | None = None,
    ) -> int:
        lsn, term = following(*self._position(batch), self._fence, lsn, term, payload, index)
        batch.add(lsn, payload, term, timestamp_ms)
        return lsn

    def _full(self) -> bool:
        return self._sealed or self._flusher.full()

    def _own(self) -> None:
        """This is still the process that made it."""
        if self._abandoned:
            raise SpoolClosed(path=self._flusher.path)

    def _turn(self, work: Callable[[], _Result]) -> _Result:
        """The result of ``work``, done while nobody else writes; not even this thread in a signal handler."""
        with self._mutex:
            if self._busy.locked():
                raise RuntimeError("a call from within a flush of the same thread, as by a signal handler")
            try:
                with self._busy:
                    return work()
            finally:
                if self._close_wanted:
                    # What was made durable stays acknowledged, so the trim's own error is nobody's here.
                    with contextlib.suppress(OSError):
                        self._close()

    def _alive(self) -> None:
        if self._closed or self._abandoned or self._close_wanted:
            raise SpoolClosed(path=self._flusher.path)

    def _ready(self) -> None:
        """Nothing stands against an append, and the flush before has come to its end."""
        self._alive()
        if self._flusher.poisoned is not None:
            raise SpoolPoisoned(path=self._flusher.path, reason=self._flusher.poisoned)
        self._flusher.settle()

    # Holding, sealing, ending.

    def hold(self) -> None:
        """Let the appends of all other threads wait, until ``release``. May be nested."""
        self._own()
        self._door.acquire()
        if self.closed:
            self._door.release()
            raise SpoolClosed(path=self._flusher.path)

    def release(self) -> None:
        """End one ``hold`` of this thread."""
        self._own()
        self._door.release()

    def seal(self) -> ScanReport:
        """Take no more appends, and trim the file to its durable end; its full report."""
        self._own()
        return self._turn(self._seal)

    def _seal(self) -> ScanReport:
        self._ready()
        self._sealed = True
        try:
            self._flusher.seal()
        except BaseException:
            self._sealed = False
            raise
        return self.summary()

    def unseal(self) -> None:
        """Take appends again in the same file."""
        self._own()

        def work() -> None:
            self._ready()
            self._sealed = False

        self._turn(work)

    def swap(self, file: File, path: StrPath, report: ScanReport) -> None:
        """Go on in another file, of which ``report`` tells."""
        self._own()

        def work() -> None:
            self._ready()
            # What was reached in the file before holds on.
            self._floor, self._term = self._position(None)
            self._flusher.swap(file, path, report)
            self._sealed = False

        self._turn(work)
        self._waiters.wake()

    def raise_floor(self, lsn: int) -> None:
        """Accept no LSN at or below ``lsn`` any more."""
        check_u64("lsn", lsn)
        self._own()

        def work() -> None:
            self._ready()
            self._floor = max(self._floor, lsn)

        self._turn(work)
        self._waiters.wake()

    def raise_term(self, term: int) -> None:
        """Accept no term below ``term`` any more; a record without a term gets it."""
        check_u64("term", term)
        self._own()

        def work() -> None:
            self._ready()
            self._term = max(self._term, term)

        self._turn(work)

    def fence(self, term: int) -> None:
        """Accept no record of a term at or below ``term`` any more, but for frames: that term is another primary's."""
        check_u64("term", term)
        self._own()
        with self._mutex:
            self._fence = max(self._fence, term)

    def close(self) -> None:
        """Wait for what is under way, trim the file, and let go of it. Twice does no harm.

        From within another call of the same thread, as by a signal handler, it is done at the end of that call.
        """
        if self._abandoned:
            return
        with self._mutex:
            if self._busy.locked():
                self._close_wanted = True
            else:
                self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self._flusher.close()
        finally:
            self._waiters.wake()

    def forget(self) -> None:
        """Let go of the file as it is: nothing is written afterwards. No call may be under way."""
        self.abandon()

    def abandon(self) -> None:
        """Refuse every call from now on: this is the copy in a forked child. No lock is taken, nothing is written."""
        self._abandoned = True


def _take_frame(batch: Batch, frame: RawFrame) -> bool:
    if not batch.fits(len(frame.data)):
        return False
    batch.add_frame(frame)
    return True
