"""Section 8: the replica registry, line by line, over both cores and in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import Clock, calls, fill, replica, slot
from walspool import ReplicationProgress
from walspool.replication.registry import ReplicaRegistry, ReplicaState


def lsns(state: ReplicaState) -> tuple[int, int, int]:
    """Acknowledged, sent, durable."""
    return state.last_acked_lsn, state.last_sent_lsn, state.last_durable_lsn


def test_a_new_replica_starts_at_its_slot(anywhere: Opener, clock: Clock) -> None:
    """8.R1: new: the three LSNs start at the slot's restart_lsn, the epoch goes up."""
    primary = anywhere()
    assert (primary.topology_epoch, primary.replica_count, primary.replica_snapshots()) == (0, 0, [])
    fill(primary, 1, 5)
    assert primary.register_replica("a") == 5
    assert primary.register_replica("b", region="eu") == 5
    assert primary.register_replica_with_region("c", "us") == 5
    assert (primary.topology_epoch, primary.replica_count) == (3, 3)
    assert replica(primary, "a") == ReplicaState("a", 5, 5, 5, 0, 0, clock.now_ms, clock.now_ms, None, False)
    assert [replica(primary, each).region for each in "abc"] == [None, "eu", "us"]
    assert lsns(replica(primary, "c")) == (5, 5, 5)


def test_a_replica_that_comes_back_starts_at_its_old_slot(anywhere: Opener) -> None:
    """8.R1: register_replica returns the slot's restart_lsn, whatever the log's end is by then."""
    primary = anywhere()
    fill(primary, 1, 5)
    primary.register_replica("a")
    fill(primary, 6, 9)
    primary.ack_replica_lsn("a", 8, 7)
    primary.unregister_replica("a")
    assert primary.register_replica("a") == 7
    assert lsns(replica(primary, "a")) == (7, 7, 7)


def test_registering_a_known_replica_keeps_its_progress(anywhere: Opener, clock: Clock) -> None:
    """8.R1: known: progress kept, last_seen refreshed, region replaced only by a given one, the epoch stays."""
    primary = anywhere()
    fill(primary, 1, 9)
    primary.register_replica("a", "eu")
    primary.note_replica_pull("a", 20)
    primary.ack_replica_lsn("a", 15, 12, 3, 1)
    connected = clock.now_ms
    clock.now_ms += 1000
    assert primary.register_replica("a") == 12
    expected = ReplicaState("a", 15, 20, 12, 3, 1, connected, clock.now_ms, "eu", False)
    assert replica(primary, "a") == expected
    primary.register_replica("a", "us")
    assert replica(primary, "a").region == "us"
    assert primary.topology_epoch == 1
    assert slot(primary, "a").last_seen_at_unix_ms == clock.now_ms


def test_ensure_registers_once(anywhere: Opener) -> None:
    """8.R2: ensure_replica_registered is True only when it registered."""
    primary = anywhere()
    fill(primary, 1, 3)
    assert primary.ensure_replica_registered("a") is True
    assert primary.ensure_replica_registered("a") is False
    assert (primary.topology_epoch, lsns(replica(primary, "a")), slot(primary, "a").restart_lsn) == (1, (3, 3, 3), 3)


def test_unregistering_is_forgotten_by_the_waiter(anywhere: Opener) -> None:
    """8.R2: unregister_replica: whether it was there; then the epoch goes up and the commit waiter forgets it."""
    primary = anywhere()
    for each in "ab":
        primary.register_replica(each, "eu")
        primary.ack_replica_lsn(each, 4, 4)
    assert primary.unregister_replica("a") is True
    assert (primary.topology_epoch, primary.replica_count) == (3, 1)
    assert primary.commit_waiter.snapshot() == [("b", 4)]
    assert primary.unregister_replica("a") is False
    assert primary.unregister_replica("nobody") is False
    assert primary.topology_epoch == 3
    primary.unregister_replica("b")
    assert primary.commit_waiter.region_watermark(walspool.Regions("eu")) == 0


def test_an_acknowledgement_beside_an_unregistration_counts_for_nothing(
    anywhere: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.R2: also when the acknowledgement was under way already."""
    primary = anywhere()
    for acknowledge in calls(lambda: primary.ack_replica_lsn("a", 4, 4), lambda: primary.ack_replica("a", 4)):
        primary.register_replica("a")
        tell = primary.commit_waiter.record_replica_ack

        def late(name: str, lsn: int, tell: Callable[[str, int], None] = tell) -> None:
            primary.unregister_replica(name)
            tell(name, lsn)

        with monkeypatch.context() as patched:
            patched.setattr(primary.commit_waiter, "record_replica_ack", late)
            acknowledge()
        assert (primary.commit_waiter.snapshot(), primary.replica_count) == ([], 0)


def test_rebootstrapping_counts_when_it_changes(anywhere: Opener) -> None:
    """8.R3: set_replica_rebootstrapping: whether the id is known; the epoch goes up only when the flag changes."""
    primary = anywhere()
    primary.register_replica("a")
    found = []
    for name, flag in (("a", False), ("a", True), ("a", True), ("nobody", True), ("a", False)):
        known = primary.set_replica_rebootstrapping(name, flag)
        found.append((known, primary.topology_epoch, replica(primary, "a").rebootstrapping))
    assert found == [(True, 1, False), (True, 2, True), (True, 2, True), (False, 2, True), (True, 3, False)]


def test_a_bumped_epoch(anywhere: Opener) -> None:
    """8.R1: the epoch also goes up when it is told to."""
    primary = anywhere()
    primary.bump_topology_epoch()
    assert primary.topology_epoch == 1


def test_a_pull_moves_what_was_sent_forward(anywhere: Opener, clock: Clock) -> None:
    """8.R4: note_replica_pull: last_sent only forward, last_seen refreshed, slot touched."""
    primary = anywhere()
    primary.register_replica("a")
    connected = clock.now_ms
    for sent, highest in ((6, 6), (4, 6), (7, 7)):
        clock.now_ms += 10
        primary.note_replica_pull("a", sent)
        state = replica(primary, "a")
        assert (lsns(state), state.last_seen_at_unix_ms) == ((0, highest, 0), clock.now_ms)
        assert state.connected_at_unix_ms == connected
        assert slot(primary, "a").last_seen_at_unix_ms == clock.now_ms
    assert (slot(primary, "a").restart_lsn, slot(primary, "a").confirmed_lsn) == (0, 0)
    assert primary.commit_waiter.snapshot() == []


def test_an_acknowledgement_moves_every_field_forward_only(anywhere: Opener, clock: Clock) -> None:
    """8.R5: ack_replica_lsn: slot advanced, every field only forward, last_seen refreshed, the waiter told durable."""
    primary = anywhere()
    primary.register_replica("a")
    primary.ack_replica_lsn("a", 8, 5, 2, 1)
    clock.now_ms += 10
    primary.ack_replica_lsn("a", 7, 6, 1, 3)
    state = replica(primary, "a")
    assert (lsns(state), state.apply_error_count, state.divergence_count) == ((8, 0, 6), 2, 3)
    assert state.last_seen_at_unix_ms == clock.now_ms
    found = slot(primary, "a")
    assert (found.restart_lsn, found.confirmed_lsn, found.last_seen_at_unix_ms) == (6, 8, clock.now_ms)
    assert primary.commit_waiter.snapshot() == [("a", 6)]
    primary.ack_replica_lsn("a", 9, 3)
    assert (lsns(replica(primary, "a")), slot(primary, "a").restart_lsn) == ((9, 0, 6), 6)
    assert primary.commit_waiter.snapshot() == [("a", 6)]


def test_the_waiter_is_told_after_all_locks_are_released(anywhere: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.R5: whoever the waiter wakes can look at everything at once."""
    primary, seen = anywhere(), list[object]()
    primary.register_replica("a")
    tell = primary.commit_waiter.record_replica_ack

    def look_from_elsewhere(name: str, lsn: int) -> None:
        def look() -> None:
            seen.extend((slot(primary, name).restart_lsn, replica(primary, name).last_durable_lsn))
            seen.append(primary.topology_epoch)

        other = threading.Thread(target=look, daemon=True)
        other.start()
        other.join(60)
        assert not other.is_alive()
        tell(name, lsn)

    monkeypatch.setattr(primary.commit_waiter, "record_replica_ack", look_from_elsewhere)
    primary.ack_replica_lsn("a", 4, 3)
    assert seen == [3, 3, 1]


def test_the_plain_acknowledgement_leaves_the_slot_alone(anywhere: Opener, clock: Clock) -> None:
    """8.R5: ack_replica: acked and durable forward, waiter told, the slot neither moved nor touched."""
    primary = anywhere()
    primary.register_replica("a")
    before = slot(primary, "a")
    clock.now_ms += 10
    primary.ack_replica("a", 7)
    primary.ack_replica("a", 4)
    state = replica(primary, "a")
    assert (lsns(state), state.last_seen_at_unix_ms) == ((7, 0, 7), clock.now_ms)
    assert primary.commit_waiter.snapshot() == [("a", 7)]
    assert slot(primary, "a") == before


def test_unregistering_keeps_the_slot(anywhere: Opener) -> None:
    """8.R6: the slot of an unregistered replica goes on holding the log."""
    primary = anywhere()
    primary.register_replica("a")
    fill(primary, 1, 6)
    primary.ack_replica_lsn("a", 2, 2)
    before = slot(primary, "a")
    primary.unregister_replica("a")
    assert slot(primary, "a") == before
    assert (primary.retention_floor_lsn(), primary.prune_retained_wal_through(6)) == (2, 2)


def test_a_pull_touches_the_slot_of_an_unregistered_replica(anywhere: Opener, clock: Clock) -> None:
    """8.R6: a pull touches the slot of an unregistered id too, and registers nobody."""
    primary = anywhere()
    primary.register_replica("a")
    primary.unregister_replica("a")
    clock.now_ms += 10
    primary.note_replica_pull("a", 3)
    primary.note_replica_pull("nobody", 3)
    assert slot(primary, "a").last_seen_at_unix_ms == clock.now_ms
    assert primary.replica_count == 0
    assert [each.id for each in primary.slot_snapshots()] == ["a"]


def test_registering_refreshes_an_invalid_slot_too(anywhere: Opener, clock: Clock) -> None:
    """8.R6: registering refreshes last_seen of an invalid slot too, which stays invalid; a pull does not."""
    primary = anywhere(slot_retention_max_lag_lsn=1)
    primary.register_replica("a")
    fill(primary, 1, 5)
    assert primary.enforce_retention_limits() == [("a", "horizon")]
    invalid = slot(primary, "a")
    clock.now_ms += 10
    primary.note_replica_pull("a", 1)
    primary.ack_replica_lsn("a", 5, 5)
    assert slot(primary, "a") == invalid
    primary.register_replica("a")
    found = slot(primary, "a")
    assert (found.last_seen_at_unix_ms, found.valid, found.restart_lsn) == (clock.now_ms, False, 0)


def test_ensure_refreshes_nothing(anywhere: Opener, clock: Clock) -> None:
    """8.R6: ensure_replica_registered of a known id refreshes nothing."""
    primary = anywhere()
    primary.register_replica("a")
    before = primary.slot_snapshots(), primary.replica_snapshots()
    clock.now_ms += 10
    primary.ensure_replica_registered("a")
    assert (primary.slot_snapshots(), primary.replica_snapshots()) == before


def test_an_unknown_replica_is_refused(anywhere: Opener) -> None:
    """8.P7: an acknowledgement from an id with neither a registration nor a slot counts for nothing."""
    primary = anywhere()
    for refuse in calls(lambda: primary.ack_replica_lsn("ghost", 3, 3), lambda: primary.ack_replica("ghost", 3)):
        with pytest.raises(walspool.UnknownReplica) as caught:
            refuse()
        assert caught.value.replica_id == "ghost"
    assert (primary.slot_snapshots(), primary.replica_snapshots(), primary.commit_waiter.snapshot()) == ([], [], [])
    assert primary.topology_epoch == 0


@pytest.mark.parametrize("plain", [False, True])
def test_a_replica_with_a_slot_is_registered_by_its_acknowledgement(anywhere: Opener, plain: bool) -> None:
    """8.P7: with a slot but no registration the replica is registered first."""
    primary = anywhere()
    primary.register_replica("a")
    primary.unregister_replica("a")
    if plain:
        primary.ack_replica("a", 4)
    else:
        primary.ack_replica_lsn("a", 5, 4)
    assert primary.topology_epoch == 3
    assert lsns(replica(primary, "a")) == (4 if plain else 5, 0, 4)
    assert primary.commit_waiter.snapshot() == [("a", 4)]


def test_after_a_restart_an_acknowledgement_registers(on_disk: Opener) -> None:
    """8.P7: as after a restart of the primary."""
    primary = on_disk()
    fill(primary, 1, 9)
    primary.register_replica("a", "eu")
    primary = on_disk()
    assert primary.replica_count == 0
    primary.ack_replica_lsn("a", 9, 9)
    assert lsns(replica(primary, "a")) == (9, 9, 9)
    assert slot(primary, "a").restart_lsn == 9


def test_an_acknowledgement_beyond_the_log_is_accepted(anywhere: Opener) -> None:
    """8.R8: in the process an acknowledged LSN beyond current_lsn is accepted."""
    primary = anywhere()
    primary.register_replica("a")
    primary.ack_replica_lsn("a", 2**64 - 1, 1000)
    assert lsns(replica(primary, "a")) == (2**64 - 1, 0, 1000)
    assert slot(primary, "a").restart_lsn == 1000
    assert primary.commit_waiter.commit_watermark(1) == 1000
    assert primary.current_logical_lsn == 0


def test_progress_over_all_registered_replicas(anywhere: Opener) -> None:
    """8.R9: the contract's example: sent 120/100, acked 90/70, durable 80/60; None without replicas."""
    primary = anywhere()
    assert primary.replication_progress() is None
    for name, sent, acked, durable in (("fast", 120, 90, 80), ("slow", 100, 70, 60)):
        primary.register_replica(name)
        primary.note_replica_pull(name, sent)
        primary.ack_replica_lsn(name, acked, durable)
    assert primary.replication_progress() == ReplicationProgress(lag_lsn=50, safe_replay_lsn=60)
    assert ReplicationProgress.from_replicas(primary.replica_snapshots()) == primary.replication_progress()
    primary.unregister_replica("slow")
    assert primary.replication_progress() == ReplicationProgress(lag_lsn=30, safe_replay_lsn=80)


def test_progress_saturates() -> None:
    """8.R9: who applied more than anybody was sent has no lag below 0."""
    registry = ReplicaRegistry()
    assert registry.progress() is None
    assert ReplicationProgress.from_replicas([]) is None
    registry.register("a", 3, None, 0)
    registry.ack("a", 9, 8, 0)
    assert registry.progress() == ReplicationProgress(lag_lsn=0, safe_replay_lsn=8)


def test_snapshots_are_copies_in_order() -> None:
    """8.R1: what was handed out does not change, and comes sorted by id."""
    registry = ReplicaRegistry()
    for each in "bca":
        assert registry.register(each, 0, None, 1)
    before = registry.snapshots()
    registry.ack("a", 5, 5, 2)
    assert [each.id for each in before] == ["a", "b", "c"]
    assert [each.last_acked_lsn for each in before] == [0, 0, 0]
    assert registry.get("a") == registry.snapshots()[0] != before[0]
    assert ("a" in registry, "d" in registry, len(registry), registry.get("d")) == (True, False, 3, None)
    assert registry.ack("d", 1, 1, 2) is None
    registry.note_sent("d", 1, 2)
    assert len(registry) == 3
