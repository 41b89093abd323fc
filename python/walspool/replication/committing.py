"""The writing half of a primary: appending, waiting for the log, and commits that wait for copies."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from walspool.changes import ChangeRecord
from walspool.errors import CommitError, LsnOrderError, SpoolClosed
from walspool.records import check_u64
from walspool.replication.backing import Backing, SpoolBacking
from walspool.replication.buffer import WalBuffer
from walspool.replication.commit import CommitPolicy, CommitResult, CommitWaiter, Regions
from walspool.replication.config import QuorumConfig, ReplicationConfig, check_seconds
from walspool.replication.quorum import FlowControl, Granted, QuorumCoordinator, Throttled
from walspool.replication.registry import ReplicaState
from walspool.spool.log import LogicalWalSpool

__all__ = ["Ack", "CommittingPrimary"]

#: What a commit waits for.
Ack = int | str | CommitPolicy | Regions


class CommittingPrimary(ABC):
    """Base of ``PrimaryReplication``: everything that adds to the log."""

    def __init__(self, backing: Backing, config: ReplicationConfig) -> None:
        self._backing = backing
        self._config = config
        #: Who holds what durably.
        self.commit_waiter = CommitWaiter()
        self._flow = FlowControl(config.flow_target_lag_lsn)

    @abstractmethod
    def replica_snapshots(self) -> list[ReplicaState]:
        """The registered replicas."""

    @abstractmethod
    def _open(self) -> None:
        """Refuse a call after ``close``."""

    @abstractmethod
    def _sample(self) -> None:
        """Remember for forecasts where the log and the slots are."""

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def config(self) -> ReplicationConfig:
        """The configuration it was opened with."""
        return self._config

    @property
    def wal_buffer(self) -> WalBuffer:
        """The newest records in memory."""
        return self._backing.buffer

    @property
    def logical_wal_spool(self) -> LogicalWalSpool | None:
        """The log on disk; ``None`` without a data path."""
        return self._backing.spool if isinstance(self._backing, SpoolBacking) else None

    @property
    def current_logical_lsn(self) -> int:
        """The highest LSN of the log: the spool's, or the buffer's where there is no data path."""
        return self._backing.current_lsn

    @property
    def term(self) -> int:
        """The term that new records have: the configured one, or a higher one that the log already holds."""
        return self._backing.term

    @property
    def fenced_by(self) -> int | None:
        """The term of the primary that has replaced this one; ``None`` while nobody has."""
        met = self._backing.fenced_term
        return met if met >= self._backing.term else None

    def fence(self, term: int) -> bool:
        """A primary of ``term`` was met elsewhere; whether that, or one met before, has replaced this one.

        A newer term does: from now on, also behind a restart, every append is refused with ``StaleTermError``, while
        reads, replicas and slots go on. An equal or older one changes nothing. ``OSError``: it holds until the close.
        """
        self._open()
        if check_u64("term", term) > self._backing.term:
            self._backing.fence(term)
        return self.fenced_by is not None

    @property
    def quorum(self) -> QuorumCoordinator:
        """The quorum of the configuration."""
        return QuorumCoordinator(self, self._config.quorum)

    # -- appending -----------------------------------------------------------------------------------------------------

    def append_logical_record(self, lsn: int, encoded: Any) -> None:
        """Append one record; it is on stable storage when this returns, and whoever waits for it is woken.

        ``lsn`` must be above ``current_logical_lsn``. The spool's errors (``LsnOrderError``, ``PayloadTooLarge``,
        ``SpoolPoisoned``, ``OSError``): neither the log nor the buffer holds it.
        """
        self._open()
        self._sample()  # before: nothing may fail behind the append
        self._backing.append(check_u64("lsn", lsn), encoded)

    def append_change(self, record: ChangeRecord) -> int:
        """Append a change record and return its LSN, durable on return.

        A ``lsn`` of 0 in the record becomes the next one, a ``term`` of 0 the current one.
        """
        self._open()
        if not isinstance(record, ChangeRecord):
            raise TypeError(f"record must be a ChangeRecord, not {type(record).__name__}")
        if record.term == 0:
            record = replace(record, term=self.term)
        if record.lsn:
            self.append_logical_record(record.lsn, record.encode())
            return record.lsn
        lsn = self.current_logical_lsn + 1
        while True:
            try:
                self.append_logical_record(lsn, replace(record, lsn=lsn).encode())
                return lsn
            except LsnOrderError as error:  # another thread took it
                lsn = error.last_lsn + 1

    def wait_for_logical_lsn_after(self, since_lsn: int, timeout: float | None) -> bool:
        """True as soon as the log is past ``since_lsn``, and the buffer with it; False after ``timeout`` seconds."""
        self._open()
        if timeout is not None and not (isinstance(timeout, int | float) and timeout < 0):
            check_seconds("timeout", timeout)
        return self._backing.wait_after(since_lsn, timeout)

    # -- commits -------------------------------------------------------------------------------------------------------

    def commit(self, data: Any, *, ack: Ack = "local", timeout: float | None = None) -> CommitResult:
        """Append one record with the next LSN and wait for copies of it.

        ``ack``: ``"local"`` (durable here), so many replicas, ``"quorum"`` (as configured), or ``Regions("eu", "us")``
        for one replica in each; a ``CommitPolicy`` or its text, too. ``timeout``: seconds to wait, by default 5, with
        regions 10, with ``"quorum"`` as configured. A replica counts once it acknowledged the LSN as durable.

        ``InsufficientReplicas``, ``MissingRegions``, ``QuorumTimeout``, or ``CommitError`` when the primary is closed
        meanwhile: the record is durable here all the same, and
        on as many replicas as the error says. Every other error: it is not in the log.
        """
        self._open()
        quorum = self._quorum_of(ack, timeout)
        self._sample()
        lsn = self._backing.append_next(data)
        if quorum is not None:
            with self._durable_all_the_same(lsn):
                quorum.wait(lsn, timeout=timeout)
        return CommitResult(lsn, self.commit_waiter.acked_count(lsn))

    async def acommit(self, data: Any, *, ack: Ack = "local", timeout: float | None = None) -> CommitResult:
        """``commit`` for asyncio, without a thread a call: commits that gather while a flush runs share the next.

        Cancelling it ends the wait, not the append.
        """
        self._open()
        quorum = self._quorum_of(ack, timeout)
        self._sample()
        lsn = await self._backing.aappend_next(data)
        if quorum is not None:
            with self._durable_all_the_same(lsn):
                await quorum.wait_async(lsn, timeout=timeout)
        return CommitResult(lsn, self.commit_waiter.acked_count(lsn))

    @contextlib.contextmanager
    def _durable_all_the_same(self, lsn: int) -> Iterator[None]:
        """A primary that is closed behind the append must not make the caller commit the record again."""
        try:
            yield
        except SpoolClosed as error:
            words = f"the primary was closed while the commit waited; LSN {lsn} is durable here, do not commit it again"
            raise CommitError(words, lsn=lsn, acks=self.commit_waiter.acked_count(lsn)) from error

    def _quorum_of(self, ack: Ack, timeout: float | None) -> QuorumCoordinator | None:
        """The quorum that a commit waits for; checked as a whole, before anything is appended."""
        if timeout is not None:
            check_seconds("timeout", timeout)
        if isinstance(ack, Regions):
            return QuorumCoordinator(self, QuorumConfig.regions(ack.names))
        if isinstance(ack, str):
            ack = CommitPolicy.parse(ack)
        if isinstance(ack, CommitPolicy):
            if ack.required is None:
                return self.quorum
            ack = ack.required
        copies = check_u64("ack", ack)
        return QuorumCoordinator(self, QuorumConfig.sync(copies)) if copies else None

    def admit(self) -> Granted | Throttled:
        """Whether a writer may go on, or should slow down because the quorum lags by more than the flow target."""
        self._open()
        self._flow.observe(self.quorum.lag())
        return self._flow.admit()
