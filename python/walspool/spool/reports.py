"""What the calls of a spool answer: frozen values, all public."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "FrameBatch",
    "FramesAppended",
    "Problem",
    "PruneReport",
    "RecoveryReport",
    "RepairReport",
    "SegmentInfo",
    "SpoolStats",
    "VerifyReport",
]


@dataclass(frozen=True, slots=True)
class FramesAppended:
    """What ``append_frames`` took: how many records, their LSNs, and how many bytes of the buffer."""

    records: int
    first_lsn: int | None
    last_lsn: int | None
    #: Bytes of whole frames; an incomplete frame behind them was left.
    consumed: int


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """Verified version 3 frames in one buffer; ``records`` is 0 at the end of the log."""

    #: Read-only; ``bytes(data)`` is a copy.
    data: memoryview
    records: int
    first_lsn: int | None
    last_lsn: int | None


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What an open found and did."""

    #: Records and bytes that the log holds.
    records: int
    bytes: int
    #: Bytes cut from the active segment and from damaged sealed ones, zeros included.
    cut_bytes: int
    #: ``clean``, ``torn``, ``unfinished-batch`` or ``corrupt``.
    verdict: str
    #: Words with the offset, empty when clean.
    reason: str
    #: Where cut bytes were saved, or ``None``.
    quarantine: Path | None
    #: Bytes that the open read.
    scanned_bytes: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune removed; ``bytes_freed`` is what the files shrank by."""

    records: int
    bytes_freed: int
    segments_removed: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that ``verify`` found: where, which LSNs are in doubt (``None`` where not known), and why."""

    path: Path
    offset: int | None
    first_lsn: int | None
    last_lsn: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``verify`` read, and each problem in it; ``ok`` when there is none."""

    ok: bool
    records: int
    bytes: int
    segments: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What ``repair`` did, or with ``dry_run`` would do, a sentence each."""

    changed: bool
    actions: tuple[str, ...]
    lsn_floor: int
    recovery: RecoveryReport | None


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One file of the log, oldest first in ``LogicalWalSpool.segments``; the active one is not sealed."""

    path: Path
    first_lsn: int | None
    last_lsn: int | None
    records: int
    bytes: int
    sealed: bool


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """Counters since the open. Histogram bucket ``i`` counts values of ``i`` bits, that is from 2**(i-1) up."""

    appends: int
    #: Payload bytes.
    appended_bytes: int
    flushes: int
    sync_ns_total: int
    sync_ns_max: int
    #: Syncs by duration in microseconds.
    sync_us_histogram: tuple[int, ...]
    #: Flushes by how many records they made durable.
    records_per_flush_histogram: tuple[int, ...]
    #: Read calls and iterators started, and payload or frame bytes that they returned.
    reads: int
    read_bytes: int
    rotations: int
    prunes: int
