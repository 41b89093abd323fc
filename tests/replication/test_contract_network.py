"""Section 10, as far as a primary keeps it without a network: fencing, and slots whose replicas load a snapshot."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import START_MS, Clock, calls, fill, logged, slot
from walspool import StaleTermError

HOUR_MS = 3_600_000


def test_a_newer_term_fences(anywhere: Opener) -> None:
    """10.P6: a primary that meets a newer term stops accepting appends; reads, replicas and slots go on."""
    primary = anywhere(term=3)
    primary.register_replica("a")
    fill(primary, 1, 3)
    assert (primary.fence(2), primary.fence(3), primary.fenced_by) == (False, False, None)
    fill(primary, 4, 4)
    assert primary.fence(4) is True
    assert (primary.fenced_by, primary.term) == (4, 3)
    change = walspool.ChangeRecord(0, 0, 0, walspool.ChangeOperation.DELETE, "c", 1, "row")
    appends = calls(
        lambda: primary.append_logical_record(5, b"x"),
        lambda: primary.append_change(change),
        lambda: primary.commit(b"x"),
        lambda: asyncio.run(primary.acommit(b"x")),
    )
    for append in appends:
        with pytest.raises(StaleTermError) as caught:
            append()
        assert (caught.value.term, caught.value.current_term) == (3, 4)
    assert logged(primary) == [1, 2, 3, 4]
    primary.ack_replica_lsn("a", 4, 4)
    assert slot(primary, "a").restart_lsn == 4
    assert (primary.fence(3), primary.fence(9), primary.fenced_by) == (True, True, 9)


def test_a_fence_outlives_the_primary(on_disk: Opener) -> None:
    """10.P6: kept in .state."""
    fill(on_disk(term=3), 1, 3)
    on_disk(term=3).fence(5)
    for term in (1, 3, 4, 5):
        primary = on_disk(term=term)
        assert (primary.fenced_by, primary.term) == (5, 3)
        with pytest.raises(StaleTermError):
            primary.commit(b"x")
    promoted = on_disk(term=6)
    assert (promoted.fenced_by, promoted.term) == (None, 6)
    assert promoted.commit(b"x").lsn == 4


def test_a_log_of_another_primarys_term_is_no_primary(on_disk: Opener, data_path: Path) -> None:
    """10.P6: two primaries never append in one term: a replica's log is promoted first."""
    on_disk().close()
    with walspool.open(data_path) as log:
        log.fence(2)
        log.append_frames(walspool.core.encode_frame(1, b"x", term=2, timestamp_ms=1))
    primary = on_disk()
    assert (primary.fenced_by, primary.term) == (2, 2)
    with pytest.raises(StaleTermError, match="promote"):
        primary.commit(b"x")


def test_a_bad_term_fences_nobody(anywhere: Opener) -> None:
    """10.P6: what is no term is refused."""
    primary = anywhere()
    for wrong in (-1, 1 << 64):
        with pytest.raises(ValueError, match="term"):
            primary.fence(wrong)
    assert primary.fenced_by is None
    primary.close()
    with pytest.raises(walspool.SpoolClosed):
        primary.fence(2)


def test_a_slot_that_bootstraps_is_past_no_limit(anywhere: Opener, clock: Clock) -> None:
    """10.P7: while a replica loads a snapshot its slot is exempt from horizon and idle limits, up to an hour."""
    primary = anywhere(slot_retention_max_lag_lsn=2, slot_idle_timeout_ms=10, max_retained_bytes=1)
    for each in ("a", "b", "c"):
        primary.register_replica(each)
    primary.set_replica_rebootstrapping("a", True)
    fill(primary, 1, 5)
    primary.ack_replica_lsn("b", 5, 5)
    primary.set_replica_rebootstrapping("b", True)
    clock.now_ms = START_MS + HOUR_MS - 1
    primary.set_replica_rebootstrapping("a", True)  # which it was already
    assert {each.id: each.wal_status for each in primary.slot_snapshots()} == {
        "a": "reserved",
        "b": "reserved",
        "c": "unreserved",
    }
    found = {each.id: (each.wal_status, each.forecast) for each in primary.explain_retention().slots}
    assert found["a"] == ("reserved", "its replica is loading a snapshot, so it is past no limit for another 0 seconds")
    assert found["c"][0] == "unreserved"
    assert primary.prune_retained_wal_through(5) == 0
    assert [each.invalidation_reason for each in primary.slot_snapshots()] == [None, None, "horizon"]
    clock.now_ms = START_MS + HOUR_MS
    assert slot(primary, "a").wal_status == "unreserved"
    assert primary.enforce_retention_limits() == [("a", "horizon"), ("b", "idle-timeout")]


def test_the_exemption_ends_with_the_bootstrap(anywhere: Opener, clock: Clock) -> None:
    """10.P7: when it is done, given up, or the replica is forgotten; the next one has its own time."""
    primary = anywhere(slot_idle_timeout_ms=10)
    endings = calls(
        lambda: primary.set_replica_rebootstrapping("a", False),
        lambda: primary.unregister_replica("a"),
        lambda: primary.reset_slot("a", 0),
    )
    for ending in endings:
        primary.register_replica("a")
        primary.reset_slot("a", 0)
        primary.set_replica_rebootstrapping("a", True)
        clock.now_ms += 11
        assert primary.enforce_retention_limits() == []
        ending()
        clock.now_ms += 11
        assert primary.enforce_retention_limits() == [("a", "idle-timeout")]


def test_the_bootstrap_timeout_is_configured(anywhere: Opener, clock: Clock) -> None:
    """10.P7: ``bootstrap_timeout_ms``; 0 is off."""
    primary = anywhere(slot_idle_timeout_ms=10, bootstrap_timeout_ms=0)
    primary.register_replica("a")
    primary.set_replica_rebootstrapping("a", True)
    clock.now_ms += 11
    assert primary.enforce_retention_limits() == [("a", "idle-timeout")]
