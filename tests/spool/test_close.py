"""Closing lets go of everything at once, not when the object is collected."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

import walspool


def descriptors(folder: Path) -> list[str]:
    """Files under a folder that this process holds open."""
    listing = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")
    targets = []
    for each in listing.iterdir():
        try:
            targets.append(os.readlink(each))
        except OSError:
            continue
    return [each for each in targets if each.startswith(str(folder))]


@pytest.mark.parametrize("read_only", [False, True])
def test_close_lets_go_of_every_descriptor(read_only: bool, core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=64) as spool:
        spool.append_many([(lsn, bytes(40)) for lsn in range(1, 6)])
    spool = walspool.open(tmp_path / "app.db", read_only=read_only)
    assert spool.record_count == 5
    assert descriptors(tmp_path)
    spool.close()
    assert descriptors(tmp_path) == []


def test_an_iterator_that_is_under_way_ends_well(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as spool:
        spool.append_many([(lsn, bytes(40)) for lsn in range(1, 6)])
        records = spool.tuples()
        assert next(records)[0] == 1
    assert [lsn for lsn, _ in records] == [2, 3, 4, 5]
