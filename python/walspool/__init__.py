"""walspool: a durable, replicated log for Python programs.

>>> import tempfile, walspool
>>> with walspool.open(tempfile.mkdtemp() + "/app.db") as log:
...     first = log.append_next(b"hello")
...     log.read_since(0)
[(1, b'hello')]
"""

from __future__ import annotations

TYPE_CHECKING = False  # what typing calls so; importing that would take longer than all else here
if TYPE_CHECKING:
    from typing import Any

    from walspool.changes import ABSENT, ChangeOperation, ChangeRecord
    from walspool.core import ArrowStream, Entry
    from walspool.errors import (
        AckBeyondWal,
        CommitError,
        Diverged,
        FrameCorrupt,
        InsufficientReplicas,
        LsnOrderError,
        LsnPruned,
        MissingRegions,
        PayloadTooLarge,
        ProtocolError,
        QuorumTimeout,
        RebootstrapRequired,
        RecordDecodeError,
        ReplicaIdInvalid,
        SlotLimitReached,
        SlotStoreCorrupt,
        SpoolClosed,
        SpoolCorrupt,
        SpoolError,
        SpoolLocked,
        SpoolPoisoned,
        SpoolReadOnly,
        StaleTermError,
        UnknownReplica,
        WalspoolError,
    )
    from walspool.records import Position
    from walspool.replication.buffer import WalBuffer
    from walspool.replication.commit import (
        CommitCounters,
        CommitPolicy,
        CommitResult,
        CommitWaiter,
        NotRequired,
        Reached,
        Regions,
        TimedOut,
    )
    from walspool.replication.config import QuorumConfig, ReplicationConfig
    from walspool.replication.primary import PrimaryReplication
    from walspool.replication.quorum import FlowControl, Granted, QuorumCoordinator, Throttled
    from walspool.replication.registry import ReplicaLag, ReplicaState, ReplicationProgress
    from walspool.replication.resume import FullRebootstrap, PartialResync, ResumePlan
    from walspool.replication.retention import RetentionReport, SlotRetention
    from walspool.replication.slot import ReplicationSlot, SlotInvalidationCause, WalStatus
    from walspool.spool.log import LogicalWalSpool
    from walspool.spool.reports import (
        FrameBatch,
        FramesAppended,
        Problem,
        PruneReport,
        RecoveryReport,
        RepairReport,
        SegmentInfo,
        SpoolStats,
        VerifyReport,
    )

    open = LogicalWalSpool.open  # the name users meet
    __version__: str

__all__ = [
    "ABSENT",
    "AckBeyondWal",
    "ArrowStream",
    "ChangeOperation",
    "ChangeRecord",
    "CommitCounters",
    "CommitError",
    "CommitPolicy",
    "CommitResult",
    "CommitWaiter",
    "Diverged",
    "Entry",
    "FlowControl",
    "FrameBatch",
    "FrameCorrupt",
    "FramesAppended",
    "FullRebootstrap",
    "Granted",
    "InsufficientReplicas",
    "LogicalWalSpool",
    "LsnOrderError",
    "LsnPruned",
    "MissingRegions",
    "NotRequired",
    "PartialResync",
    "PayloadTooLarge",
    "Position",
    "PrimaryReplication",
    "Problem",
    "ProtocolError",
    "PruneReport",
    "QuorumConfig",
    "QuorumCoordinator",
    "QuorumTimeout",
    "Reached",
    "RebootstrapRequired",
    "RecordDecodeError",
    "RecoveryReport",
    "Regions",
    "RepairReport",
    "ReplicaIdInvalid",
    "ReplicaLag",
    "ReplicaState",
    "ReplicationConfig",
    "ReplicationProgress",
    "ReplicationSlot",
    "ResumePlan",
    "RetentionReport",
    "SegmentInfo",
    "SlotInvalidationCause",
    "SlotLimitReached",
    "SlotRetention",
    "SlotStoreCorrupt",
    "SpoolClosed",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolLocked",
    "SpoolPoisoned",
    "SpoolReadOnly",
    "SpoolStats",
    "StaleTermError",
    "Throttled",
    "TimedOut",
    "UnknownReplica",
    "VerifyReport",
    "WalBuffer",
    "WalStatus",
    "WalspoolError",
    "__version__",
    "open",
]

#: Modules that are used under their own names.
_MODULES = ("core", "metrics", "net")
#: Where the names live; the first of these modules that offers a name has it.
_HOMES = (
    "walspool.errors",
    "walspool.core",
    "walspool.records",
    "walspool.changes",
    "walspool.spool.reports",
    "walspool.spool.log",
    "walspool.replication.buffer",
    "walspool.replication.commit",
    "walspool.replication.config",
    "walspool.replication.primary",
    "walspool.replication.quorum",
    "walspool.replication.registry",
    "walspool.replication.resume",
    "walspool.replication.retention",
    "walspool.replication.slot",
)


def __getattr__(name: str) -> Any:
    # names are loaded when first used: importing walspool costs a program nothing that it does not use
    if name not in __all__ and name not in _MODULES:
        raise AttributeError(f"module 'walspool' has no attribute {name!r}")
    from importlib import import_module

    value: Any
    if name in _MODULES:
        return import_module(f"walspool.{name}")
    if name == "open":
        value = import_module("walspool.spool.log").LogicalWalSpool.open
    elif name == "__version__":
        value = _version()
    else:
        homes = (import_module(each) for each in _HOMES)
        value = next(getattr(home, name) for home in homes if name in home.__all__)
    globals()[name] = value
    return value


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("walspool")
    except metadata.PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
