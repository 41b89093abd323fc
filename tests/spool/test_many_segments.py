"""Opening a log of many sealed segments, which are opened together: each is still judged on its own."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.core.kit import held_open
from tests.spool.kit import fill, holds
from walspool.spool.files import SpoolFiles

Spool = walspool.LogicalWalSpool
SEGMENTS = 100
RECORDS = SEGMENTS * 4


@pytest.fixture
def many(core: ModuleType, tmp_path: Path) -> SpoolFiles:
    with walspool.open(tmp_path / "db", segment_bytes=300) as log:
        fill(log, RECORDS)
        assert len(log.segments) == SEGMENTS
    return SpoolFiles(walspool.LogicalWalSpool.path_for(tmp_path / "db"))


@contextlib.contextmanager
def _descriptors_limited_to(count: int) -> Iterator[None]:
    """Within the block this process can have so many descriptors more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(each) for each in os.listdir("/proc/self/fd")}
    limit = [number for number in range(10_000) if number not in taken][count]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("read_only", [False, True])
def test_too_few_descriptors_are_an_error_with_a_name(many: SpoolFiles, tmp_path: Path, read_only: bool) -> None:
    with _descriptors_limited_to(SEGMENTS // 2):
        try:
            walspool.open(tmp_path / "db", read_only=read_only)
        except OSError as error:
            found = error.errno, error.filename
    assert found[0] == errno.EMFILE
    assert str(found[1]).startswith(str(many.active))
    assert held_open(tmp_path) == []  # at once, and not when garbage is collected
    with walspool.open(tmp_path / "db", read_only=read_only) as log:
        assert log.recovery.verdict == "clean"
        assert holds(log, 1, RECORDS)


@pytest.mark.parametrize("read_only", [False, True])
def test_one_without_its_sidecar_is_read(many: SpoolFiles, tmp_path: Path, read_only: bool) -> None:
    victim = many.list_sealed()[70]
    sidecar = many.sidecar(victim)
    kept = sidecar.read_bytes()
    sidecar.unlink()
    with walspool.open(tmp_path / "db", read_only=read_only) as log:
        assert (log.recovery.verdict, log.recovery.records) == ("clean", RECORDS)
        assert victim.stat().st_size <= log.recovery.scanned_bytes < 3 * victim.stat().st_size
        assert holds(log, 1, RECORDS)
    assert sidecar.exists() is not read_only
    if not read_only:
        assert sidecar.read_bytes() == kept


def _first_bad_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[:-1])


def _both_gone(path: Path) -> None:
    path.unlink()
    Path(f"{path}.idx").unlink()


@pytest.mark.parametrize("damage", [Path.unlink, _both_gone, _first_bad_byte])
def test_one_that_is_lost_or_damaged_is_a_hole(
    many: SpoolFiles, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(many.list_sealed()[70])
    before = {each: (tmp_path / each).read_bytes() for each in os.listdir(tmp_path)}
    with pytest.raises(walspool.SpoolCorrupt):
        walspool.open(tmp_path / "db", recovery="strict")
    assert {each: (tmp_path / each).read_bytes() for each in os.listdir(tmp_path) if each in before} == before
    with walspool.open(tmp_path / "db") as log:
        assert log.recovery.verdict == "corrupt"
        ((first, last),) = log.holes
        assert 281 <= first <= last == 284
        assert _goes_on_behind(log, last)
    with walspool.open(tmp_path / "db") as log:
        assert (log.recovery.verdict, log.holes) == ("clean", ((first, last),))


def _goes_on_behind(log: walspool.LogicalWalSpool, lost: int) -> bool:
    """Whether what lies behind the hole is there."""
    return [each.lsn for each in log.entries(lost)] == list(range(lost + 1, RECORDS + 1))


def test_segments_behind_the_prune_boundary_go(many: SpoolFiles, tmp_path: Path) -> None:
    """As after a crash between a prune's state and its unlinks. They take no descriptors from those that stay."""
    aside = {path: path.read_bytes() for each in many.list_sealed()[:80] for path in (each, many.sidecar(each))}
    with walspool.open(tmp_path / "db", segment_bytes=300) as log:
        log.prune_through(320)
        assert len(log.segments) == SEGMENTS - 80
    for path, data in aside.items():
        path.write_bytes(data)
    with _descriptors_limited_to(SEGMENTS // 2), walspool.open(tmp_path / "db", segment_bytes=300) as log:
        assert (log.recovery.verdict, log.record_count, log.oldest_lsn) == ("clean", RECORDS - 320, 321)
    assert not any(path.exists() for path in aside)


@pytest.mark.parametrize("read", [Spool.read_since, Spool.read_entries, Spool.tuples, Spool.read_frames])
def test_damage_that_a_read_finds_is_told_with_the_path(
    many: SpoolFiles, tmp_path: Path, read: Callable[..., Iterable[object]]
) -> None:
    victim = many.list_sealed()[70]
    with walspool.open(tmp_path / "db") as log:
        with open(victim, "r+b") as file:
            file.write(b"\0")
        with pytest.raises(walspool.SpoolCorrupt) as caught:
            any(each is None for each in read(log, 280))
    assert caught.value.path == victim
