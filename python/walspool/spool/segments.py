"""The list of segments: which files hold the log, look-up by LSN, sealing the active one and starting the next."""

# No annotations as texts here: those of a NamedTuple would be compiled, one by one, at each start of a program.

import contextlib
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from walspool import core
from walspool.errors import SpoolClosed, SpoolCorrupt, SpoolPoisoned
from walspool.records import Position
from walspool.spool import files as fs
from walspool.spool.files import SIDECAR_SUFFIX, SpoolFiles
from walspool.spool.interrupt import uninterrupted
from walspool.spool.state import State, save_state
from walspool.spool.telling import log_warning

if TYPE_CHECKING:
    from walspool.spool.reports import SegmentInfo

__all__ = ["Segment", "Snapshot", "WriterSegments", "load_sidecar", "open_file", "position_of", "write_sidecar"]

#: The first and the last LSN of a lost range.
Hole = tuple[int, int]

#: Fields of the state that two callers may want to raise at a time.
_RISING = frozenset({"lsn_floor", "term", "fence", "pruned_through", "sealed_through"})


class Segment(NamedTuple):
    """One file of the log, held open, with what is known of it."""

    #: Its path, or that as text: to make a ``Path`` of each name takes about as long as to open the files.
    location: Path | str
    file: core.File
    report: core.ScanReport

    @property
    def path(self) -> Path:
        """Its path."""
        location = self.location
        return location if isinstance(location, Path) else Path(location)

    def info(self, *, sealed: bool) -> "SegmentInfo":
        """The public view of it."""
        from walspool.spool.reports import SegmentInfo

        known = self.report
        return SegmentInfo(self.path, known.first_lsn, known.last_lsn, known.records, known.valid_bytes, sealed)

    def reader(self, since_lsn: int) -> core.Reader:
        """Its records above ``since_lsn``."""
        return core.Reader(self.file, self.path, self.report, since_lsn=since_lsn)

    def entries(self, since_lsn: int) -> Iterator[core.Entry]:
        """Its records above ``since_lsn``, one by one."""
        return chain.from_iterable(self.reader(since_lsn).entry_runs())

    def count_through(self, lsn: int) -> tuple[int, Position | None]:
        """How many of its records are at or below ``lsn``, and the position of the highest of those."""
        known = self.report
        start, counted = 0, 0
        if known.ordered:
            for ordinal, (checkpoint, _) in enumerate(known.index.checkpoints()):
                if checkpoint > lsn:
                    break
                start, counted = checkpoint - 1, ordinal * 64
        last: core.Entry | None = None
        for entry in self.entries(start):
            if entry.lsn <= lsn:
                counted += 1
                if last is None or entry.lsn >= last.lsn:
                    last = entry
            elif known.ordered:
                break
        return counted, position_of(last) if last is not None else None

    def extent_after(self, lsn: int) -> tuple[int, int]:
        """How many records it has above ``lsn``, and the bytes of their frames."""
        known = self.report
        if known.records == 0 or known.highest_lsn <= lsn:
            return 0, 0
        if known.ordered and (known.first_lsn or 0) > lsn:
            return known.records, known.valid_bytes
        records, offset = known.records, 0
        start = 0
        if known.ordered:
            for ordinal, (checkpoint, at) in enumerate(known.index.checkpoints()):
                if checkpoint > lsn:
                    break
                start, records, offset = checkpoint - 1, known.records - ordinal * 64, at
        kept = known.valid_bytes - offset
        for entry in self.entries(start):
            if entry.lsn <= lsn:
                records -= 1
                kept -= _frame_bytes(entry)
            elif known.ordered:
                break
        return records, kept


def _highest_lsn(segment: Segment) -> int:
    return segment.report.highest_lsn


def _frame_bytes(entry: core.Entry) -> int:
    overhead = {1: 21, 2: 29, 3: 37}[entry.version] + (8 if entry.ownership_epoch is not None else 0)
    return overhead + len(entry.payload)


def position_of(entry: core.Entry) -> Position:
    """The position that a record has: the checksum is that of its version 3 frame with the timestamp taken as 0."""
    frame = core.encode_frame(entry.lsn, entry.payload, term=entry.term, timestamp_ms=0)
    return Position(entry.term, entry.lsn, int.from_bytes(frame[-4:], "little"))


def open_file(path: Path, *, write: bool = False) -> core.File:
    """A segment's file; anything but a regular file is an error."""
    return core.File(fs.open_sized(path, write=write)[0], path)


class Snapshot(NamedTuple):
    """The log at one instant: files that can be read even if a prune unlinks them, and what is pruned or lost."""

    sealed: tuple[Segment, ...]
    active: Segment
    state: State

    def everything(self) -> tuple[Segment, ...]:
        """All segments, oldest first."""
        return (*self.sealed, self.active)

    def after(self, since_lsn: int) -> tuple[int, tuple[Segment, ...], Hole | None]:
        """Where all records above ``since_lsn`` are: the LSN to read from, their segments, a hole behind those."""
        sealed, active, state = self
        since = since_lsn if since_lsn > state.pruned_through else state.pruned_through
        segments: tuple[Segment, ...] = (active,)
        # no segment's highest LSN is below that of the one before it
        if sealed and sealed[-1].report.highest_lsn > since:
            segments = (*sealed[bisect_right(sealed, since, key=_highest_lsn) :], active)
        if not state.holes:
            return since, segments, None
        hole = next((each for each in state.holes if each[1] > since), None)
        if hole is not None:
            first = hole[0]
            segments = tuple(takewhile(lambda each: (each.report.first_lsn or 0) <= first, segments))
        return since, segments, hole

    def readers(self, since_lsn: int) -> Iterator[core.Reader]:
        """Readers that together give all records above ``since_lsn``; a lost range on the way is an error."""
        since, segments, hole = self.after(since_lsn)
        for segment in segments:
            yield segment.reader(since)
        if hole is not None:
            raise self.lost(since, hole)

    def lost(self, since_lsn: int, hole: Hole) -> SpoolCorrupt:
        """What a read of the records above ``since_lsn`` ends with where it comes to ``hole``."""
        return SpoolCorrupt(
            path=self.active.path,
            reason="acknowledged records are lost",
            first_lsn=max(hole[0], since_lsn + 1),
            last_lsn=hole[1],
        )

    def oldest_lsn(self) -> int | None:
        """The first record that is not pruned."""
        pruned = self.state.pruned_through
        for segment in self.everything():
            known = segment.report
            if known.records == 0 or known.highest_lsn <= pruned:
                continue
            if known.first_lsn is not None and known.first_lsn > pruned:
                return known.first_lsn
            for entry in segment.entries(pruned):
                return entry.lsn
        return None

    def extent_after(self, lsn: int) -> tuple[int, int]:
        """How many records above ``lsn`` are retained, and the bytes of their frames."""
        extents = [each.extent_after(max(lsn, self.state.pruned_through)) for each in self.everything()]
        return sum(records for records, _ in extents), sum(size for _, size in extents)

    def hidden_records(self) -> int:
        """Records that are pruned while their bytes are still there."""
        pruned = self.state.pruned_through
        behind = [
            each for each in self.everything() if (first := each.report.first_lsn) is not None and first <= pruned
        ]
        return sum(each.count_through(pruned)[0] for each in behind)

    def seek_floor_offset(self, since_lsn: int) -> int:
        """Offset of the last checkpoint at or below ``since_lsn``, the segments laid end to end; 0 without one."""
        offset, found = 0, 0
        for segment in self.everything():
            known = segment.report
            if known.records == 0:
                continue
            checkpoints = known.index.checkpoints()
            if not checkpoints or checkpoints[0][0] > since_lsn:
                break
            found = offset + known.index.seek(since_lsn)
            offset += known.valid_bytes
        return found


def load_sidecar(spool_id: bytes | None, segment: Path) -> tuple[core.ScanReport, int] | None:
    """A sealed segment's report and the LSN before it, as its sidecar has them; ``None`` where it can't be used."""
    path = f"{segment}{SIDECAR_SUFFIX}"
    try:
        fd, size = fs.open_sized(path)
    except FileNotFoundError:
        return None
    try:
        data = fs.pread_exactly(fd, size, 0, path)
    finally:
        os.close(fd)
    try:
        owner, prev_lsn, report, _ = core.decode_sidecar(data)
    except ValueError as error:
        log_warning("%s can't be used and is rebuilt: %s", path, error)
        return None
    if spool_id is not None and owner != spool_id:
        log_warning("%s is of another spool and is rebuilt", path)
        return None
    return report, prev_lsn


def write_sidecar(files: SpoolFiles, spool_id: bytes, segment: Path, prev_lsn: int, report: core.ScanReport) -> None:
    """Write a segment's sidecar. Nothing relies on it: where that fails, the next open reads the segment."""
    path = files.sidecar(segment)
    extra = b""
    try:
        with open(path, "rb") as old:
            extra = core.decode_sidecar(old.read())[3]
    except (OSError, ValueError):
        extra = b""
    temporary = files.rewrite(path)
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fs.pwrite_all(fd, core.encode_sidecar(spool_id, prev_lsn, report, extra), 0, temporary)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        log_warning("the sidecar %s was not written: %s", path, error)
        for each in (temporary, path):
            with contextlib.suppress(OSError):
                fs.unlink(each)  # what is left of an old one does not fit


class WriterSegments:
    """The writer's live list. Readers take a ``snapshot``; rotation and pruning publish a new one."""

    def __init__(
        self,
        files: SpoolFiles,
        state: State,
        sealed: tuple[Segment, ...],
        active: Segment,
        appender: core.Appender,
        segment_bytes: int | None,
    ) -> None:
        self.files = files
        self.segment_bytes = segment_bytes
        self.appender = appender
        self.rotations = 0
        self.rotate_lock = threading.RLock()
        self._state_lock = threading.Lock()
        self._view_lock = threading.Lock()
        #: The log as it was when the durable LSN was last looked at.
        self._view = Snapshot(sealed, active, state)
        self._view_durable_lsn: int | None = None
        self._sealing: core.ScanReport | None = None
        # behind a frame of the wide layout ours could be taken for one of those, so they go into a file of their own
        self._must_seal = active.report.records > 0 and active.report.last_wide
        if self._must_seal:
            appender.seal()
        self._closed = False
        self._sync_failure: str | None = None

    @property
    def state(self) -> State:
        """The durable state as it was last saved."""
        return self._view.state

    def snapshot(self) -> Snapshot:
        """The log as it is now, up to what is durable."""
        # Without the lock: what is published meanwhile is the same log or a later one.
        if self.appender.durable_lsn == self._view_durable_lsn:
            return self._view
        with self._view_lock:
            durable = self.appender.durable_lsn  # before the summary, which may already know of more
            if durable != self._view_durable_lsn:
                sealed, (path, file, _), state = self._view
                self._view = Snapshot(sealed, Segment(path, file, self.appender.summary()), state)
                self._view_durable_lsn = durable
            return self._view

    def change_state(self, **changes: Any) -> None:
        """Make changed fields of the state durable, then let readers see them. Some only ever go up."""
        with self._state_lock:
            for name in _RISING & changes.keys():
                changes[name] = max(changes[name], getattr(self.state, name))
            state = self.state._replace(**changes)
            if state != self.state:
                save_state(self.files, state)
                with self._view_lock:
                    self._view = self._view._replace(state=state)

    def publish_sealed(self, sealed: tuple[Segment, ...]) -> None:
        """Let readers see another list of sealed segments; for whoever holds ``rotate_lock``."""
        with self._view_lock:
            self._view = self._view._replace(sealed=sealed)

    def swap_active(self, active: Segment, sealed: tuple[Segment, ...]) -> None:
        """Go on in another active file; for whoever holds ``rotate_lock`` and has sealed the old one."""
        with self._view_lock:
            self.appender.swap(active.file, active.path, active.report)
            self._view = self._view._replace(sealed=sealed, active=active)
            self._view_durable_lsn = None

    @property
    def sealed(self) -> tuple[Segment, ...]:
        """The sealed segments, oldest first."""
        return self._view.sealed

    def close(self) -> None:
        """Close the appender; for whoever holds ``rotate_lock``. No rotation goes on afterwards."""
        self._closed = True
        self.appender.close()

    @property
    def poisoned(self) -> bool:
        """Whether a sync failed, so that nothing is appended any more."""
        return self._sync_failure is not None or self.appender.poisoned is not None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is appended, and nothing in flight, within."""
        with self.rotate_lock:
            if self._sealing is None:
                self.appender.seal()
            try:
                yield
            finally:
                self.unseal()

    def unseal(self) -> None:
        """Let appends go on in the same file, unless it is to be left behind; for whoever holds ``rotate_lock``."""
        if self._sealing is None and not self._must_seal:
            self.appender.unseal()

    def rotate(self, *, force: bool = False) -> None:
        """Seal the active segment if it is full (or holds anything, with ``force``) and start the next.

        A failure leaves the appends refused until a later call has carried the rotation through.
        """
        uninterrupted(lambda: self._rotate(force))

    def _rotate(self, force: bool) -> None:
        with self.rotate_lock:
            if self._closed:
                raise SpoolClosed(path=self.files.active)
            if self._sync_failure is not None:
                raise SpoolPoisoned(path=self.files.active, reason=self._sync_failure)
            if self._sealing is None:
                known = self.appender.summary()
                full = self._must_seal or (self.segment_bytes or 2**64) <= known.valid_bytes
                if known.records == 0 or not (full or force):
                    return
                self._sealing = self.appender.seal()
            self._finish_rotation(self._sealing)
            self._sealing, self._must_seal = None, False
            self.rotations += 1

    def _finish_rotation(self, report: core.ScanReport) -> None:
        # Each step may already be done by an earlier call that failed behind it.
        assert report.first_lsn is not None
        target = self.files.sealed(report.first_lsn)
        self.change_state(sealed_through=max(self.state.sealed_through, report.highest_lsn))
        if self._view.active.path != target:
            if os.path.lexists(target):
                raise SpoolCorrupt(path=target, reason="another segment with the same first LSN is there already")
            os.rename(self._view.active.path, target)
            with self._view_lock:
                self._view = self._view._replace(active=self._view.active._replace(location=target))
        self._sync_directory()
        fresh = core.File(fs.create(self.files.active, exclusive=False), self.files.active)
        self._sync_directory()
        before = self.sealed[-1].report.highest_lsn if self.sealed else self.state.pruned_through
        write_sidecar(self.files, self.state.spool_id, target, before, report)
        empty = core.scan_file(fresh, self.files.active, base_lsn=report.highest_lsn)
        sealed = Segment(target, self._view.active.file, report)
        self.swap_active(Segment(self.files.active, fresh, empty), (*self.sealed, sealed))

    def _sync_directory(self) -> None:
        with fs.opened_directory(self.files.directory) as fd:
            try:
                fs.sync_file(fd, self.files.directory)
            except OSError as error:
                # what a failed sync leaves is not known, and a later one that succeeds proves nothing
                self._sync_failure = f"sync failed: {error.strerror}"
                raise
