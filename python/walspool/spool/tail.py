"""The log as another process sees it: the valid prefix up to the mark, followed through rotation and prune."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import sys
import threading
import time

from walspool import core
from walspool.errors import RebootstrapRequired, SpoolCorrupt
from walspool.spool.bell import Bell
from walspool.spool.files import Listing, SpoolFiles
from walspool.spool.inspection import READER_MARK_TRIES, Inspection, inspect
from walspool.spool.interrupt import SIGNALS_S
from walspool.spool.segments import Segment, Snapshot
from walspool.spool.state import Mark, load_mark, load_state
from walspool.spool.telling import log_warning

__all__ = ["MarkWatch", "ReaderSegments"]

#: How often a listing is repeated when files come and go under it.
_TRIES = 100
#: How long to wait between looks where the system can't say that a file changed.
POLL_S = 0.1
#: What the system says when this user has as many watches as it grants.
_USED_UP = (errno.EMFILE, errno.ENOSPC)


class ReaderSegments:
    """The list of segments of a read-only spool. ``refresh`` looks whether the writer has gone on."""

    def __init__(self, files: SpoolFiles, *, strict: bool) -> None:
        self.files = files
        self._lock = threading.Lock()
        self._spool_id: bytes | None = None
        if not any(os.path.lexists(each) for each in (files.active, files.state)):
            raise FileNotFoundError(errno.ENOENT, "there is no log here", str(files.active))
        self.found = self._look()
        if strict:
            self.found.raise_if_corrupt()
        self._take(self.found)

    def _there(self) -> tuple[Listing, int | None]:
        try:
            active = os.stat(self.files.active).st_ino
        except FileNotFoundError:
            active = None
        return self.files.list_segments(), active

    def _look(self) -> Inspection:
        """An inspection during which no segment came, went, or changed its name."""
        for _ in range(_TRIES):
            listed, active = self._there()
            self._looked_at = self._stamp()
            try:
                found = inspect(self.files, write=False, listed=listed)
            except FileNotFoundError:
                continue
            except SpoolCorrupt:
                if self._is_there(listed, active):
                    raise
                continue
            if found.verdict == "corrupt" and self._moved(found):
                continue
            if self._is_there(listed, active):
                return found
        raise SpoolCorrupt(path=self.files.active, reason="its segments change faster than they can be listed")

    def _is_there(self, listed: Listing, active: int | None) -> bool:
        """Whether the segments are still those that were listed. What else comes and goes makes no difference."""
        now, active_now = self._there()
        return now.sealed == listed.sealed and active_now == active

    def _moved(self, found: Inspection) -> bool:
        """Whether the writer did something while the files were looked at, so that they may not fit together."""
        state, (mark, _) = load_state(self.files), load_mark(self.files.mark, tries=READER_MARK_TRIES)
        return mark != found.mark or (state is not None and state != found.state)

    def _take(self, found: Inspection) -> None:
        state = found.state
        if self._spool_id not in (None, state.spool_id):
            raise RebootstrapRequired(path=self.files.active, cause="it was started anew; open it again")
        for first, last in found.lost:
            state = state.with_hole(first, last)
        active = found.active
        if active is None:
            null = core.File(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), self.files.active)
            empty = core.scan_file(null, self.files.active, base_lsn=found.highest_sealed())
            active = Segment(self.files.active, null, empty)
        highest = active.report.highest_lsn
        proven = active.report.behind_highest_lsn if active.report.behind_frames else 0
        last = max(proven, found.mark.lsn if found.mark is not None else 0)
        if found.verdict == "corrupt" and last > max(highest, state.lsn_floor):
            # within the durable part, so reads that get there must fail
            state = state.with_hole(highest + 1, last)
        self._inode = os.fstat(active.file.fileno()).st_ino
        self._spool_id = None if found.state_is_new else state.spool_id
        self._state_stamp = self._looked_at
        self._mark = found.mark
        self._view = Snapshot(tuple(found.sealed), active, state)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.files.state)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def snapshot(self) -> Snapshot:
        """The log as far as it is known to be durable now."""
        with self._lock:
            self._refresh()
            return self._view

    @property
    def durable_lsn(self) -> int:
        """The highest LSN that can be read now, or the floor."""
        view = self.snapshot()
        return max(view.active.report.highest_lsn, view.state.lsn_floor)

    def _refresh(self) -> None:
        mark, _ = load_mark(self.files.mark, tries=READER_MARK_TRIES)
        if mark is None or mark.spool_id != self._view.state.spool_id:
            mark = self._mark
        rotated = self._moved_on()
        if not rotated and mark == self._mark and mark is not None:
            return
        if not rotated:
            self._extend(mark)
            self._mark = mark
            if mark is None or self._view.active.report.highest_lsn >= min(mark.lsn, self._reachable(mark)):
                return
        if self._moved_on() or mark is not None:
            self._take(self._look())

    def _reachable(self, mark: Mark) -> int:
        floor = max([self._view.state.lsn_floor, *(high for _, high in self._view.state.holes)])
        return 0 if mark.lsn <= floor else mark.lsn

    def _moved_on(self) -> bool:
        """Whether the active file is another one, or the state was replaced."""
        try:
            inode = os.stat(self.files.active).st_ino
        except FileNotFoundError:
            inode = self._inode if not self._view.active.report.file_bytes else -1
        return inode != self._inode or self._stamp() != self._state_stamp

    def _extend(self, mark: Mark | None) -> None:
        active = self._view.active
        limit = mark.lsn if mark is not None else None
        report = core.scan_file(
            active.file,
            active.path,
            base_lsn=active.report.base_lsn,
            mark=limit,
            until_lsn=limit,
            resume=active.report,
        )
        self._view = self._view._replace(active=active._replace(report=report))


class MarkWatch:
    """Wakes when the writer in another process makes records durable: inotify on the mark, without polling.

    ``wait_fd`` is readable after a change, or once the spool closes; ``None`` where there is no inotify or no more of
    it, and waiting looks ten times a second.
    """

    #: Modified, or renamed or removed, so that the next mark is another file.
    _CHANGE = 0x2 | 0x4 | 0x400 | 0x800
    #: Modified, renamed, created or removed in the directory, for as long as there is no mark.
    _ANY_CHANGE = 0xFC6

    def __init__(self, files: SpoolFiles, closing: Bell) -> None:
        self.wait_fd: int | None = None
        self._files = files
        self._closing = closing
        self._inotify = -1
        if not sys.platform.startswith("linux"):
            return
        try:
            self._watch()
        except BaseException as error:
            self.close()
            if not isinstance(error, OSError) or error.errno not in _USED_UP:
                raise
            log_warning(
                "no inotify is left for %s, which is looked at ten times a second instead: %s", files.mark, error
            )

    def _watch(self) -> None:
        import ctypes  # only here: writers need none of it

        self._errno = ctypes.get_errno
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify < 0:
            raise OSError(self._errno(), "inotify is not to be had", str(self._files.mark))
        self._arm()
        self._either = select.epoll()
        self._either.register(self._inotify, select.EPOLLIN)
        self._either.register(self._closing.wait_fd, select.EPOLLIN)
        self.wait_fd = self._either.fileno()

    def _arm(self) -> None:
        """Watch the file that is the mark now; again and again on the same file does no harm."""
        for target, mask in ((self._files.mark, self._CHANGE), (self._files.directory, self._ANY_CHANGE)):
            if self._libc.inotify_add_watch(self._inotify, os.fsencode(target), mask) >= 0:
                return
            number = self._errno()
            if number != errno.ENOENT:
                break
        raise OSError(number, os.strerror(number), str(target))

    def drain(self) -> None:
        """Take what has been reported so far."""
        if self.wait_fd is not None:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._inotify, 1 << 16):
                    self._arm()

    def wait(self, timeout: float | None) -> None:
        """Return after a change, or after ``timeout`` seconds; sooner is possible."""
        fd = self.wait_fd
        if fd is None:
            fd, timeout = self._closing.wait_fd, POLL_S if timeout is None else min(POLL_S, timeout)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        left = deadline
        while left > 0:
            left = max(deadline - time.monotonic(), 0.0)
            if poller.poll(min(left, SIGNALS_S) * 1000):
                break
        self.drain()

    def close(self) -> None:
        """Let go of the watch."""
        if self.wait_fd is not None:
            self.wait_fd = None
            self._either.close()
        fd, self._inotify = self._inotify, -1
        if fd >= 0:
            os.close(fd)
