"""``PrimaryReplication``: wiring. Each part keeps its own lock; values pass between them here."""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from walspool.errors import SpoolClosed, UnknownReplica
from walspool.records import check_u64
from walspool.replication.backing import Backing, MemoryBacking, SpoolBacking
from walspool.replication.buffer import WalBuffer
from walspool.replication.config import ReplicationConfig
from walspool.replication.registry import ReplicaLag, ReplicaRegistry, ReplicaState, ReplicationProgress
from walspool.replication.retaining import RetainingPrimary
from walspool.replication.slot import ReplicationSlot, WalStatus
from walspool.replication.slot_file import load_slots
from walspool.replication.slots import SlotStore
from walspool.spool.files import slots_path
from walspool.spool.log import LogicalWalSpool

__all__ = ["PrimaryReplication"]

StrPath = str | os.PathLike[str]


class PrimaryReplication(RetainingPrimary):
    """The primary of a replicated log: it knows each replica and keeps exactly the log that they need.

    ``data_path``: where the log and the slots are kept; ``None`` keeps both in memory. ``config``: limits and defaults.
    ``recovery``: as for ``walspool.open``. ``clock``: a function that gives Unix time in ms; without one, elapsed time
    is monotonic, so that a jump of the wall clock invalidates nobody.

    Safe to use from any number of threads; a context manager. ``SpoolLocked`` where another primary has the data path,
    ``SlotStoreCorrupt`` where the slot file can't be read, ``SpoolCorrupt``, ``OSError``.

    >>> from walspool import PrimaryReplication
    >>> with PrimaryReplication() as primary:
    ...     primary.register_replica("eu-1")
    ...     result = primary.commit(b"paid")
    ...     primary.ack_replica_lsn("eu-1", applied_lsn=1, durable_lsn=1)
    ...     primary.retention_floor_lsn()
    0
    1
    """

    def __init__(
        self,
        data_path: StrPath | None = None,
        config: ReplicationConfig | None = None,
        *,
        recovery: Literal["truncate", "strict"] = "truncate",
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._closed = True
        config = ReplicationConfig.primary() if config is None else config
        if not isinstance(config, ReplicationConfig):
            raise TypeError(f"config must be a ReplicationConfig, not {type(config).__name__}")
        if recovery not in ("truncate", "strict"):
            raise ValueError(f"recovery must be 'truncate' or 'strict', not {recovery!r}")
        now = _steady_clock() if clock is None else clock
        backing = _open_backing(data_path, config, recovery)
        try:
            path = None if data_path is None else slots_path(data_path)
            slots = SlotStore(path, now(), config.max_slots, config.slot_flush_interval_ms)
            backing.begin_term(config.term)
        except BaseException:
            backing.close()
            raise
        super().__init__(backing, config, slots, now)
        self._replicas = ReplicaRegistry()
        # when it is forgotten, and when the interpreter ends, the slot file still gets what it lacks
        self._forgotten = weakref.finalize(self, _close_forgotten, slots, backing)
        self._closed = False

    @staticmethod
    def slot_path_for(data_path: StrPath) -> Path:
        """The slot file of a data path: ``DIR/NAME.logical.slots.json`` (RedDB's rule)."""
        return slots_path(data_path)

    @staticmethod
    def read_slots(data_path: StrPath) -> list[ReplicationSlot]:
        """The slots as the slot file of a data path has them, sorted by id; none where there is no file.

        Takes no lock and changes nothing, so a primary may have the data path open; the file may lag its slots by
        ``slot_flush_interval_ms``. ``retained_bytes`` is 0: the log is not looked at. ``wal_status`` is ``lost`` for an
        invalid slot; limits are the primary's, so any other is ``reserved``. ``SlotStoreCorrupt``, ``OSError``.
        """
        found = load_slots(slots_path(data_path), time.time_ns() // 1_000_000)
        return [
            slot if slot.valid else replace(slot, wal_status=WalStatus.LOST)
            for slot in sorted(found.values(), key=lambda slot: slot.id)
        ]

    # -- the registry --------------------------------------------------------------------------------------------------

    def register_replica(self, id: str, region: str | None = None) -> int:
        """Register a replica and return its slot's restart LSN: it goes on with the records above that.

        A new id gets a slot at the end of the log, durable on return. A known one keeps its progress; ``region``
        replaces what was given before. ``ReplicaIdInvalid``, ``SlotLimitReached``, ``OSError``: nothing has changed.
        """
        self._open()
        if region is not None and not isinstance(region, str):
            raise TypeError(f"region must be a str or None, not {type(region).__name__}")
        now_ms = self._now()
        restart_lsn = self._slots.register(id, lambda: self._backing.current_lsn, now_ms)
        self._register(id, restart_lsn, region, now_ms)
        self._sample()
        return restart_lsn

    def register_replica_with_region(self, id: str, region: str) -> int:
        """``register_replica`` under the reference's name."""
        return self.register_replica(id, region)

    def ensure_replica_registered(self, id: str) -> bool:
        """Register a replica unless it is; whether it was not. A known one is not refreshed."""
        self._open()
        if id in self._replicas:
            return False
        self.register_replica(id)
        return True

    def unregister_replica(self, id: str) -> bool:
        """Forget a replica and what it acknowledged; whether it was there. Its slot stays and holds the log."""
        self._open()
        known = self._replicas.unregister(id)
        if known:
            self.commit_waiter.drop_replica(id)
        return known

    def set_replica_rebootstrapping(self, id: str, flag: bool) -> bool:
        """Note that a replica is loading a snapshot, or has done so; whether the replica is known.

        While it does, up to ``bootstrap_timeout_ms``, its slot is past no limit.
        """
        self._open()
        if not isinstance(flag, bool):
            raise TypeError(f"flag must be a bool, not {type(flag).__name__}")
        return self._replicas.set_rebootstrapping(id, flag, self._now())

    def note_replica_pull(self, id: str, last_sent_lsn: int) -> None:
        """A replica was sent everything through ``last_sent_lsn``. Waits for no disk."""
        self._open()
        check_u64("last_sent_lsn", last_sent_lsn)
        now_ms = self._now()
        self._replicas.note_sent(id, last_sent_lsn, now_ms)
        self._slots.touch(id, now_ms)
        self._sample()

    def ack_replica_lsn(
        self,
        id: str,
        applied_lsn: int,
        durable_lsn: int,
        apply_error_count: int = 0,
        divergence_count: int = 0,
    ) -> None:
        """A replica has applied through ``applied_lsn`` and holds everything through ``durable_lsn`` durably.

        Every number only moves forward; the slot goes with them, and commits that wait for the copy are woken. Waits
        for no disk. ``UnknownReplica`` for an id with neither a registration nor a slot.
        """
        self._open()
        check_u64("applied_lsn", applied_lsn)
        check_u64("durable_lsn", durable_lsn)
        check_u64("apply_error_count", apply_error_count)
        check_u64("divergence_count", divergence_count)
        now_ms = self._now()
        self._admit_known(id, now_ms)
        self._slots.advance(id, applied_lsn, durable_lsn, now_ms)
        self._replicas.ack(id, applied_lsn, durable_lsn, now_ms, apply_error_count, divergence_count)
        self._record_ack(id, durable_lsn)
        self._sample()

    def ack_replica(self, id: str, lsn: int) -> None:
        """A replica holds everything through ``lsn``; its slot is neither moved nor touched. ``UnknownReplica``."""
        self._open()
        check_u64("lsn", lsn)
        now_ms = self._now()
        self._admit_known(id, now_ms)
        self._replicas.ack(id, lsn, lsn, now_ms)
        self._record_ack(id, lsn)

    def replica_snapshots(self) -> list[ReplicaState]:
        """The registered replicas, sorted by id; copies."""
        self._open()
        return self._replicas.snapshots()

    def replica_lags(self) -> list[ReplicaLag]:
        """What each registered replica lacks, sorted by id. Reads one record for each that lacks some."""
        self._open()
        acked = dict(self.commit_waiter.snapshot())
        return [self._lag(each.id, acked.get(each.id)) for each in self._replicas.snapshots()]

    def _lag(self, id: str, durable_lsn: int | None) -> ReplicaLag:
        if durable_lsn is None:
            return ReplicaLag(id)
        records, size = self._backing.extent_after(durable_lsn)
        stamp_ms = self._backing.stamp_after(durable_lsn) if records else None
        # behind the look at the log, so that a prune that came in between is noticed
        if durable_lsn < self._backing.gone_through:
            return ReplicaLag(id)
        if not records:
            return ReplicaLag(id, 0, 0, 0.0)
        # a clock that was set back must not make it negative
        return ReplicaLag(id, records, size, None if not stamp_ms else max(self._now() - stamp_ms, 0) / 1000)

    def replication_progress(self) -> ReplicationProgress | None:
        """How far the replicas lag, and what all of them hold; ``None`` without replicas."""
        return ReplicationProgress.from_replicas(self.replica_snapshots())

    @property
    def replica_count(self) -> int:
        """How many replicas are registered."""
        return len(self._replicas)

    @property
    def topology_epoch(self) -> int:
        """Goes up whenever a replica comes, goes, or begins or ends a re-bootstrap."""
        return self._replicas.topology_epoch

    def bump_topology_epoch(self) -> None:
        """Count one more change of the topology."""
        self._open()
        self._replicas.bump_epoch()

    def reset_slot(self, id: str, lsn: int) -> None:
        """Make a slot valid again at ``lsn``, for a replica that has loaded a snapshot of that LSN.

        What it acknowledged before counts no more. ``UnknownReplica``; ``LsnPruned`` where records above ``lsn`` are
        gone, ``AckBeyondWal`` above the end of the log, ``OSError``: nothing has changed.
        """
        super().reset_slot(id, lsn)
        if self._replicas.reset(id, lsn, self._now()):
            self.commit_waiter.forget_ack(id)

    def _loading(self) -> dict[str, int]:
        return self._replicas.loading_since()

    def _register(self, id: str, restart_lsn: int, region: str | None, now_ms: int) -> None:
        self._replicas.register(id, restart_lsn, region, now_ms)
        self._note_region(id)

    def _record_ack(self, id: str, durable_lsn: int) -> None:
        self.commit_waiter.record_replica_ack(id, durable_lsn)
        if id not in self._replicas:  # it was unregistered meanwhile, and is no copy any more
            self.commit_waiter.drop_replica(id)
            self._note_region(id)  # unless it has come back since

    def _note_region(self, id: str) -> None:
        replica = self._replicas.get(id)
        if replica is not None:
            self.commit_waiter.note_region(id, replica.region)

    def _admit_known(self, id: str, now_ms: int) -> None:
        """An id with a slot but no registration, as after a restart of the primary, is registered first."""
        if id in self._replicas:
            return
        slot = self._slots.get(id)
        if slot is None:
            raise UnknownReplica(replica_id=id)
        self._register(id, slot.restart_lsn, None, now_ms)

    # -- closing -------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called, or this is a forked child's copy."""
        return self._closed or self._slots.closed

    def close(self) -> None:
        """Write the slots, close the log. May be called twice; later changes raise ``SpoolClosed``."""
        self._closed = True
        self.commit_waiter.close()
        if self._forgotten.detach() is not None:
            _close(self._slots, self._backing)

    def _open(self) -> None:
        if self._closed or self._slots.closed:
            raise SpoolClosed("the primary is closed; open it again", path=self._slots.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "in memory" if self._slots.path is None else repr(str(self._slots.path))
        return f"<PrimaryReplication {where}{' closed' if self.closed else ''}>"


def _open_backing(data_path: StrPath | None, config: ReplicationConfig, recovery: Any) -> Backing:
    buffer = WalBuffer(config.buffer_capacity, config.buffer_max_bytes)
    if data_path is None:
        return MemoryBacking(buffer)
    return SpoolBacking(buffer, LogicalWalSpool.open(data_path, segment_bytes=config.segment_bytes, recovery=recovery))


def _close_forgotten(slots: SlotStore, backing: Backing) -> None:
    if slots.closed:
        return
    try:
        warnings.warn(f"unclosed primary {slots.path}", ResourceWarning, stacklevel=2)
    finally:
        if threading.current_thread().name.startswith("walspool-"):
            # collected in the middle of what a thread of its own does, and closing waits for that
            threading.Thread(target=_close, args=(slots, backing)).start()
        else:
            _close(slots, backing)


def _close(slots: SlotStore, backing: Backing) -> None:
    try:
        slots.close()
    finally:
        backing.close()


def _steady_clock() -> Callable[[], int]:
    """Unix time in ms as it was now, plus the time that has passed since: it never jumps."""
    start_ns = time.time_ns() - time.monotonic_ns()
    return lambda: (start_ns + time.monotonic_ns()) // 1_000_000
