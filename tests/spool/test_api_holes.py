"""Sealed segments that are damaged or missing: refused, or kept as a hole that no read steps over."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.spool.kit import contents, fill, payload

Spool = walspool.LogicalWalSpool


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def _zero_end(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


def _without_sidecar(harm: Callable[[Path], None]) -> Callable[[Path], None]:
    def both(path: Path) -> None:
        harm(path)
        path.with_name(path.name + ".idx").unlink()

    return both


HARM: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "zeros at the end": _zero_end,
    "missing": Path.unlink,
    "empty": lambda path: os.truncate(path, 0),
    "flipped, no sidecar": _without_sidecar(_flip),
    "missing, no sidecar": _without_sidecar(Path.unlink),
}


@pytest.fixture
def segments(core: ModuleType, tmp_path: Path) -> tuple[walspool.SegmentInfo, ...]:
    """Those of a closed log of 60 records."""
    with walspool.open(tmp_path / "app.db", segment_bytes=500) as log:
        fill(log, 60)
        assert len(log.segments) > 5
        return log.segments


def _lsns(info: walspool.SegmentInfo) -> tuple[int, int]:
    assert info.first_lsn is not None
    assert info.last_lsn is not None
    return info.first_lsn, info.last_lsn


def _seen(log: Spool, since: int) -> tuple[list[int], walspool.SpoolCorrupt | None]:
    seen: list[int] = []
    try:
        for lsn, data in log.tuples(since):
            assert data == payload(lsn)
            seen.append(lsn)
    except walspool.SpoolCorrupt as error:
        return seen, error
    return seen, None


@pytest.mark.parametrize("which", [0, 2, -2])
@pytest.mark.parametrize("harm", HARM)
def test_a_harmed_segment(
    segments: tuple[walspool.SegmentInfo, ...],
    tmp_path: Path,
    harm: str,
    which: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, last = _lsns(segments[which])
    HARM[harm](segments[which].path)
    before = contents(tmp_path)
    with pytest.raises(walspool.SpoolCorrupt) as caught:
        walspool.open(tmp_path / "app.db", recovery="strict")
    assert (caught.value.last_lsn or 0) >= last or "no sidecar" in harm
    assert {name: data for name, data in contents(tmp_path).items() if not name.endswith(".lock")} == {
        name: data for name, data in before.items() if not name.endswith(".lock")
    }
    with walspool.open(tmp_path / "app.db", segment_bytes=800) as log:
        assert log.recovery.verdict == "corrupt"
        assert caplog.records[-1].levelno == logging.ERROR
        kept, error = _seen(log, 0)
        assert error is not None
        assert (error.first_lsn, error.last_lsn) == (len(kept) + 1, last)
        assert kept == list(range(1, len(kept) + 1))
        assert first - 1 <= len(kept) < last
        lost = (len(kept) + 1, last)
        assert log.current_lsn == 60
        fill(log, 5)
    for recovery in ("truncate", "strict"):
        with walspool.open(tmp_path / "app.db", segment_bytes=800, recovery=recovery) as log:
            assert log.recovery.verdict == "clean"
            _check_hole(log, lost)
    with walspool.open(tmp_path / "app.db", read_only=True) as log:
        _check_hole(log, lost)


@pytest.mark.parametrize("which", [0, 2, -2])
def test_damage_behind_a_good_sidecar(segments: tuple[walspool.SegmentInfo, ...], tmp_path: Path, which: int) -> None:
    _, last = _lsns(segments[which])
    _flip(segments[which].path)
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.recovery.scanned_bytes == segments[-1].bytes  # an open does not read what is sealed
        kept, error = _seen(log, 0)
        assert error is not None
        assert (error.first_lsn, error.last_lsn) == (len(kept) + 1, last)
        assert _seen(log, last) == (list(range(last + 1, 61)), None)
        (problem,) = log.verify().problems
        assert (problem.path, problem.first_lsn, problem.last_lsn) == (segments[which].path, len(kept) + 1, last)
    plan = walspool.LogicalWalSpool.repair(tmp_path / "app.db", dry_run=True)
    done = walspool.LogicalWalSpool.repair(tmp_path / "app.db")
    assert plan.recovery is not None
    assert done.recovery is not None
    assert plan.recovery.verdict == done.recovery.verdict == "corrupt"
    assert plan.recovery.records == done.recovery.records == 60 - (last - len(kept))
    assert not walspool.LogicalWalSpool.repair(tmp_path / "app.db").changed
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        fill(log, 5)
        _check_hole(log, (len(kept) + 1, last))


def _check_hole(log: Spool, lost: tuple[int, int]) -> None:
    first, last = lost
    assert log.record_count == 65 - (last - first + 1)
    for since in (0, first - 1, (first + last) // 2):
        seen, error = _seen(log, since)
        assert seen == list(range(since + 1, first))
        assert error is not None
        assert (error.first_lsn, error.last_lsn) == (max(first, since + 1), last)
        assert "lost" in error.reason
    assert _seen(log, last) == (list(range(last + 1, 66)), None)
    for call in (log.read_since, log.read_entries, lambda lsn: log.read_frames(lsn, 1 << 20)):
        calls: Any = call
        with pytest.raises(walspool.SpoolCorrupt):
            calls(first - 1)
    if first > 1:
        assert log.read_since(0, first - 1) == [(lsn, payload(lsn)) for lsn in range(1, first)]
        assert log.read_frames(0, 1).records == 1
    report = log.verify()
    assert not report.ok
    assert [(each.first_lsn, each.last_lsn) for each in report.problems] == [lost]
    assert log.position(last) is None
    assert log.position(last + 1) is not None


def test_a_follower_does_not_step_over_a_hole(segments: tuple[walspool.SegmentInfo, ...], tmp_path: Path) -> None:
    segments[2].path.unlink()
    first, last = _lsns(segments[2])
    with walspool.open(tmp_path / "app.db") as log:
        seen: list[int] = []
        with pytest.raises(walspool.SpoolCorrupt) as caught:
            seen.extend(entry.lsn for entry in log.follow(0, timeout=0))
        assert seen == list(range(1, first))
        assert (caught.value.first_lsn, caught.value.last_lsn) == (first, last)
        assert [each.lsn for each in log.follow(last, timeout=0)] == list(range(last + 1, 61))


def test_pruning_past_a_hole_ends_it(segments: tuple[walspool.SegmentInfo, ...], tmp_path: Path) -> None:
    segments[2].path.unlink()
    first, last = _lsns(segments[2])
    with walspool.open(tmp_path / "app.db", segment_bytes=800) as log:
        log.prune_through(first + 1)
        seen, error = _seen(log, 0)
        assert seen == []
        assert error is not None
        assert (error.first_lsn, error.last_lsn) == (first + 2, last)
        log.prune_through(last)
        assert _seen(log, 0) == (list(range(last + 1, 61)), None)
        assert log.verify().ok
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert _seen(log, 0) == (list(range(last + 1, 61)), None)


def test_several_holes(segments: tuple[walspool.SegmentInfo, ...], tmp_path: Path) -> None:
    for which in (1, 3, 4):
        segments[which].path.unlink()
    with walspool.open(tmp_path / "app.db", segment_bytes=800) as log:
        first, error = _seen(log, 0)
        assert first == list(range(1, _lsns(segments[1])[0]))
        assert error is not None
        assert (error.first_lsn, error.last_lsn) == _lsns(segments[1])
        second, error = _seen(log, _lsns(segments[1])[1])
        assert second == list(range(_lsns(segments[2])[0], _lsns(segments[3])[0]))
        assert error is not None
        assert (error.first_lsn, error.last_lsn) == (_lsns(segments[3])[0], _lsns(segments[4])[1])
        assert _seen(log, _lsns(segments[4])[1])[1] is None
        assert len(log.verify().problems) == 2


def test_a_read_only_open_judges_like_a_writer(segments: tuple[walspool.SegmentInfo, ...], tmp_path: Path) -> None:
    segments[2].path.unlink()
    lost = _lsns(segments[2])
    before = contents(tmp_path)
    with pytest.raises(walspool.SpoolCorrupt):
        walspool.open(tmp_path / "app.db", read_only=True, recovery="strict")
    with walspool.open(tmp_path / "app.db", read_only=True) as log:
        assert log.recovery.verdict == "corrupt"
        seen, error = _seen(log, 0)
        assert seen == list(range(1, lost[0]))
        assert error is not None
        assert (error.first_lsn, error.last_lsn) == lost
        assert _seen(log, lost[1]) == (list(range(lost[1] + 1, 61)), None)
    assert contents(tmp_path) == before


def test_damage_in_the_active_segment_raises_the_floor(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 20)
        path = log.path
    frame = 37 + len(payload(10))
    data = bytearray(path.read_bytes())
    at = sum(37 + len(payload(lsn)) for lsn in range(1, 10)) + frame // 2
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(walspool.SpoolCorrupt) as caught:
        walspool.open(tmp_path / "app.db", recovery="strict")
    assert (caught.value.first_lsn, caught.value.last_lsn) == (10, 20)
    assert path.read_bytes() == data
    with walspool.open(tmp_path / "app.db") as log:
        assert log.recovery.verdict == "corrupt"
        assert log.recovery.quarantine is not None
        assert log.recovery.quarantine.read_bytes() == data[at - frame // 2 :]
        assert log.recovery.cut_bytes == len(data) - (at - frame // 2)
        assert log.read_since(0) == [(lsn, payload(lsn)) for lsn in range(1, 10)]
        assert (log.current_lsn, log.record_count) == (20, 9)
        with pytest.raises(walspool.LsnOrderError):
            log.append(20, b"x")
        assert log.append_next(b"goes on") == 21
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.recovery.verdict == "clean"
        assert log.read_since(9) == [(21, b"goes on")]


def test_lowering_the_floor_gives_up_a_hole_at_the_end(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=500) as log:
        fill(log, 30)
        log.prune_through(29)  # which seals what the active segment held
        (last,) = [each for each in log.segments if each.records]
        assert last.sealed
    last.path.unlink()
    with walspool.open(tmp_path / "app.db") as log:
        assert _seen(log, 29)[1] is not None
        assert log.current_lsn == 30
    walspool.LogicalWalSpool.repair(tmp_path / "app.db", lsn_floor=29)
    for count in (1, 2):
        with walspool.open(tmp_path / "app.db", recovery="strict") as log:
            assert log.recovery.verdict == "clean"
            assert log.current_lsn == 28 + count
            fill(log, 1)
            assert _seen(log, 0) == (list(range(30, 30 + count)), None)
            assert log.verify().ok


def test_what_lies_beside_is_left_alone(segments: tuple[walspool.SegmentInfo, ...], tmp_path: Path) -> None:
    names = [
        "app.db",
        "app.db.logical.wal.bak",
        "app.db.logical.wal.0000",
        "app.db.logical.wal.12345678901234567890x",
        "b.db",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"not ours")
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        log.prune_through(60)
    for name in names:
        assert (tmp_path / name).read_bytes() == b"not ours"
