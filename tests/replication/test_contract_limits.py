"""Section 7, limits: who is invalidated when, how many slots there may be, and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import (
    DAY_MS,
    FOREVER_MS,
    START_MS,
    Clock,
    Saves,
    calls,
    fill,
    full_disk,
    slot,
    state_of,
    store,
)
from walspool import ReplicationConfig, SlotInvalidationCause


def test_limits_in_their_order(anywhere: Opener, clock: Clock) -> None:
    """7.R4: horizon above the lag, else idle-timeout above the time; the limits themselves are still inside."""
    primary = anywhere(slot_retention_max_lag_lsn=3, slot_idle_timeout_ms=10)
    for each in ("b", "a", "c", "d"):
        primary.register_replica(each)
    fill(primary, 1, 3)
    assert primary.enforce_retention_limits(START_MS + 10) == []
    fill(primary, 4, 4)
    primary.ack_replica_lsn("a", 1, 1)
    primary.ack_replica_lsn("c", 4, 4)
    primary.touch_slot("c", START_MS + 1)
    primary.ack_replica_lsn("d", 4, 4)
    primary.touch_slot("d", START_MS)
    found = primary.enforce_retention_limits(START_MS + 11)
    assert found == [("a", "idle-timeout"), ("b", "horizon"), ("d", "idle-timeout")]
    assert all(isinstance(cause, SlotInvalidationCause) for _, cause in found)
    invalid = [each.id for each in primary.slot_snapshots() if each.invalidated_at_unix_ms == START_MS + 11]
    assert (invalid, slot(primary, "c").invalidated_at_unix_ms) == (["a", "b", "d"], None)
    assert primary.enforce_retention_limits(START_MS + 11) == []
    clock.now_ms = START_MS + 12
    assert primary.enforce_retention_limits() == [("c", "idle-timeout")]


def test_differences_saturate(anywhere: Opener) -> None:
    """7.R4: differences saturate at 0: a slot ahead of the log, or seen in the future, is within the limits."""
    primary = anywhere(slot_retention_max_lag_lsn=1, slot_idle_timeout_ms=1)
    primary.register_replica("a")
    primary.ack_replica_lsn("a", 500, 500)
    primary.touch_slot("a", START_MS + DAY_MS)
    assert primary.enforce_retention_limits(START_MS) == []
    assert primary.enforce_retention_limits(0) == []


def test_zero_is_off(anywhere: Opener) -> None:
    """7.R4: max_lag_lsn > 0, idle_timeout_ms > 0."""
    primary = anywhere(slot_retention_max_lag_lsn=0, slot_idle_timeout_ms=0)
    primary.register_replica("a")
    fill(primary, 1, 50)
    assert primary.enforce_retention_limits(2**63) == []


def test_a_loaded_slot_is_idle_from_the_opening_on(on_disk: Opener, data_path: Path, clock: Clock) -> None:
    """7.P4: idle time counts from the opening until the replica is first seen again."""
    on_disk().close()
    long_ago = START_MS - 10 * DAY_MS
    store(
        data_path,
        *({"id": each, "restart_lsn": 0, "confirmed_lsn": 0, "last_seen_at_unix_ms": long_ago} for each in "abc"),
    )
    clock.now_ms = START_MS + 5_000
    primary = on_disk(slot_idle_timeout_ms=100)
    assert slot(primary, "a").last_seen_at_unix_ms == long_ago
    assert {each.wal_status for each in primary.slot_snapshots()} == {"reserved"}
    assert primary.enforce_retention_limits() == []
    clock.now_ms += 60
    primary.note_replica_pull("b", 1)
    primary.touch_slot("c", clock.now_ms - 90)
    clock.now_ms += 40
    assert primary.enforce_retention_limits() == [("c", "idle-timeout")]
    clock.now_ms += 1
    assert primary.enforce_retention_limits() == [("a", "idle-timeout")]
    clock.now_ms += 59
    assert primary.enforce_retention_limits() == []
    clock.now_ms += 1
    assert primary.enforce_retention_limits() == [("b", "idle-timeout")]


def test_a_failed_change_leaves_idleness_alone(on_disk: Opener, data_path: Path, saves: Saves) -> None:
    """7.P4: also for a slot that could not be dropped or reset: its replica was not seen by that."""
    on_disk().close()
    long_ago = START_MS - 10 * DAY_MS
    store(
        data_path,
        *({"id": each, "restart_lsn": 0, "confirmed_lsn": 0, "last_seen_at_unix_ms": long_ago} for each in "ab"),
    )
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    saves.error = full_disk()
    for change in calls(lambda: primary.drop_slot("a"), lambda: primary.reset_slot("b", 0)):
        with pytest.raises(OSError, match="No space left"):
            change()
    saves.error = None
    assert primary.enforce_retention_limits() == []


def test_the_default_limits() -> None:
    """7.R5: max_lag_lsn 100 000, idle_timeout_ms 86 400 000; 7.P5: bytes off, 64 slots."""
    found = ReplicationConfig.primary()
    assert (found.slot_retention_max_lag_lsn, found.slot_idle_timeout_ms) == (100_000, 86_400_000)
    assert (found.max_retained_bytes, found.max_slots) == (0, 64)
    changed = found.with_slot_retention_max_lag_lsn(5).with_slot_idle_timeout_ms(6)
    assert (changed.slot_retention_max_lag_lsn, changed.slot_idle_timeout_ms) == (5, 6)


def test_the_default_limits_are_those_of_a_primary(anywhere: Opener) -> None:
    """7.R5: a primary that is told nothing has these limits."""
    primary = anywhere()
    for each in "ab":
        primary.register_replica(each)
    primary.append_logical_record(100_000, b"x")
    assert primary.enforce_retention_limits(START_MS + 86_400_000) == []
    primary.append_logical_record(100_001, b"x")
    primary.ack_replica_lsn("b", 1, 1)
    assert primary.enforce_retention_limits(START_MS + 86_400_000) == [("a", "horizon")]
    assert primary.enforce_retention_limits(START_MS + 86_400_001) == [("b", "idle-timeout")]


def test_a_limit_in_bytes(anywhere: Opener) -> None:
    """7.P5: a slot that holds more bytes than max_retained_bytes is past the horizon."""
    primary = anywhere(max_retained_bytes=5_000, slot_retention_max_lag_lsn=0)
    for each in "ab":
        primary.register_replica(each)
    for lsn in range(1, 5):
        primary.append_logical_record(lsn, bytes(1_000))
    assert primary.enforce_retention_limits() == []
    primary.ack_replica_lsn("b", 3, 3)
    for lsn in range(5, 8):
        primary.append_logical_record(lsn, bytes(1_000))
    assert slot(primary, "a").wal_status == "unreserved"
    assert primary.enforce_retention_limits() == [("a", "horizon")]


def test_so_many_slots_and_no_more(anywhere: Opener) -> None:
    """7.P5: max_slots; those that are there can still come back."""
    primary = anywhere(max_slots=2)
    primary.register_replica("a")
    primary.register_replica("b")
    before = state_of(primary)
    for refuse in calls(lambda: primary.register_replica("c"), lambda: primary.ensure_replica_registered("c")):
        with pytest.raises(walspool.SlotLimitReached) as caught:
            refuse()
        assert (caught.value.max_slots, "max_slots" in str(caught.value)) == (2, True)
        assert state_of(primary) == before
    assert primary.register_replica("a") == 0
    primary.drop_slot("a")
    primary.register_replica("c")


def test_a_dropped_slot_holds_nothing(anywhere: Opener) -> None:
    """7.P14: drop_slot."""
    primary = anywhere()
    primary.register_replica("a")
    primary.register_replica("b")
    fill(primary, 1, 5)
    primary.ack_replica_lsn("b", 4, 4)
    primary.drop_slot("a")
    assert ([each.id for each in primary.slot_snapshots()], primary.retention_floor_lsn()) == (["b"], 4)
    with pytest.raises(walspool.UnknownReplica) as caught:
        primary.drop_slot("a")
    assert caught.value.replica_id == "a"


def test_a_reset_slot_is_valid_again(anywhere: Opener, clock: Clock) -> None:
    """7.P14: reset_slot for a replica that has finished a re-bootstrap."""
    primary = anywhere(slot_retention_max_lag_lsn=2)
    primary.register_replica("a")
    fill(primary, 1, 6)
    primary.enforce_retention_limits()
    clock.now_ms += 9
    primary.reset_slot("a", 5)
    found = slot(primary, "a")
    assert (found.restart_lsn, found.confirmed_lsn, found.valid) == (5, 5, True)
    assert (found.last_seen_at_unix_ms, found.invalidated_at_unix_ms) == (clock.now_ms, None)
    assert primary.plan_replica_resume("a", 5) == walspool.PartialResync(5)
    primary.ack_replica_lsn("a", 6, 6)
    assert slot(primary, "a").restart_lsn == 6
    primary.reset_slot("a", 3)
    assert slot(primary, "a").restart_lsn == 3


def test_a_reset_below_what_is_retained_is_refused(anywhere: Opener) -> None:
    """7.P14: an LSN that is not retained is refused, the prune boundary itself is not; nor is one beyond the log."""
    primary = anywhere()
    primary.register_replica("a")
    fill(primary, 1, 9)
    primary.ack_replica_lsn("a", 6, 6)
    primary.prune_retained_wal_through(9)
    before = state_of(primary)
    with pytest.raises(walspool.LsnPruned) as pruned:
        primary.reset_slot("a", 5)
    assert (pruned.value.lsn, pruned.value.pruned_through) == (5, 6)
    with pytest.raises(walspool.AckBeyondWal) as beyond:
        primary.reset_slot("a", 10)
    assert (beyond.value.lsn, beyond.value.current_lsn) == (10, 9)
    with pytest.raises(walspool.UnknownReplica):
        primary.reset_slot("b", 7)
    assert state_of(primary) == before
    primary.reset_slot("a", 6)
    primary.reset_slot("a", 9)
    assert slot(primary, "a").restart_lsn == 9


def test_the_status_of_the_log_behind_a_slot(anywhere: Opener) -> None:
    """7.P14: wal_status (reserved, unreserved, lost) and retained bytes per slot."""
    primary = anywhere(slot_retention_max_lag_lsn=3)
    for each in "ab":
        primary.register_replica(each)
    fill(primary, 1, 3)
    assert [each.wal_status for each in primary.slot_snapshots()] == ["reserved", "reserved"]
    fill(primary, 4, 4)
    primary.ack_replica_lsn("b", 3, 3)
    found = {each.id: each for each in primary.slot_snapshots()}
    assert (found["a"].wal_status, found["b"].wal_status) == ("unreserved", "reserved")
    assert found["a"].retained_bytes == 4 * found["b"].retained_bytes >= 4 * len(b"record 1")
    primary.enforce_retention_limits()
    assert (slot(primary, "a").wal_status, slot(primary, "a").retained_bytes) == ("lost", 0)
