"""The primary's decisions: who is served, from where, until when, and which acknowledgement counts. No I/O, no clock.

One stream of ``GET /v1/wal``:

| state | event | next |
|---|---|---|
| asked | a term too far above ours | refused |
| asked | a newer term than ours | refused, and this primary is fenced |
| asked | an old session | refused: register again |
| asked | its position is not that of our record at that LSN | refused as diverged, both positions named |
| asked | no position, and an LSN above our last | refused: what comes next would not follow it |
| asked | its position lies in what is gone, and its term is above the last that is gone | refused as diverged |
| asked | an invalid slot, or a position in what is gone, or nothing held while something is gone | refused: bootstrap |
| asked | else | waiting; its slot is made valid there if it was loading a snapshot, or set back where it was above |
| waiting | a record behind it | sending |
| waiting | the time is up | ended, empty |
| sending | a chunk was read, and a prune has not come past its start | sending, that chunk |
| sending | a prune came past it, or a newer session of its replica | cut off |
| sending | 64 MiB, 30 s, or the caller's less | ended |

What a crash leaves: nothing of this is on disk. Behind a restart each replica has to register again, which gives it a
new session; acknowledgements of the old one, also those that the network delivers late, count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from walspool.net.messages import Ack, Registration, WalRequest
from walspool.net.protocol import MAX_RESPONSE_S, TERM_STEP, Problem, position_text
from walspool.records import Position

__all__ = [
    "Counters",
    "LogFacts",
    "Read",
    "Serve",
    "Sessions",
    "SlotFacts",
    "Stream",
    "Wait",
    "decide_ack",
    "decide_term",
    "decide_wal",
    "diverged",
    "is_comparable",
    "rebootstrap",
    "start_of",
    "unknown_replica",
]

#: A replica that was heard of within so many seconds is live: a second one under its id is refused.
LIVE_S = 10.0


@dataclass(frozen=True)
class LogFacts:
    """The log as one request finds it."""

    term: int
    current_lsn: int
    #: Records at or below it are pruned or lost.
    gone_through: int
    #: Of the last record at or below the LSN in question, the prune boundary included; ``None`` where that is gone.
    asked: Position | None
    #: Of the last record that was pruned.
    boundary: Position | None = None


@dataclass(frozen=True)
class SlotFacts:
    """A replica's slot; ``cause`` says why it is invalid."""

    restart_lsn: int
    cause: str | None = None
    loading: bool = False


@dataclass(frozen=True)
class Serve:
    """Send the records behind ``previous``; ``reset``: the slot begins there first."""

    previous: Position
    reset: bool = False


def rebootstrap(cause: str, facts: LogFacts, theirs: Position | None = None) -> Problem:
    """The problem of a replica whose records are gone; ``theirs`` is where its log ends."""
    detail = (
        f"the records asked for are no longer kept ({cause}): pruned or lost through LSN {facts.gone_through}; "
        "load GET /v1/snapshot, start the log at its position, and ask again from there"
    )
    told = {"cause": cause, "gone_through": facts.gone_through, "comparable": is_comparable(theirs, facts)}
    return Problem(410, "rebootstrap-required", detail, told)


def is_comparable(theirs: Position | None, facts: LogFacts) -> bool:
    """Whether a log that ends at ``theirs`` and has not diverged is known to be a part of this one.

    Where its record is gone the terms tell: one term has one primary.
    """
    if theirs is None or theirs.lsn >= facts.gone_through:
        return True
    return facts.boundary is not None and theirs.term == facts.boundary.term


def diverged(theirs: Position | None, facts: LogFacts) -> Problem | None:
    """The problem of a log that ends at ``theirs`` and is no part of this one; ``None`` where it may be one."""
    if theirs is None:
        return None
    if theirs.lsn < facts.gone_through and facts.boundary is not None:
        # it lies below the boundary in a term that is newer there: the two parted before
        below = theirs.term > facts.boundary.term
        return _diverged(theirs, replace(facts, asked=facts.boundary)) if below else None
    parted = theirs.lsn > facts.current_lsn or facts.asked != theirs
    return _diverged(theirs, facts) if parted else None


def decide_term(term: int | None, ours: int) -> Problem | None:
    """Why whoever has met ``term`` is not served, whatever it asks: ours is older, so that we were replaced.

    Only where the problem is ``newer-term``: no term can be further above ours than ``TERM_STEP``.
    """
    if term is None or term <= ours:
        return None
    if term > ours + TERM_STEP:
        detail = f"the term {term} can't be another primary's: it is more than {TERM_STEP} above this one's, {ours}"
        return Problem(400, "bad-request", detail)
    detail = f"this primary's term is {ours} and a primary of term {term} exists: this one has been replaced"
    return Problem(409, "newer-term", detail, {"term": ours, "newer": term})


def _diverged(theirs: Position, facts: LogFacts) -> Problem:
    ours = facts.asked if facts.asked is not None else Position(facts.term, facts.current_lsn, 0)
    detail = (
        f"the replica's log holds {position_text(theirs)} where this one holds {position_text(ours)} (term:lsn:crc): "
        "they have diverged; start the replica again from a snapshot"
    )
    return Problem(409, "diverged", detail, {"ours": position_text(ours), "theirs": position_text(theirs)})


def decide_wal(request: WalRequest, slot: SlotFacts | None, facts: LogFacts) -> Serve | Problem:
    """Whether and from where a request is served. ``facts.asked`` is looked up for the LSN that it starts behind."""
    since = start_of(request, slot)
    theirs = request.position
    loaded = slot is not None and slot.loading and theirs is not None
    problem = diverged(theirs, facts)
    if problem is not None:
        return problem
    if theirs is None and since > facts.current_lsn:
        return _beyond("beyond-wal", since, facts)
    if slot is not None and slot.cause is not None and not loaded:
        return rebootstrap(slot.cause, facts, theirs)
    if since < facts.gone_through:
        return rebootstrap("wal-removed", facts, theirs)
    if facts.asked is None:
        return rebootstrap("wal-removed", facts)
    return Serve(facts.asked, reset=loaded)


def start_of(request: WalRequest, slot: SlotFacts | None) -> int:
    """The LSN behind which a request wants the records."""
    if request.since_lsn is not None:
        return request.since_lsn
    return slot.restart_lsn if slot is not None else 0


def decide_ack(ack: Ack, slot: SlotFacts | None, facts: LogFacts) -> Problem | None:
    """Why an acknowledgement counts for nothing, ``None`` if it counts. ``facts.asked``: for its LSN."""
    if slot is None:
        return unknown_replica()
    if ack.durable_lsn > facts.current_lsn:
        return _beyond("ack-beyond-wal", ack.durable_lsn, facts)
    # whether it has diverged comes before what became of its slot: a bootstrap would give up what nobody compared
    gone = ack.durable_lsn < facts.gone_through
    if not gone and facts.asked != ack.position:
        return _diverged(ack.position, facts)
    if slot.cause is not None:
        return rebootstrap(slot.cause, facts, ack.position)
    if gone:  # late: what its record was can't be told any more, and need not be
        return Problem(409, "old-ack", f"LSN {ack.durable_lsn} is pruned, so this says nothing new")
    return None


def _beyond(kind: str, lsn: int, facts: LogFacts) -> Problem:
    detail = f"LSN {lsn} is beyond the end of the log at {facts.current_lsn}: the replica has diverged"
    return Problem(409, kind, detail, {"lsn": lsn, "current_lsn": facts.current_lsn})


def unknown_replica() -> Problem:
    """The problem of a replica that has no slot."""
    return Problem(404, "unknown-replica", "this replica is not known here: register it with POST /v1/replicas")


def _ended() -> Problem:
    return Problem(409, "old-session", "this session has ended: register again with POST /v1/replicas")


@dataclass(frozen=True)
class Counters:
    """What replicas did since this primary started."""

    #: Registrations of a replica that had been registered before.
    reconnects: int = 0
    #: Registrations behind which a stream went on where the replica's log ended.
    partial_resyncs: int = 0
    #: Times that a replica began again from a snapshot.
    full_resyncs: int = 0
    #: Responses that stream the log to a replica now.
    streams: int = 0


@dataclass
class _Session:
    instance: str | None
    number: int
    seen_s: float
    streams: int = 0
    resumed: bool = False
    #: Whether it has asked for a snapshot: what it acknowledged of its log before may come late, and counts no more.
    loads: bool = False


@dataclass
class Sessions:
    """Which program follows under which replica id, since this primary started. Seconds are any steady clock's."""

    #: Where session numbers begin: another number with each start of the primary, so that none is met again.
    first: int
    _given: int = 0
    _of: dict[str, _Session] = field(default_factory=dict)
    _counted: Counters = field(default_factory=Counters)

    @property
    def counters(self) -> Counters:
        """The counters, as of now."""
        return replace(self._counted, streams=sum(each.streams for each in self._of.values()))

    def register(self, registration: Registration, now_s: float) -> int | Problem:
        """A new session, which ends the one before; refused while another instance is live."""
        known = self._of.get(registration.replica_id)
        if (
            known is not None
            and known.instance != registration.instance
            and (known.streams or now_s - known.seen_s < LIVE_S)
        ):
            detail = f"another program follows as {registration.replica_id}; stop it, or give this one an id of its own"
            return Problem(409, "second-instance", detail)
        if known is not None:
            self._counted = replace(self._counted, reconnects=self._counted.reconnects + 1)
        number = self.first + self._given
        self._given += 1
        self._of[registration.replica_id] = _Session(registration.instance, number, now_s)
        return number

    def check(self, replica_id: str, session: int | None, now_s: float) -> Problem | None:
        """Why a message of this session is refused, ``None`` when it is the current one."""
        known = self._of.get(replica_id)
        if session == (None if known is None else known.number):
            if known is not None:
                known.seen_s = now_s
            return None
        return _ended()

    def check_ack(self, replica_id: str, session: int | None, now_s: float) -> Problem | None:
        """``check`` for an acknowledgement: none counts once a snapshot was asked for, until a new registration."""
        problem = self.check(replica_id, session, now_s)
        known = self._of.get(replica_id)
        if problem is None and known is not None and known.loads:
            return _ended()
        return problem

    def loads(self, replica_id: str) -> None:
        """The replica asks for a snapshot."""
        self._counted = replace(self._counted, full_resyncs=self._counted.full_resyncs + 1)
        if replica_id in self._of:
            self._of[replica_id].loads = True

    def forget(self, replica_id: str) -> None:
        """The replica was unregistered."""
        self._of.pop(replica_id, None)

    def opened(self, replica_id: str, session: int | None, now_s: float, *, holds: bool = False) -> Problem | None:
        """A stream of this session begins; why it is refused where the session has ended meanwhile.

        ``holds``: behind a record that the replica has.
        """
        problem = self.check(replica_id, session, now_s)
        known = self._of.get(replica_id)
        if problem is not None or known is None:
            return problem
        known.streams += 1
        if holds and not known.resumed:
            known.resumed = True
            self._counted = replace(self._counted, partial_resyncs=self._counted.partial_resyncs + 1)
        return None

    def closed(self, replica_id: str, session: int | None, now_s: float) -> None:
        """A stream ends."""
        known = self._of.get(replica_id)
        if known is not None and known.number == session:
            known.streams -= 1
            known.seen_s = now_s


@dataclass(frozen=True)
class Wait:
    """Nothing to send: wait for a record, at most so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Read:
    """Read and send frames of about so many bytes."""

    max_bytes: int


class Stream:
    """One response under way: what to do next, and whether what was read may be sent."""

    def __init__(self, since_lsn: int, wait_ms: int, max_bytes: int, chunk_bytes: int, now_s: float) -> None:
        #: Everything through here was sent.
        self.since_lsn = since_lsn
        #: Bytes that may still be sent.
        self.left = max_bytes
        self._chunk = chunk_bytes
        self._wait_until = now_s + min(wait_ms / 1000, MAX_RESPONSE_S)
        self._until = now_s + MAX_RESPONSE_S

    def next(self, current_lsn: int, now_s: float) -> Wait | Read | None:
        """What to do; ``None``: end the response."""
        if self.left <= 0 or now_s >= self._until:
            return None
        if current_lsn > self.since_lsn:
            return Read(min(self.left, self._chunk))
        return Wait(self._wait_until - now_s) if now_s < self._wait_until else None

    def took(self, size: int, last_lsn: int, gone_through: int) -> bool:
        """A chunk through ``last_lsn`` was read, then ``gone_through`` looked up: whether it may be sent.

        A prune that came past the start may have made the read skip records.
        """
        if gone_through > self.since_lsn:
            return False
        self.since_lsn, self.left = last_lsn, self.left - size
        return True
