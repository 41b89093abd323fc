"""What a replica lacks, and what nobody knows of it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from walspool import PrimaryReplication, ReplicaLag

NOW_MS = 1_700_000_100_000


class _Clock:
    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def _primary(path: Path, clock: _Clock) -> PrimaryReplication:
    return PrimaryReplication(path, clock=clock)


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def test_nothing_is_known_before_the_first_acknowledgement(core: ModuleType, tmp_path: Path, clock: _Clock) -> None:
    with _primary(tmp_path / "app.db", clock) as primary:
        assert primary.replica_lags() == []
        primary.register_replica("a")
        assert primary.replica_lags() == [ReplicaLag("a", None, None, None)]
        primary.ack_replica_lsn("a", 0, 0)
        assert primary.replica_lags() == [ReplicaLag("a", 0, 0, 0.0)]
        primary.unregister_replica("a")
        assert primary.replica_lags() == []


def test_the_age_is_that_of_the_oldest_record_that_is_missing(core: ModuleType, tmp_path: Path, clock: _Clock) -> None:
    with _primary(tmp_path / "app.db", clock) as primary:
        assert primary.logical_wal_spool is not None
        for lsn in range(1, 200):
            primary.logical_wal_spool.append(lsn, b"x" * 10, timestamp_ms=NOW_MS - 100_000 + lsn * 500)
        for id, lsn in (("all", 199), ("none", 0), ("some", 150)):
            primary.register_replica(id)
            primary.ack_replica_lsn(id, lsn, lsn)
        size = primary.logical_wal_spool.size_bytes // 199
        found = {each.id: each for each in primary.replica_lags()}
        assert found["all"] == ReplicaLag("all", 0, 0, 0.0)
        assert found["none"] == ReplicaLag("none", 199, 199 * size, 99.5)
        assert found["some"] == ReplicaLag("some", 49, 49 * size, 24.5)
        clock.now_ms += 1_000
        assert primary.replica_lags()[2].seconds == 25.5
        clock.now_ms -= 1_000_000  # set back: it is never negative
        assert primary.replica_lags()[2].seconds == 0.0


def test_a_record_without_a_time_has_no_age(core: ModuleType, tmp_path: Path, clock: _Clock) -> None:
    with _primary(tmp_path / "app.db", clock) as primary:
        assert primary.logical_wal_spool is not None
        primary.register_replica("a")
        primary.ack_replica_lsn("a", 0, 0)
        primary.logical_wal_spool.append(1, b"x", timestamp_ms=0)
        (lag,) = primary.replica_lags()
        assert (lag.records, lag.seconds) == (1, None)


def test_where_records_are_gone_nothing_is_known(core: ModuleType, tmp_path: Path, clock: _Clock) -> None:
    with _primary(tmp_path / "app.db", clock) as primary:
        primary.register_replica("a")
        for _ in range(5):
            primary.commit(b"x")
        primary.ack_replica_lsn("a", 2, 2)
        primary.drop_slot("a")
        primary.prune_retained_wal_through(3)
        assert primary.replica_lags() == [ReplicaLag("a")]
        primary.ack_replica_lsn("a", 3, 3)
        assert primary.replica_lags()[0].records == 2


def test_who_began_again_is_known_once_it_acknowledges(core: ModuleType, tmp_path: Path, clock: _Clock) -> None:
    path = tmp_path / "app.db"
    with _primary(path, clock) as primary:
        primary.register_replica("a")
        primary.commit(b"x")
        primary.ack_replica_lsn("a", 1, 1)
        primary.reset_slot("a", 0)
        assert primary.replica_lags() == [ReplicaLag("a")]
        primary.ack_replica_lsn("a", 1, 1)
    with _primary(path, clock) as primary:
        primary.register_replica("a")
        assert primary.replica_lags() == [ReplicaLag("a")]
        primary.ack_replica_lsn("a", 1, 1)
        assert primary.replica_lags() == [ReplicaLag("a", 0, 0, 0.0)]


def test_in_memory_there_are_no_times() -> None:
    with PrimaryReplication() as primary:
        primary.register_replica("a")
        primary.ack_replica_lsn("a", 0, 0)
        primary.commit(b"abc")
        assert primary.replica_lags() == [ReplicaLag("a", 1, 3, None)]
        assert primary.now_unix_ms() > NOW_MS
