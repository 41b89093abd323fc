"""The keeping half of a primary: slots, limits, pruning, and how a returning replica goes on."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

from walspool.errors import AckBeyondWal, LsnPruned, UnknownReplica
from walspool.records import check_u64
from walspool.replication.backing import Backing
from walspool.replication.committing import CommittingPrimary
from walspool.replication.config import ReplicationConfig
from walspool.replication.resume import (
    FullRebootstrap,
    OldestLsn,
    PartialResync,
    ResumePlan,
    decide,
    plan_of,
)
from walspool.replication.retention import (
    Limits,
    RetentionHistory,
    RetentionReport,
    SlotRetention,
    Standing,
    forecast,
    past_limit,
    retention_floor,
    span,
    summarize,
)
from walspool.replication.slot import ReplicationSlot, SlotInvalidationCause, WalStatus
from walspool.replication.slots import SlotStore
from walspool.spool.files import no_room

__all__ = ["RetainingPrimary"]

log = logging.getLogger("walspool")


class RetainingPrimary(CommittingPrimary):
    """Base of ``PrimaryReplication``: everything that decides what is kept."""

    def __init__(self, backing: Backing, config: ReplicationConfig, slots: SlotStore, now: Callable[[], int]) -> None:
        super().__init__(backing, config)
        self._slots = slots
        self._now = now
        self._limits = Limits(config.slot_retention_max_lag_lsn, config.slot_idle_timeout_ms, config.max_retained_bytes)
        self._history = RetentionHistory()
        self._partial_resyncs = 0

    @abstractmethod
    def _loading(self) -> dict[str, int]:
        """The replicas that are loading a snapshot, and since when."""

    # -- slots ---------------------------------------------------------------------------------------------------------

    def slot_snapshots(self) -> list[ReplicationSlot]:
        """All slots, sorted by id; copies, with ``wal_status`` and ``retained_bytes``."""
        self._open()
        now_ms, seen_at = self._now(), self._slots.seen_at()
        exempt = self._exempt(now_ms)
        found = []
        for slot in self._slots.snapshots():
            standing = self._standing(slot, now_ms, seen_at.get(slot.id, now_ms))
            status = self._status(slot, standing, slot.id in exempt)
            found.append(replace(slot, wal_status=status, retained_bytes=standing.bytes if slot.valid else 0))
        return found

    def find_slot(self, id: str) -> ReplicationSlot | None:
        """The slot of a replica, without ``wal_status`` and ``retained_bytes``; ``None`` without one. No disk."""
        self._open()
        return self._slots.get(id)

    def touch_slot(self, id: str, now_ms: int | None = None) -> None:
        """Note when a replica was last heard of, now by default; earlier than before, too. Invalid slots stay."""
        self._open()
        self._slots.touch(id, self._time(now_ms))

    def drop_slot(self, id: str) -> None:
        """Forget a slot, durably: it holds the log no longer. ``UnknownReplica``, ``OSError``: it is as before."""
        self._open()
        self._slots.drop(id)

    def reset_slot(self, id: str, lsn: int) -> None:
        """Make a slot valid again, at ``lsn``."""
        self._open()
        check_u64("lsn", lsn)

        def check(pruning_through: int) -> None:
            gone_through, current_lsn = max(self._backing.gone_through, pruning_through), self._backing.current_lsn
            if lsn < gone_through:
                raise LsnPruned(lsn=lsn, pruned_through=gone_through)
            if lsn > current_lsn:
                words = f"LSN {lsn} is beyond the end of the log at {current_lsn}; give the LSN of the snapshot"
                raise AckBeyondWal(words, lsn=lsn, current_lsn=current_lsn)

        self._slots.reset(id, lsn, check, self._now())

    def set_slot_back(self, id: str, lsn: int) -> bool:
        """Hold the log from ``lsn`` on for a replica that turns out to have no more than that; whether it is held.

        As ``reset_slot``, durable on return, but an invalid slot and one at or below ``lsn`` stay as they are, and so
        does one that would be past a limit there: it would only be lost for what it holds.
        """
        self._open()
        slot = self._slots.get(id)
        if slot is None:
            raise UnknownReplica(replica_id=id)
        if not slot.valid or slot.restart_lsn <= lsn:
            return slot.valid
        lag_lsn = max(self._backing.current_lsn - lsn, 0)
        if past_limit(self._limits, lag_lsn, 0, lambda: self._backing.extent_after(lsn)[1]) is not None:
            return False
        self.reset_slot(id, lsn)
        return True

    # -- retention -----------------------------------------------------------------------------------------------------

    def retention_floor_lsn(self) -> int | None:
        """How far the log may be pruned: the smallest restart LSN over valid slots, ``None`` without any."""
        self._open()
        return retention_floor(self._slots.snapshots())

    def enforce_retention_limits(self, now_ms: int | None = None) -> list[tuple[str, SlotInvalidationCause]]:
        """Invalidate the slots that are past a limit, durably, and return them with the cause.

        A replica that is too many records (``slot_retention_max_lag_lsn``) or bytes (``max_retained_bytes``) behind is
        past the ``horizon``; one not seen for ``slot_idle_timeout_ms`` is past the ``idle-timeout``. ``OSError``: no
        slot is invalidated.
        """
        self._open()
        now_ms = self._time(now_ms)
        current_lsn = self._backing.current_lsn
        # outside the lock of the slots: what a slot holds is looked up in the files
        held = {}
        if self._limits.max_retained_bytes:
            positions = {slot.restart_lsn for slot in self._slots.snapshots() if slot.valid}
            held = {lsn: self._backing.extent_after(lsn)[1] for lsn in positions}

        exempt = self._exempt(now_ms)

        def judge(slot: ReplicationSlot, seen_at_ms: int) -> SlotInvalidationCause | None:
            if slot.id in exempt:
                return None
            lag_lsn, idle_ms = max(current_lsn - slot.restart_lsn, 0), max(now_ms - seen_at_ms, 0)
            return past_limit(self._limits, lag_lsn, idle_ms, lambda: held.get(slot.restart_lsn, 0))

        return self._slots.invalidate(judge, now_ms)

    def prune_retained_wal_through(self, archived_lsn: int) -> int:
        """Enforce the limits, then prune the log through what is archived and needed by no slot; how far that is.

        Slots hold the log by their positions on disk, which are written first; where they can't be because the disk
        is full, the last ones written hold. 0 prunes nothing.
        """
        self._open()
        check_u64("archived_lsn", archived_lsn)
        try:
            self.enforce_retention_limits()
            self._slots.flush()
        except OSError as error:
            if not no_room(error):
                raise
            log.warning("the disk is full, so the prune relies on the slots as they were last written: %s", error)
        wanted = archived_lsn

        def through(floor_lsn: int | None) -> int:
            nonlocal wanted
            wanted = archived_lsn if floor_lsn is None else min(floor_lsn, archived_lsn)
            return self._backing.prunable(wanted)

        with self._slots.pruning(through) as target:
            if target > 0:
                self._backing.prune(target)
        return wanted

    def explain_retention(self) -> RetentionReport:
        """Who pins the log: per slot what it holds, which limit it reaches first and when; what a prune would free.

        >>> from walspool import PrimaryReplication
        >>> with PrimaryReplication() as primary:
        ...     _ = primary.register_replica("eu-1")
        ...     for lsn in (1, 2, 3):
        ...         primary.append_logical_record(lsn, b"abc")
        ...     report = primary.explain_retention()
        >>> report.pinned_by, report.slots[0].records, report.slots[0].bytes
        (('eu-1',), 3, 9)
        >>> print(report.summary)
        eu-1 holds 3 records (9 bytes) above LSN 0; a prune now would free 0 records (0 bytes).
        >>> print(report.slots[0].forecast)
        there is not enough history yet to say which limit it reaches, and when
        """
        self._open()
        self._sample()
        now_ms, seen_at = self._now(), self._slots.seen_at()
        slots = self._slots.snapshots()
        floor_lsn = retention_floor(slots)
        exempt = self._exempt(now_ms)
        held = [
            self._slot_retention(slot, floor_lsn, now_ms, seen_at.get(slot.id, now_ms), exempt.get(slot.id))
            for slot in slots
        ]
        # a prune enforces the limits first
        staying = (slot.restart_lsn for slot in held if slot.wal_status is WalStatus.RESERVED)
        bounds = self._backing.bounds()
        whole = self._backing.extent_after(0)
        kept = self._backing.extent_after(min(staying, default=bounds.current_lsn))
        prunable = max(whole[0] - kept[0], 0), max(whole[1] - kept[1], 0)  # the log grows meanwhile
        pinned_by = tuple(slot.id for slot in held if slot.pins)
        pinned = next(((slot.records, slot.bytes) for slot in held if slot.pins), (0, 0))
        return RetentionReport(
            bounds.current_lsn,
            bounds.oldest_lsn,
            floor_lsn,
            pinned_by,
            tuple(held),
            *prunable,
            summarize(floor_lsn, pinned_by, prunable, pinned),
        )

    def _slot_retention(
        self, slot: ReplicationSlot, floor_lsn: int | None, now_ms: int, seen_at_ms: int, exempt_ms: int | None
    ) -> SlotRetention:
        standing = self._standing(slot, now_ms, seen_at_ms)
        status = self._status(slot, standing, exempt_ms is not None)
        bound, left_ms, words = None, None, "it is invalid and holds nothing"
        if status is WalStatus.UNRESERVED:
            words, left_ms = "it is past a limit: the next enforcement invalidates it", 0
        elif slot.valid and exempt_ms is not None:
            words = f"its replica is loading a snapshot, so it is past no limit for another {span(exempt_ms)}"
        elif slot.valid:
            bound, left_ms, words = forecast(self._limits, standing, self._history.lag_then(slot, now_ms))
        return SlotRetention(
            slot.id,
            slot.restart_lsn,
            standing.records if slot.valid else 0,
            standing.bytes if slot.valid else 0,
            status,
            slot.valid and slot.restart_lsn == floor_lsn,
            bound,
            left_ms,
            words,
        )

    def _standing(self, slot: ReplicationSlot, now_ms: int, seen_at_ms: int) -> Standing:
        records, size = self._backing.extent_after(slot.restart_lsn)
        lag_lsn = max(self._backing.current_lsn - slot.restart_lsn, 0)
        return Standing(lag_lsn, max(now_ms - seen_at_ms, 0), records, size)

    def _exempt(self, now_ms: int) -> dict[str, int]:
        """The replicas that are loading a snapshot, and for how many ms more their slots are past no limit."""
        left = {id: since + self._config.bootstrap_timeout_ms - now_ms for id, since in self._loading().items()}
        return {id: ms for id, ms in left.items() if ms > 0}

    def _status(self, slot: ReplicationSlot, standing: Standing, exempt: bool) -> WalStatus:
        if not slot.valid:
            return WalStatus.LOST
        if exempt:
            return WalStatus.RESERVED
        past = past_limit(self._limits, standing.lag_lsn, standing.idle_ms, lambda: standing.bytes)
        return WalStatus.RESERVED if past is None else WalStatus.UNRESERVED

    # -- resuming ------------------------------------------------------------------------------------------------------

    @property
    def partial_resync_count(self) -> int:
        """How many resumes were answered with ``PartialResync``."""
        return self._partial_resyncs

    def slot_rebootstrap_reason(
        self, id: str, requested_since_lsn: int, oldest_available_lsn: OldestLsn = ...
    ) -> SlotInvalidationCause | None:
        """Why a replica can't go on behind ``requested_since_lsn`` (0: behind its slot's LSN); ``None`` when it can.

        ``oldest_available_lsn``: the oldest LSN there is, ``None`` for an empty log; left out, it is looked up. A slot
        whose records are gone becomes ``wal-removed``, durably; a request below its restart LSN never does that.
        ``None`` for an unknown id.
        """
        if self._slots.get(id) is None:
            self._open()
            return None
        answer = self._decide(id, requested_since_lsn, oldest_available_lsn)
        return answer.cause if isinstance(answer, FullRebootstrap) else None

    def plan_replica_resume(
        self, id: str, requested_since_lsn: int, oldest_available_lsn: OldestLsn = ...
    ) -> PartialResync | FullRebootstrap:
        """How a returning replica goes on; arguments as for ``slot_rebootstrap_reason``.

        An id without a slot is judged by what it asks for.
        """
        answer = self._decide(id, requested_since_lsn, oldest_available_lsn)
        if isinstance(answer, PartialResync):
            self._partial_resyncs += 1
        return answer

    def explain_resume(self, id: str, requested_since_lsn: int) -> ResumePlan:
        """``plan_replica_resume`` without side effects, in numbers and words.

        >>> from walspool import PrimaryReplication
        >>> with PrimaryReplication() as primary:
        ...     _ = primary.register_replica("eu-1")
        ...     primary.append_logical_record(1, b"abc")
        ...     plan = primary.explain_resume("eu-1", 0)
        >>> plan.mode, plan.resume_lsn, plan.records, plan.bytes
        ('partial_resync', 0, 1, 3)
        >>> print(plan.summary)
        eu-1 resumes behind LSN 0: 1 records (3 bytes) bring it to LSN 1.
        """
        self._open()
        check_u64("requested_since_lsn", requested_since_lsn)
        bounds, slot = self._backing.bounds(), self._slots.get(id)
        answer = decide(slot, requested_since_lsn, bounds, ...).answer
        extent = self._backing.extent_after(answer.resume_lsn) if isinstance(answer, PartialResync) else (0, 0)
        return plan_of(id, answer, bounds, extent, slot)

    def _decide(self, id: str, requested_since_lsn: int, oldest: OldestLsn) -> PartialResync | FullRebootstrap:
        self._open()
        check_u64("requested_since_lsn", requested_since_lsn)
        if oldest is not None and oldest is not ...:
            check_u64("oldest_available_lsn", oldest)
        bounds = self._backing.bounds()
        decision = decide(self._slots.get(id), requested_since_lsn, bounds, oldest)
        if not decision.slot_is_lost:
            return decision.answer

        def judge(slot: ReplicationSlot, _: int) -> SlotInvalidationCause | None:
            # judged again: it may have been reset since
            lost = slot.id == id and decide(slot, requested_since_lsn, bounds, oldest).slot_is_lost
            return SlotInvalidationCause.WAL_REMOVED if lost else None

        self._slots.invalidate(judge, self._now())
        return decide(self._slots.get(id), requested_since_lsn, bounds, oldest).answer

    # -- time ----------------------------------------------------------------------------------------------------------

    def now_unix_ms(self) -> int:
        """Unix time in ms by the clock that times replicas and slots."""
        return self._now()

    def _time(self, now_ms: int | None) -> int:
        return self._now() if now_ms is None else check_u64("now_ms", now_ms)

    def _sample(self) -> None:
        now_ms = self._now()
        if self._history.due(now_ms):
            self._history.note(now_ms, self._backing.current_lsn, self._slots.snapshots())
