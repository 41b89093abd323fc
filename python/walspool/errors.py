"""Every exception that walspool raises.

An exception is built from facts (``path``, ``offset``, ``lsn`` …), keeps them as attributes and words its
message from them, so that both cores say the same. Operating-system errors stay ``OSError``.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

__all__ = [
    "AckBeyondWal",
    "CommitError",
    "Diverged",
    "FrameCorrupt",
    "InsufficientReplicas",
    "LsnOrderError",
    "LsnPruned",
    "MissingRegions",
    "PayloadTooLarge",
    "ProtocolError",
    "QuorumTimeout",
    "RebootstrapRequired",
    "RecordDecodeError",
    "ReplicaIdInvalid",
    "SlotLimitReached",
    "SlotStoreCorrupt",
    "SpoolClosed",
    "SpoolCorrupt",
    "SpoolError",
    "SpoolLocked",
    "SpoolPoisoned",
    "SpoolReadOnly",
    "StaleTermError",
    "UnknownReplica",
    "WalspoolError",
]


def _show(value: Any) -> str:
    if isinstance(value, bytes | os.PathLike):
        value = os.fsdecode(value)
    return str(value)


class WalspoolError(Exception):
    """Base of all walspool errors. Keyword arguments become attributes of the same names."""

    summary: ClassVar[str] = "walspool failed"
    advice: ClassVar[str] = ""
    #: Facts that the words tell in another place.
    unlisted: ClassVar[tuple[str, ...]] = ()
    #: LSN of the last record of a failed multi-batch call that is durable all the same, else ``None``.
    appended_through: int | None = None

    def __init__(self, message: str | None = None, **facts: Any) -> None:
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)
        self._message = message
        super().__init__(message if message is not None else self._words())

    def _words(self) -> str:
        shown = {n: _show(value) for n, value in self.facts.items() if value is not None and n not in self.unlisted}
        head = self.summary
        for name in list(shown):
            if "{" + name + "}" in head:
                head = head.replace("{" + name + "}", shown.pop(name))
        detail = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shown.items())
        text = f"{head} ({detail})" if detail else head
        return f"{text}; {self.advice}" if self.advice else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self._message, self.facts))


def _rebuild(kind: type[WalspoolError], message: str | None, facts: dict[str, Any]) -> WalspoolError:
    return kind(message, **facts)


class SpoolError(WalspoolError):
    """Base of what can go wrong with one log on disk."""


class SpoolClosed(SpoolError):
    """The spool was closed, or this is the copy of it in a forked child. Facts: ``path``."""

    summary = "the spool {path} is closed"
    advice = "open it again"
    path: Any = None


class SpoolLocked(SpoolError):
    """Another writer holds the lock. Facts: ``path`` (the lock file), ``pid`` (the holder's, or ``None``)."""

    summary = "{path} is locked by another writer"
    advice = "close that writer, or open with read_only=True"
    path: Any = None
    pid: int | None = None


class SpoolReadOnly(SpoolError):
    """A call that would write, on a spool opened with ``read_only=True``. Facts: ``path``, ``call``."""

    summary = "{path} was opened read-only, so {call} is refused"
    advice = "open it without read_only=True"
    path: Any = None
    call: str = ""


class SpoolPoisoned(SpoolError):
    """A sync failed earlier, so nothing written since can be trusted. Facts: ``path``, ``reason``."""

    summary = "{path} takes no more appends, because an earlier flush failed: {reason}"
    advice = "close the spool and open it again; everything acknowledged is still there"
    path: Any = None
    reason: str = ""


class SpoolCorrupt(SpoolError):
    """Bytes that were durable are damaged or missing, or a file is not walspool's.

    Facts: ``path``, ``reason``, and where known ``offset`` (bytes) and ``first_lsn``/``last_lsn`` (the range in doubt).
    """

    summary = "{path} is damaged: {reason}"
    advice = "look with 'walspool verify', mend with 'walspool repair'"
    path: Any = None
    reason: str = ""
    offset: int | None = None
    first_lsn: int | None = None
    last_lsn: int | None = None


class FrameCorrupt(SpoolError, ValueError):
    """Bytes given to a call are no valid frames. Facts: ``reason``, ``offset`` (bytes, within what was given)."""

    summary = "not a valid frame: {reason}"
    advice = "nothing was appended; fetch the bytes again"
    reason: str = ""
    offset: int = 0


class PayloadTooLarge(SpoolError, ValueError):
    """A payload above 256 MiB. Facts: ``size``, ``limit`` (bytes), ``index`` (in a list of records, else ``None``)."""

    summary = "a payload of {size} bytes is above the limit of {limit} bytes"
    advice = "split it"
    size: int = 0
    limit: int = 0
    index: int | None = None


class LsnOrderError(SpoolError, ValueError):
    """An LSN not above the one before it. Facts: ``lsn``, ``last_lsn``, ``index`` (in a list, else ``None``)."""

    summary = "LSN {lsn} is not above the last LSN {last_lsn}"
    advice = "nothing was appended; LSNs must increase"
    lsn: int = 0
    last_lsn: int = 0
    index: int | None = None


class StaleTermError(SpoolError, ValueError):
    """A term below the current one, or another primary's. Facts: ``term``, ``current_term``, ``index``."""

    summary = "term {term} is below the current term {current_term}"
    advice = "nothing was appended; terms never decrease"
    term: int = 0
    current_term: int = 0
    index: int | None = None

    def _words(self) -> str:
        if self.term != self.current_term:
            return super()._words()
        return f"term {self.term} is another primary's; nothing was appended; promote this log to a higher one first"


class RebootstrapRequired(WalspoolError):
    """What a follower needs is no longer in the log, so it must start from a snapshot. Facts: ``cause`` and LSNs."""

    summary = "the log no longer holds what is asked for: {cause}"
    advice = "start again from a snapshot"
    cause: str = ""


class LsnPruned(SpoolError, RebootstrapRequired):
    """A follow starts below the prune boundary, or a prune overtook it. Facts: ``lsn``, ``pruned_through``."""

    summary = "records above LSN {lsn} were pruned through LSN {pruned_through}"
    advice = "start again from a snapshot at or above that LSN"
    cause: str = "wal-removed"
    path: Any = None
    lsn: int = 0
    pruned_through: int = 0


class SlotStoreCorrupt(WalspoolError):
    """The slot file can't be read as one. Facts: ``path``, ``reason``, ``previous`` (the last good one or ``None``)."""

    summary = "the slot store {path} is damaged: {reason}"
    advice = "put the previous version in its place, or remove the file if no replica needs the log"
    path: Any = None
    reason: str = ""
    previous: Any = None


class SlotLimitReached(WalspoolError):
    """There are as many slots as the configuration allows. Facts: ``replica_id``, ``max_slots``."""

    summary = "no slot for the replica {replica_id}: there are {max_slots} already, which is max_slots"
    advice = "drop one that nobody needs ('walspool slots list', 'walspool slots drop'), or raise max_slots"
    replica_id: str = ""
    max_slots: int = 0


class ReplicaIdInvalid(WalspoolError, ValueError):
    """A replica id outside the allowed set. Facts: ``replica_id`` (as ``repr`` shows it)."""

    summary = "{replica_id} is no replica id"
    advice = "use 1 to 64 of A-Z a-z 0-9 . _ -"
    replica_id: str = ""


class UnknownReplica(WalspoolError):
    """An id with neither a registration nor a slot. Facts: ``replica_id``."""

    summary = "the replica {replica_id} is not known here"
    advice = "register it first"
    replica_id: str = ""


class AckBeyondWal(WalspoolError, ValueError):
    """An acknowledged LSN above the log's end. Facts: ``lsn``, ``current_lsn``."""

    summary = "LSN {lsn} is beyond the end of the log at {current_lsn}"
    advice = "this replica has diverged; start it again from a snapshot"
    lsn: int = 0
    current_lsn: int = 0


class RecordDecodeError(WalspoolError, ValueError):
    """Bytes that are no ChangeRecord. Facts: ``reason``."""

    summary = "not a change record: {reason}"
    reason: str = ""


class CommitError(WalspoolError):
    """A commit did not get the copies it asked for; its record is durable here.

    Facts: ``lsn``, ``acks`` (how many replicas hold it durably).
    """

    summary = "the commit did not get the copies it asked for"
    unlisted = ("lsn", "acks")
    lsn: int = 0
    acks: int = 0

    def _words(self) -> str:
        return (
            f"{super()._words()}; LSN {self.lsn} is durable here and on {self.acks} replicas: do not commit it again, "
            "wait for it with commit_waiter.await_acks or go on"
        )


class InsufficientReplicas(CommitError):
    """Fewer replicas are connected than must acknowledge. Facts: ``connected``, ``required``."""

    summary = "{connected} replicas are connected, {required} are required"
    connected: int = 0
    required: int = 0


class MissingRegions(CommitError):
    """No replica is connected in a region that must acknowledge. Facts: ``regions``."""

    summary = "no replica is connected in {regions}"
    regions: Any = ()


class QuorumTimeout(CommitError, TimeoutError):
    """Acknowledgements came too late.

    Facts: ``target_lsn``, ``elapsed_ms``, ``acked_regions``, ``observed``, ``required``.
    """

    summary = "only {observed} of {required} acknowledged LSN {target_lsn} in time"
    target_lsn: int = 0
    elapsed_ms: int = 0
    acked_regions: Any = ()
    observed: int = 0
    required: int = 0


class Diverged(WalspoolError):
    """Two logs hold different records at one LSN. Facts: ``ours``, ``theirs`` (Positions)."""

    summary = "the two logs have diverged: {ours} here, {theirs} there"
    advice = "start the replica again from a snapshot"
    ours: Any = None
    theirs: Any = None


class ProtocolError(WalspoolError):
    """The other end broke the protocol. Facts: ``reason``."""

    summary = "the other end broke the protocol: {reason}"
    reason: str = ""
