"""``CommitWaiter`` and ``CommitPolicy``: each line of section 9 of the contract that is about them.

Nobody really waits here; ``test_commit_waiting`` has those who do.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from walspool.replication.commit import (
    CommitCounters,
    CommitPolicy,
    CommitResult,
    CommitWaiter,
    NotRequired,
    Reached,
    Regions,
    Requirement,
    TimedOut,
)

Await: TypeAlias = Callable[[CommitWaiter, int, Requirement, float | None], Reached | TimedOut | NotRequired]


@pytest.fixture
def waiter() -> CommitWaiter:
    """Three replicas: a holds 10, b holds 30, c holds 20."""
    made = CommitWaiter()
    for id, lsn in (("c", 20), ("a", 10), ("b", 30)):
        made.record_replica_ack(id, lsn)
    return made


@pytest.fixture(params=["thread", "asyncio"])
def await_acks(request: pytest.FixtureRequest) -> Await:
    """Both ways to wait: what they answer must be the same."""

    def in_thread(
        waiter: CommitWaiter, target: int, required: Requirement, timeout: float | None
    ) -> Reached | TimedOut | NotRequired:
        return waiter.await_acks(target, required, timeout)

    def in_asyncio(
        waiter: CommitWaiter, target: int, required: Requirement, timeout: float | None
    ) -> Reached | TimedOut | NotRequired:
        return asyncio.run(waiter.await_acks_async(target, required, timeout))

    return in_thread if request.param == "thread" else in_asyncio


def test_record_replica_ack(waiter: CommitWaiter) -> None:
    """record_replica_ack(id, lsn): forward only."""
    waiter.record_replica_ack("b", 15)
    waiter.record_replica_ack("c", 0)
    waiter.record_replica_ack("a", 11)
    waiter.record_replica_ack("new", 0)
    waiter.record_replica_ack("top", 2**64 - 1)
    assert waiter.snapshot() == [("a", 11), ("b", 30), ("c", 20), ("new", 0), ("top", 2**64 - 1)]


def test_drop_replica(waiter: CommitWaiter) -> None:
    """drop_replica: what it acknowledged counts no more, and it may come back lower."""
    waiter.note_region("b", "eu")
    waiter.drop_replica("b")
    waiter.drop_replica("ghost")
    assert waiter.snapshot() == [("a", 10), ("c", 20)]
    assert waiter.commit_watermark(1) == 20
    waiter.record_replica_ack("b", 5)
    assert waiter.snapshot() == [("a", 10), ("b", 5), ("c", 20)]
    assert waiter.region_watermark(Regions("eu")) == 0


def test_snapshot() -> None:
    """snapshot: sorted, and a copy."""
    waiter = CommitWaiter()
    assert waiter.snapshot() == []
    for id in ("z", "B", "a-1", "a.1", "a"):
        waiter.record_replica_ack(id, 7)
    taken = waiter.snapshot()
    assert [id for id, _ in taken] == ["B", "a", "a-1", "a.1", "z"]
    taken.clear()
    assert len(waiter.snapshot()) == 5


def test_commit_watermark(waiter: CommitWaiter) -> None:
    """commit_watermark(n): the n-th highest durable LSN, 0 with fewer replicas or n = 0."""
    assert [waiter.commit_watermark(n) for n in (0, 1, 2, 3, 4, 2**32)] == [0, 30, 20, 10, 0, 0]
    assert CommitWaiter().commit_watermark(1) == 0
    waiter.record_replica_ack("d", 20)
    assert [waiter.commit_watermark(n) for n in (1, 2, 3, 4, 5)] == [30, 20, 20, 10, 0]


def test_acked_count(waiter: CommitWaiter) -> None:
    assert [waiter.acked_count(lsn) for lsn in (0, 10, 11, 20, 30, 31)] == [3, 3, 2, 2, 1, 0]


def test_await_acks_reached(waiter: CommitWaiter, await_acks: Await) -> None:
    """await_acks: Reached(count) counts all that hold the LSN."""
    assert await_acks(waiter, 20, 2, 0) == Reached(2)
    assert await_acks(waiter, 10, 1, 0) == Reached(3)
    assert await_acks(waiter, 30, 1, None) == Reached(1)


def test_await_acks_timed_out(waiter: CommitWaiter, await_acks: Await) -> None:
    """await_acks: TimedOut(observed, required)."""
    assert await_acks(waiter, 25, 2, 0.001) == TimedOut(1, 2)
    assert await_acks(waiter, 25, 9, 0) == TimedOut(1, 9)
    assert await_acks(waiter, 31, 1, 0) == TimedOut(0, 1)
    assert await_acks(CommitWaiter(), 1, 2**64 - 1, 0) == TimedOut(0, 2**64 - 1)
    assert waiter.waiting == 0


def test_await_acks_not_required(waiter: CommitWaiter, await_acks: Await) -> None:
    """await_acks: NotRequired for 0, also for LSN 0."""
    assert await_acks(waiter, 1000, 0, None) == NotRequired()
    assert await_acks(waiter, 0, 0, None) == NotRequired()


def test_await_acks_of_lsn_0(waiter: CommitWaiter, await_acks: Await) -> None:
    """await_acks: target 0 is reached at once, by nobody too."""
    assert await_acks(CommitWaiter(), 0, 1, None) == Reached(0)
    assert await_acks(CommitWaiter(), 0, Regions("eu"), None) == Reached(0)
    assert await_acks(waiter, 0, 9, None) == Reached(3)


def test_counters(await_acks: Await) -> None:
    """Counters: reached, timed out, not required, last wait in µs."""
    waiter = CommitWaiter()
    assert waiter.counters() == CommitCounters(reached=0, timed_out=0, not_required=0, last_wait_us=0)
    await_acks(waiter, 5, 0, None)
    assert waiter.counters() == CommitCounters(0, 0, 1, 0)
    await_acks(waiter, 0, 1, None)
    waited = waiter.counters()
    assert waited.last_wait_us >= 1
    assert waited == CommitCounters(1, 0, 1, waited.last_wait_us)
    await_acks(waiter, 5, 1, 0.002)
    waited = waiter.counters()
    assert waited.last_wait_us >= 1500
    assert waited == CommitCounters(1, 1, 1, waited.last_wait_us)
    await_acks(waiter, 9, 0, None)
    assert waiter.counters() == CommitCounters(1, 1, 2, waited.last_wait_us)


def test_the_last_wait_in_microseconds(await_acks: Await, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters: the last wait is at least 1 µs, so that 0 says that there was none."""
    waiter = CommitWaiter()
    for took_ns, counted_us in ((0, 1), (999, 1), (2_999, 2), (7_000_000, 7_000)):
        readings = iter((10**15, 10**15 + took_ns))
        monkeypatch.setattr("walspool.replication.commit.time", SimpleNamespace(monotonic_ns=readings.__next__))
        await_acks(waiter, 0, 1, None)
        assert waiter.counters().last_wait_us == counted_us


def test_only_acknowledgements_count(await_acks: Await) -> None:
    """Only acknowledgements count: a replica that has registered and acknowledged nothing is no copy."""
    waiter = CommitWaiter()
    waiter.note_region("r", "eu")
    assert waiter.snapshot() == []
    assert (waiter.commit_watermark(1), waiter.region_watermark(Regions("eu"))) == (0, 0)
    assert await_acks(waiter, 1, 1, 0) == TimedOut(0, 1)
    assert await_acks(waiter, 1, Regions("eu"), 0) == TimedOut(0, 1)
    assert (waiter.acked_count(0), waiter.acked_regions(0, Regions("eu"))) == (0, ())


def test_regions(waiter: CommitWaiter, await_acks: Await) -> None:
    """Regions: at least one durable ack from each named region."""
    for id, region in (("a", "eu"), ("b", "us"), ("c", "eu")):
        waiter.note_region(id, region)
    both = Regions("eu", "us")
    assert (waiter.region_watermark(both), waiter.region_watermark(Regions("us"))) == (20, 30)
    assert waiter.region_watermark(Regions("eu", "ap")) == 0
    assert waiter.acked_regions(20, both) == ("eu", "us")
    assert waiter.acked_regions(21, both) == ("us",)
    assert waiter.acked_regions(1, Regions("us", "ap")) == ("us",)
    assert await_acks(waiter, 20, both, 0) == Reached(2)
    assert await_acks(waiter, 10, both, 0) == Reached(3)
    assert await_acks(waiter, 21, both, 0) == TimedOut(1, 2)
    assert await_acks(waiter, 1, Regions("ap", "sa", "us"), 0) == TimedOut(1, 3)


def test_a_region_is_that_last_noted(waiter: CommitWaiter) -> None:
    waiter.note_region("b", "eu")
    waiter.note_region("b", "us")
    assert (waiter.region_watermark(Regions("eu")), waiter.region_watermark(Regions("us"))) == (0, 30)
    waiter.note_region("b", None)
    waiter.note_region("ghost", None)
    assert waiter.region_watermark(Regions("us")) == 0
    assert waiter.acked_regions(1, Regions("us")) == ()
    assert waiter.commit_watermark(1) == 30


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda waiter: waiter.record_replica_ack("r", -1), ValueError, "lsn must be between 0"),
        (lambda waiter: waiter.record_replica_ack("r", 2**64), ValueError, "lsn must be between 0"),
        (lambda waiter: waiter.record_replica_ack("r", True), TypeError, "lsn must be an int, not bool"),
        (lambda waiter: waiter.record_replica_ack(7, 1), TypeError, "id of a replica must be a str, not int"),
        (lambda waiter: waiter.note_region(None, "eu"), TypeError, "id of a replica must be a str, not NoneType"),
        (lambda waiter: waiter.note_region("a", ["eu"]), TypeError, "region of a replica must be a str, not list"),
        (lambda waiter: waiter.commit_watermark(-1), ValueError, "n must be between 0"),
        (lambda waiter: waiter.acked_count(-1), ValueError, "lsn must be between 0"),
        (lambda waiter: waiter.acked_regions(-1, Regions("eu")), ValueError, "lsn must be between 0"),
    ],
)
def test_bad_arguments(waiter: CommitWaiter, call: Callable[[Any], Any], kind: type[Exception], words: str) -> None:
    before = waiter.snapshot()
    with pytest.raises(kind, match=words):
        call(waiter)
    assert waiter.snapshot() == before


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ((-1, 1, 0), ValueError, "target_lsn must be between 0"),
        ((2**64, 1, 0), ValueError, "target_lsn must be between 0"),
        ((1.0, 1, 0), TypeError, "target_lsn must be an int, not float"),
        ((1, -1, 0), ValueError, "required must be between 0"),
        ((1, True, 0), TypeError, "required must be an int, not bool"),
        ((1, "quorum", 0), TypeError, "required must be an int, not str"),
        ((1, 1, -1), ValueError, "timeout must be finite and at least 0 seconds, not -1"),
        ((1, 1, float("nan")), ValueError, "timeout must be finite"),
        ((1, 1, float("inf")), ValueError, "timeout must be finite"),
        ((1, 1, "1"), TypeError, "timeout must be a number of seconds, not str"),
        # Also where there is nothing to wait for.
        ((0, 0, -1), ValueError, "timeout must be finite"),
    ],
)
def test_bad_waits(waiter: CommitWaiter, await_acks: Await, given: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        await_acks(waiter, *given)
    assert waiter.waiting == 0
    assert waiter.counters() == CommitCounters(0, 0, 0, 0)


@pytest.mark.parametrize("timeout", [1e300, 10**400, 10**12])
def test_a_very_long_time_out_is_one(waiter: CommitWaiter, await_acks: Await, timeout: float) -> None:
    assert await_acks(waiter, 30, 1, timeout) == Reached(1)


def test_regions_are_a_value() -> None:
    regions = Regions("us", "eu", "us")
    assert regions == Regions("eu", "us")
    assert hash(regions) == hash(Regions("eu", "us"))
    assert regions != Regions("eu")
    assert regions.names == frozenset(("eu", "us"))
    assert repr(regions) == "Regions('eu', 'us')"
    assert pickle.loads(pickle.dumps(regions)) == copy.deepcopy(regions) == regions
    with pytest.raises(dataclasses.FrozenInstanceError):
        regions.names = frozenset()  # type: ignore[misc]
    with pytest.raises(ValueError, match="at least one region"):
        Regions()
    with pytest.raises(ValueError, match="must not be empty"):
        Regions("eu", "")
    with pytest.raises(TypeError, match="must be a str, not set"):
        Regions({"eu"})  # type: ignore[arg-type]


def test_results_are_values() -> None:
    assert CommitResult(7, 2) == CommitResult(lsn=7, acks=2)
    for value in (CommitResult(7, 2), Reached(1), TimedOut(1, 2), NotRequired(), CommitCounters(1, 2, 3, 4)):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            value.count = 9  # type: ignore[union-attr,misc]


@pytest.mark.parametrize(
    ("text", "label", "required"),
    [
        ("local", "local", 0),
        ("remote_wal", "remote_wal", 1),
        ("ack_n=0", "ack_n", 0),
        ("ack_n=3", "ack_n", 3),
        ("ack_n=4294967295", "ack_n", 2**32 - 1),
        ("quorum", "quorum", None),
    ],
)
def test_policies(text: str, label: str, required: int | None) -> None:
    """Policies: local, remote_wal, ack_n=N, quorum, read without regard to case."""
    policy = CommitPolicy.parse(text)
    assert policy == CommitPolicy(label, required)
    assert str(policy) == text
    for other in (text.upper(), text.title()):
        assert CommitPolicy.parse(other) == policy


def test_leading_zeros_of_a_policy() -> None:
    for text in ("ack_n=007", "ack_n=" + "0" * 5000 + "7"):
        assert CommitPolicy.parse(text) == CommitPolicy.parse("ack_n=7")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " local",
        "local ",
        "local\n",
        "nonsense",
        "async",
        "sync",
        "3",
        "ack_n",
        "ack_n=",
        "ack_n=-1",
        "ack_n=+1",
        "ack_n=1.0",
        "ack_n=1_0",
        "ack_n= 2",
        "ack_n = 2",
        "ack_n=2\n",
        "ack_n=4294967296",
        "ack_n=" + "9" * 5000,
        "ack_n=\u0663",
        "ac\u212a_n=2",
    ],
)
def test_no_policies(text: str) -> None:
    """Policies: anything else, also the empty string, is a ValueError that names what is accepted."""
    with pytest.raises(ValueError, match=r"'local', 'remote_wal', 'ack_n=N' with N at most 4294967295, or 'quorum'"):
        CommitPolicy.parse(text)


@pytest.mark.parametrize("text", [None, b"local", 3])
def test_a_policy_is_text(text: Any) -> None:
    with pytest.raises(TypeError):
        CommitPolicy.parse(text)
