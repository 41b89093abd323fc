"""``ReplicaRegistry``: which replicas are connected, and how far each has come. Memory only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["ReplicaLag", "ReplicaRegistry", "ReplicaState", "ReplicationProgress"]


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What is known of a registered replica."""

    id: str
    #: Up to here it has applied, was sent, and holds on its own disk.
    last_acked_lsn: int
    last_sent_lsn: int
    last_durable_lsn: int
    #: Totals, as it reported them.
    apply_error_count: int
    divergence_count: int
    connected_at_unix_ms: int
    last_seen_at_unix_ms: int
    region: str | None
    #: Whether it is loading a snapshot.
    rebootstrapping: bool


@dataclass(frozen=True, slots=True)
class ReplicaLag:
    """What of the log a registered replica does not hold durably; ``None`` where that is not known.

    Nothing is known before its first acknowledgement since it registered or began again, and where records that it
    lacks are gone.
    """

    id: str
    records: int | None = None
    #: Of their frames.
    bytes: int | None = None
    #: How long ago the oldest of them was appended, by its timestamp; 0 where it lacks nothing.
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ReplicationProgress:
    """How far all replicas together have come."""

    #: From what the slowest has applied to what the fastest was sent.
    lag_lsn: int
    #: Every replica holds everything up to here on its disk.
    safe_replay_lsn: int

    @classmethod
    def from_replicas(cls, replicas: Sequence[ReplicaState]) -> ReplicationProgress | None:
        """The progress of these; ``None`` without any."""
        if not replicas:
            return None
        sent = max(each.last_sent_lsn for each in replicas)
        acked = min(each.last_acked_lsn for each in replicas)
        return cls(max(sent - acked, 0), min(each.last_durable_lsn for each in replicas))


class ReplicaRegistry:
    """The registered replicas. LSNs, counts and times are the caller's, who has checked them; times are unix ms."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replicas: dict[str, ReplicaState] = {}
        #: Since when each of those that are loading a snapshot does so.
        self._loading_since: dict[str, int] = {}
        self._epoch = 0

    def register(self, id: str, restart_lsn: int, region: str | None, now_ms: int) -> bool:
        """Whether it is new: then its LSNs start at ``restart_lsn``. A known one keeps its progress.

        A known replica's region is replaced only by a given one.
        """
        with self._lock:
            known = self._replicas.get(id)
            if known is not None:
                kept = known.region if region is None else region
                self._replicas[id] = replace(known, last_seen_at_unix_ms=now_ms, region=kept)
                return False
            self._replicas[id] = ReplicaState(
                id=id,
                last_acked_lsn=restart_lsn,
                last_sent_lsn=restart_lsn,
                last_durable_lsn=restart_lsn,
                apply_error_count=0,
                divergence_count=0,
                connected_at_unix_ms=now_ms,
                last_seen_at_unix_ms=now_ms,
                region=region,
                rebootstrapping=False,
            )
            self._epoch += 1
            return True

    def reset(self, id: str, lsn: int, now_ms: int) -> bool:
        """Start a replica anew at ``lsn``, behind a re-bootstrap; whether it is registered. Its region stays."""
        with self._lock:
            known = self._replicas.get(id)
            if known is None:
                return False
            self._replicas[id] = replace(
                known,
                last_acked_lsn=lsn,
                last_sent_lsn=lsn,
                last_durable_lsn=lsn,
                last_seen_at_unix_ms=now_ms,
                rebootstrapping=False,
            )
            self._loading_since.pop(id, None)
            self._epoch += 1
            return True

    def unregister(self, id: str) -> bool:
        """Forget a replica; whether it was there."""
        with self._lock:
            if self._replicas.pop(id, None) is None:
                return False
            self._loading_since.pop(id, None)
            self._epoch += 1
            return True

    def set_rebootstrapping(self, id: str, flag: bool, now_ms: int) -> bool:
        """Note whether a replica is loading a snapshot; whether the id is known."""
        with self._lock:
            known = self._replicas.get(id)
            if known is None:
                return False
            if known.rebootstrapping != flag:
                self._replicas[id] = replace(known, rebootstrapping=flag)
                self._epoch += 1
                if flag:
                    self._loading_since[id] = now_ms
                else:
                    self._loading_since.pop(id, None)
            return True

    def loading_since(self) -> dict[str, int]:
        """Per replica that is loading a snapshot since when it does."""
        with self._lock:
            return dict(self._loading_since)

    def note_sent(self, id: str, lsn: int, now_ms: int) -> None:
        """A replica was sent everything up to ``lsn``. Nothing for an unknown id."""
        with self._lock:
            known = self._replicas.get(id)
            if known is not None:
                sent = max(known.last_sent_lsn, lsn)
                self._replicas[id] = replace(known, last_sent_lsn=sent, last_seen_at_unix_ms=now_ms)

    def ack(
        self,
        id: str,
        applied_lsn: int,
        durable_lsn: int,
        now_ms: int,
        apply_error_count: int = 0,
        divergence_count: int = 0,
    ) -> ReplicaState | None:
        """Note what a replica says of itself: LSNs and totals only go up. Its new state; ``None`` for an unknown id."""
        with self._lock:
            known = self._replicas.get(id)
            if known is None:
                return None
            state = replace(
                known,
                last_acked_lsn=max(known.last_acked_lsn, applied_lsn),
                last_durable_lsn=max(known.last_durable_lsn, durable_lsn),
                apply_error_count=max(known.apply_error_count, apply_error_count),
                divergence_count=max(known.divergence_count, divergence_count),
                last_seen_at_unix_ms=now_ms,
            )
            self._replicas[id] = state
            return state

    def get(self, id: str) -> ReplicaState | None:
        """What is known of a replica; ``None`` for an unknown id."""
        with self._lock:
            return self._replicas.get(id)

    def __contains__(self, id: object) -> bool:
        with self._lock:
            return id in self._replicas

    def __len__(self) -> int:
        with self._lock:
            return len(self._replicas)

    def snapshots(self) -> list[ReplicaState]:
        """All replicas as they are now, sorted by id."""
        with self._lock:
            return [self._replicas[id] for id in sorted(self._replicas)]

    def progress(self) -> ReplicationProgress | None:
        """How far all of them together have come; ``None`` without any."""
        return ReplicationProgress.from_replicas(self.snapshots())

    @property
    def topology_epoch(self) -> int:
        """Goes up with each change of who is there and who is loading a snapshot."""
        with self._lock:
            return self._epoch

    def bump_epoch(self) -> None:
        """Count a change of topology that the registry does not see."""
        with self._lock:
            self._epoch += 1
