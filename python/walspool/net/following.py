"""The follower's decisions: what to ask, what to take, what to acknowledge, when to try again. No I/O, no clock.

| state | event | next |
|---|---|---|
| registering | registered | pulling |
| pulling | a response behind our last record, of our term | pulling: take its frames |
| pulling | the same, of a newer term | pulling: that term is durable in our log before a frame is |
| pulling | a response behind another record, or of an older term | waiting: nothing of it is taken |
| pulling | its end | pulling again |
| pulling | its end at once, and nothing in it; a frame that does not fit | waiting |
| pulling | what we need is gone | loading; where our end can't be compared any more, that is noted |
| pulling | diverged | stopped, the two positions named: a person decides (``start_again``) |
| registering, pulling, acknowledging | our session has ended | registering |
| loading | the primary is another one, and diverged from our log | stopped, as above |
| loading | a snapshot that nothing here can load | stopped: a person gives it something to load with |
| any | our log can't be read any more | registering, to load |
| loading | the snapshot is loaded and our log starts at its position | registering |
| any | no answer, or any other refusal | waiting, twice as long each time up to 5 s; then registering |

| step of a bootstrap | a crash right after it leaves | the next start |
|---|---|---|
| the marker is durable | the old log and data | loads |
| the snapshot is loaded | the old log, the data of the snapshot | loads again |
| the log starts at the snapshot's position | both new | loads again, for nothing |
| the marker says how far the primary was | both new | pulls from there; it can't be promoted before it is that far |
| the marker is gone | both new, and no record lost that was acknowledged before | pulls |

A log that is found corrupt begins with a bootstrap, too. Records are acknowledged once they are synced, and applied
ones once ``apply`` returned; never before. One acknowledgement is under way at a time; the newest follows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from walspool.errors import Diverged, ProtocolError, StaleTermError, WalspoolError
from walspool.net.backoff import pause_s
from walspool.net.messages import Ack, Registration, StreamHead, WalRequest
from walspool.net.protocol import Problem, position_text
from walspool.records import Position

__all__ = ["Following", "OwnLog", "State"]


class State(Enum):
    """What the follower is about."""

    REGISTERING = "registering"
    PULLING = "pulling"
    LOADING = "loading"
    WAITING = "waiting"
    STOPPED = "stopped"


@dataclass(frozen=True)
class OwnLog:
    """The follower's own log: its last record, and the highest term that it has met."""

    last: Position
    term: int


class Following:
    """One follower of one primary.

    ``random`` gives numbers from 0 to 1; times are any steady clock's seconds. ``loading``: a bootstrap was begun and
    not ended, or the log can't be read. ``gives_way``: a person had decided so.
    """

    def __init__(
        self,
        replica_id: str,
        instance: str,
        *,
        region: str | None = None,
        loading: bool = False,
        gives_way: bool = False,
        random: Callable[[], float],
    ) -> None:
        self._registration = Registration(replica_id, region, instance)
        self._random = random
        self._must_load = loading
        self._failures = 0
        self._durable: Position | None = None
        self._applied_lsn = 0
        self._asked: Position | None = None
        self._gives_way = gives_way
        self._empty = 0
        self._acked: tuple[int, int, int] | None = None
        #: What was acknowledged before the last bootstrap lies at or below it; promoting earlier could lose that.
        self.reach_lsn = 0
        self._ack: Ack | None = None
        #: Which of the states it is in.
        self.state = State.REGISTERING
        #: Of the primary, since the last registration.
        self.session: int | None = None
        #: What went wrong last; ``None`` while all goes well.
        self.error: WalspoolError | None = None
        #: Until when it waits.
        self.wait_until_s = 0.0
        #: How often ``apply`` raised.
        self.apply_errors = 0
        #: Where a log ended that a bootstrap gave up and that nobody could compare any more: its files are set aside.
        self.given_up: Position | None = None
        #: How often the logs were found to have diverged.
        self.divergences = 0

    @property
    def agrees(self) -> bool:
        """Whether a response has fitted behind our last record since we registered: our log is a part of its own."""
        return self._durable is not None and self.state is State.PULLING

    # -- asking --------------------------------------------------------------------------------------------------------

    def registration(self) -> Registration:
        """What to register with."""
        return self._registration

    def request(self, log: OwnLog) -> WalRequest:
        """What to ask for: everything behind our last record."""
        position = log.last if log.last.lsn else None
        self._asked = position
        return WalRequest(self._registration.replica_id, log.last.lsn, position, log.term)

    def load_request(self, log: OwnLog) -> WalRequest:
        """What to ask for a snapshot with: our last record, unless a person has given it up already."""
        request = self.request(log)
        return replace(request, since_lsn=None, position=None) if self._gives_way else request

    def tick(self, now_s: float) -> None:
        """Time has passed: waiting may be over."""
        if self.state is State.WAITING and now_s >= self.wait_until_s:
            self.state = State.LOADING if self._must_load and self.session is not None else State.REGISTERING

    # -- what came back ------------------------------------------------------------------------------------------------

    def registered(self, session: int) -> None:
        """The primary has registered us."""
        self.session = session
        # what we hold is the primary's only once a response behind it has come
        self._ack = self._acked = self._durable = None
        self.state = State.LOADING if self._must_load else State.PULLING

    def head(self, head: StreamHead, log: OwnLog, now_s: float) -> bool:
        """A response has begun: whether its frames may be taken, once its term is noted in our log."""
        if head.term < log.term:
            self._older(head.term, log, now_s)
            return False
        if head.previous != log.last:
            words = f"a response behind {position_text(head.previous)} came, our log ends at {position_text(log.last)}"
            self.failed(ProtocolError(reason=words), now_s)
            return False
        self.error = None
        self._failures = 0
        self.durable(log.last)
        return True

    def refused(self, problem: Problem, now_s: float) -> None:
        """A request was answered with a problem."""
        if self.state is State.STOPPED:  # a late answer changes nothing
            return
        error = problem.as_error()
        if problem.kind == "rebootstrap-required":
            self.error, self._must_load, self.state = error, True, State.LOADING
            if problem.facts.get("comparable") is not True:
                self.given_up = self._asked
        elif isinstance(error, Diverged):
            self.error, self.state = error, State.STOPPED
            self.divergences += 1
        elif problem.kind in ("old-session", "unknown-replica"):
            self.session = None
            if self._failures:
                self.failed(error, now_s)
            else:
                self._failures, self.state = 1, State.REGISTERING
        else:
            self.failed(error, now_s)

    def ended(self) -> None:
        """A response ended as it should: ask again."""
        self._empty = 0

    def empty(self, now_s: float) -> None:
        """A response gave nothing, and did not wait for anything either: ask again later, longer each time."""
        if self.state is State.PULLING:
            self.state, self.wait_until_s = State.WAITING, now_s + pause_s(self._empty, self._random())
            self._empty += 1

    def failed(self, error: WalspoolError, now_s: float) -> None:
        """No answer, or one that can't be used: wait, longer each time."""
        if self.state is State.STOPPED:
            return
        self.error = error
        self.state, self.wait_until_s = State.WAITING, now_s + pause_s(self._failures, self._random())
        self._failures += 1

    def _older(self, term: int, log: OwnLog, now_s: float) -> None:
        words = f"the primary's term is {term}, and one of term {log.term} is known: it has been replaced"
        self.failed(StaleTermError(words, term=term, current_term=log.term), now_s)

    # -- bootstrap and promotion ---------------------------------------------------------------------------------------

    def snapshot(self, term: int, comparable: bool, log: OwnLog, now_s: float) -> bool:
        """A snapshot begins, of a primary of this term: whether to load it, once what is given up is noted."""
        if term < log.term:
            self._older(term, log, now_s)
            return False
        if not comparable:
            self.given_up = self._asked
        return True

    @property
    def gives_way(self) -> bool:
        """Whether a person has decided that our log gives way to a snapshot."""
        return self._gives_way

    def cannot_load(self, error: WalspoolError) -> None:
        """A snapshot is needed, and nothing here can load one."""
        self.error, self.state = error, State.STOPPED

    def lost(self, error: WalspoolError) -> None:
        """Our log can't be read any more: load."""
        self._must_load, self._durable = True, None
        if self.state is not State.STOPPED:  # that is for a person, as before
            self.error, self.state = error, State.REGISTERING

    def loaded(self) -> None:
        """The snapshot is loaded, our log starts at its position, and the marker is gone."""
        self._must_load = self._gives_way = False
        self._durable = None
        self._applied_lsn = 0
        self._failures = 0
        self.error = None
        self.state = State.REGISTERING

    def start_again(self) -> None:
        """A person has decided that a diverged log gives way to a snapshot."""
        if self.state is State.STOPPED:
            self._must_load, self._gives_way, self.state = True, True, State.REGISTERING

    def check_promotable(self, log: OwnLog) -> None:
        """``ProtocolError`` where this log must not become a primary's."""
        if self._must_load:
            raise ProtocolError("a replica that is loading a snapshot can't be promoted: its data is not complete")
        if log.last.lsn < self.reach_lsn:
            words = f"it began again from a snapshot, and is not back at LSN {self.reach_lsn}, which it may have held"
            raise ProtocolError(f"this replica can't be promoted yet: {words}")

    def promote(self, log: OwnLog) -> int:
        """Follow no more: the term in which this log goes on as a primary's. ``ProtocolError``."""
        self.check_promotable(log)
        self.state = State.STOPPED
        return log.term + 1

    # -- acknowledging -------------------------------------------------------------------------------------------------

    def durable(self, position: Position) -> None:
        """Our log is synced through this record."""
        self._durable = position

    def applied(self, lsn: int) -> None:
        """``apply`` has returned for everything through here."""
        self._applied_lsn = max(self._applied_lsn, lsn)

    def next_ack(self) -> Ack | None:
        """What to acknowledge now; ``None`` while nothing is new, or an acknowledgement is under way."""
        if self._ack is not None or self._durable is None or self.state is not State.PULLING:
            return None
        applied = min(self._applied_lsn, self._durable.lsn)
        if self._acked == (self._durable.lsn, applied, self.apply_errors):
            return None
        self._ack = Ack(self._durable, applied, self._durable.lsn, self.apply_errors, self.divergences)
        return self._ack

    def ack_returned(self) -> None:
        """It has been counted."""
        if self._ack is not None:
            self._acked = self._ack.durable_lsn, self._ack.applied_lsn, self._ack.apply_error_count
            self._ack = None

    def ack_refused(self, problem: Problem, now_s: float) -> None:
        """It counts for nothing."""
        if problem.kind == "old-ack":  # it was counted before: said again at once, it would be refused again at once
            self.ack_returned()
            return
        self._ack = None
        if problem.kind == "rebootstrap-required":
            self._asked = self._durable
        self.refused(problem, now_s)

    def ack_lost(self) -> None:
        """Nobody knows whether it was counted: the next says it again."""
        self._ack = None
