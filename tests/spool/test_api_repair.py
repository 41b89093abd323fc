"""What a person decides: ``repair``, its dry run, and the LSN floor."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.spool.kit import contents, fill, holds, payload

repair = walspool.LogicalWalSpool.repair


@pytest.fixture
def data_path(core: ModuleType, tmp_path: Path) -> Path:
    """A closed log of 40 records in segments."""
    with walspool.open(tmp_path / "app.db", segment_bytes=800) as log:
        fill(log, 40)
    return tmp_path / "app.db"


def _same_but_lock(folder: Path, before: dict[str, bytes]) -> bool:
    now = contents(folder)
    return all(now.get(name) == data for name, data in before.items() if not name.endswith(".lock")) and len(
        now
    ) == len(before)


def test_nothing_to_repair(data_path: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    for dry_run in (True, False):
        report = repair(data_path, dry_run=dry_run)
        assert (report.changed, report.actions, report.lsn_floor) == (False, (), 0)
        assert report.recovery is not None
        assert (report.recovery.verdict, report.recovery.records) == ("clean", 40)
        assert _same_but_lock(tmp_path, before)


def test_dry_run_says_what_repair_then_does(data_path: Path, tmp_path: Path) -> None:
    victim = sorted(tmp_path.glob("app.db.logical.wal.0*1[0-9]"))[0]
    os.truncate(victim, victim.stat().st_size - 10)
    before = contents(tmp_path)
    plan = repair(data_path, dry_run=True)
    assert plan.changed
    assert plan.recovery is not None
    assert plan.recovery.verdict == "corrupt"
    assert any("corrupt" in each for each in plan.actions)
    assert contents(tmp_path) == before
    done = repair(data_path)
    assert done.changed
    assert done.recovery is not None
    assert done.recovery.quarantine is not None
    assert set(plan.actions) <= set(done.actions)
    assert any(done.recovery.quarantine.name in each for each in done.actions)
    with walspool.open(data_path, recovery="strict") as log:
        assert (log.recovery.verdict, log.current_lsn, log.record_count) == ("clean", 40, 39)
    assert not repair(data_path).changed


def test_a_torn_tail(data_path: Path, tmp_path: Path) -> None:
    active = tmp_path / "app.db.logical.wal"
    whole = active.read_bytes()
    active.write_bytes(whole + walspool.core.encode_frame(41, b"half")[:20])
    plan = repair(data_path, dry_run=True)
    assert any("torn" in each for each in plan.actions)
    assert any("20 bytes" in each for each in plan.actions)
    assert len(active.read_bytes()) == len(whole) + 20
    assert repair(data_path).changed
    assert active.read_bytes() == whole
    with walspool.open(data_path) as log:
        assert log.append_next(b"x") == 41


def test_state_rebuilt_after_a_prune(data_path: Path, tmp_path: Path) -> None:
    with walspool.open(data_path, segment_bytes=800) as log:
        log.prune_through(17)
    state = tmp_path / "app.db.logical.wal.state"
    state.write_bytes(b"")
    before = contents(tmp_path)
    plan = repair(data_path, dry_run=True)
    assert plan.changed
    assert any("rebuilt" in each and "17" in each for each in plan.actions)
    assert contents(tmp_path) == before
    done = repair(data_path)
    assert done.lsn_floor == 40
    with walspool.open(data_path, recovery="strict") as log:
        assert holds(log, 18, 40)
        assert (log.current_lsn, log.pruned_through) == (40, 17)
        with pytest.raises(walspool.LsnPruned):
            log.follow(16)


def test_state_rebuilt_where_everything_was_pruned(data_path: Path, tmp_path: Path) -> None:
    with walspool.open(data_path, segment_bytes=800) as log:
        log.prune_through(40)
    (tmp_path / "app.db.logical.wal.state").unlink()
    with pytest.raises(walspool.SpoolCorrupt, match="missing"):
        walspool.open(data_path)
    repair(data_path)
    with walspool.open(data_path, recovery="strict") as log:
        assert (log.current_lsn, log.record_count, log.oldest_lsn) == (40, 0, None)
        assert log.append_next(b"x") == 41


def test_state_rebuilt_from_what_was_saved(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 20)
    active = tmp_path / "app.db.logical.wal"
    data = bytearray(active.read_bytes())
    data[len(data) // 2] ^= 1
    active.write_bytes(data)
    with walspool.open(tmp_path / "app.db") as log:
        kept = log.record_count
        assert log.current_lsn == 20
    for name in ("state", "mark"):
        (tmp_path / f"app.db.logical.wal.{name}").unlink()
    (tmp_path / "app.db.logical.wal.state").write_bytes(b"broken")
    repair(tmp_path / "app.db")
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert (log.current_lsn, log.record_count) == (20, kept)


def test_the_floor_goes_down(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 20)
    os.truncate(tmp_path / "app.db.logical.wal", sum(37 + len(payload(lsn)) for lsn in range(1, 11)))
    with walspool.open(tmp_path / "app.db") as log:
        assert (log.recovery.verdict, log.current_lsn) == ("corrupt", 20)
    before = contents(tmp_path)
    plan = repair(tmp_path / "app.db", dry_run=True, lsn_floor=10)
    assert plan.changed
    assert contents(tmp_path) == before
    done = repair(tmp_path / "app.db", lsn_floor=10)
    for report in (plan, done):
        assert any("from 20 to 10" in each and "11 to 20" in each for each in report.actions)
    assert done.lsn_floor == 10
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert (log.recovery.verdict, log.current_lsn) == ("clean", 10)
        fill(log, 10)
        assert holds(log, 1, 20)


def test_the_floor_goes_up(data_path: Path) -> None:
    report = repair(data_path, lsn_floor=1000)
    assert report.changed
    assert any("up from 0 to 1000" in each for each in report.actions)
    with walspool.open(data_path, recovery="strict") as log:
        assert log.append_next(b"x") == 1001
        assert log.record_count == 41


def test_a_floor_below_what_the_log_holds(data_path: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    for dry_run in (False, True):
        with pytest.raises(ValueError, match="LSN 40"):
            repair(data_path, lsn_floor=39, dry_run=dry_run)
        assert _same_but_lock(tmp_path, before)
    with pytest.raises(ValueError, match="between 0 and"):
        repair(data_path, lsn_floor=-1)
    with pytest.raises(TypeError):
        repair(data_path, lsn_floor="7")  # type: ignore[arg-type]
    with walspool.open(data_path, recovery="strict") as log:
        assert holds(log, 1, 40)


def test_a_foreign_file_stays(core: ModuleType, tmp_path: Path) -> None:
    active = tmp_path / "app.db.logical.wal"
    active.write_bytes(b"somebody else's")
    for dry_run in (True, False):
        with pytest.raises(walspool.SpoolCorrupt, match="not a walspool log"):
            repair(tmp_path / "app.db", dry_run=dry_run)
        assert active.read_bytes() == b"somebody else's"
