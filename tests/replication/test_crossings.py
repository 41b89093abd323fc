"""Two things at once, made to meet at the worst point: bounds and appends, undone writes, resets, closings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import FOREVER_MS, Clock, fill, full_disk, logged, replica, slot, stored
from tests.replication.saves import Gate
from tests.replication.threads import InThread, until
from walspool.replication import slots as slot_store
from walspool.replication.buffer import WalBuffer
from walspool.replication.slot_file import save_slots

Primary = walspool.PrimaryReplication
Spool = walspool.LogicalWalSpool


def _around(look: Any, before: Callable[[], None], after: Callable[[], None]) -> property:
    """The property ``look`` with something that happens before each look, and something after it."""

    def both(self: object) -> Any:
        before()
        value = look.fget(self)
        after()
        return value

    return property(both)


def _once(call: Callable[[], object]) -> Callable[[], None]:
    """The call, made the first time only."""
    left = [call]

    def first() -> None:
        if left:
            left.pop()()

    return first


def _nothing() -> None:
    """Nothing happens here."""


# -- an append between two looks at the log ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["oldest_lsn", "current_lsn", "pruned_through"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("records", [0, 3], ids=["empty", "pruned"])
@pytest.mark.parametrize("ask", ["plan_replica_resume", "slot_rebootstrap_reason", "explain_resume"])
def test_an_append_between_two_looks_costs_no_slot(
    anywhere: Opener, monkeypatch: pytest.MonkeyPatch, name: str, before: bool, records: int, ask: str
) -> None:
    primary = anywhere()
    primary.register_replica("a")
    fill(primary, 1, records)
    primary.ack_replica_lsn("a", records, records)
    primary.prune_retained_wal_through(records)
    assert logged(primary) == []
    meanwhile = _once(lambda: primary.commit(b"meanwhile"))
    seen = WalBuffer if primary.logical_wal_spool is None else Spool
    looks = _around(getattr(seen, name), *((meanwhile, _nothing) if before else (_nothing, meanwhile)))
    with monkeypatch.context() as patch:
        patch.setattr(seen, name, looks)
        answer = getattr(primary, ask)("a", 0)
    assert logged(primary) == [records + 1]
    assert slot(primary, "a").valid
    if ask == "plan_replica_resume":
        assert answer == walspool.PartialResync(records)
    elif ask == "slot_rebootstrap_reason":
        assert answer is None
    else:
        assert (answer.mode, answer.resume_lsn) == ("partial_resync", records)
    assert primary.plan_replica_resume("a", 0) == walspool.PartialResync(records)


def test_what_a_prune_would_free_is_never_negative(anywhere: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log grows behind every measurement."""
    primary = anywhere()
    primary.register_replica("a")
    primary.commit(b"one")
    backing = primary._backing
    measure = backing.extent_after

    def growing(lsn: int) -> tuple[int, int]:
        found = measure(lsn)
        primary.commit(b"more")
        return found

    monkeypatch.setattr(backing, "extent_after", growing)
    report = primary.explain_retention()
    assert primary.current_logical_lsn > 2
    assert (report.prunable_records, report.prunable_bytes) == (0, 0)
    assert "would free 0 records (0 bytes)" in report.summary


# -- one write for several calls ---------------------------------------------------------------------------------------


class Verdicts:
    """Each write of the slot file stands at its own gate, and then fails or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *good: bool) -> None:
        self.gates = [Gate() for _ in good]
        self._left = list(zip(self.gates, good, strict=True))
        monkeypatch.setattr(slot_store, "save_slots", self._save)

    def _save(self, path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        if self._left:
            gate, good = self._left.pop(0)
            gate.stand()
            if not good:
                raise full_disk()
        save_slots(path, slots)


def _two_registrations(
    primary: Primary, monkeypatch: pytest.MonkeyPatch, second_is_good: bool
) -> tuple[InThread[int], InThread[int]]:
    verdicts = Verdicts(monkeypatch, False, second_is_good)
    first = InThread(lambda: primary.register_replica("a"))
    verdicts.gates[0].reached()
    second = InThread(lambda: primary.register_replica("a"))
    until(lambda: bool(primary._slots._waiting) or not second._thread.is_alive())
    verdicts.gates[0].open()
    with pytest.raises(OSError, match="No space"):
        first.result()
    verdicts.gates[1].open()
    return first, second


def test_the_second_registration_of_an_id_outlives_the_failure_of_the_first(
    on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    fill(primary, 1, 3)
    _, second = _two_registrations(primary, monkeypatch, second_is_good=True)
    assert second.result() == 3
    assert slot(primary, "a").restart_lsn == stored(data_path)["a"]["restart_lsn"] == 3
    assert primary.replica_count == 1
    primary.commit(b"for it")
    assert primary.prune_retained_wal_through(4) == 3
    assert logged(primary) == [4]


def test_two_registrations_of_an_id_that_both_fail_leave_no_slot(
    on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    _, second = _two_registrations(primary, monkeypatch, second_is_good=False)
    with pytest.raises(OSError, match="No space"):
        second.result()
    assert primary.slot_snapshots() == []
    assert primary.replica_count == 0
    primary.close()
    assert Primary.read_slots(data_path) == []


def _fail_after_flush(primary: Primary, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The next flush is done, and the caller gets this error all the same."""
    store = primary._slots
    flush = store.flush

    def fail() -> None:
        monkeypatch.setattr(store, "flush", flush)
        flush()
        raise error

    monkeypatch.setattr(store, "flush", fail)


CHANGES: dict[str, Callable[[Primary], object]] = {
    "register": lambda primary: primary.register_replica("b"),
    "drop": lambda primary: primary.drop_slot("a"),
    "reset": lambda primary: primary.reset_slot("a", 3),
    "invalidate": lambda primary: primary.enforce_retention_limits(),
}


def _outcome(primary: Primary, change: str) -> bool:
    """Whether the slots are as the change leaves them."""
    slots = {each.id: each for each in primary.slot_snapshots()}
    return {
        "register": lambda: set(slots) == {"a", "b"},
        "drop": lambda: not slots,
        "reset": lambda: slots["a"].restart_lsn == 3,
        "invalidate": lambda: not slots["a"].valid,
    }[change]()


@pytest.fixture
def lagging(on_disk: Opener, clock: Clock) -> Primary:
    """A primary whose replica ``a`` is far behind in records and time."""
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    primary.register_replica("a")
    fill(primary, 1, 3)
    clock.now_ms += 365 * 86_400_000
    return primary


@pytest.mark.parametrize("change", CHANGES)
def test_ctrl_c_behind_the_write_undoes_nothing(
    lagging: Primary, data_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The file has the change, and a prune of another thread may have relied on it already."""
    _fail_after_flush(lagging, monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        CHANGES[change](lagging)
    assert _outcome(lagging, change)
    in_file = {each.id: (each.restart_lsn, each.valid) for each in Primary.read_slots(data_path)}
    assert in_file == {each.id: (each.restart_lsn, each.valid) for each in lagging.slot_snapshots()}


@pytest.mark.parametrize("change", CHANGES)
def test_what_another_thread_has_saved_meanwhile_is_no_failure(
    lagging: Primary, data_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    _fail_after_flush(lagging, monkeypatch, full_disk())
    CHANGES[change](lagging)
    assert _outcome(lagging, change)
    in_file = {each.id: (each.restart_lsn, each.valid) for each in Primary.read_slots(data_path)}
    assert in_file == {each.id: (each.restart_lsn, each.valid) for each in lagging.slot_snapshots()}


# -- a registered replica starts anew ----------------------------------------------------------------------------------


def test_a_reset_replica_stays_registered(anywhere: Opener, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    primary = anywhere()
    primary.register_replica("a", "eu")
    fill(primary, 1, 3)
    primary.ack_replica_lsn("a", 3, 3)
    primary.set_replica_rebootstrapping("a", True)
    epoch, counts = primary.topology_epoch, []
    waiter = primary.commit_waiter
    for name in ("drop_replica", "forget_ack"):
        call = getattr(waiter, name)

        def counted(id: str, call: Callable[[str], None] = call) -> None:
            counts.append(primary.replica_count)
            call(id)

        monkeypatch.setattr(waiter, name, counted)
    clock.now_ms += 5
    primary.reset_slot("a", 2)
    assert counts == [1]
    assert primary.topology_epoch == epoch + 1
    known = replica(primary, "a")
    assert (known.region, known.rebootstrapping, known.last_seen_at_unix_ms) == ("eu", False, clock.now_ms)
    assert (known.last_acked_lsn, known.last_sent_lsn, known.last_durable_lsn) == (2, 2, 2)
    assert primary.commit_waiter.snapshot() == []
    assert waiter.acked_count(3) == 0
    with pytest.raises(walspool.QuorumTimeout):
        primary.commit(b"four", ack=walspool.Regions("eu"), timeout=0)
    primary.ack_replica_lsn("a", 3, 3)
    assert waiter.acked_count(3) == 1
    assert waiter.region_watermark(walspool.Regions("eu")) == 3


def test_a_reset_of_a_slot_alone_registers_nobody(anywhere: Opener) -> None:
    primary = anywhere()
    primary.register_replica("a")
    primary.unregister_replica("a")
    epoch = primary.topology_epoch
    primary.reset_slot("a", 0)
    assert (primary.replica_count, primary.topology_epoch) == (0, epoch)


def test_an_ack_that_crosses_a_new_registration_keeps_its_region(
    anywhere: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = anywhere()
    primary.register_replica("a", "eu")
    primary.commit(b"one")
    waiter = primary.commit_waiter
    record, drop = waiter.record_replica_ack, waiter.drop_replica
    gone = _once(lambda: primary.unregister_replica("a"))
    back = _once(lambda: primary.register_replica("a", "eu"))

    def record_late(id: str, lsn: int) -> None:
        gone()
        monkeypatch.setattr(waiter, "drop_replica", drop_late)
        record(id, lsn)

    def drop_late(id: str) -> None:
        back()
        drop(id)

    monkeypatch.setattr(waiter, "record_replica_ack", record_late)
    primary.ack_replica_lsn("a", 1, 1)
    assert replica(primary, "a").region == "eu"
    assert waiter.acked_count(1) == 0
    primary.ack_replica_lsn("a", 1, 1)
    assert waiter.region_watermark(walspool.Regions("eu")) == 1


def test_two_failures_at_a_time_leave_no_slot(
    on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has looked who else waits for the slot, and is not gone yet, when the second does so."""
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    store, gate, between = primary._slots, Gate(), Gate()
    later, firsts, standing = store._flush_later, iter([True]), iter([between])

    def stand_first() -> None:
        for each in standing:
            each.stand()
            break
        later()

    def save(path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        if next(firsts, False):
            gate.stand()
        else:
            between.reached()
        raise full_disk()

    with monkeypatch.context() as patch:
        patch.setattr(store, "_flush_later", stand_first)
        patch.setattr(slot_store, "save_slots", save)
        first = InThread(lambda: primary.register_replica("a"))
        gate.reached()
        second = InThread(lambda: primary.register_replica("a"))
        until(lambda: bool(store._waiting))
        gate.open()
        with pytest.raises(OSError, match="No space"):
            second.result()
        between.open()
        with pytest.raises(OSError, match="No space"):
            first.result()
    assert primary.slot_snapshots() == []
    primary.close()
    assert Primary.read_slots(data_path) == []
