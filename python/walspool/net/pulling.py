"""The follower's decisions carried out: one thread that asks and writes, one that acknowledges, a connection each."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

from walspool.errors import ProtocolError, SpoolCorrupt, SpoolPoisoned, WalspoolError
from walspool.net.applying import Applying
from walspool.net.connection import Body, Connection, Refusal
from walspool.net.following import State
from walspool.net.messages import SnapshotHead, StreamHead
from walspool.net.protocol import CHECKSUM, CHUNK_BYTES, SESSION, checksum
from walspool.net.sink import Sink

__all__ = ["LoadSnapshot", "Pulling"]

log = logging.getLogger("walspool")

#: Called with the LSN that a snapshot stands for, and its bytes; durable when it returns.
LoadSnapshot = Callable[[int, Iterator[bytes]], object]

#: While the log is far behind, what follows is waited for so long: one sync for much costs less than many for little.
_MORE_MS: Final = 2
#: Above the time that an idle response lasts.
_GRACE_S: Final = 5.0
#: A snapshot may take its time; that the other end is alive, the kernel finds out.
_SNAPSHOT_S: Final = 600.0


class Pulling:
    """What one follower does with its log. ``end`` ends both threads soon."""

    def __init__(
        self,
        sink: Sink,
        connections: tuple[Connection, Connection],
        *,
        wait_ms: int,
        load_snapshot: LoadSnapshot | None,
    ) -> None:
        self._sink = sink
        self._following = sink.following
        self._stream, self._acks = connections
        self._wait_ms = wait_ms
        self._load_snapshot = load_snapshot
        #: What hands the records to an application, where something does.
        self.applying: Applying | None = None
        self._ending = False
        #: Rung whenever something is decided or durable.
        self.changed = threading.Condition(sink.lock)
        #: The end of the primary's log as it last said, and when; ``None`` before it has.
        self.primary_lsn: int | None = None
        self.heard_s: float | None = None
        #: How often a snapshot was loaded.
        self.bootstraps = 0

    def end(self) -> None:
        """Both threads end; whatever they wait for is cut off."""
        with self.changed:
            self._ending = True
            self.changed.notify_all()
        self._stream.cut()
        self._acks.cut()

    @property
    def ending(self) -> bool:
        """Whether ``end`` was called."""
        return self._ending

    def await_change(self, seconds: float) -> None:
        """Wait until something is decided or durable, or for so long.

        Not where signals come: a handler may stop the follower, which must not find the lock held by its own thread.
        """
        with self.changed:
            self.changed.wait(seconds)

    def applied(self, lsn: int) -> None:
        """``apply`` has had everything through here."""
        with self.changed:
            self._following.applied(lsn)
            if self.applying is not None:
                self._following.apply_errors = self.applying.errors
            self.changed.notify_all()

    def start_again(self) -> None:
        """A person has decided that a diverged log gives way to a snapshot."""
        with self.changed:
            self._following.start_again()
            self.changed.notify_all()

    def lost(self, error: SpoolCorrupt) -> None:
        """Somebody has found that the log can't be read."""
        with self.changed:
            self._sink.lost(error)
            self._tell_lost()
            self.changed.notify_all()
        self._stream.cut()

    # -- the thread that asks and writes -------------------------------------------------------------------------------

    def pull(self) -> None:
        """Register, pull, load, until ``end``."""
        self._tell_lost()
        while self._wait_for_work():
            try:
                self._act()
            except Refusal as refusal:
                with self.changed:
                    self._following.refused(refusal.problem, time.monotonic())
            except SpoolPoisoned as error:
                self._failed(error)
                self._reopen()
            except WalspoolError as error:
                self._failed(error)
            except (OSError, http.client.HTTPException) as error:
                if not self._stream.is_cut:  # else it is decided already what is next
                    self._failed(_told(error))
            except Exception as error:
                log.exception("following %s failed", self._stream)
                self._failed(ProtocolError(f"the follower failed: {type(error).__name__}: {error}"))

    def _wait_for_work(self) -> bool:
        """Wait until there is something to ask; False at the end."""
        with self.changed:
            while not self._ending:
                following = self._following
                following.tick(time.monotonic())
                if following.state is State.WAITING:
                    self.changed.wait(max(following.wait_until_s - time.monotonic(), 0.001))
                elif following.state is State.STOPPED:
                    self.changed.wait()
                else:
                    self._stream.mend()
                    self.changed.notify_all()
                    return True
            return False

    def _act(self) -> None:
        if self._following.state is State.REGISTERING:
            self._register()
        elif self._following.state is State.LOADING:
            self._load()
        else:
            self._pull()

    def _register(self) -> None:
        body = json.dumps(self._following.registration().fields()).encode()
        reply = self._stream.call("POST", "/v1/replicas", body)
        session, lsn = _number(reply, "session"), _number(reply, "current_lsn")
        with self.changed:
            self._following.registered(session)
            self._heard(lsn)
            self.changed.notify_all()

    def _pull(self) -> None:
        with self.changed:
            request = replace(self._following.request(self._sink.own), wait_ms=self._wait_ms)
            session = self._following.session
        begun_s, before = time.monotonic(), request.since_lsn
        body = self._stream.stream(
            f"/v1/wal?{request.query()}", _headers(request.query(), session), self._wait_ms / 1000 + _GRACE_S
        )
        try:
            head = StreamHead.parse(body.headers)
            with self.changed:
                taken = self._sink.begin(head, time.monotonic())
                if taken:
                    self._heard(head.current_lsn)
                self._durable_is_applied()
                self.changed.notify_all()
            while taken and self._following.state is State.PULLING and not self._ending:
                if not self._take(body, head.current_lsn):
                    break
        finally:
            self._sink.end()
            if not body.whole:
                self._stream.drop()
        with self.changed:
            if body.whole and self._following.state is State.PULLING:
                now_s = time.monotonic()
                # one that has nothing for us waits as long as it is asked to; half of it, since clocks differ
                if self._sink.own.last.lsn == before and now_s - begun_s < self._wait_ms / 2000:
                    self._following.empty(now_s)
                else:
                    self._following.ended()

    def _take(self, body: Body, begun_lsn: int) -> int:
        """Append what has come: how many bytes; ``begun_lsn``: what the primary had when the response began."""
        behind = self._sink.own.last.lsn < begun_lsn
        count = body.readinto(self._sink.room, _MORE_MS if behind else 0)
        if count and self._sink.take(count, time.monotonic()):
            with self.changed:
                self._durable_is_applied()
                self.changed.notify_all()
        return count

    def _durable_is_applied(self) -> None:
        """Where nothing is applied, a record that is durable is all there is to a replica."""
        if self.applying is None:
            self._following.applied(self._sink.own.last.lsn)

    def _load(self) -> None:
        with self.changed:
            sink, following = self._sink, self._following
            held = sink.own.last.lsn and not following.gives_way
            if self._load_snapshot is None and (held or self._has_applied()):
                return self._cannot_load()
            sink.begin_load()
            query = following.load_request(sink.own).query()
            session = following.session
        body = self._stream.stream(f"/v1/snapshot?{query}", _headers(query, session), _SNAPSHOT_S)
        try:
            head = SnapshotHead.parse(body.headers)
            with self.changed:
                if not sink.load(head.term, head.comparable, time.monotonic()):
                    return None
                if self._load_snapshot is None and head.position.lsn:
                    return self._cannot_load()
            with nullcontext() if self.applying is None else self.applying.paused():
                self._load_whole(head.position.lsn, body)
                with self.changed:
                    if self.applying is not None:
                        self.applying.begin_at(head.position.lsn)
                    sink.finish_load(head.position, head.term, head.reach_lsn)
                    self.bootstraps += 1
                    self.changed.notify_all()
        finally:
            if not body.whole:
                self._stream.drop()
        return None

    def _load_whole(self, lsn: int, body: Body) -> None:
        chunks = body.chunks(CHUNK_BYTES)
        if self._load_snapshot is not None:
            try:
                self._load_snapshot(lsn, chunks)
            except (OSError, http.client.HTTPException, WalspoolError):
                raise
            except BaseException as error:  # SystemExit, too: a thread that ends by it ends without a word
                log.exception("loading the snapshot of LSN %d failed", lsn)
                raise ProtocolError(f"load_snapshot failed: {type(error).__name__}: {error}") from None
        if next(chunks, b"") or not body.whole:
            raise ProtocolError("load_snapshot returned before it had the whole snapshot")

    def _cannot_load(self) -> None:
        words = (
            "this replica has to start again from a snapshot, and has nothing to load one with: follow with "
            f"load_snapshot (--snapshot){'' if self._following.error is None else f'; {self._following.error}'}"
        )
        self._following.cannot_load(ProtocolError(words))
        self.changed.notify_all()

    def _has_applied(self) -> bool:
        return self.applying is not None and self.applying.lsn > 0

    def _tell_lost(self) -> None:
        if self._sink.spool is None:
            log.error("the replica's log can't be used, and it starts again from a snapshot: %s", self._following.error)

    def _reopen(self) -> None:
        try:
            self._sink.reopen()
            self._tell_lost()
        except (OSError, WalspoolError) as error:
            self._failed(_told(error))

    def _failed(self, error: WalspoolError) -> None:
        with self.changed:
            if not self._ending and self._following.state is not State.WAITING:
                self._following.failed(error, time.monotonic())
            self.changed.notify_all()

    # -- the thread that acknowledges ----------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Acknowledge each sync, one after the other, until ``end``."""
        path = f"/v1/replicas/{self._following.registration().replica_id}/ack"
        while True:
            with self.changed:
                while not self._ending and (ack := self._following.next_ack()) is None:
                    self.changed.wait()
                if self._ending or ack is None:
                    return
                session = self._following.session
            body = json.dumps(ack.fields()).encode()
            try:
                reply = self._acks.call("POST", path, body, _headers(body, session))
                lsn = _number(reply, "current_lsn")
            except Refusal as refusal:
                with self.changed:
                    self._following.ack_refused(refusal.problem, time.monotonic())
                    self._cut_off()
            except (OSError, http.client.HTTPException, WalspoolError) as error:
                with self.changed:
                    self._following.ack_lost()
                    self._failed(_told(error))
                    self._cut_off()
            except Exception as error:  # whatever it is: without acknowledgements the follower only looks alive
                log.exception("acknowledging to %s failed", self._acks)
                with self.changed:
                    self._following.ack_lost()
                    self._failed(ProtocolError(f"the follower failed: {type(error).__name__}: {error}"))
                    self._cut_off()
            else:
                with self.changed:
                    self._following.ack_returned()
                    self._heard(lsn)

    def _cut_off(self) -> None:
        """The other thread must see what was decided here."""
        if self._following.state is not State.PULLING:
            self._stream.cut()
            self.changed.notify_all()

    def _heard(self, lsn: int) -> None:
        self.primary_lsn, self.heard_s = lsn, time.monotonic()


def _headers(checked: str | bytes, session: int | None) -> dict[str, str]:
    found = {CHECKSUM: checksum(checked)}
    return found if session is None else {**found, SESSION: str(session)}


def _number(reply: dict[str, Any], name: str) -> int:
    value = reply.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolError(reason=f"an answer has no {name}")
    return value


def _told(error: Exception) -> WalspoolError:
    """What went wrong, for people: an error of a file names it, any other is the network's."""
    if isinstance(error, WalspoolError):
        return error
    if isinstance(error, OSError) and error.filename is not None:
        return WalspoolError(str(error))
    return WalspoolError(f"no answer from the primary: {str(error) or type(error).__name__}")
