"""Pruning: what goes, what stays, what is said of it, and what a crash on the way leaves."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.spool.kit import contents, fill, holds, payload
from walspool.spool import files as fs

Spool = walspool.LogicalWalSpool


@pytest.fixture(params=[800, None], ids=["segments", "one file"])
def segment_bytes(request: pytest.FixtureRequest) -> int | None:
    """Both ways to keep a log."""
    value: int | None = request.param
    return value


@pytest.fixture
def log(core: ModuleType, tmp_path: Path, segment_bytes: int | None) -> Iterator[Spool]:
    """A hundred records."""
    with walspool.open(tmp_path / "app.db", segment_bytes=segment_bytes) as spool:
        fill(spool, 100)
        yield spool


@pytest.mark.parametrize("through", [0, 1, 50, 64, 65, 99, 100, 500])
def test_prune(log: Spool, tmp_path: Path, segment_bytes: int | None, through: int) -> None:
    before, size = log.segments, log.size_bytes
    boundary = log.position(min(through, 100)) if through else None
    report = log.prune_through(through)
    kept = (min(through, 100) + 1, 100)
    assert report.records == 100 - (kept[1] - kept[0] + 1)
    assert report.bytes_freed == size - log.size_bytes
    gone = {each.path for each in before} - {each.path for each in log.segments}
    assert report.segments_removed >= len([path for path in gone if not path.exists()])
    for _ in range(2):
        assert holds(log, *kept)
        assert log.record_count == kept[1] - kept[0] + 1
        assert log.oldest_lsn == (kept[0] if through < 100 else None)
        assert (log.current_lsn, log.durable_lsn) == (max(100, through), max(100, through))
        assert log.pruned_through == through
        assert log.position(min(through, 100)) == boundary
        assert log.verify() == walspool.VerifyReport(True, log.record_count, log.size_bytes, len(log.segments), ())
        assert log.size_bytes == sum(37 + len(payload(lsn)) for lsn in range(kept[0], 101))
        assert log.prune_through(through) == walspool.PruneReport(0, 0, 0)
        log.close()
        log = walspool.open(tmp_path / "app.db", segment_bytes=segment_bytes, recovery="strict")
        assert log.recovery.verdict == "clean"
    with pytest.raises(walspool.LsnOrderError):
        log.append(max(100, through), b"x")
    assert log.append_next(b"goes on") == max(100, through) + 1
    assert not list(tmp_path.glob("*.tmp"))
    log.close()


def test_prune_again_and_again(log: Spool) -> None:
    for lsn in range(0, 100, 7):
        log.prune_through(lsn)
        assert holds(log, lsn + 1, 100)
        log.prune_through(lsn // 2)
        assert holds(log, lsn + 1, 100)
        assert log.pruned_through == lsn
    fill(log, 20)
    assert holds(log, 99, 120)


def test_what_prune_stamps(core: ModuleType, tmp_path: Path, segment_bytes: int | None) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=segment_bytes) as log:
        for lsn in range(1, 11):
            log.append(lsn, payload(lsn), timestamp_ms=lsn % 2)
        log.prune_through(4)
        stamps = [each.timestamp_ms for each in log]
        assert stamps[0::2] == [1, 1, 1]
        assert all(each > 1_600_000_000_000 for each in stamps[1::2])
        assert len(set(stamps[1::2])) == 1
        before = log.read_entries()
        log.prune_through(4)
        assert log.read_entries() == before


def test_prune_while_reading(log: Spool) -> None:
    first, second, third = log.entries(), log.tuples(20), log.entries(60)
    assert (next(first).lsn, next(second)[0], next(third).lsn) == (1, 21, 61)
    log.prune_through(70)
    assert [each.lsn for each in first] == list(range(2, 101))
    assert [lsn for lsn, _ in second] == list(range(22, 101))
    assert [each.lsn for each in third] == list(range(62, 101))
    assert holds(log, 71, 100)


def test_read_only_refuses_to_prune(log: Spool, tmp_path: Path) -> None:
    with (
        walspool.open(tmp_path / "app.db", read_only=True) as reader,
        pytest.raises(walspool.SpoolReadOnly, match="prune_through"),
    ):
        reader.prune_through(5)
    assert holds(log, 1, 100)


def test_full_disk_leaves_the_rewrite_out(log: Spool, segment_bytes: int | None) -> None:
    size, segments = log.size_bytes, log.segments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walspool.core, "copy_frames", _no_room)
        report = log.prune_through(50)
    whole = [each for each in segments if (each.last_lsn or 0) <= 50]
    assert report.records == 50
    assert report.segments_removed == len(whole)
    assert report.bytes_freed == sum(each.bytes for each in whole) == size - log.size_bytes
    assert (segment_bytes is None) == (whole == [])
    assert holds(log, 51, 100)
    assert log.record_count == 50
    assert log.read_since(0, 1)[0][0] == log.oldest_lsn == 51
    assert not list(log.path.parent.glob("*.tmp"))
    fill(log, 5)
    again = log.prune_through(50)
    assert again.records == 0
    assert log.size_bytes == sum(37 + len(payload(lsn)) for lsn in range(51, 106))
    assert holds(log, 51, 105)


def _no_room(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


class _Crash(BaseException):
    """Stands for the end of the process."""


def _crash_at(patch: pytest.MonkeyPatch, name: str, nth: int) -> list[int]:
    """From its ``nth`` call on, a file operation never happens."""
    count = [0]
    real = getattr(fs, name)

    def step(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] >= nth:
            raise _Crash
        return real(*args, **kwargs)

    patch.setattr(fs, name, step)
    return count


@pytest.mark.parametrize("name", ["rename", "unlink", "sync_directory", "sync_file", "pwrite_all"])
def test_a_crash_on_the_way(core: ModuleType, tmp_path: Path, segment_bytes: int | None, name: str) -> None:
    nth = 0
    while True:
        nth += 1
        folder = tmp_path / str(nth)
        with walspool.open(folder / "app.db", segment_bytes=segment_bytes) as log:
            fill(log, 100)
        log = walspool.open(folder / "app.db", segment_bytes=segment_bytes)
        with pytest.MonkeyPatch.context() as patch:
            _crash_at(patch, name, nth)
            try:
                log.prune_through(50)
                done = True
            except _Crash:
                done = False
            log._abandon()
        with walspool.open(folder / "app.db", segment_bytes=segment_bytes, recovery="strict") as log:
            assert log.recovery.verdict == "clean"
            pruned = log.pruned_through
            assert pruned in (0, 50)
            assert holds(log, pruned + 1, 100)
            assert log.record_count == 100 - pruned
            assert not list(folder.glob("*.tmp"))
            log.prune_through(50)
            assert holds(log, 51, 100)
            assert log.verify().ok
            fill(log, 3)
        if done:
            break
    assert nth > 1 or (name == "unlink" and segment_bytes is None)


def test_a_prune_of_nothing_writes_nothing(log: Spool) -> None:
    log.prune_through(10)
    before = contents(log.path.parent)
    inode = os.stat(log.path).st_ino
    assert log.prune_through(10) == log.prune_through(3) == walspool.PruneReport(0, 0, 0)
    assert contents(log.path.parent) == before
    assert os.stat(log.path).st_ino == inode
