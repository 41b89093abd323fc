"""Waiting for the quorum of a configuration, and slowing writers down where it lags."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from walspool.errors import InsufficientReplicas, MissingRegions, QuorumTimeout
from walspool.records import check_u64
from walspool.replication.commit import CommitWaiter, NotRequired, Reached, Regions, Requirement, TimedOut
from walspool.replication.config import QuorumConfig
from walspool.replication.registry import ReplicaState

__all__ = ["FlowControl", "Granted", "QuorumCoordinator", "QuorumPrimary", "Throttled"]


class QuorumPrimary(Protocol):
    """What a coordinator needs of a primary."""

    @property
    def commit_waiter(self) -> CommitWaiter:
        """Who holds what, and in which region."""

    @property
    def current_logical_lsn(self) -> int:
        """The end of the log."""

    def replica_snapshots(self) -> list[ReplicaState]:
        """The registered replicas."""


class QuorumCoordinator:
    """Whether the quorum that ``config`` asks for holds an LSN. Connected is who is registered."""

    def __init__(self, primary: QuorumPrimary, config: QuorumConfig) -> None:
        self._primary = primary
        self._waiter = primary.commit_waiter
        self.config = config
        self._required: Requirement = Regions(*config.region_names) if config.mode == "regions" else config.required

    def wait(self, lsn: int, *, timeout: float | None = None) -> None:
        """Return once the quorum holds ``lsn`` durably; at once where the mode is ``async``.

        ``InsufficientReplicas`` or ``MissingRegions`` at once where it can't; ``QuorumTimeout`` after the configured
        time, or ``timeout`` seconds where given. In each case the record itself is durable on the primary.
        """
        started = time.monotonic()
        self._refuse_hopeless(lsn)
        outcome = self._waiter.await_acks(lsn, self._required, self._seconds(timeout))
        self._judge(lsn, outcome, started)

    async def wait_async(self, lsn: int, *, timeout: float | None = None) -> None:
        """``wait`` for asyncio, without a thread."""
        started = time.monotonic()
        self._refuse_hopeless(lsn)
        outcome = await self._waiter.await_acks_async(lsn, self._required, self._seconds(timeout))
        self._judge(lsn, outcome, started)

    def has_quorum(self, lsn: int) -> bool:
        """Whether the quorum holds ``lsn`` durably now; always where nobody has to."""
        check_u64("lsn", lsn)
        return self._required == 0 or self.watermark() >= lsn

    def watermark(self) -> int:
        """The highest LSN that the quorum holds durably; 0 where nobody has to."""
        if isinstance(self._required, Regions):
            return self._waiter.region_watermark(self._required)
        return self._waiter.commit_watermark(self._required)

    def lag(self) -> int:
        """From the slowest durable LSN among the replicas of the quorum to the end of the log; 0 without any.

        Those are none where the mode is ``async``, all with ``sync``, and with ``regions`` those in the regions named.
        """
        members = [each.last_durable_lsn for each in self._primary.replica_snapshots() if self._counts(each)]
        return max(self._primary.current_logical_lsn - min(members), 0) if members else 0

    def _counts(self, replica: ReplicaState) -> bool:
        if isinstance(self._required, Regions):
            return replica.region in self._required.names
        return self.config.mode == "sync"

    def _seconds(self, timeout: float | None) -> float | None:
        return self.config.timeout if timeout is None else timeout

    def _refuse_hopeless(self, lsn: int) -> None:
        """Raise where too few are connected for the quorum to come about."""
        check_u64("lsn", lsn)
        if self._required == 0:
            return
        connected = self._primary.replica_snapshots()
        if isinstance(self._required, Regions):
            missing = self._required.names - {each.region for each in connected}
            if missing:
                raise MissingRegions(lsn=lsn, acks=self._waiter.acked_count(lsn), regions=tuple(sorted(missing)))
        elif len(connected) < self._required:
            raise InsufficientReplicas(
                lsn=lsn, acks=self._waiter.acked_count(lsn), connected=len(connected), required=self._required
            )

    def _judge(self, lsn: int, outcome: Reached | TimedOut | NotRequired, started: float) -> None:
        if not isinstance(outcome, TimedOut):
            return
        acks = observed = outcome.observed
        acked_regions: tuple[str, ...] = ()
        if isinstance(self._required, Regions):
            acked_regions = self._waiter.acked_regions(lsn, self._required)
            acks, observed = self._waiter.acked_count(lsn), len(acked_regions)
            if observed == outcome.required:
                return  # the last one came after the time was up and before the error: it is there
        raise QuorumTimeout(
            lsn=lsn,
            acks=acks,
            target_lsn=lsn,
            elapsed_ms=int((time.monotonic() - started) * 1000),
            acked_regions=acked_regions,
            observed=observed,
            required=outcome.required,
        )


@dataclass(frozen=True, slots=True)
class Granted:
    """The writer may go on."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """The quorum lags by ``lag_lsn``, more than the ``target``: the writer should slow down."""

    lag_lsn: int
    target: int


class FlowControl:
    """A soft target for the lag of the quorum, in LSNs; 0 is off. Safe to use from any number of threads."""

    def __init__(self, target_lag_lsn: int) -> None:
        self.target_lag_lsn = target_lag_lsn
        self._lag_lsn = 0

    @property
    def target_lag_lsn(self) -> int:
        """The lag up to which writers are admitted; it can be set."""
        return self._target_lag_lsn

    @target_lag_lsn.setter
    def target_lag_lsn(self, target_lag_lsn: int) -> None:
        self._target_lag_lsn = check_u64("target_lag_lsn", target_lag_lsn)

    def observe(self, lag_lsn: int) -> None:
        """The quorum lags by this now."""
        self._lag_lsn = check_u64("lag_lsn", lag_lsn)

    def admit(self) -> Granted | Throttled:
        """Whether a writer may go on, by what was last observed."""
        # Each read once, so that the answer agrees with itself whatever another thread sets meanwhile.
        lag_lsn, target = self._lag_lsn, self._target_lag_lsn
        return Throttled(lag_lsn, target) if 0 < target < lag_lsn else Granted()
