"""A write of the slot file that fails: early, or so late that the file is the new one already."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import DAY_MS, Clock, fill, logged, slot, stored
from tests.replication.saves import failing_saves

NEVER_MS = DAY_MS


def test_what_a_failed_write_left_in_the_file_holds_the_log(on_disk: Opener, data_path: Path) -> None:
    """Its slot is not in memory, but a crash would bring it back, and then it needs its records."""
    primary = on_disk(slot_flush_interval_ms=NEVER_MS)
    fill(primary, 1, 5)
    with failing_saves(errno.EIO, late=True), pytest.raises(OSError, match="Input/output"):
        primary.register_replica("a")
    assert primary.slot_snapshots() == []
    assert stored(data_path)["a"]["restart_lsn"] == 5
    fill(primary, 6, 10)
    with failing_saves(errno.ENOSPC, late=False):
        primary.prune_retained_wal_through(10)
    assert logged(primary) == [6, 7, 8, 9, 10]
    assert primary.prune_retained_wal_through(10) == 10
    assert stored(data_path) == {}
    assert logged(primary) == []


def test_a_slot_that_a_failed_drop_took_from_the_file_is_there_when_a_registration_returns(
    on_disk: Opener, data_path: Path
) -> None:
    primary = on_disk(slot_flush_interval_ms=NEVER_MS)
    primary.register_replica("a")
    with failing_saves(errno.EIO, late=True), pytest.raises(OSError, match="Input/output"):
        primary.drop_slot("a")
    assert stored(data_path) == {}
    assert slot(primary, "a").valid
    assert primary.register_replica("a") == 0
    assert stored(data_path)["a"]["restart_lsn"] == 0


def test_a_registration_of_a_known_id_needs_no_room(on_disk: Opener) -> None:
    primary = on_disk(slot_flush_interval_ms=NEVER_MS)
    primary.register_replica("a")
    fill(primary, 1, 3)
    with failing_saves(errno.ENOSPC, late=False) as attempts:
        with pytest.raises(OSError, match="No space"):
            primary.register_replica("b")
        assert primary.register_replica("a") == 0
        primary.ack_replica_lsn("a", 3, 3)
    assert len(attempts) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_failed_change_leaves_idle_time_as_it_was(on_disk: Opener, clock: Clock, late: bool) -> None:
    on_disk().register_replica("a")
    clock.now_ms += 3 * DAY_MS
    primary = on_disk(slot_flush_interval_ms=NEVER_MS)
    with failing_saves(errno.EIO, late), pytest.raises(OSError, match="Input/output"):
        primary.drop_slot("a")
    with failing_saves(errno.EIO, late), pytest.raises(OSError, match="Input/output"):
        primary.reset_slot("a", 0)
    assert primary.enforce_retention_limits() == []
    clock.now_ms += DAY_MS + 1
    assert primary.enforce_retention_limits() == [("a", walspool.SlotInvalidationCause.IDLE_TIMEOUT)]


def test_a_registration_that_fails_behind_a_failed_drop_takes_nothing(on_disk: Opener, data_path: Path) -> None:
    primary = on_disk(slot_flush_interval_ms=NEVER_MS)
    primary.register_replica("a")
    fill(primary, 1, 3)
    with failing_saves(errno.EIO, late=True), pytest.raises(OSError, match="Input/output"):
        primary.drop_slot("a")
    with failing_saves(errno.EIO, late=False), pytest.raises(OSError, match="Input/output"):
        primary.register_replica("a")
    assert slot(primary, "a").restart_lsn == 0
    assert primary.prune_retained_wal_through(3) == 0
    assert stored(data_path)["a"]["restart_lsn"] == 0
    assert logged(primary) == [1, 2, 3]
