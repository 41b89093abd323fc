"""Sections 8 and 9 where the log is part of it: appending, waiting, commits, the one writer, time."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import DAY_MS, Clock, calls, fill, logged, slot, slots_file, stored
from walspool import (
    ChangeOperation,
    ChangeRecord,
    CommitResult,
    Granted,
    PrimaryReplication,
    QuorumConfig,
    Regions,
    Throttled,
)
from walspool.replication import backing


class Elsewhere:
    """A call in another thread."""

    def __init__(self, call: Any, *given: Any, **named: Any) -> None:
        self.result: Any = None

        def run() -> None:
            try:
                self.result = call(*given, **named)
            except Exception as error:
                self.result = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def end(self) -> Any:
        """What it returned or raised."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.result


def test_a_record_is_in_the_log_and_in_the_buffer(anywhere: Opener) -> None:
    """8.R10: append_logical_record feeds buffer and spool; current_logical_lsn is that of the log."""
    primary = anywhere()
    assert primary.current_logical_lsn == 0
    primary.append_logical_record(3, b"three")
    primary.append_logical_record(9, bytearray(b"nine"))
    assert primary.current_logical_lsn == primary.wal_buffer.current_lsn == 9
    assert primary.wal_buffer.read_since(0) == [(3, b"three"), (9, b"nine")]
    if primary.logical_wal_spool is not None:
        assert primary.logical_wal_spool.read_since(0) == [(3, b"three"), (9, b"nine")]


def test_the_current_lsn_is_the_spools(on_disk: Opener) -> None:
    """8.R10: current_logical_lsn is the spool's, also after a restart and after everything was pruned."""
    primary = on_disk()
    fill(primary, 1, 5)
    primary.prune_retained_wal_through(8)
    assert primary.current_logical_lsn == 8
    primary = on_disk()
    assert (primary.current_logical_lsn, logged(primary)) == (8, [])
    spool = primary.logical_wal_spool
    assert spool is not None
    spool.append(20, b"behind the primary's back")
    assert primary.current_logical_lsn == 20


def test_waiting_for_the_log(anywhere: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.R10: True as soon as the log is past since, False at the timeout."""
    monkeypatch.setattr(backing, "SIGNALS_S", 3600.0)  # who is not woken does not look by himself
    primary = anywhere()
    assert primary.wait_for_logical_lsn_after(0, 0) is False
    fill(primary, 1, 3)
    assert primary.wait_for_logical_lsn_after(2, 0) is True
    assert primary.wait_for_logical_lsn_after(3, 0.001) is False
    waits = [Elsewhere(primary.wait_for_logical_lsn_after, since, None) for since in (3, 3, 4)]
    fill(primary, 4, 5)
    assert [each.end() for each in waits] == [True, True, True]
    assert primary.wait_for_logical_lsn_after(0, None) is True


def test_whoever_waits_finds_the_record_in_the_buffer(anywhere: Opener) -> None:
    """8.R10: who was woken reads what it waited for."""
    primary, found = anywhere(), list[bool]()

    def follow() -> None:
        for since in range(100):
            primary.wait_for_logical_lsn_after(since, None)
            found.append(bool(primary.wal_buffer.read_since(since, 1)))

    reader = Elsewhere(follow)
    fill(primary, 1, 100)
    reader.end()
    assert found == [True] * 100


def test_whoever_waits_is_ahead_of_whoever_appended(on_disk: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.R10: the record is in the buffer even if its appender has not come to putting it there."""
    gate, feed = threading.Event(), backing.SpoolBacking._feed

    def late(self: backing.SpoolBacking, lsn: int, payload: bytes) -> None:
        assert gate.wait(60)
        feed(self, lsn, payload)

    monkeypatch.setattr(backing.SpoolBacking, "_feed", late)
    primary = on_disk()
    appender = Elsewhere(primary.append_logical_record, 1, b"one")
    assert primary.wait_for_logical_lsn_after(0, 60)
    assert primary.wal_buffer.read_since(0) == [(1, b"one")]
    gate.set()
    assert appender.end() is None
    assert primary.wal_buffer.read_since(0) == [(1, b"one")]


def test_appends_from_many_threads_leave_no_gap_in_the_buffer(anywhere: Opener) -> None:
    """8.R10: the buffer has what the log has, in order, whoever came back first."""
    primary = anywhere()

    def work() -> None:
        for _ in range(25):
            primary.commit(b"x")

    workers = [Elsewhere(work) for _ in range(6)]
    assert [each.end() for each in workers] == [None] * 6
    assert logged(primary) == list(range(1, 151))


def test_an_append_that_fails_is_in_neither(on_disk: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.P10: the spool comes first and its errors are raised; the buffer never holds what the disk does not."""
    primary = on_disk()
    fill(primary, 1, 2)

    def fails(*given: object, **named: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "spool")

    for name in ("append", "append_next"):
        monkeypatch.setattr(walspool.LogicalWalSpool, name, fails)
    for call in calls(lambda: primary.append_logical_record(3, b"x"), lambda: primary.commit(b"x")):
        with pytest.raises(OSError, match="Input/output"):
            call()
    monkeypatch.undo()
    assert (logged(primary), primary.current_logical_lsn) == ([1, 2], 2)
    primary.append_logical_record(3, b"x")
    assert logged(primary) == [1, 2, 3]


def test_a_closed_spool_is_an_error(on_disk: Opener) -> None:
    """8.P10: the spool's errors are raised, whatever the buffer could take."""
    primary = on_disk()
    fill(primary, 1, 2)
    spool = primary.logical_wal_spool
    assert spool is not None
    spool.close()
    with pytest.raises(walspool.SpoolClosed):
        primary.append_logical_record(3, b"x")
    assert primary.wal_buffer.current_lsn == 2


def test_errors_of_opening_are_raised(on_disk: Opener, data_path: Path) -> None:
    """8.P10: also those of opening the spool; nothing runs on without a log."""
    on_disk().close()
    spool = walspool.LogicalWalSpool.path_for(data_path)
    spool.write_bytes(b"this is somebody else's file")
    with pytest.raises(walspool.SpoolCorrupt):
        on_disk()
    spool.unlink()
    spool.mkdir()
    with pytest.raises(OSError, match="director"):
        on_disk()


def test_strict_recovery_is_passed_on(core: ModuleType, data_path: Path, clock: Clock) -> None:
    """8.P10: recovery="strict" refuses a damaged log, and changes nothing."""
    with PrimaryReplication(data_path, clock=clock) as primary:
        fill(primary, 1, 9)
        path = walspool.LogicalWalSpool.path_for(data_path)
    damaged = bytearray(path.read_bytes())
    damaged[60] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(walspool.SpoolCorrupt):
        PrimaryReplication(data_path, recovery="strict", clock=clock)
    assert path.read_bytes() == damaged
    PrimaryReplication(data_path, clock=clock).close()


def test_a_term_that_is_configured_is_the_records(on_disk: Opener) -> None:
    """8.R10: records have the configured term, or a higher one that the log holds."""
    primary = on_disk(term=3)
    fill(primary, 1, 1)
    primary.commit(b"x")
    spool = primary.logical_wal_spool
    assert spool is not None
    assert [each.term for each in spool.entries()] == [3, 3]
    assert (primary.term, on_disk(term=2).term) == (3, 3)


def test_changes_get_the_next_lsn(anywhere: Opener) -> None:
    """8.R10: append_change appends the encoded record and says its LSN."""
    primary = anywhere()

    def change(lsn: int) -> ChangeRecord:
        return ChangeRecord(1, lsn, 3, ChangeOperation.INSERT, "c", 4, "row")

    assert primary.append_change(change(5)) == 5
    assert primary.append_change(change(0)) == 6
    lsns = [ChangeRecord.decode(data).lsn for _, data in primary.wal_buffer.read_since(0)]
    assert (lsns, logged(primary)) == ([5, 6], [5, 6])


def test_a_commit_waits_for_what_it_asks(anywhere: Opener) -> None:
    """9.R2: local waits for nobody, a number for so many durable copies."""
    primary = anywhere()
    for each, region in (("a", "eu"), ("b", "us")):
        primary.register_replica(each, region)
    assert primary.commit(b"one") == CommitResult(lsn=1, acks=0)
    for ack in (2, "ack_n=2", Regions("eu", "us")):
        wait = Elsewhere(primary.commit, b"x", ack=ack, timeout=600)
        primary.wait_for_logical_lsn_after(primary.current_logical_lsn - 1, None)
        while primary.commit_waiter.waiting == 0:
            assert wait.result is None
        lsn = primary.current_logical_lsn
        primary.ack_replica_lsn("a", lsn, lsn)
        assert primary.commit_waiter.waiting == 1
        primary.ack_replica_lsn("b", lsn, lsn - 1)
        assert primary.commit_waiter.waiting == 1
        primary.ack_replica_lsn("b", lsn, lsn)
        assert wait.end() == CommitResult(lsn=lsn, acks=2)
    primary.ack_replica_lsn("a", 90, 90)
    assert primary.commit(b"five", ack="remote_wal", timeout=0) == CommitResult(lsn=5, acks=1)


def test_a_commit_that_fails_says_what_is_durable(anywhere: Opener) -> None:
    """9.R2: the record is locally durable in every case, and the error says so."""
    primary = anywhere(quorum=QuorumConfig.sync(3))
    cases: list[tuple[Any, type[walspool.CommitError]]] = [
        (1, walspool.InsufficientReplicas),
        ("quorum", walspool.InsufficientReplicas),
        (Regions("eu"), walspool.MissingRegions),
    ]
    primary.register_replica("a", "eu")
    for lsn, (ack, kind) in enumerate([(1, walspool.QuorumTimeout), *((2, each) for _, each in cases[:1])], 1):
        with pytest.raises(kind) as caught:
            primary.commit(b"x", ack=ack, timeout=0)
        assert isinstance(caught.value, walspool.CommitError)
        assert (caught.value.lsn, caught.value.acks) == (lsn, 0)
        assert f"LSN {lsn} is durable here and on 0 replicas" in str(caught.value)
        assert logged(primary) == list(range(1, lsn + 1))
    primary.unregister_replica("a")
    for lsn, (ack, kind) in enumerate(cases, 3):
        with pytest.raises(kind) as caught:
            primary.commit(b"x", ack=ack, timeout=0)
        assert caught.value.lsn == lsn == primary.current_logical_lsn
    assert logged(primary) == [1, 2, 3, 4, 5]


def test_a_commit_with_the_configured_quorum(anywhere: Opener) -> None:
    """9.R2: "quorum" is the configured one; async waits for nobody."""
    assert anywhere().commit(b"x", ack="quorum") == CommitResult(1, 0)


def test_the_configured_quorum_counts(core: ModuleType, clock: Clock) -> None:
    """9.R2: with regions it is one durable copy in each."""
    config = walspool.ReplicationConfig(quorum=QuorumConfig.regions(["eu", "us"], timeout=0))
    with PrimaryReplication(None, config, clock=clock) as primary:
        for each, region in (("a", "eu"), ("b", "us"), ("c", "eu")):
            primary.register_replica(each, region)
        for each in "ac":
            primary.ack_replica_lsn(each, 9, 9)
        with pytest.raises(walspool.QuorumTimeout) as caught:
            primary.commit(b"x", ack="quorum")
        assert (caught.value.acked_regions, caught.value.acks) == (("eu",), 2)
        primary.ack_replica_lsn("b", 9, 9)
        assert primary.commit(b"x", ack="quorum") == CommitResult(2, 3)


def test_a_region_that_changes_counts_anew(anywhere: Opener) -> None:
    """9.R2: the region is that of the registration, also one that is given later."""
    primary = anywhere()
    primary.register_replica("a", "eu")
    primary.ack_replica_lsn("a", 9, 9)
    primary.register_replica("a", "us")
    with pytest.raises(walspool.MissingRegions):
        primary.commit(b"x", ack=Regions("eu"), timeout=0)
    assert primary.commit(b"x", ack=Regions("us"), timeout=0).acks == 1


def test_a_registration_is_no_copy(anywhere: Opener) -> None:
    """9.P1: a commit is not acknowledged by who has only registered, at whatever LSN."""
    primary = anywhere()
    fill(primary, 1, 5)
    primary.register_replica("a", "eu")
    for ack in (1, Regions("eu")):
        with pytest.raises(walspool.QuorumTimeout):
            primary.commit(b"x", ack=ack, timeout=0)
    assert primary.commit_waiter.snapshot() == []


def test_commits_in_asyncio(anywhere: Opener) -> None:
    """9.R2: acommit is the same without a thread."""
    primary = anywhere()
    primary.register_replica("a", "eu")
    primary.ack_replica_lsn("a", 50, 50)

    async def scene() -> list[Any]:
        return await asyncio.gather(
            *(primary.acommit(b"x", ack=ack, timeout=0) for ack in ("local", 1, Regions("eu"), 2, Regions("us"))),
            return_exceptions=True,
        )

    found = asyncio.run(scene())
    assert sorted(each.lsn for each in found) == [1, 2, 3, 4, 5]
    assert [type(each) for each in found] == [
        CommitResult,
        CommitResult,
        CommitResult,
        walspool.InsufficientReplicas,
        walspool.MissingRegions,
    ]
    assert logged(primary) == [1, 2, 3, 4, 5]


def test_many_commits_share_flushes(on_disk: Opener) -> None:
    """9.R2: a thousand concurrent acommit calls take at most 50 flushes."""
    primary = on_disk()
    spool = primary.logical_wal_spool
    assert spool is not None

    async def scene() -> set[int]:
        done = await asyncio.gather(*(primary.acommit(b"x") for _ in range(1_000)))
        return {each.lsn for each in done}

    before = spool.stats().flushes
    assert asyncio.run(scene()) == set(range(1, 1_001))
    assert spool.stats().flushes - before <= 50
    assert len(logged(primary)) == 1_000


def test_admission(anywhere: Opener) -> None:
    """9.R3: admit weighs the slowest of the quorum against the configured target."""
    primary = anywhere(quorum=QuorumConfig.regions(["eu"]), flow_target_lag_lsn=3)
    primary.register_replica("a", "eu")
    primary.register_replica("b")
    fill(primary, 1, 3)
    assert primary.admit() == Granted()
    fill(primary, 4, 4)
    assert primary.admit() == Throttled(lag_lsn=4, target=3)
    primary.ack_replica_lsn("b", 4, 4)
    assert primary.admit() == Throttled(lag_lsn=4, target=3)
    primary.ack_replica_lsn("a", 4, 1)
    assert primary.admit() == Granted()


def test_admission_is_off_by_default(anywhere: Opener) -> None:
    """9.R3: 0 is off."""
    primary = anywhere(quorum=QuorumConfig.sync(1))
    primary.register_replica("a")
    fill(primary, 1, 50)
    assert primary.admit() == Granted()


def test_the_whole_surface_is_there(anywhere: Opener, data_path: Path) -> None:
    """8.R1: attributes, and the file of the slots."""
    primary = anywhere()
    assert isinstance(primary.wal_buffer, walspool.WalBuffer)
    assert isinstance(primary.commit_waiter, walspool.CommitWaiter)
    assert isinstance(primary.config, walspool.ReplicationConfig)
    assert PrimaryReplication.slot_path_for(data_path) == slots_file(data_path)
    assert PrimaryReplication.slot_path_for("/") == Path("/reddb.rdb.logical.slots.json")


def test_bounds_of_the_buffer_are_configured(anywhere: Opener) -> None:
    """5.P2: the buffer under a primary evicts; the spool keeps all."""
    primary = anywhere(buffer_capacity=3)
    fill(primary, 1, 10)
    assert [lsn for lsn, _ in primary.wal_buffer.read_since(0)] == [8, 9, 10]
    if primary.logical_wal_spool is not None:
        assert primary.logical_wal_spool.record_count == 10
        assert primary.plan_replica_resume("x", 2) == walspool.PartialResync(2)
    else:
        assert isinstance(primary.plan_replica_resume("x", 2), walspool.FullRebootstrap)


def test_a_closed_primary_refuses(anywhere: Opener) -> None:
    """8.P10: close may be called twice, any later call raises SpoolClosed and wakes who waits."""
    primary = anywhere()
    primary.register_replica("a")
    wait = Elsewhere(primary.wait_for_logical_lsn_after, 0, 600)
    assert primary.closed is False
    primary.close()
    primary.close()
    assert primary.closed is True
    assert isinstance(wait.end(), walspool.SpoolClosed)
    for call in calls(
        lambda: primary.append_logical_record(1, b"x"),
        lambda: primary.commit(b"x"),
        lambda: primary.register_replica("a"),
        lambda: primary.ack_replica_lsn("a", 1, 1),
        lambda: primary.ack_replica("a", 1),
        lambda: primary.note_replica_pull("a", 1),
        lambda: primary.prune_retained_wal_through(1),
        lambda: primary.plan_replica_resume("a", 0),
        lambda: primary.drop_slot("a"),
        lambda: primary.enforce_retention_limits(),
        lambda: primary.slot_snapshots(),
        lambda: primary.wait_for_logical_lsn_after(0, 0),
    ):
        with pytest.raises(walspool.SpoolClosed):
            call()


def test_a_jump_of_the_wall_clock_invalidates_nobody(
    core: ModuleType, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7.R4: without an injected clock elapsed time is monotonic."""
    config = walspool.ReplicationConfig(slot_idle_timeout_ms=60_000)
    with PrimaryReplication(data_path, config) as primary:
        primary.register_replica("a")
        wall, wall_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: wall() + DAY_MS)
        monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + DAY_MS * 1_000_000)
        assert primary.enforce_retention_limits() == []
        primary.register_replica("b")
        assert abs(slot(primary, "b").last_seen_at_unix_ms - slot(primary, "a").last_seen_at_unix_ms) < 60_000
        monkeypatch.undo()
        assert abs(slot(primary, "a").last_seen_at_unix_ms - time.time() * 1000) < 60_000


def test_slots_outlive_a_restart_and_replicas_do_not(on_disk: Opener, data_path: Path) -> None:
    """8.R6: the registry is memory; the slots go on."""
    primary = on_disk()
    primary.register_replica("a", "eu")
    fill(primary, 1, 4)
    primary.ack_replica_lsn("a", 4, 3)
    primary = on_disk()
    assert (primary.replica_count, primary.topology_epoch, primary.commit_waiter.snapshot()) == (0, 0, [])
    assert stored(data_path)["a"]["restart_lsn"] == slot(primary, "a").restart_lsn == 3
    assert primary.retention_floor_lsn() == 3
