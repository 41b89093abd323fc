"""``restart_at``: a log that starts anew behind a position, also when the process ends on the way."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.spool.kit import PATIENCE_S, contents, fill, holds, payload
from walspool.spool import files as fs

Spool = walspool.LogicalWalSpool
POSITION = walspool.Position(7, 1000, 0xDEADBEEF)


def _old_log(tmp_path: Path, count: int = 40) -> dict[str, bytes]:
    with walspool.open(tmp_path / "app.db", segment_bytes=800) as log:
        fill(log, count)
    return contents(tmp_path)


def _check_started(log: Spool) -> None:
    assert (log.current_lsn, log.durable_lsn, log.oldest_lsn, log.record_count) == (1000, 1000, None, 0)
    assert log.current_term == 7
    assert log.position() == log.position(1000) == POSITION
    assert log.position(999) is None
    assert log.pruned_through == 1000
    assert log.recovery.verdict == "clean"
    assert log.read_since(0) == []
    with pytest.raises(walspool.LsnPruned) as caught:
        log.follow(999)
    assert (caught.value.lsn, caught.value.pruned_through) == (999, 1000)
    assert list(log.follow(1000, timeout=0)) == []
    for bad in (1, 1000):
        with pytest.raises(walspool.LsnOrderError):
            log.append(bad, b"x")
    with pytest.raises(walspool.StaleTermError):
        log.append(1001, b"x", term=6)


@pytest.mark.parametrize("old", [0, 40])
def test_restart_at(core: ModuleType, tmp_path: Path, old: int) -> None:
    before = _old_log(tmp_path, old) if old else {}
    with Spool.restart_at(tmp_path / "app.db", POSITION, segment_bytes=800) as log:
        _check_started(log)
        fill(log, 20)
        assert holds(log, 1001, 1020)
        assert {each.term for each in log} == {7}
    for name, data in before.items():
        if not name.endswith((".lock", ".state", ".state.spare")):
            assert (tmp_path / (name + ".aside")).read_bytes() == data
    with walspool.open(tmp_path / "app.db", segment_bytes=800, recovery="strict") as log:
        assert log.recovery.verdict == "clean"
        assert holds(log, 1001, 1020)
        assert log.verify().ok


def test_one_generation_is_kept(core: ModuleType, tmp_path: Path) -> None:
    _old_log(tmp_path)
    with Spool.restart_at(tmp_path / "app.db", POSITION) as log:
        log.append(1001, b"second life")
        second = log.path.read_bytes()
    with Spool.restart_at(tmp_path / "app.db", walspool.Position(8, 5, 1)) as log:
        assert log.current_lsn == 5
        assert log.append_next(b"third life") == 6
    aside = {name: data for name, data in contents(tmp_path).items() if name.endswith(".aside")}
    assert set(aside) == {"app.db.logical.wal.aside", "app.db.logical.wal.mark.aside"}
    assert aside["app.db.logical.wal.aside"] == second


def test_readers_notice(core: ModuleType, tmp_path: Path) -> None:
    """It is another log, in other files; whoever reads or waits for the old one is told so."""
    _old_log(tmp_path)
    outcome: list[BaseException] = []
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        following = reader.follow(0)
        assert [next(following).lsn for _ in range(40)] == list(range(1, 41))

        def wait() -> None:
            try:
                reader.wait_for_lsn_after(40, PATIENCE_S)
            except walspool.RebootstrapRequired as error:
                outcome.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        with Spool.restart_at(tmp_path / "app.db", POSITION) as log:
            fill(log, 1)
            thread.join(PATIENCE_S)
            assert [type(each) for each in outcome] == [walspool.RebootstrapRequired]
            assert "open it again" in str(outcome[0])
            for call in (lambda: next(following), lambda: reader.read_since(0), lambda: reader.current_lsn):
                with pytest.raises(walspool.RebootstrapRequired):
                    call()
            with walspool.open(tmp_path / "app.db", read_only=True) as fresh:
                assert holds(fresh, 1001, 1001)


def test_restart_from_nothing(core: ModuleType, tmp_path: Path) -> None:
    _old_log(tmp_path)
    with Spool.restart_at(tmp_path / "app.db", walspool.Position(3, 0, 0)) as log:
        assert (log.current_lsn, log.position(), log.current_term) == (0, None, 3)
        fill(log, 5)
        assert holds(log, 1, 5)
        assert [each.lsn for each in log.follow(0, timeout=0)] == [1, 2, 3, 4, 5]


def test_restart_where_the_old_log_is_broken(core: ModuleType, tmp_path: Path) -> None:
    _old_log(tmp_path)
    (tmp_path / "app.db.logical.wal.state").write_bytes(b"broken")
    (tmp_path / "app.db.logical.wal").write_bytes(b"garbage")
    sorted(tmp_path.glob("*wal.0*"))[2].unlink()
    with Spool.restart_at(tmp_path / "app.db", POSITION) as log:
        _check_started(log)
    assert (tmp_path / "app.db.logical.wal.aside").read_bytes() == b"garbage"


def test_positions_that_are_none(core: ModuleType, tmp_path: Path) -> None:
    before = _old_log(tmp_path)
    wrong: list[Any] = [
        None,
        7,
        (1, 2, 3),
        walspool.Position(-1, 1, 1),
        walspool.Position(1, 2**64, 1),
        walspool.Position(1, 1, "x"),  # type: ignore[arg-type]
    ]
    for bad in wrong:
        with pytest.raises((TypeError, ValueError)):
            Spool.restart_at(tmp_path / "app.db", bad)
        assert contents(tmp_path) == before
    with pytest.raises(ValueError, match="recovery"):
        Spool.restart_at(tmp_path / "app.db", POSITION, recovery="no")
    assert contents(tmp_path) == before
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert holds(log, 1, 40)


class _Crash(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("name", ["rename", "unlink", "sync_directory", "sync_file", "pwrite_all", "os.rename"])
def test_a_crash_on_the_way(core: ModuleType, tmp_path: Path, name: str) -> None:
    owner: Any = os if name.startswith("os.") else fs
    real = getattr(owner, name.removeprefix("os."))
    nth, done = 0, False
    while not done:
        nth += 1
        folder = tmp_path / str(nth)
        _old_log(folder, 20)
        left = [nth]

        def step(*args: Any, left: list[int] = left, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise _Crash
            return real(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name.removeprefix("os."), step)
            try:
                Spool.restart_at(folder / "app.db", POSITION).close()
                done = True
            except _Crash:
                done = False
        if not done:
            _check_either(folder)
    assert nth > 1 or name == "unlink"


def _check_either(folder: Path) -> None:
    """The log is the old one or the new one, whole; a repeated restart works."""
    with walspool.open(folder / "app.db", recovery="strict") as log:
        assert log.recovery.verdict == "clean"
        if log.current_lsn == 20:
            assert log.read_since(0) == [(lsn, payload(lsn)) for lsn in range(1, 21)]
        else:
            _check_started(log)
    with Spool.restart_at(folder / "app.db", POSITION) as log:
        _check_started(log)
