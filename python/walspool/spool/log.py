"""``LogicalWalSpool``: the log that a program opens, appends to, reads, follows and prunes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from walspool import core
from walspool.errors import SpoolClosed, SpoolReadOnly
from walspool.records import Position, check_u64
from walspool.spool import follow as following
from walspool.spool.bell import Bell
from walspool.spool.files import SpoolFiles, make_directories, refuse_odd_file, spool_path
from walspool.spool.lock import WriterLock
from walspool.spool.recovery import recover, report_of
from walspool.spool.restart import begin_restart, check_position, finish_restart
from walspool.spool.segments import Snapshot, WriterSegments
from walspool.spool.writing import WritableLog

if TYPE_CHECKING:
    from walspool.spool.reports import RecoveryReport, RepairReport, SpoolStats
    from walspool.spool.tail import ReaderSegments

__all__ = ["FILL_AFTER_FLUSHES", "SEGMENT_BYTES", "LogicalWalSpool"]

#: The active segment is sealed once it holds this many bytes.
SEGMENT_BYTES = 64 << 20
#: Zeros are written ahead only behind this many flushes, so that a log of a few records stays a small file.
FILL_AFTER_FLUSHES = 64

#: What an appender counts, of a log that is only read.
_NOTHING_APPENDED: dict[str, Any] = {
    **dict.fromkeys(("appends", "appended_bytes", "flushes", "sync_ns_total", "sync_ns_max"), 0),
    **dict.fromkeys(("sync_us_histogram", "records_per_flush_histogram"), (0,) * 32),
}

StrPath = str | os.PathLike[str]
_open_spools: weakref.WeakSet[LogicalWalSpool] = weakref.WeakSet()


class LogicalWalSpool(WritableLog):
    """A durable log in files beside a data path. Open with ``LogicalWalSpool.open`` or ``walspool.open``.

    Every append returns when its records are on stable storage. Safe to use from any number of threads; a context
    manager, also an asynchronous one. After ``fork`` the child's copy refuses every call.
    """

    def __init__(self, files: SpoolFiles, segment_bytes: int | None, strict: bool, read_only: bool) -> None:
        super().__init__(files.active)
        self._closed = True
        self._lock: WriterLock | None = None
        #: The segments, let go of by ``close``.
        self._opened: WriterSegments | ReaderSegments | None = None
        self._close_lock = threading.RLock()
        self._closing_now = False
        self._closing = Bell()
        self._recovery: RecoveryReport | None = None
        self._recovery_report: Callable[[], RecoveryReport]
        if read_only:
            self._open_reader(files, strict)
        else:
            self._open_writer(files, segment_bytes, strict)
        self._closed = False
        _open_spools.add(self)

    # -- opening ------------------------------------------------------------------------------------------------

    @staticmethod
    def path_for(data_path: StrPath) -> Path:
        """The active segment's file for a data path: ``DIR/NAME.logical.wal`` (RedDB's rule)."""
        return spool_path(data_path)

    @classmethod
    def open(
        cls,
        data_path: StrPath,
        *,
        segment_bytes: int | None = SEGMENT_BYTES,
        recovery: Literal["truncate", "strict"] = "truncate",
        read_only: bool = False,
    ) -> Self:
        """Open the log of a data path, creating it where there is none.

        ``segment_bytes``: size at which the active file is sealed and the next one begun; ``None`` keeps one file.
        ``recovery``: what damage to acknowledged records leads to: ``"truncate"`` saves it, cuts it and logs an error,
        ``"strict"`` raises ``SpoolCorrupt`` and changes nothing. An ordinary crash is mended either way.
        ``read_only``: no lock, no write, no repair; follows a writer in another process.

        ``SpoolLocked`` where another writer has it, ``SpoolCorrupt`` where a file is somebody else's, ``OSError``.
        """
        _check_options(segment_bytes=segment_bytes, recovery=recovery)
        return cls(_files_of(data_path), segment_bytes, recovery == "strict", read_only)

    @classmethod
    def restart_at(cls, data_path: StrPath, position: Position, **options: Any) -> Self:
        """Start the log anew behind ``position``, after a bootstrap; ``options`` as for ``open``.

        The old files are set aside as ``….aside``, one generation of them. A crash on the way is carried through by
        the next open.
        """
        check_position(position)
        _check_options(**options)
        files = _files_of(data_path)
        make_directories(files.directory)
        lock = WriterLock(files.lock)
        try:
            begin_restart(files, position)
            finish_restart(files, lock)
        finally:
            lock.release()
        return cls.open(data_path, **options)

    @staticmethod
    def repair(data_path: StrPath, *, dry_run: bool = False, lsn_floor: int | None = None) -> RepairReport:
        """Do what a person decides on when an open refuses: rebuild ``.state``, cut damage, set the LSN floor.

        ``dry_run`` only says what would be done. ``lsn_floor``: new LSNs start above it, even where that uses
        LSNs again that were acknowledged and lost; the report says what is given up.
        """
        if lsn_floor is not None:
            check_u64("lsn_floor", lsn_floor)
        from walspool.spool.repair import repair

        return repair(_files_of(data_path), dry_run=dry_run, lsn_floor=lsn_floor)

    def _open_writer(self, files: SpoolFiles, segment_bytes: int | None, strict: bool) -> None:
        make_directories(files.directory)
        refuse_odd_file(files.active)
        self._lock = WriterLock(files.lock)
        try:
            finish_restart(files, self._lock)
            done = recover(files, self._lock, strict=strict)
            appender = core.Appender(
                done.active.file,
                done.active.path,
                done.active.report,
                mark=(done.mark_file, done.mark.sector),
                segment_bytes=segment_bytes,
                floor_lsn=max(
                    done.state.lsn_floor, *(each.report.highest_lsn for each in (*done.sealed[-1:], done.active))
                ),
                term=done.state.term,
                fill_after=FILL_AFTER_FLUSHES,
            )
            if done.state.fence:
                appender.fence(done.state.fence)
        except BaseException:
            self._lock.release()
            raise
        self._recovery_report = done.report
        self._opened = WriterSegments(files, done.state, done.sealed, done.active, appender, segment_bytes)

    def _open_reader(self, files: SpoolFiles, strict: bool) -> None:
        from walspool.spool.tail import ReaderSegments

        started = time.monotonic()
        reader = ReaderSegments(files, strict=strict)
        self._opened = reader
        self._recovery_report = report_of(reader.found, reader.snapshot(), 0, None, started)

    @property
    def recovery(self) -> RecoveryReport:
        """What the open found: records, bytes, bytes cut, the verdict and its reason, where cut bytes were saved."""
        if self._recovery is None:
            self._recovery = self._recovery_report()
        return self._recovery

    # -- following and figures ----------------------------------------------------------------------------------

    @property
    def durable_lsn(self) -> int:
        """The highest LSN that readers see and that survives a crash; at least the LSN floor."""
        source = self._source()
        return source.appender.durable_lsn if isinstance(source, WriterSegments) else source.durable_lsn

    def wait_for_lsn_after(self, since_lsn: int, timeout: float | None) -> bool:
        """Wait until the log is past ``since_lsn``: True, or False after ``timeout`` seconds. Decodes nothing."""
        check_u64("since_lsn", since_lsn)
        source = self._source()
        if isinstance(source, WriterSegments):
            return source.appender.wait_lsn(since_lsn, timeout)
        from walspool.spool.tail import MarkWatch

        deadline = None if timeout is None else time.monotonic() + timeout
        if self.durable_lsn > since_lsn:
            return True
        with contextlib.closing(MarkWatch(SpoolFiles(self._path), self._closing)) as watch:
            while self.durable_lsn <= since_lsn:
                left = following.remaining(deadline)
                if left == 0:
                    return False
                watch.wait(left)
        return True

    def reading_on(self, lsn: int) -> following.ReadOn:
        """For one who has read everything up to ``lsn``: what waits for the next records and gives them."""
        source = self._source()
        if isinstance(source, WriterSegments):
            active = source.snapshot().active
            if active.report.base_lsn <= lsn:
                return following.reading_on(source.appender, active.reader(lsn), lambda: source.state.pruned_through)
        return following.looking_again(self.wait_for_lsn_after)

    def wakeup(self) -> following.Wakeup:
        """A descriptor that becomes readable when more is durable."""
        source = self._source()
        if isinstance(source, WriterSegments):
            return _Listener(source.appender)
        from walspool.spool.tail import MarkWatch

        return MarkWatch(SpoolFiles(self._path), self._closing)

    @property
    def poisoned(self) -> str | None:
        """Why nothing is appended until it is opened again, as behind a failed sync; ``None`` while all is well."""
        source = self._source()
        return source.appender.poisoned if isinstance(source, WriterSegments) else None

    def stats(self) -> SpoolStats:
        """Counters since the open."""
        from walspool.spool.reports import SpoolStats

        source = self._source()
        rotations, numbers = 0, _NOTHING_APPENDED
        if isinstance(source, WriterSegments):
            rotations, numbers = source.rotations, source.appender.stats()
        return SpoolStats(
            **numbers, reads=self._reads, read_bytes=self._read_bytes, rotations=rotations, prunes=self._prunes
        )

    # -- closing ------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called, or this is a forked child's copy."""
        return self._closed

    def close(self) -> None:
        """Finish what is under way and let go of the files. May be called twice; any other call then refuses.

        In a signal handler that interrupts an append, the append still ends as it should.
        """
        if self._closed:
            return  # without the lock, which in a forked child may be held for ever
        with self._close_lock:
            if self._closed or self._closing_now:
                return
            self._closing_now = True
            try:
                self._closing.ring()
                try:
                    self._flusher.close()
                finally:
                    self._let_go()
            finally:
                self._closing_now = False
                self._closing.ring()

    def _let_go(self) -> None:
        source = self._opened
        if not isinstance(source, WriterSegments):
            self._closed, self._opened = True, None
            return
        # a prune or a rotation under way goes on to its end first: it changes files that the lock guards
        with self._prune_lock, source.rotate_lock:
            self._closed, self._opened = True, None
            try:
                source.close()
            finally:
                # an append that this interrupts closes the appender when it ends; until then the lock is needed
                if self._lock is not None and source.appender.closed:
                    self._lock.release()

    async def aclose(self) -> None:
        """``close`` for asyncio."""
        self.close()

    def _abandon(self) -> None:
        self._closed = True
        self._flusher.abandon()
        if isinstance(self._opened, WriterSegments):
            self._opened.appender.abandon()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(
        self, ending: Callable[[], bool] = sys.is_finalizing, warn: Callable[..., None] = warnings.warn
    ) -> None:
        if not getattr(self, "_closed", True):
            self._closed = True
            if not ending():  # then modules may be empty already, and the system lets go of everything
                self._flusher.forget(partial(_let_go, self._opened, self._lock))
            warn(f"unclosed spool {self._path}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        mode = "closed" if self._closed else "writer" if isinstance(self._opened, WriterSegments) else "read-only"
        return f"<LogicalWalSpool {str(self._path)!r} {mode}>"

    # -- the parts ----------------------------------------------------------------------------------------------

    def _segments(self, call: str) -> WriterSegments:
        source = self._source()
        if not isinstance(source, WriterSegments):
            raise SpoolReadOnly(path=self._path, call=call)
        return source

    def _snapshot(self) -> Snapshot:
        source = self._opened
        if source is None or self._closed:
            raise SpoolClosed(path=self._path)
        return source.snapshot()

    def _source(self) -> WriterSegments | ReaderSegments:
        source = self._opened
        if self._closed or source is None:
            raise SpoolClosed(path=self._path)
        return source


def _let_go(opened: WriterSegments | ReaderSegments | None, lock: WriterLock | None) -> None:
    """Release the lock of a spool that nobody closed, once nothing is written any more."""
    if isinstance(opened, WriterSegments):
        opened.appender.forget()
    if lock is not None:
        lock.release()


class _Listener:
    """Rings when the appender makes more durable."""

    def __init__(self, appender: core.Appender) -> None:
        self._appender = appender
        self._bell = Bell()
        self.wait_fd: int | None = self._bell.wait_fd
        appender.add_listener(self._bell.ring_fd)

    def drain(self) -> None:
        """Take what was signalled so far."""
        self._bell.drain()

    def close(self) -> None:
        """Stop listening."""
        self._appender.remove_listener(self._bell.ring_fd)
        self._bell.close()


def _check_options(
    *, segment_bytes: int | None = SEGMENT_BYTES, recovery: str = "truncate", read_only: bool = False
) -> None:
    if recovery not in ("truncate", "strict"):
        raise ValueError(f"recovery must be 'truncate' or 'strict', not {recovery!r}")
    if segment_bytes is not None and check_u64("segment_bytes", segment_bytes) == 0:
        raise ValueError("segment_bytes must be at least 1, or None")


def _files_of(data_path: StrPath) -> SpoolFiles:
    if os.path.isdir(data_path):
        raise IsADirectoryError(21, "the data path is a directory; give the path of a file in it", os.fspath(data_path))
    return SpoolFiles(spool_path(data_path))


def _forget_in_child() -> None:
    for spool in list(_open_spools):
        spool._abandon()


os.register_at_fork(after_in_child=_forget_in_child)
