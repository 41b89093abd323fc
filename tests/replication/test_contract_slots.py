"""Section 7, the slots themselves: their file, registering, advancing, what is durable when."""

from __future__ import annotations

import gc
import json
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import walspool
import walspool.replication.slots as slots_module
from tests.replication.conftest import Opener
from tests.replication.kit import (
    FOREVER_MS,
    START_MS,
    Clock,
    Saves,
    calls,
    fill,
    full_disk,
    logged,
    slot,
    slots_file,
    state_of,
    store,
    stored,
)
from walspool import ReplicationConfig, ReplicationSlot, SlotStoreCorrupt
from walspool.replication.slot_file import save_slots
from walspool.replication.slots import SlotStore


def test_the_text_of_the_file(on_disk: Opener, data_path: Path, clock: Clock) -> None:
    """7.R1: {"slots": [...]}, sorted by id, keys in alphabetical order, indented by two, unset options absent."""
    primary = on_disk(slot_retention_max_lag_lsn=2)
    primary.register_replica("b")
    primary.ack_replica_lsn("b", 2, 1)
    fill(primary, 1, 5)
    primary.enforce_retention_limits(START_MS + 7)
    primary.register_replica("a")
    assert slots_file(data_path) == data_path.with_name("spool.rdb.logical.slots.json")
    assert slots_file(data_path).read_text() == (
        "{\n"
        '  "slots": [\n'
        "    {\n"
        '      "confirmed_lsn": 5,\n'
        '      "id": "a",\n'
        f'      "last_seen_at_unix_ms": {START_MS},\n'
        '      "restart_lsn": 5\n'
        "    },\n"
        "    {\n"
        '      "confirmed_lsn": 2,\n'
        '      "id": "b",\n'
        f'      "invalidated_at_unix_ms": {START_MS + 7},\n'
        '      "invalidation_reason": "horizon",\n'
        f'      "last_seen_at_unix_ms": {START_MS},\n'
        '      "restart_lsn": 1\n'
        "    }\n"
        "  ]\n"
        "}"
    )


def test_the_file_is_written_beside_synced_and_renamed(
    on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7.R1: written to a temporary file, fsynced, renamed; the directory is synced after that."""
    primary, calls = on_disk(), list[tuple[str, int]]()
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        fsync(fd)
        calls.append(("fsync", os.fstat(fd).st_ino))

    def noted_rename(source: Any, target: Any) -> None:
        if Path(target) == slots_file(data_path):
            calls.append(("rename", os.stat(source).st_ino))
            assert json.loads(Path(source).read_text())["slots"]
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    primary.register_replica("a")
    written, directory = slots_file(data_path).stat().st_ino, data_path.parent.stat().st_ino
    assert calls == [("fsync", written), ("rename", written), ("fsync", directory)]


def test_what_a_load_skips_and_fills_in(on_disk: Opener, data_path: Path, clock: Clock) -> None:
    """7.R1: skipped without id, restart or confirmed; last_seen now; reason none; fractions cut; last id wins."""
    on_disk().close()
    store(
        data_path,
        {"restart_lsn": 1, "confirmed_lsn": 1},
        {"id": "no restart", "confirmed_lsn": 1},
        {"id": "no confirmed", "restart_lsn": 1},
        {"id": "twice", "restart_lsn": 1, "confirmed_lsn": 1},
        {"id": "now", "restart_lsn": 3.9, "confirmed_lsn": 4, "unknown": [1]},
        {
            "id": "odd",
            "restart_lsn": 2,
            "confirmed_lsn": 2,
            "last_seen_at_unix_ms": 9,
            "invalidation_reason": "whim",
            "invalidated_at_unix_ms": 8,
        },
        {"id": "twice", "restart_lsn": 6, "confirmed_lsn": 7, "last_seen_at_unix_ms": 5},
    )
    found = {each.id: each for each in on_disk().slot_snapshots()}
    assert list(found) == ["now", "odd", "twice"]
    seen = {name: (each.restart_lsn, each.confirmed_lsn, each.last_seen_at_unix_ms) for name, each in found.items()}
    assert seen == {"now": (3, 4, START_MS), "odd": (2, 2, 9), "twice": (6, 7, 5)}
    assert (found["odd"].valid, found["odd"].invalidated_at_unix_ms) == (True, 8)


def test_no_file_is_no_slots_and_odd_ids_are_kept(on_disk: Opener, data_path: Path) -> None:
    """7.R1: no file: no slots. Ids on disk are kept whatever they look like; the rule for ids binds new ones."""
    primary = on_disk()
    assert primary.slot_snapshots() == []
    assert not slots_file(data_path).exists()
    primary.close()
    store(data_path, {"id": "../ü\n", "restart_lsn": 0, "confirmed_lsn": 0})
    primary = on_disk()
    assert primary.register_replica("../ü\n") == 0
    primary.ack_replica_lsn("../ü\n", 3, 3)
    with pytest.raises(walspool.ReplicaIdInvalid):
        primary.register_replica("../x")
    primary.close()
    assert stored(data_path)["../ü\n"]["restart_lsn"] == 3


def test_integers_in_the_file_are_exact(on_disk: Opener, data_path: Path) -> None:
    """7.P1: integers stay exact, above 2**53 too, in memory and in the file that is written next."""
    on_disk().close()
    store(data_path, {"id": "a", "restart_lsn": 2**53 + 1, "confirmed_lsn": 2**64 - 1, "last_seen_at_unix_ms": 2**63})
    primary = on_disk()
    primary.register_replica("b")
    kept = stored(data_path)["a"]
    assert (slot(primary, "a").restart_lsn, slot(primary, "a").confirmed_lsn) == (2**53 + 1, 2**64 - 1)
    assert (kept["restart_lsn"], kept["confirmed_lsn"], kept["last_seen_at_unix_ms"]) == (2**53 + 1, 2**64 - 1, 2**63)


@pytest.mark.parametrize("text", [b"", b"{", b"\0" * 9, b"[]", b"{}", b'{"slots":{}}', b'{"slots":"x"}', b"\xff", b"7"])
def test_a_file_that_is_none_names_the_last_good_version(on_disk: Opener, data_path: Path, text: bytes) -> None:
    """7.P1: SlotStoreCorrupt; the previous good version is kept beside it and named in the error."""
    primary = on_disk()
    primary.register_replica("a")
    before = slots_file(data_path).read_bytes()
    primary.register_replica("b")
    primary.close()
    slots_file(data_path).write_bytes(text)
    with pytest.raises(SlotStoreCorrupt) as caught:
        on_disk()
    assert Path(caught.value.path) == slots_file(data_path)
    previous = Path(caught.value.previous)
    assert str(previous) in str(caught.value)
    assert {each["id"] for each in json.loads(previous.read_text())["slots"]} >= {"a"}
    assert previous.parent == data_path.parent
    assert slots_file(data_path).read_bytes() == text != before
    os.replace(previous, slots_file(data_path))
    assert slot(on_disk(), "a").restart_lsn == 0


def test_an_error_on_load_is_raised(on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7.P1: an I/O error is raised on load, and the data path is free again."""
    on_disk().close()
    slots_file(data_path).mkdir()
    with pytest.raises(IsADirectoryError):
        on_disk()
    slots_file(data_path).rmdir()
    on_disk()


def test_an_error_on_save_is_raised_and_changes_nothing(on_disk: Opener, data_path: Path, saves: Saves) -> None:
    """7.P1: an I/O error is raised on save: no slot is made, dropped, reset or invalidated then."""
    primary = on_disk(slot_retention_max_lag_lsn=1)
    primary.register_replica("a")
    fill(primary, 1, 3)
    before, text = state_of(primary), slots_file(data_path).read_bytes()
    saves.error = full_disk()
    for change in calls(
        lambda: primary.register_replica("b"),
        lambda: primary.drop_slot("a"),
        lambda: primary.reset_slot("a", 2),
        lambda: primary.enforce_retention_limits(),
        lambda: primary.plan_replica_resume("a", 0, 500),
    ):
        with pytest.raises(OSError, match="No space left"):
            change()
        assert (state_of(primary), slots_file(data_path).read_bytes()) == (before, text)
    saves.error = None
    assert primary.register_replica("b") == 3


def test_a_new_slot_and_a_known_one(anywhere: Opener, clock: Clock) -> None:
    """7.R2: a known slot gives its restart_lsn and is seen; a new one starts at restart = confirmed = the given LSN."""
    primary = anywhere()
    fill(primary, 1, 4)
    assert primary.register_replica("a") == 4
    found = slot(primary, "a")
    assert (found.restart_lsn, found.confirmed_lsn, found.last_seen_at_unix_ms, found.valid) == (4, 4, START_MS, True)
    assert (found.invalidation_reason, found.invalidated_at_unix_ms) == (None, None)
    fill(primary, 5, 9)
    primary.ack_replica_lsn("a", 8, 6)
    clock.now_ms += 50
    assert primary.register_replica("a") == 6
    found = slot(primary, "a")
    assert (found.restart_lsn, found.confirmed_lsn, found.last_seen_at_unix_ms) == (6, 8, START_MS + 50)


def test_advancing(anywhere: Opener, clock: Clock) -> None:
    """7.R3: confirmed = max(confirmed, applied, durable), restart = max(restart, durable), last_seen refreshed."""
    primary = anywhere()
    primary.register_replica("a")
    positions = []
    for applied, durable in ((5, 3), (2, 4), (1, 7), (9, 0), (0, 0)):
        clock.now_ms += 1
        primary.ack_replica_lsn("a", applied, durable)
        found = slot(primary, "a")
        positions.append((found.confirmed_lsn, found.restart_lsn))
        assert found.last_seen_at_unix_ms == clock.now_ms
    assert positions == [(5, 3), (5, 4), (7, 7), (9, 7), (9, 7)]


def test_an_invalid_slot_does_not_move(anywhere: Opener, clock: Clock) -> None:
    """7.R3: invalid slots don't move and are not touched."""
    primary = anywhere(slot_idle_timeout_ms=10)
    primary.register_replica("a")
    primary.enforce_retention_limits(START_MS + 11)
    before = slot(primary, "a")
    assert not before.valid
    clock.now_ms += 500
    primary.ack_replica_lsn("a", 7, 7)
    primary.touch_slot("a")
    primary.touch_slot("nobody")
    assert slot(primary, "a") == before
    assert [each.id for each in primary.slot_snapshots()] == ["a"]


def test_touching_goes_back_too(anywhere: Opener, clock: Clock) -> None:
    """7.R3: touching sets last_seen of valid slots, back too."""
    primary = anywhere()
    primary.register_replica("a")
    for now_ms in (START_MS + 9, 5, 0):
        primary.touch_slot("a", now_ms)
        assert slot(primary, "a").last_seen_at_unix_ms == now_ms
    clock.now_ms += 3
    primary.touch_slot("a")
    assert slot(primary, "a").last_seen_at_unix_ms == START_MS + 3


def test_what_is_durable_on_return(on_disk: Opener, data_path: Path) -> None:
    """7.P3: durable on creation, drop, reset, invalidation and close."""
    primary = on_disk(slot_retention_max_lag_lsn=3, slot_flush_interval_ms=FOREVER_MS)
    primary.register_replica("a")
    primary.register_replica("b")
    assert stored(data_path).keys() == {"a", "b"}
    primary.drop_slot("b")
    assert stored(data_path).keys() == {"a"}
    fill(primary, 1, 5)
    primary.enforce_retention_limits()
    assert stored(data_path)["a"]["invalidation_reason"] == "horizon"
    primary.reset_slot("a", 4)
    assert stored(data_path)["a"] == {
        "id": "a",
        "restart_lsn": 4,
        "confirmed_lsn": 4,
        "last_seen_at_unix_ms": START_MS,
    }
    primary.plan_replica_resume("a", 0, 500)
    assert stored(data_path)["a"]["invalidation_reason"] == "wal-removed"
    primary.reset_slot("a", 4)
    primary.ack_replica_lsn("a", 5, 5)
    assert stored(data_path)["a"]["restart_lsn"] == 4
    primary.close()
    assert stored(data_path)["a"]["restart_lsn"] == 5


def test_a_forgotten_primary_writes_its_slots(core: object, data_path: Path, clock: Clock) -> None:
    """7.P3: garbage collection included."""
    config = ReplicationConfig(slot_flush_interval_ms=FOREVER_MS)
    primary = walspool.PrimaryReplication(data_path, config, clock=clock)
    primary.register_replica("a")
    primary.ack_replica_lsn("a", 5, 5)
    assert stored(data_path)["a"]["restart_lsn"] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del primary
        gc.collect()
    assert stored(data_path)["a"]["restart_lsn"] == 5


def test_durable_before_every_prune(on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7.P3: the slot file is durable before the first record goes."""
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    primary.register_replica("a")
    fill(primary, 1, 6)
    primary.ack_replica_lsn("a", 4, 4)
    prune, then = walspool.LogicalWalSpool.prune_through, list[int]()

    def noted(spool: walspool.LogicalWalSpool, lsn: int) -> walspool.PruneReport:
        then.append(stored(data_path)["a"]["restart_lsn"])
        return prune(spool, lsn)

    monkeypatch.setattr(walspool.LogicalWalSpool, "prune_through", noted)
    assert stored(data_path)["a"]["restart_lsn"] == 0
    assert primary.prune_retained_wal_through(6) == 4
    assert (then, logged(primary)) == ([4], [5, 6])


def test_progress_reaches_the_file_by_itself(on_disk: Opener, data_path: Path, saves: Saves) -> None:
    """7.P3: otherwise within the flush interval, by a thread of its own."""
    primary = on_disk(slot_flush_interval_ms=1)
    primary.register_replica("a")
    saves.done.clear()
    primary.ack_replica_lsn("a", 5, 5)
    assert saves.done.wait(60)
    assert stored(data_path)["a"]["restart_lsn"] == 5
    saves.done.clear()
    primary.note_replica_pull("a", 6)
    assert saves.done.wait(60)


def test_progress_is_not_written_each_time(on_disk: Opener, data_path: Path, saves: Saves) -> None:
    """7.P3: at most every so often: a thousand pulls and acknowledgements cost no write of their own."""
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    primary.register_replica("a")
    assert saves.count == 1
    for lsn in range(1, 501):
        primary.note_replica_pull("a", lsn)
        primary.ack_replica_lsn("a", lsn, lsn)
        primary.register_replica("a")
    assert (saves.count, stored(data_path)["a"]["restart_lsn"]) == (1, 0)
    primary.close()
    assert (saves.count, stored(data_path)["a"]["restart_lsn"]) == (2, 500)


def test_the_default_flush_interval() -> None:
    """7.P3: at most every 100 ms."""
    assert ReplicationConfig.primary().slot_flush_interval_ms == 100


def test_no_pull_and_no_acknowledgement_waits_for_the_file(on_disk: Opener, saves: Saves) -> None:
    """7.P3: while the file is being written, progress goes on in memory and reaches the file later."""
    primary = on_disk(slot_flush_interval_ms=1)
    primary.register_replica("a")
    saves.began.clear()
    saves.go.clear()
    primary.ack_replica_lsn("a", 1, 1)
    assert saves.began.wait(60)
    for lsn in range(2, 50):
        primary.note_replica_pull("a", lsn)
        primary.ack_replica_lsn("a", lsn, lsn)
    assert primary.retention_floor_lsn() == 49
    saves.go.set()


def test_the_file_never_leads(on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7.P3: whatever is written was in memory before."""
    primary, save = on_disk(slot_flush_interval_ms=1), save_slots
    written = threading.Event()

    def compared(path: Path, slots: list[ReplicationSlot]) -> None:
        save(path, slots)
        now = {each.id: each.restart_lsn for each in primary._slots.snapshots()}
        assert all(each["restart_lsn"] <= now[name] for name, each in stored(data_path).items())
        written.set()

    primary.register_replica("a")
    monkeypatch.setattr(slots_module, "save_slots", compared)
    for lsn in range(1, 300):
        primary.ack_replica_lsn("a", lsn, lsn)
    assert written.wait(60)


def test_the_store_by_itself(tmp_path: Path) -> None:
    """7.R2, 7.R3: slots can be tested without anything else."""
    path = tmp_path / "slots.json"
    slots = SlotStore(path, 1, max_slots=1)
    assert slots.register("a", lambda: 7, 2) == 7
    slots.advance("a", 9, 8, 3)
    slots.close()
    again = SlotStore(path, 4)
    assert again.snapshots() == [ReplicationSlot("a", 8, 9, 3)]
    again.close()
    again.close()
