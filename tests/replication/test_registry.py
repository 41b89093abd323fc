"""``ReplicaRegistry``: each line of section 8 of the contract that is about it."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest

from tests.replication.threads import InThread
from walspool.replication.registry import ReplicaRegistry, ReplicaState, ReplicationProgress


def state(id: str = "r", **changes: object) -> ReplicaState:
    """A replica that registered at LSN 50 and time 1000, with these differences."""
    fresh = ReplicaState(
        id=id,
        last_acked_lsn=50,
        last_sent_lsn=50,
        last_durable_lsn=50,
        apply_error_count=0,
        divergence_count=0,
        connected_at_unix_ms=1000,
        last_seen_at_unix_ms=1000,
        region=None,
        rebootstrapping=False,
    )
    return dataclasses.replace(fresh, **changes)  # type: ignore[arg-type]


@pytest.fixture
def registry() -> ReplicaRegistry:
    """One replica, ``r``, as ``state()`` says."""
    made = ReplicaRegistry()
    assert made.register("r", 50, None, 1000)
    return made


def test_nobody() -> None:
    registry = ReplicaRegistry()
    assert registry.snapshots() == []
    assert registry.get("r") is None
    assert "r" not in registry
    assert (len(registry), registry.topology_epoch) == (0, 0)


def test_register_new(registry: ReplicaRegistry) -> None:
    """register_replica, new: the three LSNs start at the slot's restart_lsn and the topology epoch goes up."""
    assert registry.snapshots() == [state()]
    assert registry.get("r") == state()
    assert "r" in registry
    assert (len(registry), registry.topology_epoch) == (1, 1)
    assert registry.register("a", 7, "eu", 2000)
    assert registry.get("a") == ReplicaState("a", 7, 7, 7, 0, 0, 2000, 2000, "eu", False)
    assert (len(registry), registry.topology_epoch) == (2, 2)


def test_register_known(registry: ReplicaRegistry) -> None:
    """register_replica, known: progress is kept, last_seen refreshed, the epoch does not move."""
    registry.note_sent("r", 80, 1001)
    registry.ack("r", 70, 60, 1002, 3, 2)
    registry.set_rebootstrapping("r", True, 7)
    epoch = registry.topology_epoch
    assert not registry.register("r", 99, None, 5000)
    assert registry.snapshots() == [
        state(
            last_sent_lsn=80,
            last_acked_lsn=70,
            last_durable_lsn=60,
            apply_error_count=3,
            divergence_count=2,
            rebootstrapping=True,
            last_seen_at_unix_ms=5000,
        )
    ]
    assert registry.topology_epoch == epoch


def test_register_known_region(registry: ReplicaRegistry) -> None:
    """register_replica, known: the region is replaced only by a given one."""
    assert not registry.register("r", 50, "eu", 1000)
    assert registry.get("r") == state(region="eu")
    assert not registry.register("r", 50, None, 1000)
    assert registry.get("r") == state(region="eu")
    assert not registry.register("r", 50, "us", 1000)
    assert registry.get("r") == state(region="us")
    assert registry.topology_epoch == 1


def test_unregister(registry: ReplicaRegistry) -> None:
    """unregister_replica: whether it was there; then the epoch goes up."""
    assert not registry.unregister("ghost")
    assert registry.topology_epoch == 1
    assert registry.unregister("r")
    assert registry.topology_epoch == 2
    assert not registry.unregister("r")
    assert (registry.topology_epoch, registry.snapshots()) == (2, [])
    assert registry.register("r", 60, None, 3000)
    assert registry.get("r") == ReplicaState("r", 60, 60, 60, 0, 0, 3000, 3000, None, False)
    assert registry.topology_epoch == 3


def test_set_rebootstrapping(registry: ReplicaRegistry) -> None:
    """set_replica_rebootstrapping: whether the id is known; the epoch goes up only when the flag changes."""
    for flag, epoch in ((False, 1), (True, 2), (True, 2), (False, 3), (False, 3)):
        assert registry.set_rebootstrapping("r", flag, 7)
        assert registry.get("r") == state(rebootstrapping=flag)
        assert registry.topology_epoch == epoch
    assert not registry.set_rebootstrapping("ghost", True, 7)
    assert (registry.topology_epoch, len(registry)) == (3, 1)


def test_note_sent(registry: ReplicaRegistry) -> None:
    """note_replica_pull: last_sent only forward, last_seen refreshed."""
    registry.note_sent("r", 60, 2000)
    assert registry.get("r") == state(last_sent_lsn=60, last_seen_at_unix_ms=2000)
    registry.note_sent("r", 40, 3000)
    assert registry.get("r") == state(last_sent_lsn=60, last_seen_at_unix_ms=3000)
    registry.note_sent("ghost", 60, 2000)
    assert (len(registry), registry.topology_epoch) == (1, 1)


def test_ack(registry: ReplicaRegistry) -> None:
    """ack_replica_lsn: every field only forward, each by itself; last_seen refreshed."""
    seen = state(last_acked_lsn=55, last_durable_lsn=52, last_seen_at_unix_ms=2000)
    assert registry.ack("r", 55, 52, 2000) == seen
    assert registry.ack("r", 10, 9, 2000) == seen
    assert registry.ack("r", 10, 60, 2000) == dataclasses.replace(seen, last_durable_lsn=60)
    assert registry.ack("r", 90, 9, 2000) == dataclasses.replace(seen, last_durable_lsn=60, last_acked_lsn=90)
    last = registry.ack("r", 0, 0, 4000)
    assert last == registry.get("r") == state(last_acked_lsn=90, last_durable_lsn=60, last_seen_at_unix_ms=4000)
    assert registry.topology_epoch == 1


def test_ack_totals(registry: ReplicaRegistry) -> None:
    """ack_replica_lsn: the two counts are totals, and only go forward too."""
    for given, kept in (((3, 1), (3, 1)), ((2, 0), (3, 1)), ((2, 4), (3, 4)), ((5, 0), (5, 4))):
        acked = registry.ack("r", 50, 50, 1000, *given)
        assert acked == state(apply_error_count=kept[0], divergence_count=kept[1])


def test_ack_of_an_unknown_id(registry: ReplicaRegistry) -> None:
    assert registry.ack("ghost", 60, 60, 2000) is None
    assert registry.snapshots() == [state()]
    assert registry.topology_epoch == 1


def test_progress() -> None:
    """Progress over registered replicas; the example of the contract: lag 50, safe replay 60."""
    registry = ReplicaRegistry()
    assert registry.progress() is None
    for id, sent, acked, durable in (("fast", 120, 90, 80), ("slow", 100, 70, 60)):
        registry.register(id, 1, None, 0)
        registry.note_sent(id, sent, 0)
        registry.ack(id, acked, durable, 0)
    assert registry.progress() == ReplicationProgress(lag_lsn=50, safe_replay_lsn=60)
    assert ReplicationProgress.from_replicas(registry.snapshots()) == registry.progress()
    assert ReplicationProgress.from_replicas([]) is None
    # The fastest sent and the slowest acknowledged need not be of one replica.
    registry.note_sent("slow", 200, 0)
    registry.ack("fast", 150, 150, 0)
    assert registry.progress() == ReplicationProgress(lag_lsn=130, safe_replay_lsn=60)


def test_progress_saturates() -> None:
    """lag_lsn saturates: an acknowledgement may be beyond what was sent."""
    assert ReplicationProgress.from_replicas([state(last_sent_lsn=50, last_acked_lsn=90)]) == ReplicationProgress(0, 50)


def test_snapshots_are_sorted_copies(registry: ReplicaRegistry) -> None:
    for id in ("z", "b", "B", "a.1", "a-1"):
        registry.register(id, 50, None, 1000)
    taken = registry.snapshots()
    assert [each.id for each in taken] == ["B", "a-1", "a.1", "b", "r", "z"]
    registry.ack("r", 90, 90, 9000)
    registry.unregister("z")
    taken.clear()
    assert [each.id for each in registry.snapshots()] == ["B", "a-1", "a.1", "b", "r"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        registry.snapshots()[0].region = "eu"  # type: ignore[misc]


def test_bump_epoch(registry: ReplicaRegistry) -> None:
    registry.bump_epoch()
    assert registry.topology_epoch == 2
    assert registry.snapshots() == [state()]


def test_threads_lose_nothing(registry: ReplicaRegistry) -> None:
    def use(number: int) -> None:
        for lsn in range(number, 4000, 8):
            registry.ack("r", lsn, lsn, lsn)
            registry.note_sent("r", 2 * lsn, lsn)
            registry.register(f"{number}-{lsn % 10}", lsn, None, lsn)

    for each in [InThread(partial(use, number)) for number in range(8)]:
        each.result()
    final = registry.get("r")
    assert final is not None
    assert (final.last_acked_lsn, final.last_durable_lsn, final.last_sent_lsn) == (3999, 3999, 7998)
    assert registry.topology_epoch == len(registry)
