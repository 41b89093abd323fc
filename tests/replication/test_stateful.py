"""Random lives of a primary against a small model: whatever happens, nothing that a valid slot needs is ever missing.

On both cores and without a data path. Time stands still unless a step moves it, and the lazy flush never comes by
itself: what the slot file holds is known at each step.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import walspool
from tests.conftest import TESTED, use_core
from tests.lab.build import fast_folder
from tests.replication.kit import Clock, config, slots_file
from tests.replication.model import MAX_U64, Model, Slot, plain
from tests.replication.saves import failing_saves

#: How many lives are tried on each; with a number given they are other ones each time.
EXAMPLES = int(os.environ.get("WALSPOOL_LIVES", "40"))
NEVER_MS = 86_400_000
IDS = ("eu-1", "eu-2", "us-1")

ids = st.sampled_from(IDS)
#: Relative to the end of the log; mostly within it.
positions = st.one_of(st.integers(-12, 0), st.sampled_from([1, 5, -MAX_U64]))


class Life(RuleBasedStateMachine):
    """One primary and its model."""

    memory_only = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=fast_folder()))
        self.clock = Clock()
        self.limits: dict[str, Any] = {}
        self.primary: walspool.PrimaryReplication
        self.model: Model
        self.acks: list[tuple[str, int, int]] = []
        self.started = False

    @precondition(lambda self: not self.started)
    @rule(lag=st.sampled_from([0, 0, 12]), idle=st.sampled_from([0, 0, 5_000]), size=st.sampled_from([0, 0, 600]))
    def start(self, lag: int, idle: int, size: int) -> None:
        self.limits = {
            "slot_retention_max_lag_lsn": lag,
            "slot_idle_timeout_ms": idle,
            "max_retained_bytes": size,
            "max_slots": 2,
            "segment_bytes": 150,
            "slot_flush_interval_ms": NEVER_MS,
        }
        self.model = Model(lag, idle, size, overhead=0 if self.memory_only else 37, now_ms=self.clock.now_ms)
        self.open()
        self.started = True

    def open(self) -> None:
        path = None if self.memory_only else self.folder / "spool.rdb"
        self.primary = walspool.PrimaryReplication(path, config(**self.limits), clock=self.clock)

    def lsn(self, position: int) -> int:
        return max(self.model.current + position, 0)

    # -- the log

    @precondition(lambda self: self.started)
    @rule(count=st.integers(1, 6), gap=st.sampled_from([0, 0, 0, 2]))
    def append(self, count: int, gap: int) -> None:
        for _ in range(count):
            lsn = self.model.current + 1 + gap
            data = b"record %d" % lsn
            self.primary.append_logical_record(lsn, data)
            self.model.append(lsn, data)

    @precondition(lambda self: self.started)
    @rule(behind=st.integers(-3, 8))
    def prune(self, behind: int) -> None:
        archived = max(self.model.current - behind, 0)
        wanted = self.model.prune(archived, self.clock.now_ms, beyond=not self.memory_only)
        assert self.primary.prune_retained_wal_through(archived) == wanted

    # -- replicas

    @precondition(lambda self: self.started)
    @rule(name=ids, region=st.sampled_from([None, "eu"]))
    def register(self, name: str, region: str | None) -> None:
        if self.model.full(name):
            with pytest.raises(walspool.SlotLimitReached):
                self.primary.register_replica(name, region)
            return
        wanted = self.model.register(name, self.clock.now_ms)
        assert self.primary.register_replica(name, region) == wanted

    @precondition(lambda self: self.started)
    @rule(name=ids)
    def unregister(self, name: str) -> None:
        assert self.primary.unregister_replica(name) == (name in self.model.registered)
        self.model.registered.pop(name, None)

    @precondition(lambda self: self.started)
    @rule(name=ids, position=positions)
    def pull(self, name: str, position: int) -> None:
        self.primary.note_replica_pull(name, self.lsn(position))
        self.model.touch(name, self.clock.now_ms)

    @precondition(lambda self: self.started)
    @rule(name=ids, applied=positions, durable=positions)
    def ack(self, name: str, applied: int, durable: int) -> None:
        self.acks.append((name, self.lsn(applied), self.lsn(durable)))
        self.deliver(len(self.acks) - 1)

    @precondition(lambda self: self.acks)
    @rule(data=st.data())
    def ack_late_or_again(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.integers(0, len(self.acks) - 1)))

    def deliver(self, number: int) -> None:
        name, applied, durable = self.acks[number]
        if not self.model.known(name):
            with pytest.raises(walspool.UnknownReplica):
                self.primary.ack_replica_lsn(name, applied, durable)
            return
        self.primary.ack_replica_lsn(name, applied, durable)
        self.model.ack(name, applied, durable, self.clock.now_ms)

    @precondition(lambda self: self.started)
    @rule()
    def everybody_acks(self) -> None:
        for name in sorted(self.model.slots):
            self.acks.append((name, self.model.current, self.model.current))
            self.deliver(len(self.acks) - 1)

    # -- time and limits

    @precondition(lambda self: self.started)
    @rule(ms=st.sampled_from([1, 1_000, 3_000, 6_000]))
    def time_passes(self, ms: int) -> None:
        self.clock.now_ms += ms

    @precondition(lambda self: self.started)
    @rule(too_far=st.booleans(), too_long=st.booleans())
    def enforce(self, too_far: bool, too_long: bool) -> None:
        if too_far:
            self.append(self.limits["slot_retention_max_lag_lsn"], 1)
        if too_long:
            self.clock.now_ms += self.limits["slot_idle_timeout_ms"] + 1
        wanted = self.model.enforce(self.clock.now_ms)
        assert self.primary.enforce_retention_limits() == wanted

    @precondition(lambda self: self.started)
    @rule(name=ids, back=st.sampled_from([0, 4_000]))
    def touch(self, name: str, back: int) -> None:
        self.primary.touch_slot(name, self.clock.now_ms - back)
        self.model.touch(name, self.clock.now_ms - back)

    # -- what is durable on return

    @precondition(lambda self: self.started)
    @rule(name=ids)
    def drop(self, name: str) -> None:
        if name not in self.model.slots:
            with pytest.raises(walspool.UnknownReplica):
                self.primary.drop_slot(name)
            return
        self.primary.drop_slot(name)
        self.model.drop(name)

    @precondition(lambda self: self.started)
    @rule(name=ids, position=positions)
    def reset(self, name: str, position: int) -> None:
        lsn = self.lsn(position)
        refused = self.model.refuses_reset(name, lsn)
        if refused is not None:
            with pytest.raises(refused):
                self.primary.reset_slot(name, lsn)
            return
        self.primary.reset_slot(name, lsn)
        self.model.reset(name, lsn, self.clock.now_ms)

    @precondition(lambda self: self.started)
    @rule(name=ids, position=positions, oldest=st.sampled_from([..., ..., ..., None, 1, 9]))
    def resume(self, name: str, position: int, oldest: Any) -> None:
        since = self.lsn(position)
        before = self.primary.partial_resync_count
        wanted = self.model.resume(name, since, oldest, self.clock.now_ms)
        answer = self.primary.plan_replica_resume(name, since, oldest)
        assert getattr(answer, "resume_lsn", getattr(answer, "cause", None)) == wanted
        assert self.primary.partial_resync_count == before + isinstance(wanted, int)

    # -- the file

    @precondition(lambda self: self.started)
    @rule()
    def lazy_flush(self) -> None:
        self.primary._slots.flush()
        self.model.saved()

    @precondition(lambda self: self.started and not self.memory_only)
    @rule(data=st.data(), late=st.booleans(), error=st.sampled_from([errno.ENOSPC, errno.EIO]), name=ids)
    def save_fails(self, data: st.DataObject, late: bool, error: int, name: str) -> None:
        """A call that can't write the file changes nothing, also where the file turns out to be the new one."""
        calls: dict[str, Callable[[], object]] = {
            "drop": lambda: self.primary.drop_slot(name),
            "reset": lambda: self.primary.reset_slot(name, self.model.current),
            "register": lambda: self.primary.register_replica(name),
            "enforce": lambda: self.primary.enforce_retention_limits(),
        }
        what = data.draw(st.sampled_from(sorted(calls)))
        trial = self.model.trial(what, name, self.clock.now_ms)
        if trial is None:
            return
        with failing_saves(error, late), pytest.raises(OSError, match=os.strerror(error)):
            calls[what]()
        if what == "drop":
            self.model.unsure.add(name)
        if late:
            self.model.disk = trial

    @precondition(lambda self: self.started and not self.memory_only)
    @rule(behind=st.integers(0, 3), late=st.booleans(), caught_up=st.booleans())
    def prune_on_a_full_disk(self, behind: int, late: bool, caught_up: bool) -> None:
        """The positions last written hold; nothing is invalidated."""
        if caught_up:
            self.append(2, 0)
            self.everybody_acks()
        archived = max(self.model.current - behind, 0)
        with failing_saves(errno.ENOSPC, late) as attempts:
            through = self.primary.prune_retained_wal_through(archived)
        if late and attempts:
            self.model.disk = attempts[-1]
        assert through <= self.model.held(archived)
        self.model.prune_exactly(through)
        if not attempts:
            self.model.saved()

    @precondition(lambda self: self.started and not self.memory_only)
    @rule()
    def restart(self) -> None:
        self.primary.close()
        self.model.saved()
        self.reopened()

    @precondition(lambda self: self.started and not self.memory_only)
    @rule()
    def crash(self) -> None:
        """The process is killed now: what is in the folder at this instant is what the next one finds."""
        copy = Path(tempfile.mkdtemp(dir=fast_folder()))
        shutil.copytree(self.folder, copy, dirs_exist_ok=True)
        self.primary.close()
        shutil.rmtree(self.folder)
        self.folder = copy
        self.reopened()

    def reopened(self) -> None:
        self.open()
        self.model.opened(self.clock.now_ms)

    # -- what always holds

    @precondition(lambda self: self.started)
    @invariant()
    def nothing_needed_is_missing(self) -> None:
        held = self.logged()
        on_disk = self.on_disk()
        for slot in (*map(plain, self.primary.slot_snapshots()), *on_disk.values()):
            if slot.invalidation_reason is None:
                needed = {each for each in self.model.appended if each > slot.restart_lsn}
                assert needed <= held.keys(), slot

    @precondition(lambda self: self.started)
    @invariant()
    def the_model_agrees(self) -> None:
        model = self.model
        assert self.primary.current_logical_lsn == model.current
        assert self.logged() == {lsn: data for lsn, data in model.appended.items() if lsn > model.pruned}
        assert dict(self.primary.wal_buffer.read_since(0)) == {
            lsn: data for lsn, data in model.appended.items() if lsn > max(model.pruned, model.opened_behind)
        }
        assert {slot.id: plain(slot) for slot in self.primary.slot_snapshots()} == model.slots
        assert self.primary.retention_floor_lsn() == model.floor()
        assert {each.id for each in self.primary.replica_snapshots()} == set(model.registered)
        assert dict(self.primary.commit_waiter.snapshot()) == {
            name: lsn for name, lsn in model.registered.items() if lsn is not None
        }
        for name in IDS:
            for since in (0, model.current):
                plan = self.primary.explain_resume(name, since)
                wanted = model.decide(name, since, ...)[0]
                assert (plan.cause if plan.resume_lsn is None else plan.resume_lsn) == wanted

    @precondition(lambda self: self.started and not self.memory_only)
    @invariant()
    def the_file_holds_what_memory_had(self) -> None:
        assert self.on_disk() == self.model.disk

    def logged(self) -> dict[int, bytes]:
        log = self.primary.logical_wal_spool
        return dict(self.primary.wal_buffer.read_since(0) if log is None else log.tuples())

    def on_disk(self) -> dict[str, Slot]:
        path = slots_file(self.folder / "spool.rdb")
        listed = json.loads(path.read_bytes())["slots"] if path.exists() else []
        return {each.pop("id"): Slot(**each) for each in listed}

    def teardown(self) -> None:
        if self.started:
            self.primary.close()
        shutil.rmtree(self.folder)


class LifeInMemory(Life):
    """The same without a data path."""

    memory_only = True


@pytest.mark.parametrize("kind", [*TESTED, "memory"])
def test_no_life_loses_what_a_slot_needs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = "WALSPOOL_LIVES" in os.environ
    before = walspool.core.name
    if kind != "memory":
        use_core(kind)
    try:
        run_state_machine_as_test(
            LifeInMemory if kind == "memory" else Life,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=40,
                deadline=None,
                derandomize=not given,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        use_core(before)
