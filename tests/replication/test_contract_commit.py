"""Section 9: the commit waiter, policies, the quorum and flow control, line by line. None of it needs a primary."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import walspool
from walspool import (
    CommitPolicy,
    CommitWaiter,
    FlowControl,
    Granted,
    NotRequired,
    QuorumConfig,
    QuorumCoordinator,
    Reached,
    Regions,
    Throttled,
    TimedOut,
)
from walspool.replication.registry import ReplicaRegistry, ReplicaState


class Few:
    """As much of a primary as a coordinator needs."""

    def __init__(self, **regions: str | None) -> None:
        self.commit_waiter = CommitWaiter()
        self.current_logical_lsn = 100
        self.registry = ReplicaRegistry()
        for name, region in regions.items():
            self.registry.register(name, 10, region, 0)
            self.commit_waiter.note_region(name, region)

    def ack(self, name: str, lsn: int) -> None:
        """A replica has this LSN on its disk."""
        self.registry.ack(name, lsn, lsn, 0)
        self.commit_waiter.record_replica_ack(name, lsn)

    def replica_snapshots(self) -> list[ReplicaState]:
        """The registered ones."""
        return self.registry.snapshots()

    def quorum(self, config: QuorumConfig) -> QuorumCoordinator:
        """A coordinator over this."""
        return QuorumCoordinator(self, config)


def waiter(**acks: int) -> CommitWaiter:
    """A waiter that was told these."""
    made = CommitWaiter()
    for name, lsn in acks.items():
        made.record_replica_ack(name, lsn)
    return made


class Waits:
    """A wait in another thread, known to have begun."""

    def __init__(self, on: CommitWaiter, target: int, required: Any, timeout: float | None = None) -> None:
        self.outcome: Any = None
        before = on.waiting

        def wait() -> None:
            self.outcome = on.await_acks(target, required, timeout)

        self._thread = threading.Thread(target=wait, daemon=True)
        self._thread.start()
        while on.waiting == before:
            assert self._thread.is_alive()

    def end(self) -> Any:
        """What came of it."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.outcome


def test_acknowledgements_go_forward_only_and_are_listed_by_id() -> None:
    """9.R1: record_replica_ack (forward only), drop_replica, snapshot (sorted)."""
    found = waiter(b=30, a=10, c=20)
    found.record_replica_ack("b", 15)
    assert found.snapshot() == [("a", 10), ("b", 30), ("c", 20)]
    found.record_replica_ack("a", 11)
    found.drop_replica("b")
    found.drop_replica("nobody")
    assert found.snapshot() == [("a", 11), ("c", 20)]
    found.record_replica_ack("b", 5)
    assert found.snapshot() == [("a", 11), ("b", 5), ("c", 20)]


def test_the_watermark_is_the_nth_highest() -> None:
    """9.R1: commit_watermark(n) is the n-th highest durable LSN, 0 with fewer replicas or n = 0."""
    found = waiter(a=10, b=30, c=20)
    assert [found.commit_watermark(n) for n in (0, 1, 2, 3, 4, 2**32)] == [0, 30, 20, 10, 0, 0]
    assert CommitWaiter().commit_watermark(1) == 0
    assert [found.acked_count(lsn) for lsn in (0, 10, 11, 30, 31)] == [3, 3, 2, 1, 0]


def test_outcomes_that_need_no_wait() -> None:
    """9.R1: Reached(count), TimedOut(observed, required), NotRequired; target 0 is reached at once."""
    found = waiter(a=10, b=30, c=20)
    assert found.await_acks(20, 2, 0) == Reached(2)
    assert found.await_acks(10, 1, 0) == Reached(3)
    assert found.await_acks(30, 2, 0) == TimedOut(1, 2)
    assert found.await_acks(31, 1, 0) == TimedOut(0, 1)
    assert found.await_acks(10**6, 0, None) == NotRequired()
    assert found.await_acks(0, 0, None) == NotRequired()
    assert found.await_acks(0, 9, None) == Reached(3)
    assert CommitWaiter().await_acks(0, 1, None) == Reached(0)


def test_counters() -> None:
    """9.R1: counters reached, timed out, not required, last wait in µs."""
    found = waiter(a=10)
    assert found.counters().last_wait_us == 0
    found.await_acks(1, 0, 0)
    assert (found.counters().not_required, found.counters().last_wait_us) == (1, 0)
    found.await_acks(10, 1, 0)
    found.await_acks(11, 1, 0)
    found.await_acks(11, 1, 0)
    counters = found.counters()
    assert (counters.reached, counters.timed_out, counters.not_required) == (1, 2, 1)
    assert counters.last_wait_us >= 1


def test_a_wait_ends_with_the_acknowledgement_that_it_lacks() -> None:
    """9.R1: await_acks waits for the n-th replica and no longer."""
    found = waiter(a=5)
    high, low, one = Waits(found, 9, 2), Waits(found, 7, 2), Waits(found, 9, 1)
    found.record_replica_ack("b", 7)
    found.record_replica_ack("a", 8)
    assert low.end() == Reached(2)
    assert found.waiting == 2
    found.record_replica_ack("a", 9)
    assert one.end() == Reached(1)
    assert found.waiting == 1
    found.record_replica_ack("b", 12)
    assert high.end() == Reached(2)
    assert (found.waiting, found.counters().reached) == (0, 3)


def test_a_replica_that_is_dropped_is_no_copy() -> None:
    """9.R1: drop_replica: what it had acknowledged no longer counts for those who wait."""
    found = waiter(a=9)
    wait = Waits(found, 9, 2)
    found.drop_replica("a")
    found.record_replica_ack("b", 9)
    assert found.waiting == 1
    found.record_replica_ack("c", 9)
    assert wait.end() == Reached(2)


def test_a_wait_that_nobody_ends_times_out_and_leaves_nothing() -> None:
    """9.R1: TimedOut says how many there were."""
    found = waiter(a=9, b=3)
    assert found.await_acks(9, 2, 0.001) == TimedOut(1, 2)
    assert found.waiting == 0


def test_waits_in_asyncio() -> None:
    """9.R1: the same waits without a thread, from any thread's acknowledgement; a cancelled one leaves nothing."""
    found = waiter(a=5)

    async def scene() -> list[object]:
        waits = [asyncio.create_task(found.await_acks_async(9, n, None)) for n in (1, 2)]
        given_up = asyncio.create_task(found.await_acks_async(99, 1, None))
        while found.waiting < 3:
            await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert (given_up.cancelled(), found.waiting) == (True, 2)

        def acknowledge() -> None:
            for each in "ab":
                found.record_replica_ack(each, 9)

        other = threading.Thread(target=acknowledge)
        other.start()
        outcomes = await asyncio.gather(*waits, found.await_acks_async(9, 0, 0), found.await_acks_async(10, 1, 0))
        other.join()
        return list(outcomes)

    outcomes = asyncio.run(asyncio.wait_for(scene(), 60))
    assert outcomes[1:] == [Reached(2), NotRequired(), TimedOut(0, 1)]
    assert isinstance(outcomes[0], Reached)
    assert found.waiting == 0


def test_regions_wait_for_one_copy_in_each() -> None:
    """9.R2: at least one durable acknowledgement from each named region."""
    found = CommitWaiter()
    for name, region in (("e1", "eu"), ("e2", "eu"), ("u1", "us"), ("x", None)):
        found.note_region(name, region)
    both = Regions("us", "eu")
    wait = Waits(found, 5, both)
    for name in ("e1", "e2", "x"):
        found.record_replica_ack(name, 9)
    assert (found.waiting, found.region_watermark(both), found.acked_regions(5, both)) == (1, 0, ("eu",))
    assert found.await_acks(5, both, 0) == TimedOut(1, 2)
    found.record_replica_ack("u1", 4)
    assert (found.waiting, found.region_watermark(both)) == (1, 4)
    found.record_replica_ack("u1", 7)
    assert wait.end() == Reached(4)
    assert (found.region_watermark(both), found.region_watermark(Regions("eu"))) == (7, 9)
    assert found.acked_regions(5, both) == ("eu", "us")
    assert found.acked_regions(8, both) == ("eu",)
    found.note_region("e1", "us")
    assert found.region_watermark(both) == 9


def test_only_acknowledgements_count() -> None:
    """9.P1: a replica that has registered and acknowledged nothing is no copy."""
    few = Few(a="eu", b="eu")
    assert few.commit_waiter.commit_watermark(1) == 0
    for config in (QuorumConfig.sync(1, 0), QuorumConfig.regions({"eu"}, 0)):
        coordinator = few.quorum(config)
        assert (coordinator.has_quorum(10), coordinator.has_quorum(1), coordinator.watermark()) == (False, False, 0)
        with pytest.raises(walspool.QuorumTimeout):
            coordinator.wait(10)
    few.ack("b", 10)
    assert few.quorum(QuorumConfig.regions({"eu"}, 0)).has_quorum(10)
    assert few.quorum(QuorumConfig.sync(1, 0)).has_quorum(10)


@pytest.mark.parametrize(
    ("text", "label", "required"),
    [
        ("local", "local", 0),
        ("Local", "local", 0),
        ("REMOTE_WAL", "remote_wal", 1),
        ("ack_n=3", "ack_n", 3),
        ("Ack_N=003", "ack_n", 3),
        ("ack_n=0", "ack_n", 0),
        ("ack_n=4294967295", "ack_n", 2**32 - 1),
        ("quorum", "quorum", None),
        ("QuOrUm", "quorum", None),
    ],
)
def test_policies_are_read_without_regard_to_case(text: str, label: str, required: int | None) -> None:
    """9.R2: local, remote_wal (waits for one durable copy), ack_n=N, quorum, read without regard to case."""
    found = CommitPolicy.parse(text)
    assert (found.label, found.required) == (label, required)
    assert CommitPolicy.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "local ",
            "locally",
            "remote wal",
            "ack_n",
            "ack_n=",
            "ack_n=-1",
            "ack_n=+1",
            "ack_n=1.0",
            "ack_n= 1",
        ),
        *(
            "ack_n=4294967296",
            "ack_n=" + "9" * 10_000,
            "ack_n=\u0661",
            "ack_n=1\n",
            "quorum=2",
            "async",
            "local\n",
            "\0",
        ),
    ],
)
def test_any_other_policy_is_refused(text: str) -> None:
    """9.P2: anything else, also the empty string, is a ValueError that says what there is."""
    with pytest.raises(ValueError, match="ack_n=N"):
        CommitPolicy.parse(text)


def test_the_default_timeouts() -> None:
    """9.R2: sync(n) 5 s, regions(set) 10 s."""
    assert QuorumConfig.asynchronous().timeout is None
    assert (QuorumConfig.sync(2).timeout, QuorumConfig.sync(2, timeout=0.5).timeout) == (5, 0.5)
    assert (QuorumConfig.regions(["eu"]).timeout, QuorumConfig.regions(["eu"], timeout=1).timeout) == (10, 1)
    assert QuorumConfig.regions(["eu", "us", "eu"]).region_names == {"eu", "us"}


def test_the_asynchronous_quorum_waits_for_nobody() -> None:
    """9.R2: async."""
    coordinator = Few().quorum(QuorumConfig.asynchronous())
    coordinator.wait(10**6)
    asyncio.run(coordinator.wait_async(10**6))
    assert (coordinator.has_quorum(10**6), coordinator.watermark(), coordinator.lag()) == (True, 0, 0)


def test_too_few_replicas_fail_at_once() -> None:
    """9.R2: too few connected replicas fail at once, and the error says that the record is durable here."""
    few = Few(a=None)
    few.ack("a", 50)
    for wait in _both_ways(few.quorum(QuorumConfig.sync(2, timeout=1)), 40):
        with pytest.raises(walspool.InsufficientReplicas) as caught:
            wait()
        error = caught.value
        assert (error.connected, error.required, error.lsn, error.acks) == (1, 2, 40, 1)
        assert isinstance(error, walspool.CommitError)
        assert "LSN 40 is durable here" in str(error)


def test_a_region_with_nobody_fails_at_once() -> None:
    """9.R2: a region with no connected replica fails at once."""
    few = Few(a="eu", b=None)
    few.ack("a", 50)
    for wait in _both_ways(few.quorum(QuorumConfig.regions(["us", "eu", "ap"], timeout=1)), 40):
        with pytest.raises(walspool.MissingRegions) as caught:
            wait()
        assert (caught.value.regions, caught.value.lsn, caught.value.acks) == (("ap", "us"), 40, 1)
        assert "LSN 40 is durable here" in str(caught.value)


def test_a_late_quorum_times_out_and_lists_the_regions_that_answered() -> None:
    """9.R2: a late one with QuorumTimeout, also a TimeoutError, that lists the regions that did answer."""
    few = Few(e="eu", u="us", a="ap", f="eu")
    for name, lsn in (("e", 80), ("u", 80), ("f", 81), ("a", 79)):
        few.ack(name, lsn)
    for wait in _both_ways(few.quorum(QuorumConfig.regions(["us", "eu", "ap"], timeout=0)), 80):
        with pytest.raises(walspool.QuorumTimeout) as caught:
            wait()
        error = caught.value
        assert isinstance(error, TimeoutError)
        assert (error.acked_regions, error.observed, error.required) == (("eu", "us"), 2, 3)
        assert (error.lsn, error.target_lsn, error.acks) == (80, 80, 3)
        assert error.elapsed_ms >= 0
        assert "LSN 80 is durable here and on 3 replicas" in str(error)
    few.ack("a", 80)
    few.quorum(QuorumConfig.regions(["us", "eu", "ap"], timeout=0)).wait(80)


def test_a_sync_quorum() -> None:
    """9.R2: sync(n) waits for n durable copies."""
    few = Few(a=None, b=None)
    few.ack("a", 60)
    few.ack("b", 40)
    coordinator = few.quorum(QuorumConfig.sync(2, timeout=0))
    coordinator.wait(40)
    assert (coordinator.has_quorum(40), coordinator.has_quorum(41), coordinator.watermark()) == (True, False, 40)
    with pytest.raises(walspool.QuorumTimeout) as caught:
        coordinator.wait(50)
    error = caught.value
    assert (error.observed, error.required, error.acked_regions, error.acks) == (1, 2, (), 1)
    nobody = few.quorum(QuorumConfig.sync(0))
    nobody.wait(10**6)
    assert nobody.has_quorum(10**6)


def test_a_quorum_that_comes_in_time() -> None:
    """9.R2: a waiting commit goes on with the last copy."""
    few = Few(a="eu", b="us")
    coordinator, done = few.quorum(QuorumConfig.regions(["eu", "us"], timeout=600)), threading.Event()

    def commit() -> None:
        coordinator.wait(70)
        done.set()

    thread = threading.Thread(target=commit, daemon=True)
    thread.start()
    few.ack("a", 70)
    while few.commit_waiter.waiting == 0:
        assert thread.is_alive()
    assert not done.is_set()
    few.ack("b", 70)
    assert done.wait(60)
    thread.join()


def _both_ways(coordinator: QuorumCoordinator, lsn: int) -> Any:
    yield lambda: coordinator.wait(lsn)
    yield lambda: asyncio.run(coordinator.wait_async(lsn))


def test_the_lag_is_that_of_the_slowest_in_the_quorum() -> None:
    """9.R3: against the slowest durable LSN of the replicas in the quorum only; none: lag 0."""
    few = Few(e1="eu", e2="eu", u="us", x=None)
    for name, lsn in (("e1", 90), ("e2", 70), ("u", 95), ("x", 50)):
        few.ack(name, lsn)
    lags = {
        config: few.quorum(config).lag()
        for config in (
            QuorumConfig.asynchronous(),
            QuorumConfig.sync(1),
            QuorumConfig.regions(["us"]),
            QuorumConfig.regions(["eu"]),
            QuorumConfig.regions(["eu", "us"]),
            QuorumConfig.regions(["ap"]),
        )
    }
    assert list(lags.values()) == [0, 50, 5, 30, 30, 0]
    few.current_logical_lsn = 20
    assert few.quorum(QuorumConfig.sync(1)).lag() == 0


def test_admission_by_the_lag() -> None:
    """9.R3: above the target Throttled, at or below it Granted; 0 is off."""
    flow = FlowControl(100)
    assert flow.admit() == Granted()
    flow.observe(100)
    assert flow.admit() == Granted()
    flow.observe(101)
    assert flow.admit() == Throttled(lag_lsn=101, target=100)
    flow.target_lag_lsn = 0
    assert flow.admit() == Granted()
    flow.target_lag_lsn = 50
    assert flow.admit() == Throttled(lag_lsn=101, target=50)
    flow.observe(0)
    assert flow.admit() == Granted()
    off = FlowControl(0)
    off.observe(2**64 - 1)
    assert off.admit() == Granted()
