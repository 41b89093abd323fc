"""Who holds what durably, and waiting until enough replicas do."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from walspool.errors import SpoolClosed
from walspool.records import MAX_U64, check_u64
from walspool.replication.config import check_region_names, check_seconds
from walspool.spool.interrupt import SIGNALS_S

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "CommitCounters",
    "CommitPolicy",
    "CommitResult",
    "CommitWaiter",
    "NotRequired",
    "Reached",
    "Regions",
    "Requirement",
    "TimedOut",
]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Regions:
    """At least one replica in each of these regions: ``Regions("eu", "us")``."""

    names: frozenset[str]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", check_region_names(names))

    def __repr__(self) -> str:
        return f"Regions({', '.join(map(repr, sorted(self.names)))})"


#: So many replicas of any region, or one in each of some regions.
Requirement: TypeAlias = int | Regions


@dataclass(frozen=True, slots=True)
class Reached:
    """Enough replicas hold the LSN durably; ``count`` do."""

    count: int


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Only ``observed`` of ``required`` replicas held the LSN in time; with ``Regions``: of so many regions."""

    observed: int
    required: int


@dataclass(frozen=True, slots=True)
class NotRequired:
    """Nobody had to hold the LSN."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """A commit that got the copies it asked for: its LSN, and how many replicas acknowledged it."""

    lsn: int
    acks: int


@dataclass(frozen=True, slots=True)
class CommitCounters:
    """How waits ended since the start, and how long the last one took, in microseconds (0 before the first)."""

    reached: int
    timed_out: int
    not_required: int
    last_wait_us: int


_MAX_ACK_N: Final = 2**32 - 1
#: No more digits than the largest N has: Python refuses to read a number of thousands.
_POLICY: Final = re.compile(r"(local|remote_wal|quorum)|ack_n=0*([0-9]{1,10})", re.ASCII | re.IGNORECASE)
_REQUIRED: Final = {"local": 0, "remote_wal": 1, "quorum": None}


@dataclass(frozen=True, slots=True)
class CommitPolicy:
    """What a commit waits for, as it is written in a configuration. Made by ``parse``."""

    #: ``local``, ``remote_wal``, ``ack_n`` or ``quorum``.
    label: str
    #: How many replicas must hold the commit; ``None`` with ``quorum``, which the quorum's configuration says.
    required: int | None

    @classmethod
    def parse(cls, text: str) -> CommitPolicy:
        """``local``, ``remote_wal``, ``ack_n=N`` or ``quorum``, in any case; ``ValueError`` for anything else."""
        found = _POLICY.fullmatch(text)
        if found is not None and found[1] is not None:
            label = found[1].lower()
            return cls(label, _REQUIRED[label])
        if found is not None and int(found[2]) <= _MAX_ACK_N:
            return cls("ack_n", int(found[2]))
        forms = f"'local', 'remote_wal', 'ack_n=N' with N at most {_MAX_ACK_N}, or 'quorum'"
        raise ValueError(f"a commit policy is {forms}, not {text!r}")

    def __str__(self) -> str:
        # what parse reads as this very policy, in lower case
        return f"ack_n={self.required}" if self.label == "ack_n" else self.label


class _Wait:
    """One who waits. All but ``wake`` is changed under the waiter's lock."""

    __slots__ = ("outcome", "queued", "required", "started_ns", "target_lsn", "wake")

    def __init__(self, target_lsn: int, required: Requirement, wake: Callable[[], object]) -> None:
        self.target_lsn = check_u64("target_lsn", target_lsn)
        self.required = required if isinstance(required, Regions) else check_u64("required", required)
        self.wake = wake
        self.started_ns = time.monotonic_ns()
        self.outcome: Reached | NotRequired | None = None
        self.queued = False


class _Queue:
    """Those who wait for the same requirement, the lowest target first."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, _Wait]] = []
        self._numbers = count()
        self._queued = 0

    def __len__(self) -> int:
        return self._queued

    def add(self, wait: _Wait) -> None:
        self._queued += 1
        wait.queued = True
        heappush(self._heap, (wait.target_lsn, next(self._numbers), wait))

    def take_through(self, lsn: int) -> list[_Wait]:
        """Take out all whose target is not above ``lsn``."""
        taken = []
        while self._heap and self._heap[0][0] <= lsn:
            wait = heappop(self._heap)[2]
            if wait.queued:
                wait.queued = False
                self._queued -= 1
                taken.append(wait)
        return taken

    def discard(self, wait: _Wait) -> None:
        """Take out one who no longer waits."""
        wait.queued = False
        self._queued -= 1
        # It stays in the heap until most of that is such, so that leaving costs no search.
        if self._queued * 2 < len(self._heap):
            self._heap = [each for each in self._heap if each[2].queued]
            heapify(self._heap)


class CommitWaiter:
    """What each replica has acknowledged as durable, and who waits for that. Safe in threads and in asyncio.

    An acknowledgement looks at each distinct requirement once and touches only those whom it wakes, however many wait.
    Nobody is woken under the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._acks: dict[str, int] = {}
        self._regions: dict[str, str] = {}
        self._queues: dict[Requirement, _Queue] = {}
        self._reached = 0
        self._timed_out = 0
        self._not_required = 0
        self._last_wait_us = 0

    def record_replica_ack(self, id: str, lsn: int) -> None:
        """A replica holds everything up to ``lsn`` durably. An LSN below an earlier one changes nothing."""
        _check_text("id", id)
        check_u64("lsn", lsn)
        with self._lock:
            if lsn <= self._acks.get(id, -1):
                return
            self._acks[id] = lsn
            reached = self._take_reached()
        for each in reached:
            each.wake()

    def note_region(self, id: str, region: str | None) -> None:
        """A replica is in this region, ``None`` for in none; it replaces what was noted before."""
        _check_text("id", id)
        if region is not None:
            _check_text("region", region)
        with self._lock:
            if region is None:
                self._regions.pop(id, None)
            else:
                self._regions[id] = region
            reached = self._take_reached()
        for each in reached:
            each.wake()

    def drop_replica(self, id: str) -> None:
        """Forget what a replica acknowledged and where it is: it is no copy any more."""
        with self._lock:
            self._acks.pop(id, None)
            self._regions.pop(id, None)

    def forget_ack(self, id: str) -> None:
        """What a replica acknowledged counts no more; it may acknowledge anew."""
        with self._lock:
            self._acks.pop(id, None)

    def snapshot(self) -> list[tuple[str, int]]:
        """Each id that has acknowledged, with its durable LSN, sorted."""
        with self._lock:
            return sorted(self._acks.items())

    def commit_watermark(self, n: int) -> int:
        """The highest LSN that ``n`` replicas hold durably; 0 where fewer have acknowledged, or ``n`` is 0."""
        check_u64("n", n)
        with self._lock:
            return self._watermark(n)

    def region_watermark(self, regions: Regions) -> int:
        """The highest LSN that each of the regions holds durably; 0 where one has acknowledged nothing."""
        with self._lock:
            return self._watermark(regions)

    def acked_count(self, lsn: int) -> int:
        """How many replicas acknowledged ``lsn``."""
        check_u64("lsn", lsn)
        with self._lock:
            return self._count(lsn)

    def acked_regions(self, lsn: int, regions: Regions) -> tuple[str, ...]:
        """Those of the regions in which a replica acknowledged ``lsn``, sorted."""
        check_u64("lsn", lsn)
        with self._lock:
            return self._holding_regions(lsn, regions)

    def close(self) -> None:
        """No more copies will come: whoever waits, or begins to, gets ``SpoolClosed``. May be called twice."""
        with self._lock:
            self._closed = True
            waits = [wait for queue in self._queues.values() for wait in queue.take_through(MAX_U64)]
            self._queues.clear()
        for each in waits:
            each.wake()

    @property
    def waiting(self) -> int:
        """How many wait now."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    def counters(self) -> CommitCounters:
        """How waits ended so far."""
        with self._lock:
            return CommitCounters(self._reached, self._timed_out, self._not_required, self._last_wait_us)

    def await_acks(
        self, target_lsn: int, required: Requirement, timeout: float | None
    ) -> Reached | TimedOut | NotRequired:
        """Wait until ``required`` replicas, or one in each region, hold ``target_lsn`` durably.

        ``timeout``: in seconds, ``None`` for ever. LSN 0 is reached at once, also by nobody; 0 asked: ``NotRequired``.
        ``SpoolClosed`` once it is closed.
        """
        deadline = None if timeout is None else time.monotonic() + _bounded(timeout)
        gate = threading.Lock()
        gate.acquire()
        wait = _Wait(target_lsn, required, gate.release)
        try:
            waiting = self._enter(wait)
            while waiting:
                left = SIGNALS_S if deadline is None else deadline - time.monotonic()
                waiting = left > 0 and not gate.acquire(timeout=min(left, SIGNALS_S))
            return self._finish(wait)
        finally:
            self._leave(wait)

    async def await_acks_async(
        self, target_lsn: int, required: Requirement, timeout: float | None
    ) -> Reached | TimedOut | NotRequired:
        """``await_acks`` for asyncio, without a thread. Cancelling it ends the wait and nothing else."""
        seconds = None if timeout is None else _bounded(timeout)
        import asyncio  # only here: a program that does not use it should not pay for it at each start

        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        wait = _Wait(target_lsn, required, _loop_wake(loop, woken))
        try:
            if self._enter(wait):
                await asyncio.wait((woken,), timeout=seconds)
            return self._finish(wait)
        finally:
            self._leave(wait)

    def _enter(self, wait: _Wait) -> bool:
        """Whether there is something to wait for."""
        with self._lock:
            if wait.required == 0:
                wait.outcome = NotRequired()
            elif self._watermark(wait.required) >= wait.target_lsn:
                wait.outcome = Reached(self._count(wait.target_lsn))
            elif not self._closed:
                self._queues.setdefault(wait.required, _Queue()).add(wait)
                return True
            return False

    def _finish(self, wait: _Wait) -> Reached | TimedOut | NotRequired:
        """What came of it, counted."""
        with self._lock:
            self._discard(wait)
            outcome = wait.outcome
            if isinstance(outcome, NotRequired):
                self._not_required += 1
                return outcome
            self._last_wait_us = max((time.monotonic_ns() - wait.started_ns) // 1000, 1)
            if outcome is not None:
                self._reached += 1
                return outcome
            if self._closed:
                raise SpoolClosed("the primary is closed; open it again", path=None)
            self._timed_out += 1
            if isinstance(wait.required, Regions):
                holding = self._holding_regions(wait.target_lsn, wait.required)
                return TimedOut(len(holding), len(wait.required.names))
            return TimedOut(self._count(wait.target_lsn), wait.required)

    def _leave(self, wait: _Wait) -> None:
        """After an interrupt or a cancellation; else it is out already."""
        if wait.queued:
            with self._lock:
                self._discard(wait)

    # The lock is held in all of these.

    def _discard(self, wait: _Wait) -> None:
        if wait.queued:
            queue = self._queues[wait.required]
            queue.discard(wait)
            if not queue:
                del self._queues[wait.required]

    def _take_reached(self) -> list[_Wait]:
        """Take out those who now have what they wait for; the caller wakes them once the lock is released."""
        taken: list[_Wait] = []
        for required, queue in list(self._queues.items()):
            taken += queue.take_through(self._watermark(required))
            if not queue:
                del self._queues[required]
        if taken:
            acks = sorted(self._acks.values())
            for each in taken:
                each.outcome = Reached(len(acks) - bisect_left(acks, each.target_lsn))
        return taken

    def _watermark(self, required: Requirement) -> int:
        if isinstance(required, Regions):
            highest = dict.fromkeys(required.names, 0)
            for id, region in self._regions.items():
                if region in highest:
                    highest[region] = max(highest[region], self._acks.get(id, 0))
            return min(highest.values())
        if not 0 < required <= len(self._acks):
            return 0
        return sorted(self._acks.values())[-required]

    def _count(self, lsn: int) -> int:
        return sum(acked >= lsn for acked in self._acks.values())

    def _holding_regions(self, lsn: int, regions: Regions) -> tuple[str, ...]:
        holding = {self._regions.get(id) for id, acked in self._acks.items() if acked >= lsn}
        return tuple(sorted(regions.names & holding))


def _loop_wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> Callable[[], None]:
    """What wakes a coroutine, from any thread."""

    def wake() -> None:
        # A loop that is closed runs nobody who could be woken; the acknowledgement must not fail for that.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(woken.set_result, None)

    return wake


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"the {name} of a replica must be a str, not {type(value).__name__}")


def _bounded(timeout: Any) -> float:
    """A time-out that the system can wait for."""
    return min(check_seconds("timeout", timeout), threading.TIMEOUT_MAX)
