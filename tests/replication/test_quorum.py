"""``QuorumCoordinator`` and ``FlowControl``: the quorum lines of section 9 of the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import pytest

from tests.replication.threads import InThread, until
from tests.spool.kit import PATIENCE_S
from walspool.errors import CommitError, InsufficientReplicas, MissingRegions, QuorumTimeout
from walspool.replication.commit import CommitCounters, CommitWaiter, NotRequired, Reached, Requirement, TimedOut
from walspool.replication.config import QuorumConfig
from walspool.replication.quorum import FlowControl, Granted, QuorumCoordinator, Throttled
from walspool.replication.registry import ReplicaRegistry, ReplicaState

Wait: TypeAlias = Callable[..., None]


class Primary:
    """As much of a primary as a quorum needs."""

    def __init__(self, waiter: CommitWaiter | None = None) -> None:
        self.commit_waiter = waiter or CommitWaiter()
        self.registry = ReplicaRegistry()
        self.current_logical_lsn = 100

    def replica_snapshots(self) -> list[ReplicaState]:
        """The registered replicas."""
        return self.registry.snapshots()

    def register(self, id: str, region: str | None = None) -> None:
        """A replica connects, at the end of the log."""
        self.registry.register(id, self.current_logical_lsn, region, 0)
        self.commit_waiter.note_region(id, region)

    def unregister(self, id: str) -> None:
        """It goes."""
        self.registry.unregister(id)
        self.commit_waiter.drop_replica(id)

    def ack(self, id: str, durable_lsn: int) -> None:
        """It holds this durably."""
        self.registry.ack(id, durable_lsn, durable_lsn, 0)
        self.commit_waiter.record_replica_ack(id, durable_lsn)

    def quorum(self, config: QuorumConfig) -> QuorumCoordinator:
        """A coordinator with this configuration."""
        return QuorumCoordinator(self, config)


@pytest.fixture
def primary() -> Primary:
    """At LSN 100, without replicas."""
    return Primary()


@pytest.fixture(params=["thread", "asyncio"])
def wait(request: pytest.FixtureRequest) -> Wait:
    """Both ways to wait for a quorum: they must do the same."""

    def in_thread(quorum: QuorumCoordinator, lsn: int, **timeout: Any) -> None:
        quorum.wait(lsn, **timeout)

    def in_asyncio(quorum: QuorumCoordinator, lsn: int, **timeout: Any) -> None:
        asyncio.run(quorum.wait_async(lsn, **timeout))

    return in_thread if request.param == "thread" else in_asyncio


def refused(kind: type[CommitError], call: Callable[[], None]) -> dict[str, Any]:
    """The facts of the error that the call ends with, which says that the record is durable here."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.type is kind
    assert isinstance(caught.value, CommitError)
    assert f"LSN {caught.value.lsn} is durable here and on {caught.value.acks} replicas" in str(caught.value)
    return caught.value.facts


def late(call: Callable[[], None]) -> dict[str, Any]:
    """The facts of the time-out that the call ends with, without the time that it took."""
    facts = refused(QuorumTimeout, call)
    assert facts.pop("elapsed_ms") in range(int(PATIENCE_S * 1000))
    return facts


def test_async_waits_for_nobody(primary: Primary, wait: Wait) -> None:
    """Quorum async: a commit waits for nobody, whoever is there."""
    quorum = primary.quorum(QuorumConfig.asynchronous())
    for _ in range(2):
        wait(quorum, 1_000_000)
        wait(quorum, 1_000_000, timeout=0)
        assert quorum.has_quorum(1_000_000)
        assert (quorum.watermark(), quorum.lag()) == (0, 0)
        primary.register("r1", "eu")
        primary.ack("r1", 50)


def test_sync_fails_at_once_with_too_few(primary: Primary, wait: Wait) -> None:
    """Quorum sync(n): too few connected replicas fail at once with InsufficientReplicas."""
    quorum = primary.quorum(QuorumConfig.sync(2, timeout=PATIENCE_S * 100))
    assert refused(InsufficientReplicas, lambda: wait(quorum, 1)) == {
        "lsn": 1,
        "acks": 0,
        "connected": 0,
        "required": 2,
    }
    primary.register("r1")
    primary.ack("r1", 60)
    assert refused(InsufficientReplicas, lambda: wait(quorum, 60)) == {
        "lsn": 60,
        "acks": 1,
        "connected": 1,
        "required": 2,
    }
    assert refused(InsufficientReplicas, lambda: wait(quorum, 61))["acks"] == 0
    assert primary.commit_waiter.counters() == CommitCounters(0, 0, 0, 0)


def test_sync(primary: Primary, wait: Wait) -> None:
    """Quorum sync(n): n replicas must hold it durably, else QuorumTimeout; what they registered with is no copy."""
    quorum = primary.quorum(QuorumConfig.sync(2, timeout=0.001))
    primary.register("r1")
    primary.register("r2")
    timed_out = {"target_lsn": 50, "acked_regions": (), "required": 2}
    assert late(lambda: wait(quorum, 50)) == {"lsn": 50, "acks": 0, "observed": 0, **timed_out}
    primary.ack("r1", 60)
    primary.ack("r2", 40)
    assert (quorum.has_quorum(40), quorum.has_quorum(41), quorum.watermark()) == (True, False, 40)
    wait(quorum, 40)
    assert late(lambda: wait(quorum, 50)) == {"lsn": 50, "acks": 1, "observed": 1, **timed_out}
    primary.register("r3")
    primary.ack("r3", 90)
    wait(quorum, 50)
    assert quorum.watermark() == 60


def test_sync_of_none(primary: Primary, wait: Wait) -> None:
    quorum = primary.quorum(QuorumConfig.sync(0, timeout=0))
    wait(quorum, 99)
    assert quorum.has_quorum(99)
    assert quorum.watermark() == 0
    assert primary.commit_waiter.counters().not_required == 1


def test_regions_fail_at_once_where_one_has_nobody(primary: Primary, wait: Wait) -> None:
    """Quorum regions(set): a region with no connected replica fails at once with MissingRegions, sorted."""
    quorum = primary.quorum(QuorumConfig.regions({"us", "eu", "ap"}, timeout=PATIENCE_S * 100))
    assert refused(MissingRegions, lambda: wait(quorum, 1)) == {"lsn": 1, "acks": 0, "regions": ("ap", "eu", "us")}
    primary.register("us_a", "us")
    primary.register("nowhere")
    primary.ack("us_a", 80)
    primary.ack("nowhere", 80)
    assert refused(MissingRegions, lambda: wait(quorum, 80)) == {"lsn": 80, "acks": 2, "regions": ("ap", "eu")}
    primary.register("eu_a", "eu")
    primary.unregister("us_a")
    assert refused(MissingRegions, lambda: wait(quorum, 80)) == {"lsn": 80, "acks": 1, "regions": ("ap", "us")}


def test_regions(primary: Primary, wait: Wait) -> None:
    """Quorum regions(set): at least one durable ack from each; QuorumTimeout lists the regions that did answer."""
    quorum = primary.quorum(QuorumConfig.regions(["us", "eu"], timeout=0.001))
    primary.register("us_a", "us")
    primary.register("eu_a", "eu")
    assert (quorum.has_quorum(1), quorum.watermark()) == (False, 0)
    for id in ("us_a", "us_b", "us_c"):
        primary.register(id, "us")
        primary.ack(id, 80)
    timed_out = {"lsn": 80, "target_lsn": 80, "acked_regions": ("us",), "observed": 1, "required": 2}
    assert late(lambda: wait(quorum, 80)) == {"acks": 3, **timed_out}
    primary.ack("eu_a", 70)
    assert late(lambda: wait(quorum, 80)) == {"acks": 3, **timed_out}
    assert (quorum.has_quorum(70), quorum.has_quorum(71), quorum.watermark()) == (True, False, 70)
    wait(quorum, 70)
    primary.ack("eu_a", 80)
    wait(quorum, 80)
    primary.unregister("eu_a")
    assert quorum.watermark() == 0
    primary.register("eu_a", "eu")
    assert late(lambda: wait(quorum, 80)) == {"acks": 3, **timed_out}


def test_a_late_ack_ends_the_wait(primary: Primary) -> None:
    for quorum in (primary.quorum(QuorumConfig.sync(2)), primary.quorum(QuorumConfig.regions(["us", "eu"]))):
        primary.register("us_a", "us")
        primary.register("eu_a", "eu")
        primary.ack("us_a", 80)
        waits: tuple[Callable[[], None], ...] = (
            partial(quorum.wait, 80, timeout=PATIENCE_S),
            lambda quorum=quorum: asyncio.run(quorum.wait_async(80, timeout=PATIENCE_S)),  # type: ignore[misc]
        )
        threads = [InThread(each) for each in waits]
        until(lambda: primary.commit_waiter.waiting == 2)
        assert not quorum.has_quorum(80)
        primary.ack("eu_a", 80)
        assert [each.result() for each in threads] == [None, None]
        primary.unregister("eu_a")


class Recorder(CommitWaiter):
    """A waiter whose time is always up, and which can be told what happens just then."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[float | None] = []
        self.then: Callable[[], None] | None = None

    def await_acks(
        self, target_lsn: int, required: Requirement, timeout: float | None
    ) -> Reached | TimedOut | NotRequired:
        """Keeps the time-out."""
        self.timeouts.append(timeout)
        outcome = super().await_acks(target_lsn, required, 0)
        if self.then is not None:
            self.then()
        return outcome


def test_time_outs_are_those_of_the_configuration() -> None:
    """Default timeouts: 5 s for sync, 10 s for regions; one that is given goes before."""
    waiter = Recorder()
    primary = Primary(waiter)
    primary.register("eu_a", "eu")
    for config in (QuorumConfig.sync(1), QuorumConfig.regions(["eu"]), QuorumConfig.sync(1, timeout=7.5)):
        for given in ({}, {"timeout": None}, {"timeout": 0}, {"timeout": 3.0}):
            late(partial(primary.quorum(config).wait, 90, **given))
    assert waiter.timeouts == [5.0, 5.0, 0, 3.0, 10.0, 10.0, 0, 3.0, 7.5, 7.5, 0, 3.0]


def test_a_region_that_answers_after_the_time_and_before_the_error() -> None:
    """No error says of itself that all have answered."""
    waiter = Recorder()
    primary = Primary(waiter)
    primary.register("eu_a", "eu")
    primary.register("us_a", "us")
    quorum = primary.quorum(QuorumConfig.regions(["eu", "us"]))
    waiter.then = lambda: primary.ack("eu_a", 90)
    assert late(lambda: quorum.wait(90))["acked_regions"] == ("eu",)
    waiter.then = lambda: primary.ack("us_a", 90)
    quorum.wait(90)
    assert quorum.has_quorum(90)


def test_elapsed_time(primary: Primary, wait: Wait) -> None:
    primary.register("r1")
    facts = refused(QuorumTimeout, lambda: wait(primary.quorum(QuorumConfig.sync(1)), 90, timeout=0.02))
    assert 19 <= facts["elapsed_ms"] < PATIENCE_S * 1000


def test_a_cancelled_wait(primary: Primary) -> None:
    primary.register("r1")

    async def main() -> None:
        task = asyncio.ensure_future(primary.quorum(QuorumConfig.sync(1)).wait_async(90, timeout=PATIENCE_S))
        await asyncio.sleep(0)
        assert primary.commit_waiter.waiting == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert primary.commit_waiter.waiting == 0

    asyncio.run(main())


@pytest.mark.parametrize("config", [QuorumConfig.asynchronous(), QuorumConfig.sync(1), QuorumConfig.regions(["eu"])])
def test_bad_arguments(primary: Primary, wait: Wait, config: QuorumConfig) -> None:
    primary.register("eu_a", "eu")
    quorum = primary.quorum(config)
    for call in (partial(wait, quorum), quorum.has_quorum):
        for lsn, kind in ((-1, ValueError), (2**64, ValueError), (1.0, TypeError), (True, TypeError)):
            with pytest.raises(kind, match=r"^lsn must be "):
                call(lsn)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout must be finite"):
        wait(quorum, 1, timeout=-1)


def lags(primary: Primary, *configs: QuorumConfig) -> list[int]:
    """The lag of each of these quorums."""
    return [primary.quorum(each).lag() for each in configs]


def test_lag(primary: Primary) -> None:
    """Flow control: the lag is that of the slowest durable LSN of the replicas in the quorum only (none: 0)."""
    configs = [QuorumConfig.asynchronous(), QuorumConfig.sync(1), *[QuorumConfig.regions([each]) for each in "abx"]]
    assert lags(primary, *configs) == [0, 0, 0, 0, 0]
    primary.current_logical_lsn = 10
    for id, region in (("a1", "a"), ("b1", "b"), ("none1", None)):
        primary.register(id, region)
    primary.current_logical_lsn = 500
    assert lags(primary, *configs) == [0, 490, 490, 490, 0]
    primary.ack("a1", 450)
    primary.ack("b1", 480)
    assert lags(primary, *configs) == [0, 490, 50, 20, 0]
    primary.ack("none1", 400)
    assert lags(primary, *configs) == [0, 100, 50, 20, 0]
    assert lags(primary, QuorumConfig.regions(["a", "b", "x"])) == [50]
    primary.unregister("none1")
    assert lags(primary, *configs) == [0, 50, 50, 20, 0]


def test_lag_saturates(primary: Primary) -> None:
    """In the process an acknowledgement may be beyond the end of the log."""
    primary.register("r1")
    primary.ack("r1", 120)
    assert lags(primary, QuorumConfig.sync(1)) == [0]


def test_flow_control() -> None:
    """Flow control: above the soft target admission is Throttled, at or below it Granted."""
    flow = FlowControl(100)
    assert flow.admit() == Granted()
    for lag in (0, 99, 100):
        flow.observe(lag)
        assert flow.admit() == Granted()
    flow.observe(101)
    assert flow.admit() == flow.admit() == Throttled(lag_lsn=101, target=100)
    flow.observe(100)
    assert flow.admit() == Granted()


def test_flow_control_is_off_at_0() -> None:
    """Flow control: 0 = off."""
    flow = FlowControl(0)
    flow.observe(2**64 - 1)
    assert flow.admit() == Granted()


def test_the_target_can_be_changed() -> None:
    flow = FlowControl(100)
    flow.observe(490)
    assert flow.admit() == Throttled(490, 100)
    for target, admitted in ((0, Granted()), (489, Throttled(490, 489)), (490, Granted()), (1, Throttled(490, 1))):
        flow.target_lag_lsn = target
        assert flow.target_lag_lsn == target
        assert flow.admit() == admitted


def test_read_only_replicas_never_throttle(primary: Primary) -> None:
    """Flow control: replicas outside the quorum, however far behind, never throttle writes."""
    quorum = primary.quorum(QuorumConfig.regions(["eu"]))
    flow = FlowControl(10)
    primary.current_logical_lsn = 0
    for id, region in (("eu_a", "eu"), ("reader", "us"), ("other", None)):
        primary.register(id, region)
    primary.current_logical_lsn = 1000
    primary.ack("eu_a", 995)
    flow.observe(quorum.lag())
    assert flow.admit() == Granted()
    primary.current_logical_lsn = 1006
    flow.observe(quorum.lag())
    assert flow.admit() == Throttled(11, 10)


@pytest.mark.parametrize(
    ("value", "kind"), [(-1, ValueError), (2**64, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_bad_flow_control(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^target_lag_lsn must be "):
        FlowControl(value)
    flow = FlowControl(5)
    flow.observe(6)
    with pytest.raises(kind, match=r"^target_lag_lsn must be "):
        flow.target_lag_lsn = value
    with pytest.raises(kind, match=r"^lag_lsn must be "):
        flow.observe(value)
    assert flow.admit() == Throttled(6, 5)
