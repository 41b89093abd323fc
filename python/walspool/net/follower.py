"""``Follower``: keeps a replica's log the same as its primary's, and hands its records to an application."""

from __future__ import annotations

import os
import random
import ssl
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self

from walspool.errors import ProtocolError, SpoolClosed
from walspool.net.applying import Apply, Applying
from walspool.net.connection import Address, Connection
from walspool.net.following import State
from walspool.net.identity import Identity, Upstream
from walspool.net.loops import Loops
from walspool.net.presenter import present_term
from walspool.net.promotion import promote_log
from walspool.net.protocol import MAX_WAIT_MS, printable
from walspool.net.pulling import LoadSnapshot, Pulling
from walspool.net.sink import Sink
from walspool.records import Position, check_region, check_replica_id, check_u64
from walspool.replication.config import ReplicationConfig
from walspool.replication.primary import PrimaryReplication
from walspool.spool.files import SpoolFiles
from walspool.spool.interrupt import SIGNALS_S, uninterrupted
from walspool.spool.log import SEGMENT_BYTES, LogicalWalSpool

__all__ = ["Follower", "FollowerStatus"]

StrPath = str | os.PathLike[str]
_followers: weakref.WeakSet[Follower] = weakref.WeakSet()


@dataclass(frozen=True)
class FollowerStatus:
    """How a follower is, at one moment."""

    replica_id: str
    url: str
    #: ``registering``, ``pulling``, ``loading``, ``waiting`` (to try again), or ``stopped``.
    state: str
    #: Whether its log was found to be a part of the primary's since it last registered there.
    agrees: bool
    #: The highest term that it has met.
    term: int
    #: Everything through here is durable in its log.
    durable_lsn: int
    #: ``apply`` has returned for everything through here; without ``apply`` the same as ``durable_lsn``.
    applied_lsn: int
    #: Where the primary's log ended when it was last heard of; ``None`` before.
    primary_lsn: int | None
    #: How long ago that was, in seconds.
    heard_s_ago: float | None
    #: What went wrong last, for people; ``None`` while all goes well.
    error: str | None
    #: What ``apply`` raised last; ``None`` once it has returned since.
    apply_error: str | None
    #: How often ``apply`` raised.
    apply_errors: int
    #: How often its log was found to have diverged.
    divergences: int
    #: How often it has connected to the primary.
    connects: int
    #: How often it has started again from a snapshot.
    bootstraps: int
    #: It may not be promoted before its log is this far; 0 for no such bound.
    reach_lsn: int
    #: Where a log ended that a bootstrap gave up and nobody could compare; its files are set aside.
    given_up: Position | None


class Follower:
    """Follows the primary at ``url`` (``http://HOST:PORT``, ``https://HOST:PORT``) as ``replica_id``.

    ``data_path``: where the replica's log is kept. ``token``: what the primary asks for; it never goes over plain
    http to another machine, unless ``insecure``. ``region``: for commits that ask for a copy in it.

    ``apply``: called in a thread of its own with each ``Entry``, in order, at least once; what it raises is counted,
    and the same record is tried again. ``load_snapshot``: called with the LSN that a snapshot stands for and an
    iterator over its bytes; the application's data must be replaced by it, durably, when it returns, and it must not
    hide what the iterator raises. Without one a replica that needs a snapshot stops and says so.

    ``ssl_context``: for https; without one the system's certificates count. ``wait_ms``: how long a request waits for
    records at most, 1 to 30,000. ``segment_bytes``: as for ``walspool.open``.

    A context manager: it starts, and stops at the end. ``ValueError`` and ``TypeError`` for what can't be used.
    """

    def __init__(
        self,
        url: str,
        replica_id: str,
        data_path: StrPath,
        *,
        token: str | None = None,
        region: str | None = None,
        apply: Apply | None = None,
        load_snapshot: LoadSnapshot | None = None,
        ssl_context: ssl.SSLContext | None = None,
        insecure: bool = False,
        wait_ms: int = 10_000,
        segment_bytes: int | None = SEGMENT_BYTES,
    ) -> None:
        self._running = False
        self._upstream = Upstream(url, check_replica_id(replica_id))
        self._address = Address.parse(url)
        self._address.check_may_have(token, insecure)
        if not 1 <= check_u64("wait_ms", wait_ms) <= MAX_WAIT_MS:
            raise ValueError(f"wait_ms must be between 1 and {MAX_WAIT_MS}, not {wait_ms}")
        self._data_path = data_path
        self._token, self._context, self._insecure = token, ssl_context, insecure
        self._connections = self._connect(), self._connect()
        check_region(region)
        self._region = region
        self._apply, self._load_snapshot = apply, load_snapshot
        self._wait_ms, self._segment_bytes = wait_ms, segment_bytes
        self._sink: Sink | None = None
        self._pulling: Pulling | None = None
        self._applying: Applying | None = None
        self._loops: Loops | None = None
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()
        _followers.add(self)

    def _connect(self) -> Connection:
        return Connection(self._address, self._token, self._context)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the log and begin to follow, in threads of its own. Twice does no harm.

        ``SpoolLocked`` where another program has the log; ``OSError``.
        """
        with self._lock:
            if self._running:
                return
            self._open()
            self._running = True
            self._begin_threads()

    def stop(self) -> None:
        """End following and close the log. What waits for the network ends at once, a running ``apply`` first returns.

        May be called twice, and from ``apply``.
        """
        while not self._lock.acquire(timeout=SIGNALS_S):
            if threading.current_thread() in self._threads and (self._pulling is None or self._pulling.ending):
                self._running = False  # whoever ends them holds the lock, and waits for this very thread
                return
        try:
            self._running = False
            self._end_threads()
            self._close()
        finally:
            self._lock.release()

    def run(self) -> None:
        """Follow in this thread until ``stop`` or Ctrl-C; the log is closed when this returns.

        Raises what a person has to decide about, such as ``Diverged``.
        """
        self.start()
        try:
            while self._running:
                self._raise_if_stopped()
                pulling = self._pulling
                if pulling is not None:
                    uninterrupted(partial(pulling.await_change, SIGNALS_S))
        finally:
            self.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if getattr(self, "_running", False) and not ending():  # then modules may be empty, and the system ends threads
            self._running = False
            try:
                warnings.warn(f"a follower was not stopped: {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                self._abandon()

    def __repr__(self) -> str:
        return f"<Follower {self._upstream.replica_id} of {self._upstream.url}>"

    # -- what it holds -------------------------------------------------------------------------------------------------

    @property
    def spool(self) -> LogicalWalSpool:
        """The replica's log, to read from. A bootstrap puts another in its place.

        ``SpoolClosed`` while the follower is stopped, or its log is corrupt and no snapshot is loaded yet.
        """
        found = None if self._sink is None else self._sink.spool
        if found is None:
            raise SpoolClosed("the replica has no open log: it is stopped, or loads a snapshot", path=None)
        return found

    def status(self) -> FollowerStatus:
        """How it is now."""
        return uninterrupted(self._status)

    def _status(self) -> FollowerStatus:
        sink, pulling, applying = self._sink, self._pulling, self._applying
        if sink is None or pulling is None:
            raise SpoolClosed("the follower is not started", path=None)
        with pulling.changed:
            following, own = sink.following, self._own_lsns(sink)
            heard_s = pulling.heard_s
            return FollowerStatus(
                replica_id=self._upstream.replica_id,
                url=self._upstream.url,
                state=following.state.value,
                agrees=following.agrees,
                term=own[1],
                durable_lsn=own[0],
                applied_lsn=own[0] if applying is None else min(applying.lsn, own[0]),
                primary_lsn=pulling.primary_lsn,
                heard_s_ago=None if heard_s is None else time.monotonic() - heard_s,
                error=None if following.error is None else printable(str(following.error)),
                apply_error=None if applying is None else applying.error,
                apply_errors=0 if applying is None else applying.errors,
                divergences=following.divergences,
                connects=sum(each.made for each in self._connections),
                bootstraps=pulling.bootstraps,
                reach_lsn=following.reach_lsn,
                given_up=following.given_up,
            )

    def _own_lsns(self, sink: Sink) -> tuple[int, int]:
        try:
            own = sink.own
        except SpoolClosed:  # stopped meanwhile
            return 0, 0
        return own.last.lsn, own.term

    def wait_for(self, lsn: int, timeout: float | None = None, *, applied: bool = False) -> bool:
        """Wait until the log holds ``lsn`` durably (``applied``: and ``apply`` has had it); False after ``timeout`` s.

        It is its own log that is looked at, whether or not the primary has agreed to it yet (``status().agrees``).
        Raises what has stopped the follower for good, such as ``Diverged``; ``SpoolClosed`` once it is stopped.
        """
        check_u64("lsn", lsn)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            status, pulling = self.status(), self._pulling
            self._raise_if_stopped()
            if (status.applied_lsn if applied else status.durable_lsn) >= lsn:
                return True
            left = SIGNALS_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            if pulling is not None:
                uninterrupted(partial(pulling.await_change, min(left, SIGNALS_S)))

    def _raise_if_stopped(self) -> None:
        sink = self._sink
        if sink is not None and sink.following.state is State.STOPPED and sink.following.error is not None:
            raise sink.following.error

    # -- what a person decides -----------------------------------------------------------------------------------------

    def start_again(self) -> None:
        """Give up a log that has diverged, for a snapshot. Its files are set aside."""
        sink, pulling = self._sink, self._pulling
        if sink is None or pulling is None:
            raise SpoolClosed("the follower is not started", path=None)
        uninterrupted(pulling.start_again)

    def promote(self, config: ReplicationConfig | None = None, *, timeout: float = 30.0) -> PrimaryReplication:
        """Follow no more: the log becomes that of a primary in the next term, which is durable on return.

        ``apply`` first gets every record that the log holds, within ``timeout`` seconds. From then on the new primary
        presents its term to the former one until that has answered. ``config``: as for ``PrimaryReplication``.

        ``ProtocolError``: it may not be promoted, or ``apply`` is not done; it follows as before. Any other error may
        have come behind the new term: then it is stopped, and this has to be called again; ``start`` would fence the
        former primary.
        """
        if config is not None and not isinstance(config, ReplicationConfig):
            raise TypeError(f"config must be a ReplicationConfig, not {type(config).__name__}")
        if threading.current_thread() in self._threads:
            raise ProtocolError("apply can't promote its follower: promoting waits until apply has returned")
        with self._lock:
            was_running = self._running
            if not was_running:
                self._open()
            assert self._sink is not None
            try:
                uninterrupted(self._sink.check_promotable)
            except BaseException:
                if not was_running:
                    self._close()
                raise
            self._end_threads(but_apply=True)
            try:
                self._drain(timeout)
                self._end_threads()
                uninterrupted(self._sink.check_promotable)  # the primary may have answered that it must load
                if was_running and not self._running:
                    raise SpoolClosed("the follower was stopped meanwhile", path=None)
            except BaseException:
                self._end_threads()
                self._close()
                if self._running:
                    self._open()
                    self._begin_threads()
                raise
            # no way back from here: a follower that has met the new term would fence the only primary there is
            self._running = False
            try:
                promote_log(self._sink, self._data_path)
            finally:
                self._close()
            primary = PrimaryReplication(self._data_path, config, recovery="strict")
            present_term(
                primary, self._data_path, token=self._token, ssl_context=self._context, insecure=self._insecure
            )
            return primary

    def _drain(self, timeout: float) -> None:
        applying, pulling, last = self._applying, self._pulling, self.spool.position()
        if applying is None or pulling is None or last is None:
            return
        deadline = time.monotonic() + timeout
        while applying.lsn < last.lsn:
            if time.monotonic() >= deadline or not self._threads:
                words = f"apply has had the records through LSN {applying.lsn}, and the log ends at {last.lsn}"
                raise ProtocolError(f"this replica can't be promoted yet: {words}")
            uninterrupted(partial(pulling.await_change, SIGNALS_S))

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        identity = Identity.load(self._data_path)
        sink = Sink(
            self._data_path,
            self._upstream.replica_id,
            identity.instance(self._data_path),
            region=self._region,
            random=random.random,
            segment_bytes=self._segment_bytes,
        )
        self._sink = sink
        try:
            # whatever it was before, it is a replica now, and tells nobody of a term of its own
            wanted = replace(identity, upstream=self._upstream, untold=())
            if wanted != identity:
                wanted.save(self._data_path)
            files = SpoolFiles(LogicalWalSpool.path_for(self._data_path))
            # from here on nothing refers back to the follower: one that is dropped must be found to be
            pulling = Pulling(sink, self._connections, wait_ms=self._wait_ms, load_snapshot=self._load_snapshot)
            if self._apply is not None:
                self._applying = pulling.applying = Applying(
                    files.applied, self._apply, lambda: sink.applicable, pulling.applied, pulling.lost, random.random
                )
            self._pulling = pulling
        except BaseException:
            self._close()
            raise

    def _begin_threads(self) -> None:
        pulling, applying = self._pulling, self._applying
        assert pulling is not None
        for each in self._connections:  # which the end before has cut off
            each.mend()
        loops: dict[str, Callable[[], None]] = {"pull": pulling.pull, "ack": pulling.acknowledge}
        if applying is not None:
            loops["apply"] = applying.run
        name = f"walspool-%s-{self._upstream.replica_id}"
        self._loops = Loops({name % each: loop for each, loop in loops.items()})
        self._loops.start()
        self._threads = list(self._loops.threads)

    def _end_threads(self, *, but_apply: bool = False) -> None:
        if self._pulling is not None:
            uninterrupted(self._pulling.end)
        if self._applying is not None and not but_apply:
            self._applying.end()
        ending = [each for each in self._threads if not (but_apply and each.name.startswith("walspool-apply-"))]
        for each in ending:
            if each is not threading.current_thread():  # apply itself may stop its follower
                each.join()
        self._threads = [each for each in self._threads if each not in ending]

    def _close(self) -> None:
        try:
            _let_go(self._sink, self._applying, self._connections)
        finally:
            self._sink = self._pulling = self._applying = None

    def _abandon(self) -> None:
        """Nobody holds it any more: its threads end, and the last of them lets go of the log."""
        if self._pulling is not None and self._loops is not None:
            self._pulling.end()
            if self._applying is not None:
                self._applying.end()
            self._loops.abandon(partial(_let_go, self._sink, self._applying, self._connections))

    def _forget(self) -> None:
        """Let go without a word: in a forked child nothing of it is ours."""
        self._running = False
        for each in self._connections:
            each.forget()
        self._threads = []
        self._sink = self._pulling = self._applying = self._loops = None


def _let_go(sink: Sink | None, applying: Applying | None, connections: tuple[Connection, ...]) -> None:
    try:
        if applying is not None:
            applying.close()
    finally:
        for each in connections:
            each.drop()
        if sink is not None:
            sink.close()


def _forget_in_child() -> None:
    for follower in list(_followers):
        follower._lock = threading.RLock()  # whoever held it is not here
        follower._forget()


os.register_at_fork(after_in_child=_forget_in_child)
