"""Two primaries, forks, and primaries that nobody closed."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import config, fill, stored
from tests.replication.threads import until
from tests.spool.kit import PATIENCE_S, Program
from walspool.replication import slots as slot_store
from walspool.replication.slot_file import save_slots

NEVER_MS = 86_400_000

SECOND = """
import sys, walspool
try:
    walspool.PrimaryReplication(sys.argv[1])
except walspool.SpoolLocked as error:
    print(type(error).__name__, flush=True)
"""


def test_two_primaries_on_one_data_path(on_disk: Opener, core: ModuleType, data_path: Path) -> None:
    primary = on_disk()
    primary.register_replica("a")
    before = stored(data_path)
    with pytest.raises(walspool.SpoolLocked, match=r"\.lock"):
        walspool.PrimaryReplication(data_path)
    with Program(core.name, SECOND, data_path) as second:
        assert second.line() == "SpoolLocked"
        second.finish()
    assert stored(data_path) == before
    _ordinary_calls_of_one(primary)


def _ordinary_calls_of_one(primary: walspool.PrimaryReplication) -> None:
    lsn = primary.commit(b"still usable").lsn
    primary.ack_replica_lsn("a", lsn, lsn)
    assert primary.prune_retained_wal_through(lsn) == lsn


FORKING = """
import os, sys, walspool
config = walspool.ReplicationConfig(slot_flush_interval_ms=86_400_000)
primary = walspool.PrimaryReplication(sys.argv[1], config)
primary.register_replica("a")
lsn = primary.commit(b"first").lsn
primary.ack_replica_lsn("a", lsn, lsn)
calls = [
    lambda: primary.register_replica("b"), lambda: primary.ack_replica_lsn("a", 9, 9), lambda: primary.drop_slot("a"),
    lambda: primary.commit(b"x"), lambda: primary.slot_snapshots(), lambda: primary.prune_retained_wal_through(1),
    lambda: primary.note_replica_pull("a", 1), lambda: primary.wait_for_logical_lsn_after(0, 0),
]
child = os.fork()
if child == 0:
    for call in calls:
        try:
            call()
        except walspool.SpoolClosed:
            continue
        os._exit(1)
    primary.close()
    sys.exit(0 if primary.closed else 2)  # through everything that runs when an interpreter ends
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
sys.stdin.readline()
print(primary.commit(b"second").lsn, primary.slot_snapshots()[0].restart_lsn, flush=True)
primary.close()
"""


def test_a_forked_child_has_no_primary(core: ModuleType, tmp_path: Path) -> None:
    data_path = tmp_path / "spool.rdb"
    with Program(core.name, FORKING, data_path) as parent:
        assert parent.line() == "0"
        assert stored(data_path)["a"]["restart_lsn"] == 0  # the child has written nothing
        parent.tell()
        assert parent.line() == "2 1"
        parent.finish()
    assert stored(data_path)["a"]["restart_lsn"] == 1


def _forget_one(data_path: Path) -> None:
    _use_one(data_path)
    gc.collect()


def _use_one(data_path: Path) -> None:
    primary = walspool.PrimaryReplication(data_path, config(slot_flush_interval_ms=NEVER_MS))
    primary.register_replica("a")
    fill(primary, 1, 4)
    primary.ack_replica_lsn("a", 4, 3)


def test_a_forgotten_primary_leaves_an_up_to_date_slot_file(core: ModuleType, data_path: Path) -> None:
    with pytest.warns(ResourceWarning, match="unclosed primary"):
        _forget_one(data_path)
    assert stored(data_path)["a"]["restart_lsn"] == 3
    assert stored(data_path)["a"]["confirmed_lsn"] == 4
    with walspool.PrimaryReplication(data_path) as primary:  # nobody has it any more
        assert logged_lsns(primary) == [1, 2, 3, 4]


def logged_lsns(primary: walspool.PrimaryReplication) -> list[int]:
    """What the files under a primary hold."""
    assert primary.logical_wal_spool is not None
    return [lsn for lsn, _ in primary.logical_wal_spool.tuples()]


def test_a_primary_collected_in_its_own_flush(
    core: ModuleType, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector may run in the very thread that writes the slots."""
    kept = [walspool.PrimaryReplication(data_path, config(slot_flush_interval_ms=1))]
    kept[0].register_replica("a")
    fill(kept[0], 1, 4)
    collected = threading.Event()

    def save(path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        if not collected.is_set() and threading.current_thread().name == "walspool-slots":
            kept.clear()
            gc.collect()
            collected.set()
        save_slots(path, slots)

    monkeypatch.setattr(slot_store, "save_slots", save)
    monkeypatch.setattr("warnings.warn", lambda *args, **more: None)  # the other thread is not under pytest.warns
    kept[0].ack_replica_lsn("a", 4, 4)
    assert collected.wait(PATIENCE_S)
    until(lambda: _opens(data_path))
    assert stored(data_path)["a"]["restart_lsn"] == 4


def _opens(data_path: Path) -> bool:
    try:
        walspool.PrimaryReplication(data_path).close()
    except walspool.SpoolLocked:
        return False
    return True


ENDING = """
import sys, walspool
primary = walspool.PrimaryReplication(sys.argv[1], walspool.ReplicationConfig(slot_flush_interval_ms=86_400_000))
primary.register_replica("a")
lsn = primary.commit(b"first").lsn
primary.ack_replica_lsn("a", lsn, lsn)
"""


def test_a_program_that_ends_without_closing(core: ModuleType, tmp_path: Path) -> None:
    with Program(core.name, ENDING, tmp_path / "spool.rdb") as program:
        program.finish()
    assert stored(tmp_path / "spool.rdb")["a"]["restart_lsn"] == 1
