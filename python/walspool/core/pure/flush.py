"""One flush at a time: write, sync, mark, publish; and what is done about each of them when it fails.

The file's durable content is a ``Prefix``. A flush prepares its successor beside it, and publishing is the one
assignment that puts it in its place. Until then all that the flush did can be undone: the mark gets its old LSN back
and the file is cut to the durable end. What interrupts a flush at any point leaves a ``Flight`` behind, and whoever
comes next, at the latest the next flush, settles it before anything else is written.

====================  ===============================================================================================
what fails            what is done
====================  ===============================================================================================
write of the batch    cut back; the error goes to the callers; usable
sync                  poisoned: the kernel may have dropped the pages; nothing is written any more
write of the mark     the old mark is written again (fails: poisoned); cut back; usable
cut                   remembered, tried again before the next flush, whose error it then is
sync of the cut       poisoned
an interrupt          before the mark is written as a whole: like a failed write; after: published
====================  ===============================================================================================
"""

from __future__ import annotations

import contextlib
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any, Final

from walspool.core.pure.file import File, StrPath, pwrite, status, sync, truncate
from walspool.core.pure.frame import CRC, OVERHEAD, frame_parts
from walspool.core.pure.frames import RawFrame
from walspool.core.pure.index import Prefix, ScanReport
from walspool.errors import SpoolCorrupt, SpoolPoisoned

__all__ = ["MAX_BATCH_BYTES", "Batch", "Flight", "Flusher", "Mark"]

MAX_BATCH_BYTES: Final = 4 << 20
#: Zeros are written ahead up to a multiple of this, for batches up to ``_SMALL_BATCH``.
_FILL_STEP: Final = 256 << 10
_SMALL_BATCH: Final = 64 << 10

_MARK_BYTES: Final = 512
_MARK_LSN: Final = struct.Struct("<Q")
_MARK_LSN_AT: Final = 32
_MARK_CRC_AT: Final = _MARK_BYTES - CRC.size
#: Stands where the file was, once it was let go of.
_NO_FILE: Final = File(-1, "")


class Mark:
    """The durable mark: one checksummed sector, rewritten in place and never synced. It may lag, it never leads."""

    def __init__(self, file: File, template: bytes) -> None:
        if len(template) != _MARK_BYTES:
            raise ValueError(f"the mark's template must be {_MARK_BYTES} bytes, not {len(template)}")
        self._file = file
        self._template = template

    def write(self, lsn: int) -> None:
        """Say that ``lsn`` is durable."""
        sector = bytearray(self._template)
        _MARK_LSN.pack_into(sector, _MARK_LSN_AT, lsn)
        CRC.pack_into(sector, _MARK_CRC_AT, zlib.crc32(sector[:_MARK_CRC_AT]))
        pwrite(self._file, bytes(sector), 0)


class Batch:
    """Frames that share one write and one sync, and the prefix as it is once they are durable."""

    def __init__(self, durable: Prefix) -> None:
        self.base = durable
        self.after = Prefix.of(durable)
        self.parts: list[bytes | memoryview] = []
        self.size = 0
        self.records = 0
        self.payload_bytes = 0

    def fits(self, size: int) -> bool:
        """Whether a frame of that size may join; one that is larger than a batch may be goes alone."""
        return not self.records or self.size + size <= MAX_BATCH_BYTES

    def add(self, lsn: int, payload: bytes, term: int, timestamp_ms: int) -> None:
        """Add a record."""
        parts = frame_parts(lsn, payload, term, timestamp_ms)
        self._add(parts, lsn, len(payload), term, timestamp_ms, int.from_bytes(parts[2], "little"))

    def add_frame(self, frame: RawFrame) -> None:
        """Add a record as the version 3 frame that it is already."""
        payload = len(frame.data) - OVERHEAD
        self._add((frame.data,), frame.lsn, payload, frame.term, frame.timestamp_ms, frame.tail)

    def _add(
        self, parts: tuple[bytes | memoryview, ...], lsn: int, payload: int, term: int, timestamp_ms: int, tail: int
    ) -> None:
        self.parts.extend(parts)
        self.size += payload + OVERHEAD
        self.records += 1
        self.payload_bytes += payload
        self.after.add(self.after.valid_bytes + payload + OVERHEAD, lsn, term, timestamp_ms, 3, False, tail)


class Flight:
    """A flush under way, and how far it is."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        #: The file may hold bytes of the batch.
        self.touched = False
        #: The mark may say that the batch is durable.
        self.marking = False
        #: The mark says so, and nothing is to be undone any more.
        self.marked = False
        self.counted = False
        self.sync_ns = 0


class Flusher:
    """The active file and its mark. Its callers see to it that only one of them is in here at a time."""

    def __init__(
        self,
        file: File,
        path: StrPath,
        report: ScanReport,
        *,
        mark: Mark | None,
        segment_bytes: int | None,
        fill_after: int,
        published: Callable[[], None],
    ) -> None:
        self.path = path
        self.durable = Prefix.of(report)
        self.poisoned: str | None = None
        self._file = file
        self._mark = mark
        self._segment_bytes = segment_bytes
        self._fill_after = fill_after
        self._filling = True
        self._flight: Flight | None = None
        self._published = published
        self._counts = dict.fromkeys(("appends", "appended_bytes", "flushes", "sync_ns_total", "sync_ns_max"), 0)
        self._sync_us = [0] * 32
        self._records_per_flush = [0] * 32

    def full(self) -> bool:
        """Whether the file has as many bytes as a segment may have."""
        limit = self._segment_bytes
        return limit is not None and self.durable.records > 0 and self.durable.valid_bytes >= limit

    def flush(self, batch: Batch) -> None:
        """Make ``batch`` durable and publish it; after an error it is as if it had not been tried."""
        file = self._file
        size = self._undone_size(file)
        if batch.base is not self.durable:
            raise RuntimeError("the batch was begun behind another record than the last durable one")
        self._flight = flight = Flight(batch)
        try:
            self._run(flight, file, size)
            self._finish()
        except BaseException:
            self._finish_after_error()
            raise

    def _run(self, flight: Flight, file: File, size: int) -> None:
        batch = flight.batch
        flight.touched = True
        pwrite(file, b"".join(batch.parts), self.durable.valid_bytes)
        end = self._fill(file, batch, size)
        started = time.perf_counter_ns()
        self._sync(file, "sync", resized=end > size)
        flight.sync_ns = time.perf_counter_ns() - started
        if self._mark is not None:
            flight.marking = True
            self._mark.write(batch.after.highest_lsn)
        flight.marked = True

    def settle(self) -> None:
        """Publish what was interrupted when it had become durable; what has to be undone, the next flush undoes."""
        if self._flight is not None and self._flight.marked:
            self._finish()

    def _undone_size(self, file: File) -> int:
        """The file's size once nothing is left of a flush that failed."""
        size = self._checked_size(file)
        if self._flight is None:
            return size
        self._finish()
        if self.poisoned is not None:
            raise SpoolPoisoned(path=self.path, reason=self.poisoned)
        return self.durable.valid_bytes

    def _finish(self) -> None:
        """Bring what is under way to its end: publish it, or undo it."""
        flight = self._flight
        if flight is None:
            return
        if flight.marked:
            self._publish(flight)
        elif self.poisoned is None and flight.touched:
            self._cut_back(flight)
        self._flight = None

    def _finish_after_error(self) -> None:
        # The error that counts for the callers is the one before; what could not be undone is tried again.
        with contextlib.suppress(OSError):
            self._finish()

    def _publish(self, flight: Flight) -> None:
        batch = flight.batch
        if not flight.counted:
            flight.counted = True
            self._counts["appends"] += batch.records
            self._counts["appended_bytes"] += batch.payload_bytes
            self._counts["flushes"] += 1
            self._counts["sync_ns_total"] += flight.sync_ns
            self._counts["sync_ns_max"] = max(self._counts["sync_ns_max"], flight.sync_ns)
            self._sync_us[_bucket(flight.sync_ns // 1000)] += 1
            self._records_per_flush[_bucket(batch.records)] += 1
        batch.after.publish_index()
        self.durable = batch.after
        self._published()

    def _cut_back(self, flight: Flight) -> None:
        if flight.marking and self._mark is not None:
            try:
                self._mark.write(self.durable.highest_lsn)
                flight.marking = False
            except OSError as error:
                # Not cut either: the mark may claim already what would go.
                self._poison("writing the mark", error)
                return
        self._cut(self._file)

    def _cut(self, file: File) -> None:
        truncate(file, self.durable.valid_bytes)
        self._sync(file, "sync after a cut", resized=True)

    def _checked_size(self, file: File) -> int:
        """The file's size, if it still is the file that was opened."""
        found = status(file)
        reason = ""
        if found.st_nlink == 0:
            reason = "the file was removed under the open spool"
        elif found.st_size < self.durable.valid_bytes:
            reason = "the file was shortened under the open spool"
        if reason:
            self.poisoned = reason
            raise SpoolCorrupt(path=self.path, reason=reason)
        return found.st_size

    def _fill(self, file: File, batch: Batch, size: int) -> int:
        """Write zeros ahead where that pays, so that the next syncs need not commit a size; where they end."""
        end = batch.after.valid_bytes
        ripe = self._filling and self._counts["flushes"] >= self._fill_after
        if not ripe or batch.size > _SMALL_BATCH or end <= size:
            return end
        target = _round_up(end)
        if self._segment_bytes is not None:
            target = min(target, _round_up(self._segment_bytes))
        if target > end:
            try:
                pwrite(file, bytes(target - end), end)
            except OSError:
                self._filling = False
        return max(target, end)

    def _sync(self, file: File, what: str, *, resized: bool) -> None:
        try:
            sync(file, resized)
        except OSError as error:
            self._poison(what, error)
            raise

    def _poison(self, what: str, error: OSError) -> None:
        self.poisoned = f"{what} failed: {error.strerror}"

    def seal(self) -> None:
        """Cut off the zeros ahead, durably."""
        file = self._file
        if self._undone_size(file) > self.durable.valid_bytes:
            self._cut(file)

    def close(self) -> None:
        """Cut off the zeros ahead unless poisoned, and let go of the files."""
        try:
            if self.poisoned is None:
                # An interrupted flush may have left a mark that leads; it is taken back before anything is cut.
                self._finish()
            if self.poisoned is None and status(self._file).st_size > self.durable.valid_bytes:
                self._cut(self._file)
        finally:
            self._file, self._mark = _NO_FILE, None

    def swap(self, file: File, path: StrPath, report: ScanReport) -> None:
        """Go on in another file."""
        self._file = file
        self.path = path
        self.durable = Prefix.of(report)
        self._filling = True

    def stats(self) -> dict[str, Any]:
        """Counters and histograms."""
        return {
            **self._counts,
            "sync_us_histogram": tuple(self._sync_us),
            "records_per_flush_histogram": tuple(self._records_per_flush),
        }


def _bucket(value: int) -> int:
    return min(value.bit_length(), 31)


def _round_up(size: int) -> int:
    return -(-size // _FILL_STEP) * _FILL_STEP
