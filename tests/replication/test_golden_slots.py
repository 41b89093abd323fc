"""Golden slot files: what is read from them, and the exact text that follows a registration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.conftest import GOLDEN
from tests.replication.kit import Clock, slots_file
from tests.spool.kit import contents

#: A time that no file holds.
NOW_MS = 1_755_555_555_555


def _cases() -> dict[str, dict[str, Any]]:
    cases = {path.parent.name: json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*/expected.json"))}
    found = {name: case for name, case in cases.items() if case["kind"] == "slots"}
    assert len(found) == 14
    return found


CASES = _cases()
GOOD = [name for name, case in CASES.items() if "raises" not in case["walspool"]]
BAD = [name for name in CASES if name not in GOOD]


def _copy(name: str, folder: Path) -> Path:
    shutil.copyfile(GOLDEN / name / "spool.rdb.logical.slots.json", folder / "spool.rdb.logical.slots.json")
    return folder / "spool.rdb"


def _shown(slot: walspool.ReplicationSlot) -> dict[str, Any]:
    reason, seen = slot.invalidation_reason, slot.last_seen_at_unix_ms
    return {
        "id": slot.id,
        "restart_lsn": slot.restart_lsn,
        "confirmed_lsn": slot.confirmed_lsn,
        "last_seen_at_unix_ms": "NOW" if seen == NOW_MS else seen,
        "invalidation_reason": None if reason is None else str(reason),
        "invalidated_at_unix_ms": slot.invalidated_at_unix_ms,
        "invalidated": slot.invalidated_at_unix_ms is not None,
    }


@pytest.mark.parametrize("name", GOOD)
def test_what_is_read_and_what_is_written(name: str, core: ModuleType, tmp_path: Path) -> None:
    data_path = _copy(name, tmp_path)
    wanted = {**CASES[name]["reference"], **CASES[name]["walspool"]}
    with walspool.PrimaryReplication(data_path, clock=Clock(NOW_MS)) as primary:
        assert [_shown(each) for each in primary.slot_snapshots()] == wanted["slots_after_load"]
        assert primary.retention_floor_lsn() == wanted["retention_floor"]
        assert primary.register_replica("zz-new") == wanted["registered_zz_new_restart_lsn"]
        text = slots_file(data_path).read_bytes().decode()
        assert text == wanted["file_after_registering_zz_new"].replace('"NOW"', str(NOW_MS))
    assert slots_file(data_path).read_bytes().decode() == text


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_none_is_refused_and_left_alone(name: str, core: ModuleType, tmp_path: Path) -> None:
    walspool.PrimaryReplication(tmp_path / "spool.rdb", clock=Clock(NOW_MS)).close()
    data_path = _copy(name, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(walspool.SlotStoreCorrupt) as caught:
        walspool.PrimaryReplication(data_path, clock=Clock(NOW_MS))
    assert str(caught.value.path) == str(slots_file(data_path))
    assert str(slots_file(data_path)) in str(caught.value)
    assert caught.value.reason
    assert contents(tmp_path) == before
    slots_file(data_path).unlink()
    walspool.PrimaryReplication(data_path, clock=Clock(NOW_MS)).close()
