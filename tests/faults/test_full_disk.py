"""A disk that is really full: a small file system of the test's own, so it takes root (`pytest -m root`)."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import walspool

pytestmark = pytest.mark.root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(spool: walspool.LogicalWalSpool) -> int:
    """Appends until there is no room; the last LSN that was acknowledged."""
    for number in range(1, 100_000):
        try:
            spool.append_next(number.to_bytes(4, "little") * 200)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return spool.current_lsn
    raise AssertionError("the disk never filled up")


@pytest.mark.parametrize("segment_bytes", [200_000, 64 << 20])
def test_a_full_disk_costs_nothing_but_the_append(core: ModuleType, small_disk: Path, segment_bytes: int) -> None:
    with walspool.open(small_disk / "db", segment_bytes=segment_bytes) as spool:
        last = _fill(spool)
        assert last > 1000
        assert [entry.lsn for entry in spool.entries()] == list(range(1, last + 1))
        with pytest.raises(OSError, match=r"."):
            spool.append_next(bytes(1 << 20))
        assert spool.current_lsn == last
    with walspool.open(small_disk / "db", segment_bytes=segment_bytes, recovery="strict") as spool:
        assert spool.recovery.verdict == "clean"
        assert spool.current_lsn == last


def test_a_prune_frees_a_full_disk(core: ModuleType, small_disk: Path) -> None:
    with walspool.open(small_disk / "db", segment_bytes=200_000) as spool:
        last = _fill(spool)
        report = spool.prune_through(last // 2)
        assert report.segments_removed >= 3
        assert report.bytes_freed > 500_000
        assert spool.oldest_lsn == last // 2 + 1
        for _ in range(300):
            last = spool.append_next(b"there is room again" * 40)
    with walspool.open(small_disk / "db", segment_bytes=200_000, recovery="strict") as spool:
        assert spool.current_lsn == last
        kept = [entry.lsn for entry in spool.entries()]
        assert kept == list(range(kept[0], last + 1))
