"""The primary's end over a real log: looks up what a decision needs, and carries it out. No sockets, no clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from walspool.errors import LsnPruned, SlotLimitReached, UnknownReplica
from walspool.net.frames import FEW_FRAMES, last_of
from walspool.net.messages import Ack, Registration, StreamHead, WalRequest
from walspool.net.protocol import CHUNK_BYTES, ORIGIN, Problem, Refused
from walspool.net.serving import (
    Counters,
    LogFacts,
    Read,
    Serve,
    Sessions,
    SlotFacts,
    Stream,
    Wait,
    decide_ack,
    decide_term,
    decide_wal,
    diverged,
    is_comparable,
    rebootstrap,
    start_of,
    unknown_replica,
)
from walspool.records import Position
from walspool.replication.primary import PrimaryReplication
from walspool.replication.resume import FullRebootstrap
from walspool.spool.follow import LoopWaiter
from walspool.spool.log import LogicalWalSpool

__all__ = ["Pull", "Snapshot", "SnapshotProvider", "Source"]

#: So many records that were sent last are remembered, with their positions.
_REMEMBERED: Final = 256

#: Gives the LSN that a snapshot stands for, and its bytes.
SnapshotProvider = Callable[[], tuple[int, Iterable[bytes]]]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot to be loaded: the position that its bytes stand for."""

    position: Position
    term: int
    #: Where the log was when it was asked for: what the replica acknowledged before lies at or below it.
    reach_lsn: int
    #: Whether the log that the replica gives up for it is known to be a part of this one.
    comparable: bool
    chunks: Iterable[bytes]


class Source:
    """One primary as its replicas meet it. Seconds are any steady clock's; safe to use from any number of threads.

    ``first_session``: another number with each start. ``snapshot``: what to bootstrap from; without one only a log
    that is still whole can be bootstrapped from, and then from its beginning.
    """

    def __init__(
        self,
        primary: PrimaryReplication,
        *,
        first_session: int,
        snapshot: SnapshotProvider | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        if primary.logical_wal_spool is None:
            raise ValueError("a primary without a data path can't be followed: it has no log on disk")
        self._primary = primary
        self._spool: LogicalWalSpool = primary.logical_wal_spool
        self._snapshot = snapshot
        self._chunk_bytes = chunk_bytes
        self._sessions = Sessions(first_session)
        self._lock = threading.Lock()
        # the last records of what was sent: nearly every acknowledgement is of one, and needs no look at the log
        self._sent: dict[int, Position] = {}

    def register(self, registration: Registration, now_s: float) -> dict[str, Any]:
        """Register a replica: its session, its slot's LSN, and where the primary is. ``Refused``, ``OSError``."""
        with self._lock:
            session = self._sessions.register(registration, now_s)
        if isinstance(session, Problem):
            raise _refusal(session)
        try:
            restart_lsn = self._primary.register_replica(registration.replica_id, registration.region)
        except BaseException as error:
            with self._lock:
                self._sessions.forget(registration.replica_id)
            if isinstance(error, SlotLimitReached):
                raise _no_slot(error) from None
            raise
        return {"session": session, "restart_lsn": restart_lsn, **self._standing()}

    def unregister(self, replica_id: str) -> bool:
        """Forget a replica; whether it was there. Its slot stays."""
        with self._lock:
            self._sessions.forget(replica_id)
        return self._primary.unregister_replica(replica_id)

    def pull(self, request: WalRequest, session: int | None, now_s: float) -> Pull:
        """Begin a response. ``Refused`` with the problem to answer instead."""
        self._meet(request.term)
        name = request.replica_id
        if name is not None:
            self._check(name, session, now_s)
        slot = None if name is None else self._slot(name)
        facts = self._facts(start_of(request, slot))
        answer = decide_wal(request, slot, facts)
        if isinstance(answer, Problem):
            raise _refusal(answer)
        if name is not None:
            self._settle(name, None if slot is None else start_of(request, slot), answer, facts)
        head = StreamHead(self._primary.term, self._spool.current_lsn, self._spool.oldest_lsn, answer.previous)
        if name is not None:
            self._opened(name, session, now_s, holds=answer.previous.lsn > 0 and not answer.reset)
        return Pull(self, request, session, head, now_s)

    def acknowledge(
        self, replica_id: str, session: int | None, ack: Ack, now_s: float, known: Position | None = None
    ) -> dict[str, Any]:
        """Count an acknowledgement. ``Refused``: it counts for nothing. ``known``: as ``remembered`` says."""
        problem = decide_ack(ack, self._slot(replica_id), self._facts(ack.durable_lsn, known))
        if problem is not None and problem.kind != "unknown-replica":
            self._check(replica_id, session, now_s)
        if problem is not None:
            raise _refusal(problem)
        # within the lock: no session that ends meanwhile may count any more
        with self._lock:
            ended = self._sessions.check_ack(replica_id, session, now_s)
            if ended is None:
                self._primary.ack_replica_lsn(
                    replica_id, ack.applied_lsn, ack.durable_lsn, ack.apply_error_count, ack.divergence_count
                )
        if ended is not None:
            raise _refusal(ended)
        return self._standing()

    def load(self, request: WalRequest, session: int | None, now_s: float) -> Snapshot:
        """Pin the log for a replica, then give it a snapshot; ``closed`` once it is sent. ``Refused``, ``OSError``.

        Where the request names the position of its last record, a log that has diverged is refused here, too.
        """
        replica_id = request.replica_id
        if replica_id is None:
            raise Refused(400, "bad-request", "a snapshot needs a replica_id: its slot pins the log meanwhile")
        self._meet(request.term)
        self._check(replica_id, session, now_s)
        facts = self._facts(start_of(request, None))
        # it may have been told to start again by another primary than this one
        problem = diverged(request.position, facts)
        if problem is not None:
            raise _refusal(problem)
        gone = self._gone_through()
        if self._snapshot is None and gone:
            detail = f"records through LSN {gone} are gone and this server has no snapshot to give (--snapshot)"
            raise Refused(501, "no-snapshot", detail)
        with self._lock:  # before the slot is reset, which an acknowledgement of the log before must not move
            self._sessions.loads(replica_id)
        # whoever loads is live, however long it takes
        self._opened(replica_id, session, now_s)
        try:
            return self._loaded(replica_id, request.position, facts)
        except BaseException:
            self.closed(replica_id, session, now_s)
            raise

    def _loaded(self, replica_id: str, theirs: Position | None, facts: LogFacts) -> Snapshot:
        try:
            self._primary.ensure_replica_registered(replica_id)
        except SlotLimitReached as error:
            raise _no_slot(error) from None
        reach_lsn = self._spool.current_lsn
        pinned = 0 if self._snapshot is None else reach_lsn
        try:
            self._primary.reset_slot(replica_id, pinned)
            self._primary.set_replica_rebootstrapping(replica_id, True)
            lsn, chunks = (0, ()) if self._snapshot is None else self._snapshot()
            position = self._position(lsn)
            if position is None or position.lsn != lsn:
                raise Refused(503, "snapshot-unusable", f"the snapshot stands for LSN {lsn}, which is no record here")
            if lsn < pinned:
                self._primary.reset_slot(replica_id, lsn)
                self._primary.set_replica_rebootstrapping(replica_id, True)
        except LsnPruned as error:
            raise Refused(503, "snapshot-unusable", f"the snapshot is too old: {error}") from None
        except UnknownReplica:  # its slot was dropped; registering makes another
            raise _refusal(unknown_replica()) from None
        return Snapshot(position, self._primary.term, reach_lsn, is_comparable(theirs, facts), chunks)

    def counters(self) -> Counters:
        """What replicas did since the start."""
        with self._lock:
            return self._sessions.counters

    # -- for a stream --------------------------------------------------------------------------------------------------

    def read(self, stream: Stream, max_bytes: int) -> bytes | None:
        """The next frames of a stream; ``None`` where a prune came past it."""
        batch = self._spool.read_frames(stream.since_lsn, max_bytes)
        last_lsn = stream.since_lsn if batch.last_lsn is None else batch.last_lsn
        if not stream.took(len(batch.data), last_lsn, self._gone_through()):
            return None
        if 0 < batch.records <= FEW_FRAMES:
            self._remember(last_of(batch.data, batch.records))
        return bytes(batch.data)  # as ASGI has it; the memory that was read into is free again at once

    def sent(self, replica_id: str, session: int | None, lsn: int, now_s: float) -> bool:
        """Frames through ``lsn`` go out; whether the session still stands."""
        with self._lock:
            if self._sessions.check(replica_id, session, now_s) is not None:
                return False
        self._primary.note_replica_pull(replica_id, lsn)
        return True

    def remembered(self, lsn: int) -> Position | None:
        """The position of this record, where it was the last of what was sent a while ago; with it, an acknowledgement
        is judged without a look at the disk."""
        return None if lsn < self._gone_through() else self._sent.get(lsn)

    def _remember(self, last: Position) -> None:
        with self._lock:
            self._sent[last.lsn] = last
            if len(self._sent) > _REMEMBERED:
                del self._sent[next(iter(self._sent))]

    def closed(self, replica_id: str, session: int | None, now_s: float) -> None:
        """A stream or a snapshot has ended."""
        with self._lock:
            self._sessions.closed(replica_id, session, now_s)

    def waiter(self) -> LoopWaiter:
        """Wakes when there may be more, without a thread. For one event loop, which closes it."""
        return LoopWaiter(self._spool.wakeup())

    @property
    def chunk_bytes(self) -> int:
        """Bytes of log that one stream costs in memory."""
        return self._chunk_bytes

    @property
    def current_lsn(self) -> int:
        """The end of what may be sent."""
        return self._spool.current_lsn

    @property
    def size_bytes(self) -> int:
        """The log on disk."""
        return self._spool.size_bytes

    def _meet(self, term: int | None) -> None:
        """A newer term fences this primary, whoever presents it, and is answered with that before anything else."""
        problem = decide_term(term, self._primary.term)
        if problem is None or term is None:
            return
        if problem.kind == "newer-term":
            self._primary.fence(term)
        raise _refusal(problem)

    def _opened(self, replica_id: str, session: int | None, now_s: float, *, holds: bool = False) -> None:
        with self._lock:
            problem = self._sessions.opened(replica_id, session, now_s, holds=holds)
        if problem is not None:
            raise _refusal(problem)

    # -- looking up ----------------------------------------------------------------------------------------------------

    def _check(self, replica_id: str, session: int | None, now_s: float) -> None:
        with self._lock:
            problem = self._sessions.check(replica_id, session, now_s)
        if problem is not None:
            raise _refusal(problem)

    def _settle(self, replica_id: str, since_lsn: int | None, answer: Serve, facts: LogFacts) -> None:
        """The slot, if there is one, follows the decision, durably before the first byte; a prune may come between.

        ``since_lsn``: what the replica has, ``None`` where it has no slot either.
        """
        try:
            if answer.reset:
                self._primary.reset_slot(replica_id, answer.previous.lsn)
            elif since_lsn is not None:
                # a new slot is at the end of the log, and a replica may have gone back: it needs more than was kept
                self._primary.set_slot_back(replica_id, since_lsn)
        except LsnPruned:
            raise _refusal(rebootstrap("wal-removed", facts)) from None
        except UnknownReplica:
            raise _refusal(unknown_replica()) from None
        if answer.previous.lsn:  # 0 would mean: from the slot
            plan = self._primary.plan_replica_resume(replica_id, answer.previous.lsn)
            if isinstance(plan, FullRebootstrap):
                raise _refusal(rebootstrap(plan.cause, facts))

    def _slot(self, replica_id: str) -> SlotFacts | None:
        slot = self._primary.find_slot(replica_id)
        if slot is None:
            return None
        loading = any(each.rebootstrapping for each in self._primary.replica_snapshots() if each.id == replica_id)
        return SlotFacts(slot.restart_lsn, slot.invalidation_reason, loading)

    def _facts(self, lsn: int, known: Position | None = None) -> LogFacts:
        asked = known or self._position(lsn)
        # what is gone comes last: a position that was found before is still judged by it
        gone = self._gone_through()
        boundary = self._spool.position_through(gone) if lsn < gone else None
        return LogFacts(self._primary.term, self._spool.current_lsn, gone, asked, boundary)

    def _position(self, lsn: int) -> Position | None:
        found = self._spool.position_through(lsn)
        return ORIGIN if found is None and not self._gone_through() else found

    def _gone_through(self) -> int:
        return max(self._spool.pruned_through, *(high for _, high in self._spool.holes), 0)

    def _standing(self) -> dict[str, Any]:
        return {"term": self._primary.term, "current_lsn": self._spool.current_lsn}


class Pull:
    """One response under way. Ask ``step`` until it gives ``None``, then ``close``."""

    def __init__(
        self, source: Source, request: WalRequest, session: int | None, head: StreamHead, now_s: float
    ) -> None:
        #: Where the log stood when it began, and the record that its first frame follows.
        self.head = head
        previous = head.previous
        self._source = source
        self._replica_id = request.replica_id
        self._session = session
        self._closed = False
        # how large the log was, at most, when everything was given; None while there is more
        self._sent_bytes: int | None = None
        # what was asked for may lie in a gap between LSNs, where there is no record
        since = previous.lsn if request.since_lsn is None else max(previous.lsn, request.since_lsn)
        self._stream = Stream(since, request.wait_ms, request.max_bytes, source.chunk_bytes, now_s)

    @property
    def since_lsn(self) -> int:
        """Everything through here was given."""
        return self._stream.since_lsn

    @property
    def is_at_hand(self) -> bool:
        """Whether ``step`` gives a chunk at most, of what was appended since it last had nothing to give.

        That is in memory still: an event loop may ask for it without a thread.
        """
        grown = None if self._sent_bytes is None else self._source.size_bytes - self._sent_bytes
        return grown is not None and 0 <= grown <= self._source.chunk_bytes

    def step(self, now_s: float) -> Wait | bytes | None:
        """Frames to send, or how long to wait for some; ``None`` when the response is to end."""
        size, end = self._source.size_bytes, self._source.current_lsn
        todo = self._stream.next(end, now_s)
        data = self._source.read(self._stream, todo.max_bytes) if isinstance(todo, Read) else None
        self._sent_bytes = size if self._stream.since_lsn >= end else None
        if not isinstance(todo, Read):
            return todo
        if data is None:
            return None
        if self._replica_id is not None and not self._source.sent(
            self._replica_id, self._session, self._stream.since_lsn, now_s
        ):
            return None
        return data

    def close(self, now_s: float) -> None:
        """It has ended, in whatever way. Twice does no harm."""
        if not self._closed and self._replica_id is not None:
            self._source.closed(self._replica_id, self._session, now_s)
        self._closed = True


def _no_slot(error: SlotLimitReached) -> Refused:
    return Refused(409, "slot-limit", str(error))


def _refusal(problem: Problem) -> Refused:
    return Refused(problem.status, problem.kind, problem.detail, **problem.facts)
