"""``ReplicationConfig`` and ``QuorumConfig``: what a primary is told, checked when it is told."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from walspool.records import MAX_U64, check_u64

__all__ = ["QuorumConfig", "ReplicationConfig", "check_region_names", "check_seconds"]

QuorumMode = Literal["async", "sync", "regions"]


def check_seconds(name: str, value: Any) -> float:
    """Return a time-out in seconds; refuse what is no finite number of at least 0."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least 0 seconds, not {value}")
    return value


def check_region_names(names: Iterable[str]) -> frozenset[str]:
    """Return the names of regions as a set; refuse none at all, an empty one, and a plain string."""
    if isinstance(names, str):
        raise TypeError(f"regions must be a collection of names, not the one string {names!r}")
    given = list(names)
    for each in given:
        if not isinstance(each, str):
            raise TypeError(f"the name of a region must be a str, not {type(each).__name__}")
        if not each:
            raise ValueError("the name of a region must not be empty")
    if not given:
        raise ValueError("regions must name at least one region")
    return frozenset(given)


@dataclass(frozen=True)
class QuorumConfig:
    """Which replicas must hold a commit durably. Made by ``asynchronous``, ``sync`` or ``regions``."""

    #: ``async``: none; ``sync``: so many of any; ``regions``: one in each of these regions.
    mode: QuorumMode = "async"
    #: How many replicas, or with ``regions`` how many regions. At least 0.
    required: int = 0
    #: The regions of the mode ``regions``; else empty.
    region_names: frozenset[str] = frozenset()
    #: How long a commit waits for them, in seconds, at least 0; ``None`` with ``async``, which never waits.
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("async", "sync", "regions"):
            raise ValueError(f"mode must be 'async', 'sync' or 'regions', not {self.mode!r}")
        if self.mode == "regions":
            object.__setattr__(self, "region_names", check_region_names(self.region_names))
            object.__setattr__(self, "required", len(self.region_names))
        elif self.region_names:
            raise ValueError(f"region_names must be empty where mode is {self.mode!r}")
        check_u64("required", self.required)
        if self.mode != "async":
            check_seconds("timeout", self.timeout)
        elif self.required or self.timeout is not None:
            raise ValueError("required must be 0 and timeout None where mode is 'async'")

    @classmethod
    def asynchronous(cls) -> QuorumConfig:
        """No replica: a commit is done when it is durable here."""
        return cls()

    @classmethod
    def sync(cls, n: int, timeout: float = 5.0) -> QuorumConfig:
        """Any ``n`` replicas, within ``timeout`` seconds."""
        return cls("sync", n, frozenset(), timeout)

    @classmethod
    def regions(cls, regions: Iterable[str], timeout: float = 10.0) -> QuorumConfig:
        """At least one replica in each of these regions, within ``timeout`` seconds."""
        return cls("regions", 0, check_region_names(regions), timeout)


#: The smallest value of each number in a ``ReplicationConfig``; the greatest is 2**64-1.
_MINIMUM: Final = {
    "term": 1,
    "poll_interval_ms": 1,
    "max_batch_size": 1,
    "slot_retention_max_lag_lsn": 0,
    "slot_idle_timeout_ms": 0,
    "bootstrap_timeout_ms": 0,
    "max_retained_bytes": 0,
    "max_slots": 1,
    "slot_flush_interval_ms": 1,
    "flow_target_lag_lsn": 0,
    "buffer_capacity": 1,
    "buffer_max_bytes": 1,
    "segment_bytes": 1,
}


@dataclass(frozen=True, kw_only=True)
class ReplicationConfig:
    """What a primary does and within which bounds. A value out of bounds is a ``ValueError`` or ``TypeError``."""

    #: The term of the records that this primary appends. Default 1, at least 1.
    term: int = 1
    #: How long a replica should pause between two pulls, in milliseconds. Default 100, at least 1.
    poll_interval_ms: int = 100
    #: How many records one pull gives at most. Default 1000, at least 1.
    max_batch_size: int = 1000
    #: The region that this primary is in. Default "local".
    region: str = "local"
    #: Which replicas a commit with ``ack="quorum"`` waits for. Default: none.
    quorum: QuorumConfig = QuorumConfig()
    #: A slot further behind the log's end than this, in LSNs, is invalidated. Default 100 000; 0 is off.
    slot_retention_max_lag_lsn: int = 100_000
    #: A slot whose replica was not seen for longer than this, in milliseconds, is invalidated. Default a day; 0 is off.
    slot_idle_timeout_ms: int = 86_400_000
    #: For so long a slot whose replica loads a snapshot is past no limit, in milliseconds. Default an hour; 0 is off.
    bootstrap_timeout_ms: int = 3_600_000
    #: A slot that holds more than this of the log, in bytes, is invalidated. Default 0, which is off.
    max_retained_bytes: int = 0
    #: How many slots there may be. Default 64, at least 1.
    max_slots: int = 64
    #: How long an advance of a slot may stay off the disk, in milliseconds. Default 100, at least 1.
    slot_flush_interval_ms: int = 100
    #: How far the slowest replica of the quorum may lag before ``admit`` throttles, in LSNs. Default 0, which is off.
    flow_target_lag_lsn: int = 0
    #: How many of the newest records are kept in memory. Default 100 000, at least 1.
    buffer_capacity: int = 100_000
    #: How many bytes of their payloads. Default 256 MiB, at least 1.
    buffer_max_bytes: int = 256 << 20
    #: Size at which a file of the log is sealed, in bytes; ``None`` keeps one file. Default 64 MiB, at least 1.
    segment_bytes: int | None = 64 << 20

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUM.items():
            value = getattr(self, name)
            if name == "segment_bytes" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if not minimum <= value <= MAX_U64:
                raise ValueError(f"{name} must be between {minimum} and 2**64-1, not {value}")
        if not isinstance(self.region, str):
            raise TypeError(f"region must be a str, not {type(self.region).__name__}")
        if not isinstance(self.quorum, QuorumConfig):
            raise TypeError(f"quorum must be a QuorumConfig, not {type(self.quorum).__name__}")

    @classmethod
    def primary(cls) -> ReplicationConfig:
        """The configuration of a primary with every default."""
        return cls()

    def with_slot_retention_max_lag_lsn(self, n: int) -> ReplicationConfig:
        """The same with another ``slot_retention_max_lag_lsn``."""
        return self.replace(slot_retention_max_lag_lsn=n)

    def with_slot_idle_timeout_ms(self, n: int) -> ReplicationConfig:
        """The same with another ``slot_idle_timeout_ms``."""
        return self.replace(slot_idle_timeout_ms=n)

    def replace(self, **changes: Any) -> ReplicationConfig:
        """The same with these fields changed; ``TypeError`` for a field that there is not."""
        return dataclasses.replace(self, **changes)
