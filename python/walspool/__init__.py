"""walspool: a durable, replicated log for Python programs.

>>> import tempfile, walspool
>>> with walspool.open(tempfile.mkdtemp() + "/app.db") as log:
...     first = log.append_next(b"hello")
...     log.read_since(0)
[(1, b'hello')]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from walspool.records import ABSENT, ChangeOperation, ChangeRecord, Position
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
    "CommitError",
    "Diverged",
    "Entry",
    "FrameBatch",
    "FrameCorrupt",
    "FramesAppended",
    "InsufficientReplicas",
    "LogicalWalSpool",
    "LsnOrderError",
    "LsnPruned",
    "MissingRegions",
    "PayloadTooLarge",
    "Position",
    "Problem",
    "ProtocolError",
    "PruneReport",
    "QuorumTimeout",
    "RebootstrapRequired",
    "RecordDecodeError",
    "RecoveryReport",
    "RepairReport",
    "SegmentInfo",
    "SlotStoreCorrupt",
    "SpoolClosed",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolLocked",
    "SpoolPoisoned",
    "SpoolReadOnly",
    "SpoolStats",
    "StaleTermError",
    "UnknownReplica",
    "VerifyReport",
    "WalspoolError",
    "__version__",
    "open",
]

#: Where the names live; the first of these modules that offers a name has it.
_HOMES = ("walspool.errors", "walspool.core", "walspool.records", "walspool.spool.reports", "walspool.spool.log")


def __getattr__(name: str) -> Any:
    # names are loaded when first used: importing walspool costs a program nothing that it does not use
    if name not in __all__:
        raise AttributeError(f"module 'walspool' has no attribute {name!r}")
    value: Any
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
