"""The follower's end over a real log: looks up what a decision needs, and carries it out. No sockets, no clock."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

from walspool.errors import ProtocolError, SpoolCorrupt, SpoolError
from walspool.net.following import Following, OwnLog
from walspool.net.messages import StreamHead
from walspool.net.protocol import ORIGIN, Refused, parse_position, position_text
from walspool.records import Position
from walspool.spool import files as fs
from walspool.spool.files import SpoolFiles
from walspool.spool.log import LogicalWalSpool

__all__ = ["Sink"]

StrPath = str | os.PathLike[str]


class Sink:
    """One follower's log and what it decides. For one thread at a time; the log itself is readable from any.

    ``lock`` is held while something is decided, and never while frames are written: another thread that acknowledges,
    or applies, holds it when it asks or tells ``following``.

    ``options``: as for ``walspool.open``. A log that is found corrupt is left as it is until a snapshot is loaded.
    ``OSError``, ``SpoolLocked``.
    """

    def __init__(
        self,
        data_path: StrPath,
        replica_id: str,
        instance: str,
        *,
        region: str | None = None,
        random: Callable[[], float],
        **options: Any,
    ) -> None:
        self._data_path = data_path
        self._options = options
        self._files = SpoolFiles(LogicalWalSpool.path_for(data_path))
        self._rest = b""
        self._head: StreamHead | None = None
        self.lock = threading.RLock()
        loading, reach_lsn, given_up = self._marker()
        self._load_begun = loading
        self.following = Following(replica_id, instance, region=region, loading=loading, random=random)
        self.following.reach_lsn, self.following.given_up = reach_lsn, given_up
        #: The log; ``None`` while it is corrupt and no snapshot is loaded yet.
        self.spool: LogicalWalSpool | None = None
        self._open()

    def _open(self) -> None:
        try:
            self.spool = LogicalWalSpool.open(self._data_path, recovery="strict", **self._options)
        except SpoolCorrupt as error:
            self.following.lost(error)
            self.begin_load()  # a power loss may take the mark, and then the next start could find nothing wrong

    def reopen(self) -> None:
        """Open the log anew, which a sync that failed has made necessary. ``OSError``."""
        with self.lock:
            self.end()
            self.close()
            self.spool = None
            self._open()

    def _marker(self) -> tuple[bool, int, Position | None]:
        """Whether a bootstrap is under way, which LSN is to be reached behind one, and what was given up for it."""
        try:
            words = self._files.loading.read_text("ascii", "replace").split(" ")
        except FileNotFoundError:
            return False, 0, None
        if len(words) == 2 and words[0] == "reach" and words[1].endswith("\n") and words[1][:-1].isdecimal():
            return False, int(words[1]), None
        with contextlib.suppress(Refused):
            return True, 0, parse_position("given up", words[1][:-1] if len(words) == 2 else None)
        return True, 0, None

    @property
    def own(self) -> OwnLog:
        """The log as the next decision needs it."""
        if self.spool is None:
            return OwnLog(ORIGIN, 0)
        term = max(self.spool.current_term, self.spool.fenced_term)
        return OwnLog(self.spool.position() or ORIGIN, term)

    @property
    def applicable(self) -> LogicalWalSpool | None:
        """The log, where its records go with the application's data: ``None`` from the begin of a load to its end."""
        return None if self._load_begun else self.spool

    # -- pulling -------------------------------------------------------------------------------------------------------

    def begin(self, head: StreamHead, now_s: float) -> bool:
        """A response has begun: whether to go on with it. ``OSError``: its term could not be noted."""
        own = self.own
        self._rest, self._head = b"", None
        with self.lock:
            if self.spool is None or not self.following.head(head, own, now_s):
                return False
            if self.spool.fenced_term < head.term:  # before its first frame: this log has no records of its own
                self.spool.fence(head.term)
        self._head = head
        return True

    def take(self, data: bytes | memoryview, now_s: float) -> bool:
        """Append what came: whole frames, the rest waits for more. False: it does not fit, end the response.

        ``OSError``, ``SpoolPoisoned``.
        """
        if self.spool is None or self._head is None:
            return False
        held = self._rest + data if self._rest else data
        try:
            done = self.spool.append_frames(held)
        except ValueError as error:  # a bad frame, or one that does not follow: nothing of this was appended
            if not isinstance(error, SpoolError):
                raise
            with self.lock:
                self.following.failed(ProtocolError(reason=str(error)), now_s)
            self._head = None
            return False
        self._rest = bytes(held[done.consumed :])
        if done.records:
            last = self.own.last
            with self.lock:
                self.following.durable(last)
                if 0 < self.following.reach_lsn <= last.lsn:
                    self._unmark()
        return True

    def end(self) -> None:
        """The response is over, in whatever way; part of a frame counts for nothing."""
        self._rest, self._head = b"", None

    # -- bootstrap and promotion ---------------------------------------------------------------------------------------

    def begin_load(self) -> None:
        """Before a snapshot is loaded: from here on a crash leads to loading again. ``OSError``."""
        given_up = self.following.given_up
        self._load_begun = True
        self._mark("loading" if given_up is None else f"loading {position_text(given_up)}")

    def load(self, term: int, comparable: bool, now_s: float) -> bool:
        """A snapshot begins, of a primary of this term: whether to load it. ``OSError``: what it costs wasn't noted."""
        loads = self.following.snapshot(term, comparable, self.own, now_s)
        if loads and not comparable:
            self.begin_load()
        return loads

    def finish_load(self, position: Position, term: int, reach_lsn: int) -> None:
        """The snapshot's data is in place, durably: the log starts anew behind it. ``OSError``.

        ``reach_lsn``: where the primary's log was when the snapshot was asked for.
        """
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        self.spool = LogicalWalSpool.restart_at(self._data_path, position, **self._options)
        self.spool.fence(term)
        self.following.reach_lsn = reach_lsn
        if reach_lsn > position.lsn:
            self._mark(f"reach {reach_lsn}")
        else:
            self._unmark()
        self._load_begun = False
        self.following.loaded()

    def _mark(self, words: str) -> None:
        path = self._files.loading
        fd = fs.create(path, exclusive=False)
        try:
            os.ftruncate(fd, 0)
            fs.pwrite_all(fd, f"{words}\n".encode(), 0, path)
            fs.sync_file(fd, path)
        finally:
            os.close(fd)
        fs.sync_directory(self._files.directory)

    def _unmark(self) -> None:
        fs.unlink(self._files.loading)
        fs.sync_directory(self._files.directory)
        self.following.reach_lsn = 0

    def check_promotable(self) -> None:
        """``ProtocolError`` where the log must not become a primary's."""
        if self.spool is None:
            raise ProtocolError("a replica without a readable log can't be promoted")
        self.following.check_promotable(self.own)

    def promote(self) -> int:
        """Make the log a primary's: the new term, which is durable. The log is closed, to be opened as one."""
        self.check_promotable()
        assert self.spool is not None
        term = self.following.promote(self.own)
        self.spool.begin_term(term)
        self.close()
        return term

    def close(self) -> None:
        """Let go of the log. May be called twice."""
        if self.spool is not None:
            self.spool.close()
