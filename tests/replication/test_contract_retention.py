"""Section 7, what is kept and how a replica goes on: floor, prune, resume, and the two explanations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import walspool
import walspool.replication.slots as slots_module
from tests.replication.conftest import Opener
from tests.replication.kit import FOREVER_MS, START_MS, Clock, Saves, fill, full_disk, logged, slot, state_of, stored
from walspool import FullRebootstrap, PartialResync, PrimaryReplication, SlotInvalidationCause

LOST = FullRebootstrap(SlotInvalidationCause.WAL_REMOVED)


def behind(anywhere: Opener, *, at: int, current: int, **changes: int) -> PrimaryReplication:
    """A primary with a log up to ``current`` and the slot ``a`` at ``at``."""
    primary = anywhere(**changes)
    primary.register_replica("a")
    fill(primary, 1, current)
    if at:
        primary.ack_replica_lsn("a", at, at)
    return primary


def test_reasons_to_start_again(anywhere: Opener) -> None:
    """7.R6: unknown id: None; else floor = max(restart, requested), a gap where oldest > floor + 1."""
    primary = behind(anywhere, at=20, current=40)
    assert primary.slot_rebootstrap_reason("nobody", 0, 500) is None
    for since, oldest in ((0, 21), (0, 1), (30, 31), (40, 41), (25, 26)):
        assert primary.slot_rebootstrap_reason("a", since, oldest) is None
    assert slot(primary, "a").valid
    assert primary.slot_rebootstrap_reason("a", 30, 32) == "wal-removed"
    found = slot(primary, "a")
    assert (found.invalidation_reason, found.invalidated_at_unix_ms) == ("wal-removed", START_MS)
    assert primary.slot_rebootstrap_reason("a", 40, 1) == "wal-removed"


def test_the_reason_of_an_invalid_slot_comes_first(anywhere: Opener) -> None:
    """7.R6: invalid: its reason, whatever else."""
    primary = behind(anywhere, at=0, current=5, slot_retention_max_lag_lsn=2)
    primary.enforce_retention_limits()
    for oldest in (1, 500, None):
        assert primary.slot_rebootstrap_reason("a", 5, oldest) == "horizon"
    assert slot(primary, "a").invalidation_reason == "horizon"


def test_a_removed_slot_is_persisted(on_disk: Opener, data_path: Path) -> None:
    """7.R6: the slot becomes wal-removed, persisted."""
    primary = behind(on_disk, at=0, current=5, slot_flush_interval_ms=FOREVER_MS)
    primary.slot_rebootstrap_reason("a", 0, 3)
    assert stored(data_path)["a"]["invalidation_reason"] == "wal-removed"
    assert stored(data_path)["a"]["invalidated_at_unix_ms"] == START_MS


def test_plans(anywhere: Opener) -> None:
    """7.R7: PartialResync(max(requested, restart)), counted; 0 means from my slot; FullRebootstrap is not counted."""
    primary = behind(anywhere, at=8, current=12)
    assert primary.partial_resync_count == 0
    assert [primary.plan_replica_resume("a", since, 1) for since in (0, 8, 10, 12)] == [
        PartialResync(8),
        PartialResync(8),
        PartialResync(10),
        PartialResync(12),
    ]
    assert primary.plan_replica_resume("nobody", 3, 1) == PartialResync(3)
    assert primary.partial_resync_count == 5
    assert primary.plan_replica_resume("a", 0, 500) == LOST
    assert primary.plan_replica_resume("a", 12, 1) == LOST
    assert primary.partial_resync_count == 5


def test_a_reason_is_the_cause(anywhere: Opener) -> None:
    """7.R7: a reason gives FullRebootstrap with that cause."""
    primary = behind(anywhere, at=0, current=5, slot_retention_max_lag_lsn=2, slot_idle_timeout_ms=1)
    primary.enforce_retention_limits()
    primary.register_replica("b")
    primary.enforce_retention_limits(START_MS + 2)
    assert primary.plan_replica_resume("a", 5) == FullRebootstrap(SlotInvalidationCause.HORIZON)
    assert primary.plan_replica_resume("b", 5) == FullRebootstrap(SlotInvalidationCause.IDLE_TIMEOUT)


def test_asking_for_a_reason_counts_nothing(anywhere: Opener) -> None:
    """7.R7: only a plan is counted."""
    primary = behind(anywhere, at=2, current=5)
    assert primary.slot_rebootstrap_reason("a", 0, 1) is None
    primary.explain_resume("a", 0)
    assert primary.partial_resync_count == 0


def test_an_id_without_a_slot_is_judged_too(anywhere: Opener) -> None:
    """7.P7: by the same gap rule, and no slot is made for it."""
    primary = anywhere()
    fill(primary, 1, 9)
    assert primary.plan_replica_resume("x", 3, 5) == LOST
    assert primary.plan_replica_resume("x", 3, 4) == PartialResync(3)
    assert primary.plan_replica_resume("x", 3, None) == LOST
    assert primary.plan_replica_resume("x", 0) == PartialResync(0)
    primary.prune_retained_wal_through(4)
    assert primary.plan_replica_resume("x", 3) == LOST
    assert primary.plan_replica_resume("x", 0) == LOST
    assert primary.plan_replica_resume("x", 4) == PartialResync(4)
    assert primary.slot_snapshots() == []


def test_a_hole_between_lsns_is_no_loss(anywhere: Opener) -> None:
    """7.P8: where the oldest LSN is left out the question is whether anything above the floor was pruned."""
    primary = anywhere()
    primary.append_logical_record(10, b"x")
    primary.register_replica("a")
    primary.append_logical_record(20, b"x")
    primary.append_logical_record(30, b"x")
    primary.prune_retained_wal_through(30)
    assert logged(primary) == [20, 30]
    assert primary.slot_rebootstrap_reason("a", 0) is None
    assert primary.plan_replica_resume("a", 0) == PartialResync(10)
    assert primary.plan_replica_resume("a", 15) == PartialResync(15)
    assert primary.plan_replica_resume("b", 9) == LOST
    assert slot(primary, "a").valid
    assert primary.plan_replica_resume("a", 0, 20) == LOST  # a number that is given is judged as it is


def test_a_log_that_begins_late_lost_nothing(anywhere: Opener) -> None:
    """7.P8: what was never there was not pruned."""
    primary = anywhere()
    primary.register_replica("a")
    primary.append_logical_record(1_000, b"x")
    assert primary.plan_replica_resume("a", 0) == PartialResync(0)
    assert primary.plan_replica_resume("b", 17) == PartialResync(17)


def test_none_says_that_the_log_is_empty(anywhere: Opener) -> None:
    """7.P8: None given says that the log is empty: a gap for whoever is below its end."""
    primary = behind(anywhere, at=4, current=5)
    assert primary.slot_rebootstrap_reason("a", 5, None) is None
    assert primary.slot_rebootstrap_reason("a", 0, None) == "wal-removed"


def test_a_replica_that_went_back_gets_what_it_lacks(anywhere: Opener) -> None:
    """7.P9: below its restart_lsn it resumes at what it asked for while that is retained."""
    primary = anywhere()
    primary.register_replica("keep")
    primary.register_replica("a")
    fill(primary, 1, 12)
    primary.ack_replica_lsn("a", 8, 8)
    assert primary.plan_replica_resume("a", 5) == PartialResync(5)
    assert primary.slot_rebootstrap_reason("a", 5) is None
    assert primary.plan_replica_resume("a", 1, 2) == PartialResync(1)
    assert primary.plan_replica_resume("a", 1, 3) == LOST


def test_a_replica_that_went_back_too_far_starts_again(anywhere: Opener) -> None:
    """7.P9: else FullRebootstrap(wal-removed); 7.P10: and its slot stays valid, whatever a stale twin asks for."""
    primary = behind(anywhere, at=8, current=12)
    primary.prune_retained_wal_through(12)
    before = state_of(primary)
    for since in (1, 7):
        assert primary.plan_replica_resume("a", since) == LOST
        assert primary.slot_rebootstrap_reason("a", since) == "wal-removed"
        assert primary.plan_replica_resume("a", since, 9) == LOST
        assert primary.plan_replica_resume("a", since, None) == LOST
    assert state_of(primary) == before
    assert primary.plan_replica_resume("a", 8) == PartialResync(8)


def test_an_empty_log_below_its_end_is_a_gap(anywhere: Opener) -> None:
    """7.P9: a log that is empty below current_lsn counts as a gap."""
    primary = behind(anywhere, at=12, current=12)
    primary.prune_retained_wal_through(100)
    assert (logged(primary), primary.current_logical_lsn) == ([], 12)
    assert primary.plan_replica_resume("x", 4) == LOST
    assert primary.plan_replica_resume("x", 0) == LOST
    assert primary.plan_replica_resume("x", 12) == PartialResync(12)
    assert primary.plan_replica_resume("a", 4) == LOST
    assert primary.plan_replica_resume("a", 0) == PartialResync(12)


def test_a_resume_below_never_invalidates_the_slot(on_disk: Opener, data_path: Path) -> None:
    """7.P10: a stale twin must not kill a healthy replica, on disk neither."""
    primary = behind(on_disk, at=8, current=12)
    primary.prune_retained_wal_through(12)
    text = stored(data_path)
    assert primary.plan_replica_resume("a", 3) == LOST
    assert (slot(primary, "a").valid, stored(data_path)) == (True, text)


def test_the_floor_is_the_slowest_valid_slot(anywhere: Opener) -> None:
    """7.R8: the smallest restart_lsn over valid slots, None without any."""
    primary = anywhere(slot_retention_max_lag_lsn=6)
    assert primary.retention_floor_lsn() is None
    for each in "abc":
        primary.register_replica(each)
    fill(primary, 1, 7)
    primary.ack_replica_lsn("a", 7, 5)
    primary.ack_replica_lsn("b", 7, 3)
    assert primary.retention_floor_lsn() == 0
    primary.enforce_retention_limits()
    assert primary.retention_floor_lsn() == 3
    primary.drop_slot("b")
    assert primary.retention_floor_lsn() == 5


def test_a_prune_goes_to_the_floor_or_to_what_is_archived(anywhere: Opener) -> None:
    """7.R8: prunes spool and buffer through min(floor, archived) and returns that; 0 prunes nothing."""
    primary = behind(anywhere, at=4, current=9)
    assert (primary.prune_retained_wal_through(0), logged(primary)) == (0, list(range(1, 10)))
    assert (primary.prune_retained_wal_through(2), logged(primary)) == (2, list(range(3, 10)))
    assert (primary.prune_retained_wal_through(9), logged(primary)) == (4, list(range(5, 10)))
    assert (primary.prune_retained_wal_through(1), logged(primary)) == (1, list(range(5, 10)))
    primary.drop_slot("a")
    assert (primary.prune_retained_wal_through(7), logged(primary)) == (7, [8, 9])
    assert (primary.prune_retained_wal_through(50), logged(primary)) == (50, [])


def test_a_prune_enforces_the_limits_first(anywhere: Opener, clock: Clock) -> None:
    """7.R8: a slot past a limit no longer holds the log."""
    primary = behind(anywhere, at=0, current=5, slot_retention_max_lag_lsn=4)
    assert primary.prune_retained_wal_through(5) == 5
    assert slot(primary, "a").invalidation_reason == "horizon"
    primary.register_replica("b")
    fill(primary, 6, 7)
    clock.now_ms += 86_400_001
    assert primary.prune_retained_wal_through(7) == 7
    assert (slot(primary, "b").invalidation_reason, logged(primary)) == ("idle-timeout", [])


def test_a_prune_of_nothing_still_enforces(anywhere: Opener) -> None:
    """7.R8: also where 0 prunes nothing."""
    primary = behind(anywhere, at=0, current=5, slot_retention_max_lag_lsn=4)
    assert primary.prune_retained_wal_through(0) == 0
    assert (slot(primary, "a").valid, logged(primary)) == (False, [1, 2, 3, 4, 5])


def test_the_floor_is_that_of_the_positions_on_disk(on_disk: Opener, data_path: Path, saves: Saves) -> None:
    """7.P13: when they can't be written (disk full), the last ones written hold."""
    primary = behind(on_disk, at=0, current=9, slot_flush_interval_ms=FOREVER_MS)
    primary.ack_replica_lsn("a", 3, 3)
    assert primary.prune_retained_wal_through(2) == 2
    saves.error = full_disk()
    primary.ack_replica_lsn("a", 8, 8)
    assert primary.prune_retained_wal_through(9) == 3
    assert (logged(primary), stored(data_path)["a"]["restart_lsn"]) == ([4, 5, 6, 7, 8, 9], 3)
    saves.error = None
    assert primary.prune_retained_wal_through(9) == 8


def test_a_slot_that_is_past_a_limit_holds_until_that_is_written(
    on_disk: Opener, data_path: Path, saves: Saves
) -> None:
    """7.P13: after a crash it would be valid, so its records stay."""
    primary = behind(on_disk, at=4, current=9, slot_retention_max_lag_lsn=5, slot_flush_interval_ms=FOREVER_MS)
    assert primary.prune_retained_wal_through(1) == 1
    fill(primary, 10, 12)
    saves.error = full_disk()
    assert primary.prune_retained_wal_through(12) == 4
    assert logged(primary) == [5, 6, 7, 8, 9, 10, 11, 12]
    assert "invalidation_reason" not in stored(data_path)["a"]
    saves.error = None
    assert primary.prune_retained_wal_through(12) == 12


def test_a_slot_made_while_a_prune_runs_starts_above_it(on_disk: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """7.P13: a new slot is honoured by the prune, or starts above it."""
    primary = on_disk()
    fill(primary, 1, 6)
    prune, started, go = walspool.LogicalWalSpool.prune_through, threading.Event(), threading.Event()

    def paused(spool: walspool.LogicalWalSpool, lsn: int) -> walspool.PruneReport:
        started.set()
        assert go.wait(60)
        return prune(spool, lsn)

    monkeypatch.setattr(walspool.LogicalWalSpool, "prune_through", paused)
    pruner = threading.Thread(target=primary.prune_retained_wal_through, args=(9,), daemon=True)
    pruner.start()
    assert started.wait(60)
    restart_lsn = primary.register_replica("new")
    with pytest.raises(walspool.SpoolError):
        primary.reset_slot("new", 3)
    go.set()
    pruner.join(60)
    assert not pruner.is_alive()
    assert restart_lsn == 9 == primary.current_logical_lsn
    assert primary.plan_replica_resume("new", 0) == PartialResync(9)


def test_explained_retention(anywhere: Opener) -> None:
    """7.P11: who pins the log, per slot records and bytes, and what a prune now would free."""
    primary = anywhere(slot_retention_max_lag_lsn=5)
    for each in "abc":
        primary.register_replica(each)
    fill(primary, 1, 6)
    primary.enforce_retention_limits()
    for each in "abc":
        primary.reset_slot(each, 2 if each != "c" else 4)
    primary.ack_replica_lsn("b", 6, 3)
    before = state_of(primary)
    report = primary.explain_retention()
    assert (report.current_lsn, report.oldest_lsn, report.floor_lsn, report.pinned_by) == (6, 1, 2, ("a",))
    assert [(each.id, each.restart_lsn, each.records, each.pins) for each in report.slots] == [
        ("a", 2, 4, True),
        ("b", 3, 3, False),
        ("c", 4, 2, False),
    ]
    a, b, c = report.slots
    assert a.bytes * 3 == b.bytes * 4 == c.bytes * 6 > 0
    assert (report.prunable_records, report.prunable_bytes) == (2, c.bytes)
    assert report.summary.startswith("a holds 4 records")
    assert "2 records" in report.summary.split(";")[1]
    assert all(each.wal_status == "reserved" for each in report.slots)
    assert state_of(primary) == before
    primary.prune_retained_wal_through(6)
    after = primary.explain_retention()
    assert (after.prunable_records, after.oldest_lsn) == (0, 3)


def test_explained_retention_without_slots(anywhere: Opener) -> None:
    """7.P11: nobody pins: everything could go."""
    primary = anywhere()
    fill(primary, 1, 3)
    report = primary.explain_retention()
    assert (report.floor_lsn, report.pinned_by, report.slots, report.prunable_records) == (None, (), (), 3)
    assert "No valid slot" in report.summary


def test_a_forecast_needs_history(anywhere: Opener, clock: Clock) -> None:
    """7.P11: the bound it will hit first and, from its recent rate, when; without enough history it says so."""
    primary = anywhere(slot_retention_max_lag_lsn=1_000, slot_idle_timeout_ms=0)
    primary.register_replica("a")
    found = primary.explain_retention().slots[0]
    assert (found.first_bound, found.bound_in_ms) == (None, None)
    assert "not enough history" in found.forecast
    lsn = 0
    for _ in range(20):  # a record each 100 ms
        clock.now_ms += 1_000
        fill(primary, lsn + 1, lsn + 10)
        lsn += 10
    found = primary.explain_retention().slots[0]
    assert found.first_bound == "max_lag_lsn"
    assert found.bound_in_ms is not None
    assert abs(found.bound_in_ms - 80_000) <= 8_000
    assert "max_lag_lsn" in found.forecast


def test_a_forecast_of_idleness(anywhere: Opener, clock: Clock) -> None:
    """7.P11: a replica that is not heard of reaches the idle limit first."""
    primary = anywhere(slot_idle_timeout_ms=100_000)
    primary.register_replica("a")
    primary.explain_retention()
    clock.now_ms += 40_000
    found = primary.explain_retention().slots[0]
    assert (found.first_bound, found.bound_in_ms) == ("idle_timeout_ms", 60_000)
    clock.now_ms += 60_001
    assert primary.explain_retention().slots[0].wal_status == "unreserved"
    primary.enforce_retention_limits()
    found = primary.explain_retention().slots[0]
    assert (found.wal_status, found.records, found.pins) == ("lost", 0, False)


def test_a_forecast_without_limits(anywhere: Opener) -> None:
    """7.P11: no limit, no bound."""
    primary = anywhere(slot_retention_max_lag_lsn=0, slot_idle_timeout_ms=0)
    primary.register_replica("a")
    assert primary.explain_retention().slots[0].first_bound is None


@pytest.mark.parametrize("prune", [0, 4, 8])
def test_explained_resumes_are_the_plans(anywhere: Opener, prune: int) -> None:
    """7.P12: the same decision without side effects: mode, cause, oldest LSN, records and bytes to send, what next."""
    primary = behind(anywhere, at=8, current=12)
    primary.prune_retained_wal_through(prune)
    for name in ("a", "nobody"):
        for since in (0, 3, 4, 7, 8, 10, 12):
            before = state_of(primary)
            found = primary.explain_resume(name, since)
            assert state_of(primary) == before
            plan = primary.plan_replica_resume(name, since)
            assert (found.oldest_lsn, found.current_lsn) == (prune + 1, 12)
            assert found.next_step
            assert name in found.summary
            if isinstance(plan, PartialResync):
                assert (found.mode, found.cause, found.resume_lsn) == ("partial_resync", None, plan.resume_lsn)
                assert found.records == 12 - plan.resume_lsn
                assert (found.bytes > 0) == (found.records > 0)
            else:
                assert (found.mode, found.cause, found.resume_lsn) == ("full_rebootstrap", plan.cause, None)
                assert (found.records, found.bytes) == (0, 0)


def test_an_explained_resume_does_not_lose_the_slot(on_disk: Opener) -> None:
    """7.P12: where a plan would invalidate the slot, the explanation only says so."""
    primary = behind(on_disk, at=0, current=6)
    spool = primary.logical_wal_spool
    assert spool is not None
    spool.prune_through(3)  # somebody went past the slots
    found = primary.explain_resume("a", 0)
    assert (found.mode, found.cause) == ("full_rebootstrap", "wal-removed")
    assert slot(primary, "a").valid
    assert primary.plan_replica_resume("a", 0) == LOST
    assert not slot(primary, "a").valid


def _once(action: Callable[[], object]) -> Callable[[], None]:
    done: list[bool] = []

    def act() -> None:
        if not done:
            done.append(True)
            action()

    return act


def test_a_reset_beside_a_plan_wins(on_disk: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """7.R6: a slot that was reset between the judgement and the invalidation is judged again."""
    primary = behind(on_disk, at=0, current=6)
    invalidate = slots_module.SlotStore.invalidate
    reset = _once(lambda: primary.reset_slot("a", 5))

    def late(store: slots_module.SlotStore, *given: object) -> object:
        reset()
        return invalidate(store, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(slots_module.SlotStore, "invalidate", late)
    assert primary.plan_replica_resume("a", 0, 4) == PartialResync(5)
    assert slot(primary, "a").valid
