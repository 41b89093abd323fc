"""Whether a former primary has learnt of a newer term. No I/O, no clock.

| state | event | next |
|---|---|---|
| telling | it answers that a newer term has replaced it | told: it appends nothing any more |
| telling | any other answer that only a primary of our term or a newer one gives | told; it is nothing to fence |
| telling | no answer, or one that says nothing of its term | waiting, twice as long each time up to 5 s |
| waiting | the time is up | telling |
"""

from __future__ import annotations

from collections.abc import Callable

from walspool.net.backoff import pause_s
from walspool.net.messages import StreamHead, WalRequest
from walspool.net.protocol import TERM_STEP, Problem

__all__ = ["Presenting"]

#: A primary of a lower term than the request's never comes so far as to answer these.
_AS_NEW: frozenset[str] = frozenset(("diverged", "beyond-wal", "rebootstrap-required", "old-session"))


class Presenting:
    """Tells one former primary, as the replica that it knows, of the term that has replaced it."""

    def __init__(self, replica_id: str, term: int, *, random: Callable[[], float]) -> None:
        self._request = WalRequest(replica_id, None, None, term, wait_ms=0, max_bytes=0)
        self._random = random
        self._failures = 0
        self.term = term
        #: Whether it need not be told any more.
        self.told = False
        #: The term that it has, where that is above ours: we are the one who was replaced.
        self.newer: int | None = None

    def request(self) -> WalRequest:
        """What to ask: the term is in it."""
        return self._request

    def answered(self, head: StreamHead) -> None:
        """It serves a stream: its term is not below ours."""
        self.told = 0 <= head.term - self.term <= TERM_STEP
        self.newer = head.term if self.told and head.term > self.term else None

    def refused(self, problem: Problem) -> None:
        """It has answered with a problem."""
        if problem.kind == "newer-term":
            self.told = problem.facts.get("newer") == self.term
        else:
            self.told = problem.kind in _AS_NEW

    def pause_s(self) -> float:
        """How long to wait before telling it again."""
        self._failures += 1
        return pause_s(self._failures - 1, self._random())
