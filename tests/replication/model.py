"""A primary in a hundred lines: what its slots, its log and the slot file are after each call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import walspool

MAX_U64 = 2**64 - 1
Cause = walspool.SlotInvalidationCause


@dataclass(frozen=True)
class Slot:
    """A slot, as the file has it."""

    restart_lsn: int
    confirmed_lsn: int
    last_seen_at_unix_ms: int
    invalidation_reason: str | None = None
    invalidated_at_unix_ms: int | None = None

    @property
    def valid(self) -> bool:
        """Whether it holds the log."""
        return self.invalidation_reason is None


def plain(slot: walspool.ReplicationSlot) -> Slot:
    """A slot of the package, as the model has it."""
    reason = None if slot.invalidation_reason is None else str(slot.invalidation_reason)
    return Slot(slot.restart_lsn, slot.confirmed_lsn, slot.last_seen_at_unix_ms, reason, slot.invalidated_at_unix_ms)


class Model:
    """Limits, records, slots in memory and in the file, and who is registered with which acknowledgement."""

    def __init__(self, lag: int, idle_ms: int, size: int, *, overhead: int, now_ms: int) -> None:
        self.lag, self.idle_ms, self.size, self.overhead = lag, idle_ms, size, overhead
        self.appended: dict[int, bytes] = {}
        self.current = 0
        self.pruned = 0
        self.slots: dict[str, Slot] = {}
        self.disk: dict[str, Slot] = {}
        self.registered: dict[str, int | None] = {}
        self.opened_behind = 0
        self.opened_at_ms = now_ms
        self.unseen: set[str] = set()
        #: A drop of them failed, so that the file may lack them.
        self.unsure: set[str] = set()

    # -- the log

    def append(self, lsn: int, data: bytes) -> None:
        """One more record."""
        self.appended[lsn] = data
        self.current = lsn

    def floor(self) -> int | None:
        """The smallest position that holds the log."""
        return min((slot.restart_lsn for slot in self.slots.values() if slot.valid), default=None)

    def held(self, archived: int) -> int:
        """How far a prune goes."""
        floor = self.floor()
        return archived if floor is None else min(floor, archived)

    def prune(self, archived: int, now_ms: int, *, beyond: bool) -> int:
        """A prune, which writes the slots; how far it says that it went."""
        self.enforce(now_ms)
        self.saved()
        wanted = self.held(archived)
        self.prune_exactly(wanted if beyond else min(wanted, self.current))
        return wanted

    def prune_exactly(self, through: int) -> None:
        """The log without what is at or below it; it goes on above."""
        self.pruned = max(self.pruned, through)
        self.current = max(self.current, through)

    def saved(self) -> None:
        """The file is up to date."""
        self.disk = dict(self.slots)
        self.unsure = set()

    def opened(self, now_ms: int) -> None:
        """Another process goes on with what the file holds."""
        self.slots = dict(self.disk)
        self.registered = {}
        self.opened_behind = self.current
        self.opened_at_ms = now_ms
        self.unseen = set(self.slots)
        self.unsure = set()

    # -- replicas

    def full(self, name: str) -> bool:
        """Whether a slot for it is refused."""
        return name not in self.slots and len(self.slots) >= 2

    def register(self, name: str, now_ms: int) -> int:
        """Its restart LSN."""
        slot = self.slots.get(name)
        if slot is None:
            self._put(name, Slot(self.current, self.current, now_ms))
            self.saved()
        else:
            self._put(name, replace(slot, last_seen_at_unix_ms=now_ms))
            if name in self.unsure:
                self.saved()
        self.registered.setdefault(name, None)
        return self.slots[name].restart_lsn

    def known(self, name: str) -> bool:
        """Whether its acknowledgements count."""
        return name in self.slots or name in self.registered

    def ack(self, name: str, applied: int, durable: int, now_ms: int) -> None:
        """An acknowledgement of a known one."""
        slot = self.slots.get(name)
        self.registered[name] = max(self.registered.get(name) or 0, durable)
        if slot is not None and slot.valid:
            restart, confirmed = max(slot.restart_lsn, durable), max(slot.confirmed_lsn, applied, durable)
            moved = replace(slot, restart_lsn=restart, confirmed_lsn=confirmed, last_seen_at_unix_ms=now_ms)
            self._put(name, moved)

    def touch(self, name: str, now_ms: int) -> None:
        """It was heard of."""
        slot = self.slots.get(name)
        if slot is not None and slot.valid:
            self._put(name, replace(slot, last_seen_at_unix_ms=now_ms))

    def drop(self, name: str) -> None:
        """Its slot goes."""
        del self.slots[name]
        self.unseen.discard(name)
        self.saved()

    def refuses_reset(self, name: str, lsn: int) -> type[Exception] | None:
        """The error of a reset that can't be."""
        if name not in self.slots:
            return walspool.UnknownReplica
        if lsn < self.pruned:
            return walspool.LsnPruned
        return walspool.AckBeyondWal if lsn > self.current else None

    def reset(self, name: str, lsn: int, now_ms: int) -> None:
        """It starts anew."""
        self._put(name, Slot(lsn, lsn, now_ms))
        if name in self.registered:
            self.registered[name] = None
        self.saved()

    def _put(self, name: str, slot: Slot) -> None:
        self.slots[name] = slot
        self.unseen.discard(name)

    # -- limits and resumes

    def enforce(self, now_ms: int) -> list[tuple[str, Cause]]:
        """Who is given up, and why."""
        found = []
        for name, slot in sorted(self.slots.items()):
            cause = self._past_limit(name, slot, now_ms) if slot.valid else None
            if cause is not None:
                found.append((name, cause))
                self._invalidate(name, cause, now_ms)
        if found:
            self.saved()
        return found

    def _invalidate(self, name: str, cause: Cause, now_ms: int) -> None:
        self.slots[name] = replace(self.slots[name], invalidation_reason=str(cause), invalidated_at_unix_ms=now_ms)

    def _past_limit(self, name: str, slot: Slot, now_ms: int) -> Cause | None:
        behind = [data for lsn, data in self.appended.items() if lsn > max(slot.restart_lsn, self.pruned)]
        if self.lag and self.current - slot.restart_lsn > self.lag:
            return Cause.HORIZON
        if self.size and sum(len(data) + self.overhead for data in behind) > self.size:
            return Cause.HORIZON
        seen = self.opened_at_ms if name in self.unseen else slot.last_seen_at_unix_ms
        return Cause.IDLE_TIMEOUT if self.idle_ms and now_ms - seen > self.idle_ms else None

    def resume(self, name: str, since: int, oldest: Any, now_ms: int) -> int | Cause:
        """Where it goes on, or why it can't; a slot whose records are gone is given up."""
        answer, lost = self.decide(name, since, oldest)
        if lost:
            self._invalidate(name, Cause.WAL_REMOVED, now_ms)
            self.saved()
        return answer

    def decide(self, name: str, since: int, oldest: Any) -> tuple[int | Cause, bool]:
        """The answer, and whether the slot is lost by it."""
        slot = self.slots.get(name)
        if slot is not None and slot.invalidation_reason is not None:
            return Cause(slot.invalidation_reason), False
        start = since
        if slot is not None and not 0 < since < slot.restart_lsn:
            start = max(since, slot.restart_lsn)
        if not self._gap(start, oldest):
            return start, False
        return Cause.WAL_REMOVED, slot is not None and start >= slot.restart_lsn

    def _gap(self, start: int, oldest: Any) -> bool:
        if isinstance(oldest, EllipsisType):
            return start < self.pruned
        return start < self.current if oldest is None else oldest > start + 1

    def trial(self, what: str, name: str, now_ms: int) -> dict[str, Slot] | None:
        """What the file would hold after a call that must write it; ``None`` where it need not, or is refused."""
        slots = dict(self.slots)
        if what == "register" and name not in slots and not self.full(name):
            slots[name] = Slot(self.current, self.current, now_ms)
        elif what == "drop" and name in slots:
            del slots[name]
        elif what == "reset" and name in slots:
            slots[name] = Slot(self.current, self.current, now_ms)
        elif what == "enforce":
            for each, slot in self.slots.items():
                cause = self._past_limit(each, slot, now_ms) if slot.valid else None
                if cause is not None:
                    slots[each] = replace(slot, invalidation_reason=str(cause), invalidated_at_unix_ms=now_ms)
        return None if slots == self.slots else slots
