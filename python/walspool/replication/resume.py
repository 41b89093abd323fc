"""Pure functions that decide how a returning replica goes on."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

from walspool.replication.slot import ReplicationSlot, SlotInvalidationCause

__all__ = [
    "Decision",
    "FullRebootstrap",
    "LogBounds",
    "OldestLsn",
    "PartialResync",
    "ResumePlan",
    "decide",
    "is_gap",
    "plan_of",
]

#: A given oldest LSN, ``None`` for an empty log, ``...`` to look it up.
OldestLsn = int | None | EllipsisType


@dataclass(frozen=True)
class PartialResync:
    """The replica goes on with the records above ``resume_lsn``."""

    resume_lsn: int


@dataclass(frozen=True)
class FullRebootstrap:
    """The replica must start again from a snapshot."""

    cause: SlotInvalidationCause


@dataclass(frozen=True)
class ResumePlan:
    """How a replica would go on, in numbers and words; nothing was changed to find out."""

    #: ``partial_resync`` or ``full_rebootstrap``.
    mode: str
    #: Why it can't go on; ``None`` when it can.
    cause: SlotInvalidationCause | None
    #: Records above it would be sent; ``None`` for a re-bootstrap.
    resume_lsn: int | None
    oldest_lsn: int | None
    current_lsn: int
    #: What would be sent.
    records: int
    bytes: int
    #: What to do next.
    next_step: str
    #: All of it in one sentence.
    summary: str


@dataclass(frozen=True)
class LogBounds:
    """What a log still has."""

    oldest_lsn: int | None
    current_lsn: int
    pruned_through: int
    #: LSN ranges (first, last) that are lost.
    holes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Decision:
    """A resume, and whether the slot is lost by it."""

    answer: PartialResync | FullRebootstrap
    slot_is_lost: bool = False


def is_gap(floor_lsn: int, bounds: LogBounds, oldest_lsn: OldestLsn) -> bool:
    """Whether a record above ``floor_lsn`` is gone.

    LSNs have holes, so a given oldest LSN is judged as RedDB does (``oldest > floor + 1``), one that is looked up by
    what was pruned or lost.
    """
    if isinstance(oldest_lsn, EllipsisType):
        empty = bounds.oldest_lsn is None and floor_lsn < bounds.current_lsn
        return empty or floor_lsn < bounds.pruned_through or any(high > floor_lsn for _, high in bounds.holes)
    if oldest_lsn is None:
        return floor_lsn < bounds.current_lsn
    return oldest_lsn > floor_lsn + 1


def decide(
    slot: ReplicationSlot | None, requested_since_lsn: int, bounds: LogBounds, oldest_lsn: OldestLsn
) -> Decision:
    """How a replica goes on that has everything through ``requested_since_lsn``; 0 means through its slot's LSN."""
    lost = FullRebootstrap(SlotInvalidationCause.WAL_REMOVED)
    if slot is None:
        gone = is_gap(requested_since_lsn, bounds, oldest_lsn)
        return Decision(lost if gone else PartialResync(requested_since_lsn))
    if slot.invalidation_reason is not None:
        return Decision(FullRebootstrap(slot.invalidation_reason))
    if 0 < requested_since_lsn < slot.restart_lsn:
        # it went back, or is a stale twin: the slot belongs to a replica that is further
        gone = is_gap(requested_since_lsn, bounds, oldest_lsn)
        return Decision(lost if gone else PartialResync(requested_since_lsn))
    floor = max(requested_since_lsn, slot.restart_lsn)
    if is_gap(floor, bounds, oldest_lsn):
        return Decision(lost, slot_is_lost=True)
    return Decision(PartialResync(floor))


def plan_of(
    replica_id: str,
    answer: PartialResync | FullRebootstrap,
    bounds: LogBounds,
    extent: tuple[int, int],
    slot: ReplicationSlot | None,
) -> ResumePlan:
    """A decision in words; ``extent``: records and bytes that would be sent."""
    if isinstance(answer, PartialResync):
        records, size = extent
        return ResumePlan(
            "partial_resync",
            None,
            answer.resume_lsn,
            bounds.oldest_lsn,
            bounds.current_lsn,
            records,
            size,
            f"send the records above LSN {answer.resume_lsn}" if records else "wait for new records",
            f"{replica_id} resumes behind LSN {answer.resume_lsn}: {records} records ({size} bytes) bring it to "
            f"LSN {bounds.current_lsn}.",
        )
    why = {
        SlotInvalidationCause.WAL_REMOVED: f"what it needs is gone: pruned through LSN {bounds.pruned_through}",
        SlotInvalidationCause.HORIZON: "it fell too far behind",
        SlotInvalidationCause.IDLE_TIMEOUT: "it was not seen for too long",
    }[answer.cause]
    return ResumePlan(
        "full_rebootstrap",
        answer.cause,
        None,
        bounds.oldest_lsn,
        bounds.current_lsn,
        0,
        0,
        "register it, then load a snapshot"
        if slot is None
        else "load a snapshot, then reset_slot(id, lsn) to the LSN that it stands for",
        f"{replica_id} must start again from a snapshot: {why}.",
    )
