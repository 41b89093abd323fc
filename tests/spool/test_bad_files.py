"""Files that are not what they should be, before an open and under an open log."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.spool.kit import Program, contents, fill, holds, payload

MODES: list[dict[str, Any]] = [{}, {"recovery": "strict"}, {"segment_bytes": None}, {"read_only": True}]


@pytest.fixture
def data_path(core: ModuleType, tmp_path: Path) -> Path:
    """A log of 40 records in several segments, closed."""
    path = tmp_path / "app.db"
    with walspool.open(path, segment_bytes=600) as log:
        fill(log, 40)
        assert len(log.segments) > 3
    return path


@pytest.mark.parametrize("options", MODES)
def test_data_path_is_a_directory(core: ModuleType, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        walspool.open(tmp_path, **options)
    assert caught.value.errno == errno.EISDIR
    assert caught.value.filename == str(tmp_path)
    assert "the data path is a directory" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", MODES)
def test_spool_file_is_a_directory(core: ModuleType, tmp_path: Path, options: dict[str, Any]) -> None:
    active = walspool.LogicalWalSpool.path_for(tmp_path / "app.db")
    active.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        walspool.open(tmp_path / "app.db", **options)
    assert caught.value.filename == str(active)
    assert list(tmp_path.iterdir()) == [active]


@pytest.mark.parametrize("options", MODES)
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_spool_file_is_no_regular_file(core: ModuleType, tmp_path: Path, options: dict[str, Any], kind: str) -> None:
    active = walspool.LogicalWalSpool.path_for(tmp_path / "app.db")
    if kind == "link":
        active.symlink_to(tmp_path / "nowhere")
        words = "it is a symbolic link to nothing"
    else:
        os.mkfifo(active)
        words = "it is not a regular file"
    with pytest.raises(walspool.SpoolCorrupt) as caught:
        walspool.open(tmp_path / "app.db", **options)
    assert caught.value.path == active
    assert caught.value.reason == words
    assert str(active) in str(caught.value)
    assert list(tmp_path.iterdir()) == [active]


def test_spool_file_is_a_link_to_a_log(data_path: Path, tmp_path: Path) -> None:
    active = walspool.LogicalWalSpool.path_for(data_path)
    active.rename(tmp_path / "elsewhere")
    active.symlink_to(tmp_path / "elsewhere")
    with walspool.open(data_path) as log:
        assert holds(log, 1, 40)
        log.append(41, payload(41))
    assert active.is_symlink()
    with walspool.open(data_path, read_only=True) as log:
        assert holds(log, 1, 41)


@pytest.mark.parametrize("name", ["", ".state", ".mark", ".lock", ".00000000000000000001"])
def test_another_file_of_the_log_is_odd(data_path: Path, name: str) -> None:
    active = walspool.LogicalWalSpool.path_for(data_path)
    path = active.with_name(active.name + name)
    makers: list[Callable[[Path], None]] = [Path.mkdir, os.mkfifo]
    for make in makers:
        shutil.move(path, path.parent / "kept")
        make(path)
        with pytest.raises((OSError, walspool.SpoolCorrupt)) as caught:
            walspool.open(data_path)
        assert path.name in str(caught.value)
        path.rmdir() if path.is_dir() else path.unlink()
        shutil.move(path.parent / "kept", path)
        with walspool.open(data_path, recovery="strict") as log:
            assert log.recovery.verdict == "clean"
            assert holds(log, 1, 40)


@pytest.mark.parametrize("options", MODES)
def test_foreign_file(core: ModuleType, tmp_path: Path, options: dict[str, Any]) -> None:
    active = walspool.LogicalWalSpool.path_for(tmp_path / "app.db")
    for size in (1, 3, 4, 50, 100_000):
        data = b"\x7f" + random.Random(size).randbytes(size - 1)
        active.write_bytes(data)
        os.utime(active, ns=(1, 1))
        before = os.stat(active)
        for _ in range(2):
            with pytest.raises(walspool.SpoolCorrupt) as caught:
                walspool.open(tmp_path / "app.db", **options)
            assert caught.value.path == active
            assert "not a walspool log" in caught.value.reason
            assert "nothing of it was touched" in str(caught.value)
            now = os.stat(active)
            assert (now.st_ino, now.st_mtime_ns, now.st_size) == (before.st_ino, before.st_mtime_ns, size)
            assert {each for each in contents(tmp_path) if not each.endswith(".lock")} == {active.name}
            assert active.read_bytes() == data


def test_active_file_vanishes_under_an_open_log(data_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    active = walspool.LogicalWalSpool.path_for(data_path)
    with walspool.open(data_path) as log:
        log.append(41, payload(41))
        active.unlink()
        with pytest.raises(walspool.SpoolCorrupt, match="removed") as caught:
            log.append(42, b"x")
        assert Path(os.fspath(caught.value.path)) == active
        with pytest.raises(walspool.SpoolPoisoned, match="removed"):
            log.append(42, b"x")
        assert log.current_lsn == 41
        assert holds(log, 1, 41)
    assert not active.exists()
    with pytest.raises(walspool.SpoolCorrupt, match="missing"):
        walspool.open(data_path, recovery="strict")
    with walspool.open(data_path) as log:
        assert log.recovery.verdict == "corrupt"
        assert log.current_lsn == 41
        assert log.append_next(b"goes on") == 42
        kept = log.segments[-2].last_lsn or 0
        assert 0 < kept < 41
        assert log.read_since(0) == [*((lsn, payload(lsn)) for lsn in range(1, kept + 1)), (42, b"goes on")]
    assert "corrupt: it is missing, and LSN 41 was durable in it" in caplog.text


def test_active_file_shrinks_under_an_open_log(data_path: Path) -> None:
    active = walspool.LogicalWalSpool.path_for(data_path)
    with walspool.open(data_path, segment_bytes=None) as log:
        fill(log, 5)
        os.truncate(active, active.stat().st_size - 10)
        with pytest.raises(walspool.SpoolCorrupt) as read:
            list(log.entries())
        assert read.value.last_lsn == 45
        assert read.value.first_lsn == 45
        with pytest.raises(walspool.SpoolCorrupt, match="shortened") as caught:
            log.append(46, b"x")
        assert Path(os.fspath(caught.value.path)) == active
        with pytest.raises(walspool.SpoolPoisoned, match="shortened"):
            log.append_next(b"x")
        assert log.read_since(45) == []
        assert log.read_since(0, 44) == [(lsn, payload(lsn)) for lsn in range(1, 45)]
        assert not log.verify().ok
    with pytest.raises(walspool.SpoolCorrupt, match="LSN 45 was durable"):
        walspool.open(data_path, recovery="strict")
    with walspool.open(data_path) as log:
        assert log.recovery.verdict == "corrupt"
        assert log.append_next(b"goes on") == 46
        assert log.read_since(0, 44) == [(lsn, payload(lsn)) for lsn in range(1, 45)]


def test_sealed_file_vanishes_or_shrinks_under_an_open_log(data_path: Path) -> None:
    with walspool.open(data_path) as log:
        first, second = log.segments[:2]
        first.path.unlink()
        assert holds(log, 1, 40)  # held open
        os.truncate(second.path, second.bytes - 1)
        with pytest.raises(walspool.SpoolCorrupt) as caught:
            list(log.entries())
        assert Path(os.fspath(caught.value.path)) == second.path
        assert (caught.value.first_lsn, caught.value.last_lsn) == (second.last_lsn, second.last_lsn)
        assert log.append_next(b"goes on") == 41
        assert log.read_since(40) == [(41, b"goes on")]
        problems = log.verify().problems
        assert any(each.path == second.path for each in problems)


def test_second_writer(data_path: Path) -> None:
    lock = walspool.LogicalWalSpool.path_for(data_path).with_name("app.db.logical.wal.lock")
    text = "import sys, walspool; log = walspool.open(sys.argv[1]); print(log.current_lsn); input(); log.close()"
    with walspool.open(data_path) as log:
        with pytest.raises(walspool.SpoolLocked) as caught:
            walspool.open(data_path)
        assert (caught.value.path, caught.value.pid) == (lock, os.getpid())
        assert f"pid {os.getpid()}" in str(caught.value)
        with pytest.raises(walspool.SpoolLocked):
            walspool.LogicalWalSpool.repair(data_path)
        with pytest.raises(walspool.SpoolLocked):
            walspool.LogicalWalSpool.restart_at(data_path, walspool.Position(1, 1, 1))
        with walspool.open(data_path, read_only=True) as reader:
            assert holds(reader, 1, 40)
        log.append(41, payload(41))
        assert holds(log, 1, 41)
    with Program(walspool.core.name, text, data_path) as other:
        assert other.line() == "41"
        with pytest.raises(walspool.SpoolLocked) as caught:
            walspool.open(data_path)
        assert caught.value.pid == other.process.pid
        assert str(other.process.pid) in str(caught.value)
        assert str(lock) in str(caught.value)
        other.tell()
        other.finish()
    with walspool.open(data_path) as log:
        assert holds(log, 1, 41)


def _spoil(path: Path, other: bytes) -> dict[str, Callable[[], object]]:
    good = path.read_bytes()
    return {
        "truncated": lambda: path.write_bytes(good[: len(good) // 2]),
        "short by one byte": lambda: path.write_bytes(good[:-1]),
        "longer": lambda: path.write_bytes(good + b"\0"),
        "empty": lambda: path.write_bytes(b""),
        "all zero": lambda: path.write_bytes(bytes(len(good))),
        "flipped": lambda: path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:]),
        "of another spool": lambda: path.write_bytes(other),
        "missing": path.unlink,
    }


def _another(tmp_path: Path, name: str) -> bytes:
    folder = tmp_path / "another"
    with walspool.open(folder / "app.db", segment_bytes=600) as log:
        fill(log, 40)
    return (folder / name).read_bytes()


def test_state_that_can_not_be_used(data_path: Path, tmp_path: Path) -> None:
    state = tmp_path / "app.db.logical.wal.state"
    for kind, spoil in _spoil(state, _another(tmp_path, state.name)).items():
        folder = tmp_path / kind.replace(" ", "-")
        shutil.copytree(tmp_path, folder, ignore=lambda _, names: {n for n in names if not n.startswith("app.db")})
        good = state.read_bytes()
        spoil()
        before = contents(tmp_path)
        for options in MODES:
            with pytest.raises(walspool.SpoolCorrupt) as caught:
                walspool.open(data_path, **options)
            assert caught.value.path == state, kind
            assert caught.value.reason, kind
            assert "walspool repair" in str(caught.value), kind
            assert contents(tmp_path) == before, kind
        report = walspool.LogicalWalSpool.repair(data_path)
        assert report.changed
        assert report.lsn_floor == 40
        with walspool.open(data_path, recovery="strict") as log:
            assert holds(log, 1, 40), kind
            assert log.current_lsn == 40
        for name, data in contents(folder).items():
            (tmp_path / name).write_bytes(data)
        assert state.read_bytes() == good


def test_mark_that_can_not_be_used(data_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mark = tmp_path / "app.db.logical.wal.mark"
    for kind, spoil in _spoil(mark, _another(tmp_path, mark.name)).items():
        good = mark.read_bytes()
        spoil()
        with walspool.open(data_path, read_only=True) as log:
            assert holds(log, 1, 40), kind
        with walspool.open(data_path, recovery="strict") as log:
            assert holds(log, 1, 40), kind
            assert log.recovery.verdict == "clean"
        assert mark.read_bytes() == good, kind
    assert "of another spool" in caplog.text


def test_sidecar_that_can_not_be_used(data_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sidecar = sorted(tmp_path.glob("*.idx"))[1]
    for kind, spoil in _spoil(sidecar, _another(tmp_path, sidecar.name)).items():
        good = sidecar.read_bytes()
        spoil()
        with walspool.open(data_path, read_only=True) as log:
            assert holds(log, 1, 40), kind
        assert kind == "missing" or sidecar.read_bytes() != good
        with walspool.open(data_path, recovery="strict") as log:
            assert holds(log, 1, 40), kind
            assert log.recovery.verdict == "clean"
            assert log.verify().ok
        assert sidecar.read_bytes() == good, kind
        caplog.clear()
    extra = walspool.core.decode_sidecar(sidecar.read_bytes())[3]
    assert extra == b""
