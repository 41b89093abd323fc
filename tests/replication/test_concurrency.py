"""Many threads at once: nobody waits for somebody else's disk, and no slot is lost between."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import Clock, fill, logged, slot, slots_file, stored
from tests.replication.saves import Gate
from tests.replication.threads import InThread, until
from tests.spool.kit import PATIENCE_S
from walspool.replication import slots as slot_store
from walspool.replication.slot_file import save_slots

NEVER_MS = 86_400_000


@pytest.fixture
def slow_save(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Gate]]:
    """Makes the disk of the slot file stand still from then on."""
    gate = Gate()

    def save(path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        gate.stand()
        save_slots(path, slots)

    def stop() -> Gate:
        monkeypatch.setattr(slot_store, "save_slots", save)
        return gate

    yield stop
    gate.open()


def _ordinary_calls(primary: walspool.PrimaryReplication) -> None:
    """What a primary with the replicas ``a`` and ``b`` must be able to do at any moment."""
    last = primary.commit(b"meanwhile").lsn
    primary.note_replica_pull("a", last)
    primary.ack_replica_lsn("a", last, last)
    primary.ack_replica("b", last)
    assert slot(primary, "a").restart_lsn == last
    assert primary.register_replica("a") == last
    assert [each.id for each in primary.replica_snapshots()] == ["a", "b"]
    assert primary.commit(b"held", ack=0).lsn == last + 1
    assert asyncio.run(primary.acommit(b"async")).lsn == last + 2
    primary.append_logical_record(last + 3, b"given")
    assert primary.wait_for_logical_lsn_after(last, 0)
    assert primary.retention_floor_lsn() == slot(primary, "b").restart_lsn
    assert primary.plan_replica_resume("a", 0) == walspool.PartialResync(last)
    assert primary.explain_resume("a", 0).records == 3
    assert primary.explain_retention().current_lsn == last + 3
    assert primary.enforce_retention_limits() == []
    assert primary.commit_waiter.commit_watermark(2) == last
    primary.touch_slot("b")
    assert not primary.ensure_replica_registered("b")


# -- nothing waits for a disk ------------------------------------------------------------------------------------------


def test_nobody_waits_for_a_slot_file(on_disk: Opener, data_path: Path, slow_save: Callable[[], Gate]) -> None:
    primary = on_disk()
    primary.register_replica("a")
    primary.register_replica("b")
    fill(primary, 1, 5)
    gate = slow_save()
    new = InThread(lambda: primary.register_replica("c"))
    gate.reached()
    primary.unregister_replica("c")
    _ordinary_calls(primary)
    assert "c" not in stored(data_path)
    gate.open()
    assert new.result() == 5
    assert stored(data_path)["c"]["restart_lsn"] == 5


def test_nobody_waits_for_the_lazy_flush(on_disk: Opener, slow_save: Callable[[], Gate]) -> None:
    primary = on_disk(slot_flush_interval_ms=1)
    primary.register_replica("a")
    primary.register_replica("b")
    fill(primary, 1, 5)
    gate = slow_save()
    primary.ack_replica_lsn("a", 5, 5)
    gate.reached()
    for _ in range(3):
        _ordinary_calls(primary)


@pytest.mark.parametrize("call", ["drop", "reset", "enforce", "prune"])
def test_nobody_waits_for_a_call_that_writes_the_slots(
    on_disk: Opener, data_path: Path, clock: Clock, slow_save: Callable[[], Gate], call: str
) -> None:
    primary = on_disk(slot_idle_timeout_ms=5_000, slot_flush_interval_ms=NEVER_MS)
    primary.register_replica("gone")
    fill(primary, 1, 5)
    clock.now_ms += 6_000
    primary.register_replica("a")
    primary.register_replica("b")
    primary.unregister_replica("gone")
    gate = slow_save()
    calls: dict[str, Callable[[], object]] = {
        "drop": lambda: primary.drop_slot("gone"),
        "reset": lambda: primary.reset_slot("gone", 5),
        "enforce": primary.enforce_retention_limits,
        "prune": lambda: primary.prune_retained_wal_through(5),
    }
    writing = InThread(calls[call])
    gate.reached()
    _ordinary_calls(primary)
    gate.open()
    writing.result()
    assert logged(primary) == list(range(6 if call == "prune" else 1, 10))


def test_calls_that_wait_share_the_next_write(on_disk: Opener, data_path: Path, slow_save: Callable[[], Gate]) -> None:
    primary = on_disk(slot_flush_interval_ms=NEVER_MS)
    gate = slow_save()
    first = InThread(lambda: primary.register_replica("first"))
    gate.reached()
    rest = [InThread(partial(primary.register_replica, f"r{number}")) for number in range(20)]
    until(lambda: len(primary.slot_snapshots()) == 21)
    gate.open()
    assert {each.result() for each in (first, *rest)} == {0}
    assert len(stored(data_path)) == 21


# -- slots and prunes --------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_prune(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A prune stands still before it removes anything."""
    gate = Gate()
    prune_files, prune_buffer = walspool.LogicalWalSpool.prune_through, walspool.WalBuffer.prune_through

    def in_files(spool: walspool.LogicalWalSpool, lsn: int) -> walspool.PruneReport:
        gate.stand()
        return prune_files(spool, lsn)

    def in_memory(buffer: walspool.WalBuffer, lsn: int) -> None:
        gate.stand()
        prune_buffer(buffer, lsn)

    monkeypatch.setattr(walspool.LogicalWalSpool, "prune_through", in_files)
    monkeypatch.setattr(walspool.WalBuffer, "prune_through", in_memory)
    yield gate
    gate.open()


def test_a_slot_made_while_a_prune_runs_is_honoured(anywhere: Opener, slow_prune: Gate) -> None:
    primary = anywhere(slot_flush_interval_ms=NEVER_MS)
    fill(primary, 1, 10)
    prune = InThread(lambda: primary.prune_retained_wal_through(6))
    slow_prune.reached()
    assert primary.register_replica("new") == 10
    fill(primary, 11, 12)
    slow_prune.open()
    assert prune.result() == 6
    assert logged(primary) == [7, 8, 9, 10, 11, 12]
    assert primary.prune_retained_wal_through(12) == 10
    assert logged(primary) == [11, 12]


def test_a_slot_made_while_a_prune_beyond_the_end_runs_starts_above_it(on_disk: Opener, slow_prune: Gate) -> None:
    primary = on_disk(slot_flush_interval_ms=NEVER_MS)
    fill(primary, 1, 5)
    prune = InThread(lambda: primary.prune_retained_wal_through(20))
    slow_prune.reached()
    assert primary.register_replica("new") == 20
    slow_prune.open()
    assert prune.result() == 20
    lsn = primary.commit(b"needed").lsn
    assert lsn == 21
    assert primary.plan_replica_resume("new", 0) == walspool.PartialResync(20)
    assert logged(primary) == [21]


def test_a_reset_while_a_prune_runs_is_refused_below_it(anywhere: Opener, slow_prune: Gate) -> None:
    primary = anywhere(slot_flush_interval_ms=NEVER_MS)
    primary.register_replica("a")
    fill(primary, 1, 10)
    primary.ack_replica_lsn("a", 8, 8)
    prune = InThread(lambda: primary.prune_retained_wal_through(9))
    slow_prune.reached()
    with pytest.raises(walspool.LsnPruned, match="8"):
        primary.reset_slot("a", 7)
    primary.reset_slot("a", 8)
    slow_prune.open()
    assert prune.result() == 8
    assert logged(primary) == [9, 10]


def test_calls_go_on_while_a_prune_stands_still(anywhere: Opener, slow_prune: Gate) -> None:
    primary = anywhere(slot_flush_interval_ms=NEVER_MS)
    fill(primary, 1, 5)
    primary.register_replica("a")
    primary.register_replica("b")
    prune = InThread(lambda: primary.prune_retained_wal_through(5))
    slow_prune.reached()
    _ordinary_calls(primary)
    assert primary.register_replica("c") == 9
    primary.drop_slot("c")
    slow_prune.open()
    assert prune.result() == 5
    assert logged(primary) == [6, 7, 8, 9]


def test_registrations_race_with_prunes(anywhere: Opener) -> None:
    """Whoever registers finds everything above where it starts, however often the log is pruned meanwhile."""
    primary = anywhere(segment_bytes=300, max_slots=4)
    done = threading.Event()

    def prune() -> None:
        while not done.is_set():
            primary.prune_retained_wal_through(primary.current_logical_lsn)

    def come_and_go(name: str) -> None:
        for _ in range(15):
            start = primary.register_replica(name)
            lsns = [primary.commit(b"record").lsn for _ in range(3)]
            assert lsns[0] > start
            held = {lsn for lsn, _ in primary.wal_buffer.read_since(start)}
            assert set(lsns) <= held
            log = primary.logical_wal_spool
            assert log is None or held <= {lsn for lsn, _ in log.tuples(start)}
            primary.ack_replica_lsn(name, lsns[1], lsns[1])
            assert lsns[2] in {lsn for lsn, _ in primary.wal_buffer.read_since(lsns[1])}
            primary.drop_slot(name)

    pruning = InThread(prune)
    replicas = [InThread(partial(come_and_go, f"r{number}")) for number in range(3)]
    for each in replicas:
        each.result()
    done.set()
    pruning.result()
    assert primary.slot_snapshots() == []


def test_many_threads_register_one_id(anywhere: Opener) -> None:
    primary = anywhere()
    fill(primary, 1, 3)
    barrier = threading.Barrier(8)

    def register() -> int:
        barrier.wait(PATIENCE_S)
        return primary.register_replica("one")

    assert {each.result() for each in [InThread(register) for _ in range(8)]} == {3}
    assert [each.id for each in primary.slot_snapshots()] == ["one"]
    assert primary.topology_epoch == 1


# -- the lazy flush ----------------------------------------------------------------------------------------------------


def test_the_lazy_flush_writes_without_any_call(
    on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = on_disk(slot_flush_interval_ms=1)
    primary.register_replica("a")
    fill(primary, 1, 7)
    written = threading.Event()

    def save(path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        save_slots(path, slots)
        if slots[0].restart_lsn == 7:
            written.set()

    monkeypatch.setattr(slot_store, "save_slots", save)
    primary.ack_replica_lsn("a", 7, 7)
    assert written.wait(PATIENCE_S)
    assert stored(data_path)["a"]["restart_lsn"] == 7


def test_a_lazy_flush_that_fails_is_tried_again_and_said_once(
    on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    primary = on_disk(slot_flush_interval_ms=1)
    primary.register_replica("a")
    fill(primary, 1, 7)
    written = threading.Event()
    failures: list[OSError] = []

    def save(path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        if len(failures) < 3:
            failures.append(OSError(errno.ENOSPC, "full", str(path)))
            raise failures[-1]
        save_slots(path, slots)
        written.set()

    monkeypatch.setattr(slot_store, "save_slots", save)
    primary.ack_replica_lsn("a", 7, 7)
    assert written.wait(PATIENCE_S)
    assert stored(data_path)["a"]["restart_lsn"] == 7
    assert [each.levelname for each in caplog.records] == ["ERROR"]


def test_a_close_waits_for_the_write_under_way(on_disk: Opener, data_path: Path, slow_save: Callable[[], Gate]) -> None:
    primary = on_disk(slot_flush_interval_ms=NEVER_MS)
    primary.register_replica("a")
    fill(primary, 1, 3)
    gate = slow_save()
    primary.ack_replica_lsn("a", 2, 2)
    new = InThread(lambda: primary.register_replica("b"))
    gate.reached()
    primary.ack_replica_lsn("a", 3, 3)
    closing = InThread(primary.close)
    until(lambda: primary.closed)
    with pytest.raises(walspool.SpoolClosed):
        primary.ack_replica_lsn("a", 3, 3)
    gate.open()
    closing.result()
    assert new.result() == 3
    assert {name: each["restart_lsn"] for name, each in stored(data_path).items()} == {"a": 3, "b": 3}
    assert not slots_file(data_path).with_name(slots_file(data_path).name + ".tmp").exists()


def test_acknowledgements_from_many_threads(on_disk: Opener, data_path: Path) -> None:
    primary = on_disk(slot_flush_interval_ms=1)
    fill(primary, 1, 60)
    names = [f"r{number}" for number in range(8)]
    for each in names:
        primary.register_replica(each)
        primary.reset_slot(each, 0)

    def acknowledge(name: str, step: int) -> None:
        for lsn in range(1, 61, step):
            primary.ack_replica_lsn(name, lsn, lsn)
            assert slot(primary, name).restart_lsn >= lsn

    threads = [InThread(partial(acknowledge, name, step)) for name in names for step in (1, 59)]
    for thread in threads:
        thread.result()
    assert {each.restart_lsn for each in primary.slot_snapshots()} == {60}
    assert primary.commit_waiter.commit_watermark(8) == 60
    primary.close()
    assert {each["restart_lsn"] for each in stored(data_path).values()} == {60}
    assert os.listdir(data_path.parent).count(slots_file(data_path).name) == 1
