"""The follower's end over a real log: looks up what a decision needs, and carries it out. No sockets, no clock."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from walspool.errors import ProtocolError, SpoolCorrupt, SpoolError
from walspool.net.following import Following, OwnLog
from walspool.net.frames import FEW_FRAMES, last_of
from walspool.net.intake import Intake
from walspool.net.messages import StreamHead
from walspool.net.protocol import ORIGIN, Refused, parse_position, position_text
from walspool.records import Position
from walspool.spool import files as fs
from walspool.spool.files import SpoolFiles
from walspool.spool.log import LogicalWalSpool
from walspool.spool.state import load_state

__all__ = ["Sink"]

StrPath = str | os.PathLike[str]


class _Marker(NamedTuple):
    """What the file beside the log says of a bootstrap."""

    #: Whether one is under way.
    loading: bool = False
    #: Whether a person has decided that the log gives way to it.
    gives_way: bool = False
    #: Which LSN is to be reached behind one.
    reach_lsn: int = 0
    #: What was given up for it.
    given_up: Position | None = None

    @classmethod
    def parse(cls, text: str) -> _Marker:
        """Whatever it is that was cut off, it means loading."""
        words = text.split()
        if len(words) == 2 and words[0] == "reach" and text.endswith("\n") and words[1].isdecimal():
            return cls(reach_lsn=int(words[1]))
        given_up = None
        with contextlib.suppress(Refused):
            given_up = parse_position("given up", words[1] if len(words) > 1 else None)
        return cls(True, "gives-way" in words, 0, given_up)

    def text(self) -> str:
        """The file's content."""
        if not self.loading:
            return f"reach {self.reach_lsn}\n"
        words = ["loading"]
        if self.given_up is not None:
            words.append(position_text(self.given_up))
        if self.gives_way:
            words.append("gives-way")
        return " ".join(words) + "\n"


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
        self._intake = Intake()
        self._head: StreamHead | None = None
        self.lock = threading.RLock()
        marker = self._marker()
        self._load_begun = marker.loading
        self.following = Following(
            replica_id, instance, region=region, loading=marker.loading, gives_way=marker.gives_way, random=random
        )
        self.following.reach_lsn, self.following.given_up = marker.reach_lsn, marker.given_up
        # the last record of the log; and the highest term that it has met, for while there is no log
        self._last = ORIGIN
        self._term = 0
        #: The log; ``None`` while it is corrupt and no snapshot is loaded yet.
        self.spool: LogicalWalSpool | None = None
        self._open()

    def _open(self) -> None:
        try:
            self.spool = LogicalWalSpool.open(self._data_path, recovery="strict", **self._options)
            self._last = self.spool.position() or ORIGIN
        except SpoolCorrupt as error:
            with contextlib.suppress(SpoolCorrupt):  # where that can't be read either, nothing is known
                state = load_state(self._files)
                self._term = self._term if state is None else max(self._term, state.term, state.fence)
            self.lost(error)

    def lost(self, error: SpoolCorrupt) -> None:
        """The log can't be read: let go of it, and load. From any thread."""
        with self.lock:
            self._term = self.own.term
            held, self.spool, self._last = self.spool, None, ORIGIN
            self.following.lost(error)
        try:
            self.begin_load()  # a power loss may take the mark, and then the next start could find nothing wrong
        finally:
            if held is not None:
                held.close()

    def reopen(self) -> None:
        """Open the log anew, which a sync that failed has made necessary. ``OSError``."""
        with self.lock:
            self.end()
            self.close()
            self.spool = None
            self._open()

    def _marker(self) -> _Marker:
        try:
            return _Marker.parse(self._files.loading.read_text("ascii", "replace"))
        except FileNotFoundError:
            return _Marker()

    @property
    def own(self) -> OwnLog:
        """The log as the next decision needs it."""
        if self.spool is None:
            return OwnLog(ORIGIN, self._term)
        return OwnLog(self._last, max(self.spool.current_term, self.spool.fenced_term))

    @property
    def applicable(self) -> LogicalWalSpool | None:
        """The log, where its records go with the application's data: ``None`` from the begin of a load to its end."""
        return None if self._load_begun else self.spool

    # -- pulling -------------------------------------------------------------------------------------------------------

    def begin(self, head: StreamHead, now_s: float) -> bool:
        """A response has begun: whether to go on with it. ``OSError``: its term could not be noted."""
        own = self.own
        self.end()
        with self.lock:
            if self.spool is None or not self.following.head(head, own, now_s):
                return False
            if self.spool.fenced_term < head.term:  # before its first frame: this log has no records of its own
                self.spool.fence(head.term)
        self._head = head
        return True

    @property
    def room(self) -> memoryview:
        """Where what comes next goes; ``take`` it then."""
        return self._intake.room

    def take(self, count: int, now_s: float) -> bool:
        """Append what came, so many bytes in ``room``: whole frames, the rest waits for more.

        False: it does not fit, end the response. ``OSError``, ``SpoolPoisoned``.
        """
        spool = self.spool
        if spool is None or self._head is None:
            return False
        self._intake.came(count)
        if not self._intake.has_frame:
            return True
        held = self._intake.held
        try:
            done = spool.append_frames(held)
        except ValueError as error:  # a bad frame, or one that does not follow: nothing of this was appended
            if not isinstance(error, SpoolError):
                raise
            with self.lock:
                self.following.failed(ProtocolError(reason=str(error)), now_s)
            self._head = None
            return False
        if done.records:
            last = last_of(held, done.records) if done.records <= FEW_FRAMES else spool.position()
        else:
            last = None
        self._intake.gone(done.consumed)
        if last is not None:
            with self.lock:
                if self.spool is not spool:  # found corrupt meanwhile
                    return False
                self._last = last
                self.following.durable(last)
                if 0 < self.following.reach_lsn <= last.lsn:
                    self._unmark()
        return True

    def end(self) -> None:
        """The response is over, in whatever way; part of a frame counts for nothing."""
        self._intake.clear()
        self._head = None

    # -- bootstrap and promotion ---------------------------------------------------------------------------------------

    def begin_load(self) -> None:
        """Before a snapshot is loaded: from here on a crash leads to loading again. ``OSError``."""
        self._load_begun = True
        self._mark(_Marker(True, self.following.gives_way, 0, self.following.given_up))

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
        self._last = position
        self.following.reach_lsn = reach_lsn
        if reach_lsn > position.lsn:
            self._mark(_Marker(reach_lsn=reach_lsn))
        else:
            self._unmark()
        self._load_begun = False
        self.following.loaded()

    def _mark(self, marker: _Marker) -> None:
        fs.write_synced(self._files.loading, marker.text().encode())
        fs.sync_directory(self._files.directory)

    def _unmark(self) -> None:
        fs.unlink(self._files.loading)
        fs.sync_directory(self._files.directory)
        self.following.reach_lsn = 0

    def check_promotable(self) -> None:
        """``ProtocolError`` where the log must not become a primary's."""
        with self.lock:
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
