"""What a slot holds for a replica that has less than the slot said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.net.test_ends import Ends, frames, kind
from walspool import PrimaryReplication
from walspool.net.messages import Registration, WalRequest
from walspool.net.protocol import Refused
from walspool.net.source import Source


@pytest.fixture
def ends(core: ModuleType, tmp_path: Path) -> Iterator[Ends]:
    """A primary with thirty records in several files, and a follower with none."""
    found = Ends(tmp_path)
    found.write(30)
    yield found
    found.close()


def restart_lsn(ends: Ends) -> tuple[int, int]:
    """The slot's, and that in the file."""
    slot = ends.primary.find_slot("a")
    assert slot is not None
    return slot.restart_lsn, PrimaryReplication.read_slots(ends.folder / "p" / "app.db")[0].restart_lsn


def asks_behind(ends: Ends, lsn: int) -> WalRequest:
    """Whoever holds our log through ``lsn`` asks."""
    assert ends.primary.logical_wal_spool is not None
    return WalRequest("a", lsn, ends.primary.logical_wal_spool.position(lsn) if lsn else None)


@pytest.mark.parametrize("lsn", [0, 12])
def test_a_replica_without_a_slot_is_held_from_where_its_log_ends(ends: Ends, lsn: int) -> None:
    session = ends.source.register(Registration("a"), 0.0)["session"]
    assert restart_lsn(ends) == (30, 30)
    pull = ends.source.pull(asks_behind(ends, lsn), session, 0.0)
    assert restart_lsn(ends) == (lsn, lsn)  # durably, before the first byte
    assert ends.primary.replica_snapshots()[0].last_durable_lsn == lsn
    assert ends.primary.prune_retained_wal_through(30) == lsn
    seen = []
    while isinstance(step := pull.step(0.0), (bytes, memoryview)):
        seen.append(step)
    assert pull.since_lsn == 30
    assert len(seen) > 1


def test_a_new_follower_catches_up_past_prunes(ends: Ends) -> None:
    ends.register()
    whole = frames(ends.primary.logical_wal_spool)
    ends.catch_up()
    ends.primary.prune_retained_wal_through(30)
    assert frames(ends.sink.spool) == whole
    ends.acknowledge()
    assert restart_lsn(ends)[0] == 30


def test_a_restored_replica_is_held_where_it_went_back_to(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    ends.acknowledge()
    session = ends.source.register(Registration("a", None, "i-1"), 0.0)["session"]
    ends.source.pull(asks_behind(ends, 12), session, 0.0)
    assert restart_lsn(ends) == (12, 12)
    assert ends.primary.commit_waiter.snapshot() == []  # it holds no copy of what came behind
    assert ends.primary.prune_retained_wal_through(30) == 12


def test_what_is_pruned_is_refused_and_moves_no_slot(ends: Ends) -> None:
    request = asks_behind(ends, 3)
    session = ends.source.register(Registration("a"), 0.0)["session"]
    ends.primary.prune_retained_wal_through(30)
    assert ends.primary.logical_wal_spool is not None
    assert ends.primary.logical_wal_spool.pruned_through > 3
    for each in (request, WalRequest("a", 0)):
        with pytest.raises(Refused) as caught:
            ends.source.pull(each, session, 0.0)
        assert kind(caught) == (410, "rebootstrap-required")
    assert restart_lsn(ends) == (30, 30)


def test_a_prune_between_the_decision_and_the_slot_is_refused(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ends.source.register(Registration("a"), 0.0)["session"]
    settle = ends.source._settle

    def prune_first(*given: object) -> None:
        ends.primary.prune_retained_wal_through(30)
        settle(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(ends.source, "_settle", prune_first)
    with pytest.raises(Refused) as caught:
        ends.source.pull(WalRequest("a", 0), session, 0.0)
    assert kind(caught) == (410, "rebootstrap-required")


def test_a_slot_that_was_dropped_meanwhile(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ends.source.register(Registration("a"), 0.0)["session"]
    settle = ends.source._settle

    def drop_first(*given: object) -> None:
        ends.primary.drop_slot("a")
        settle(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(ends.source, "_settle", drop_first)
    with pytest.raises(Refused) as caught:
        ends.source.pull(WalRequest("a", 0), session, 0.0)
    assert kind(caught) == (404, "unknown-replica")


def test_an_invalid_slot_stays_invalid(ends: Ends) -> None:
    session = ends.source.register(Registration("a"), 0.0)["session"]
    ends.primary.enforce_retention_limits(ends.primary.now_unix_ms() + (7 << 32))
    with pytest.raises(Refused) as caught:
        ends.source.pull(asks_behind(ends, 12), session, 0.0)
    assert kind(caught) == (410, "rebootstrap-required")
    slot = ends.primary.find_slot("a")
    assert slot is not None
    assert (slot.restart_lsn, slot.invalidation_reason) == (30, "idle-timeout")


@pytest.mark.parametrize(
    "limit", [{"slot_retention_max_lag_lsn": 20}, {"max_retained_bytes": 700}], ids=("records", "bytes")
)
def test_nobody_is_held_past_a_limit(core: ModuleType, tmp_path: Path, limit: dict[str, int]) -> None:
    config = walspool.ReplicationConfig(segment_bytes=500, **limit)
    with PrimaryReplication(tmp_path / "app.db", config) as primary:
        for lsn in range(1, 31):
            primary.commit(b"record %d" % lsn)
        source = Source(primary, first_session=1)
        session = source.register(Registration("a"), 0.0)["session"]
        pull = source.pull(WalRequest("a", 0), session, 0.0)
        assert pull.step(0.0)  # what is there is given
        slot = primary.find_slot("a")
        assert slot is not None
        assert slot.restart_lsn == 30
        assert primary.enforce_retention_limits() == []  # it would be lost for what it never held
        source.pull(WalRequest("a", 28), session, 0.0)
        slot = primary.find_slot("a")
        assert slot is not None
        assert slot.restart_lsn == 28
