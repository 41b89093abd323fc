"""A network that delays, loses, doubles, crosses, cuts and flips what passes, in virtual time."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from walspool.errors import ProtocolError
from walspool.net.messages import Ack, Registration, StreamHead, WalRequest
from walspool.net.protocol import Problem, Refused, checksum
from walspool.net.serving import Wait
from walspool.net.source import Pull

if TYPE_CHECKING:
    from tests.simulation.node import Node

__all__ = ["Calls", "Clock", "Faults", "Network"]

#: Without an answer for so long, a request is given up.
PATIENCE_S = 3.0
STREAM_PATIENCE_S = 35.0
#: An idle stream whose follower has gone away is found out within so many seconds.
LONGEST_IDLE_S = 5.0


class Clock:
    """Virtual time, and what is to happen when."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let ``event`` happen in so many seconds."""
        self.at(self.now_s + delay_s, event)

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        """Let ``event`` happen then; what is to happen at one time keeps its order."""
        self._count += 1
        heapq.heappush(self._events, (time_s, self._count, event))

    def run_until(self, end_s: float) -> None:
        """Let everything happen that is due by then."""
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, event = heapq.heappop(self._events)
            event()
        self.now_s = end_s


@dataclass
class Faults:
    """How often things go wrong, 0 to 1."""

    lose: float = 0.0
    double: float = 0.0
    cut: float = 0.0
    cross: float = 0.0
    flip: float = 0.0
    slowest_s: float = 0.05


@dataclass
class Calls:
    """What is to be called with an answer: each at most once but ``chunk``, and nothing behind ``failed``."""

    failed: Callable[[Exception], None]
    refused: Callable[[Problem], None]
    done: Callable[[Any], None]
    head: Callable[[StreamHead], None] = lambda head: None
    chunk: Callable[[bytes], None] = lambda data: None
    over: bool = False
    #: When the last part of it arrives: parts of one connection keep their order.
    arrives_s: float = 0.0


@dataclass
class _Recorded:
    headers: dict[str, str]
    pieces: list[bytes] = field(default_factory=list)


class Network:
    """Carries requests from followers to nodes and answers back, spelled as on the wire."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.rng = rng
        self.faults = Faults()
        self.blocked: set[tuple[str, str]] = set()
        self._recorded: list[_Recorded] = []

    # -- from a follower -----------------------------------------------------------------------------------------------

    def register(self, source: Node, target: Node, registration: Registration, calls: Calls) -> None:
        """``POST /v1/replicas``."""
        body = json.dumps(registration.fields()).encode()
        self._call(
            source,
            target,
            calls,
            PATIENCE_S,
            lambda _: target.open_source().register(Registration.parse(body), self.clock.now_s),
        )

    def acknowledge(self, source: Node, target: Node, session: int | None, ack: Ack, calls: Calls) -> None:
        """``POST /v1/replicas/{id}/ack``."""
        body = self._flipped(json.dumps(ack.fields()).encode())
        check = checksum(json.dumps(ack.fields()).encode())

        def serve(_: Calls) -> Any:
            found = Ack.parse(body, check)
            target.open_source().acknowledge(source.name, session, found, self.clock.now_s)
            target.acknowledged(source, found)

        self._call(source, target, calls, PATIENCE_S, serve)

    def load(self, source: Node, target: Node, session: int | None, request: WalRequest, calls: Calls) -> None:
        """``GET /v1/snapshot``."""
        query = request.query().encode()
        check = checksum(query)
        query = self._flipped(query)
        self._call(
            source,
            target,
            calls,
            PATIENCE_S,
            lambda _: target.open_source().load(WalRequest.parse(query, check), session, self.clock.now_s),
        )

    def pull(self, source: Node, target: Node, session: int | None, request: WalRequest, calls: Calls) -> None:
        """``GET /v1/wal``."""
        query = request.query().encode()
        check = checksum(query)
        query = self._flipped(query)

        def serve(calls: Calls) -> Any:
            if self._recorded and self.rng.random() < self.faults.cross:
                self._replay(self.rng.choice(self._recorded), target, source, calls)
                return None
            pull = target.open_source().pull(WalRequest.parse(query, check), session, self.clock.now_s)
            self._pump(pull, target, target.life, source, calls, None, self.rng.random() < self.faults.cut)
            return None

        self._call(source, target, calls, STREAM_PATIENCE_S, serve, streamed=True)

    def _call(
        self,
        source: Node,
        target: Node,
        calls: Calls,
        patience_s: float,
        serve: Callable[[Calls], Any],
        *,
        streamed: bool = False,
    ) -> None:
        self.clock.after(patience_s, lambda: self._end(calls, lambda: calls.failed(ProtocolError(reason="no answer"))))

        def arrive(calls: Calls) -> None:
            if (source.name, target.name) in self.blocked or self.rng.random() < self.faults.lose:
                return
            try:
                result = serve(calls)
            except Refused as error:
                if error.problem.kind == "newer-term":
                    target.met = max(target.met, error.problem.facts["newer"])
                self._answer(target, source, calls, self._problem(error.problem, calls))
            except ConnectionError as error:
                failure = error
                self._answer(target, source, calls, lambda: calls.failed(failure))
            else:
                if not streamed:
                    self._answer(target, source, calls, lambda: calls.done(result))

        self.clock.after(self._delay(), lambda: arrive(calls))
        if self.rng.random() < self.faults.double:
            # a connection carries one answer: that to the second goes nowhere
            self.clock.after(self._delay() + self.rng.random() * 20, lambda: arrive(Calls(_nobody, _nobody, _nobody)))

    # -- back to it ----------------------------------------------------------------------------------------------------

    def _problem(self, problem: Problem, calls: Calls) -> Callable[[], None]:
        body = self._flipped(problem.encode())

        def tell() -> None:
            try:
                found = Problem.decode(problem.status, body, problem.check())
            except ProtocolError as error:
                calls.failed(error)
            else:
                calls.refused(found)

        return tell

    def _answer(self, target: Node, source: Node, calls: Calls, tell: Callable[[], None], *, last: bool = True) -> None:
        """Deliver a part of an answer, behind the parts before it."""
        calls.arrives_s = max(calls.arrives_s, self.clock.now_s + self._delay())

        def arrive() -> None:
            if (target.name, source.name) in self.blocked:
                calls.over = True  # a lost part ends the connection; the follower finds out by itself
                self.clock.after(PATIENCE_S, lambda: calls.failed(ProtocolError(reason="cut off")))
            elif last:
                self._end(calls, tell)
            elif not calls.over:
                tell()

        if not calls.over:
            self.clock.at(calls.arrives_s, arrive)

    def _end(self, calls: Calls, tell: Callable[[], None]) -> None:
        if not calls.over:
            calls.over = True
            tell()

    def _pump(
        self,
        pull: Pull,
        target: Node,
        life: int,
        source: Node,
        calls: Calls,
        record: _Recorded | None,
        cut: bool,
    ) -> None:
        """Go on with a response until it ends, the connection does, or the server."""
        if target.life != life:
            self._answer(target, source, calls, lambda: calls.failed(ProtocolError(reason="the server is gone")))
            return
        step = pull.step(self.clock.now_s)
        again = lambda: self._pump(pull, target, life, source, calls, record, cut)  # noqa: E731
        if isinstance(step, Wait) and not calls.over:
            self._wake(target, min(step.seconds, LONGEST_IDLE_S), again)
            return
        if record is None:
            record = self._head(pull, target, source, calls)
        if step is None or isinstance(step, Wait):
            pull.close(self.clock.now_s)
            self._answer(target, source, calls, lambda: calls.done(None))
            return
        data = self._flipped(bytes(step))
        if cut and self.rng.random() < 0.5:
            data = data[: self.rng.randrange(len(data))]
        at = 0
        while at < len(data):
            size = self.rng.randint(1, len(data))
            piece = data[at : at + size]
            record.pieces.append(piece)
            self._answer(target, source, calls, lambda piece=piece: calls.chunk(piece), last=False)  # type: ignore[misc]
            at += size
        if len(data) < len(step):
            pull.close(self.clock.now_s)
            self._answer(target, source, calls, lambda: calls.failed(ProtocolError(reason="cut off")))
            return
        self.clock.after(0.001, again)

    def _wake(self, target: Node, seconds: float, again: Callable[[], None]) -> None:
        """``again`` when that time has passed, or soon after something happens at the target."""
        woken: list[bool] = []

        def once() -> None:
            if not woken:
                woken.append(True)
                again()

        self.clock.after(seconds, once)
        target.watchers.append(lambda: self.clock.after(self.rng.random() * 0.2, once))

    def _head(self, pull: Pull, target: Node, source: Node, calls: Calls) -> _Recorded:
        headers = pull.head.headers()
        record = _Recorded(headers)
        self._recorded = [*self._recorded[-19:], record]
        self._send_head(headers, target, source, calls)
        return record

    def _send_head(self, headers: dict[str, str], target: Node, source: Node, calls: Calls) -> None:
        given = {name: self._flipped(value.encode()).decode("latin-1") for name, value in headers.items()}

        def tell() -> None:
            try:
                head = StreamHead.parse(given)
            except ProtocolError as error:
                failure = error
                self._end(calls, lambda: calls.failed(failure))
            else:
                calls.head(head)

        self._answer(target, source, calls, tell, last=False)

    def _replay(self, record: _Recorded, target: Node, source: Node, calls: Calls) -> None:
        """The answer to another request, perhaps another follower's, comes instead."""
        self._send_head(record.headers, target, source, calls)
        for piece in record.pieces:
            self._answer(target, source, calls, lambda piece=piece: calls.chunk(piece), last=False)  # type: ignore[misc]
        self._answer(target, source, calls, lambda: calls.done(None))

    def _delay(self) -> float:
        return self.rng.random() ** 3 * self.faults.slowest_s

    def _flipped(self, data: bytes) -> bytes:
        if not data or self.rng.random() >= self.faults.flip:
            return data
        at = self.rng.randrange(len(data) * 8)
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)


def _nobody(_: object) -> None:
    """Nobody waits for this."""
