"""Pure functions from positions and limits: who is past a limit, how far a prune goes, who pins what."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from walspool.replication.slot import ReplicationSlot, SlotInvalidationCause, WalStatus

__all__ = [
    "Limits",
    "RetentionHistory",
    "RetentionReport",
    "SlotRetention",
    "Standing",
    "forecast",
    "past_limit",
    "retention_floor",
    "span",
    "summarize",
]

#: A rate is taken over at least this long.
MIN_HISTORY_MS = 10_000
_SAMPLE_EVERY_MS = 1_000
_SAMPLES = 120


@dataclass(frozen=True)
class Limits:
    """When a slot is given up; 0 switches a limit off."""

    max_lag_lsn: int
    idle_timeout_ms: int
    max_retained_bytes: int


@dataclass(frozen=True)
class Standing:
    """How one slot stands against the limits now."""

    lag_lsn: int
    idle_ms: int
    records: int
    bytes: int


@dataclass(frozen=True)
class SlotRetention:
    """What one slot holds, and which bound it will hit first."""

    id: str
    #: Records above it are held.
    restart_lsn: int
    #: Records and bytes that it holds.
    records: int
    bytes: int
    wal_status: WalStatus
    #: Whether nothing holds more: the log can't be pruned beyond this slot.
    pins: bool
    #: The limit that it reaches first: ``max_lag_lsn``, ``max_retained_bytes``, ``idle_timeout_ms``; ``None`` for none.
    first_bound: str | None
    #: When it does, in ms from now at the recent rate; ``None`` when never, or when nothing can be said yet.
    bound_in_ms: int | None
    #: The same in words.
    forecast: str


@dataclass(frozen=True)
class RetentionReport:
    """Who pins the log, and what a prune now would free."""

    current_lsn: int
    oldest_lsn: int | None
    #: How far a prune may go at most: the smallest restart LSN over valid slots, ``None`` without any.
    floor_lsn: int | None
    #: The slots at that floor.
    pinned_by: tuple[str, ...]
    #: Every slot, sorted by id.
    slots: tuple[SlotRetention, ...]
    #: What a prune now would drop, if everything is archived.
    prunable_records: int
    prunable_bytes: int
    #: The same in one sentence.
    summary: str


def past_limit(
    limits: Limits, lag_lsn: int, idle_ms: int, retained_bytes: Callable[[], int]
) -> SlotInvalidationCause | None:
    """Why a valid slot must be given up: lag in records, then in bytes, then idleness; ``None`` while it is within."""
    if 0 < limits.max_lag_lsn < lag_lsn:
        return SlotInvalidationCause.HORIZON
    if limits.max_retained_bytes > 0 and retained_bytes() > limits.max_retained_bytes:
        return SlotInvalidationCause.HORIZON
    if 0 < limits.idle_timeout_ms < idle_ms:
        return SlotInvalidationCause.IDLE_TIMEOUT
    return None


def retention_floor(slots: Iterable[ReplicationSlot]) -> int | None:
    """The smallest restart LSN over valid slots, ``None`` without any."""
    return min((slot.restart_lsn for slot in slots if slot.valid), default=None)


class RetentionHistory:
    """Where the log and the slots were in the last minutes, a sample a second at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[tuple[int, int, Mapping[str, int]]] = deque(maxlen=_SAMPLES)
        self._next_ms = 0

    def due(self, now_ms: int) -> bool:
        """Whether a sample would tell anything new."""
        return now_ms >= self._next_ms

    def note(self, now_ms: int, current_lsn: int, slots: Iterable[ReplicationSlot]) -> None:
        """Remember where everything is now."""
        positions = {slot.id: slot.restart_lsn for slot in slots if slot.valid}
        with self._lock:
            self._next_ms = now_ms + _SAMPLE_EVERY_MS
            self._samples.append((now_ms, current_lsn, positions))

    def lag_then(self, slot: ReplicationSlot, now_ms: int) -> tuple[int, int] | None:
        """How long ago, in ms, the slot had which lag: the oldest sample of it; ``None`` when that is too recent."""
        with self._lock:
            samples = list(self._samples)
        for then_ms, current_lsn, positions in samples:
            if slot.id in positions and positions[slot.id] <= slot.restart_lsn:
                age = now_ms - then_ms
                return (age, max(current_lsn - positions[slot.id], 0)) if age >= MIN_HISTORY_MS else None
        return None


def forecast(limits: Limits, standing: Standing, then: tuple[int, int] | None) -> tuple[str | None, int | None, str]:
    """The bound that a valid slot hits first, in how many ms, and both in words.

    ``then``: how long ago the slot had which lag, ``None`` without enough history.
    """
    if not (limits.max_lag_lsn or limits.max_retained_bytes or limits.idle_timeout_ms):
        return None, None, "no limit is set, so it holds the log for ever"
    if then is None:
        return None, None, "there is not enough history yet to say which limit it reaches, and when"
    age_ms, lag_then = then
    growth = (standing.lag_lsn - lag_then) / age_ms  # LSNs a millisecond
    times: list[tuple[float, str]] = []
    if limits.max_lag_lsn and growth > 0:
        times.append(((limits.max_lag_lsn - standing.lag_lsn) / growth, "max_lag_lsn"))
    if limits.max_retained_bytes and growth > 0 and standing.lag_lsn:
        per_lsn = standing.bytes / standing.lag_lsn
        if per_lsn > 0:
            times.append(((limits.max_retained_bytes - standing.bytes) / (growth * per_lsn), "max_retained_bytes"))
    if limits.idle_timeout_ms and standing.idle_ms >= age_ms:  # not seen in all that time
        times.append((limits.idle_timeout_ms - standing.idle_ms, "idle_timeout_ms"))
    if not times:
        return None, None, "at its recent rate it reaches no limit"
    left, bound = min(times)
    left_ms = max(int(left), 0)
    return bound, left_ms, f"at its recent rate it reaches {bound} in {span(left_ms)}"


def span(ms: int) -> str:
    """A length of time in words."""
    seconds = ms / 1000
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def summarize(
    floor_lsn: int | None, pinned_by: tuple[str, ...], prunable: tuple[int, int], held: tuple[int, int]
) -> str:
    """One sentence on who pins the log; ``prunable`` and ``held`` are records and bytes."""
    free = f"a prune now would free {prunable[0]} records ({prunable[1]} bytes)"
    if floor_lsn is None:
        return f"No valid slot holds the log; {free}."
    names = ", ".join(pinned_by)
    return f"{names} holds {held[0]} records ({held[1]} bytes) above LSN {floor_lsn}; {free}."
