"""Where an application is in its replica's log, and what a crash leaves of that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from walspool.net.applying import AppliedFile


def test_it_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "applied"
    assert AppliedFile.read(path) is None
    file = AppliedFile(path)
    assert file.lsn is None
    for lsn in (1, 2, 3, 2**64 - 1, 7):  # the last as behind a bootstrap
        file.write(lsn)
        assert AppliedFile.read(path) == lsn
    file.close()
    file.close()
    again = AppliedFile(path)
    again.write(8, durable=True)
    again.close()
    assert AppliedFile.read(path) == 8
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("at", range(30))
def test_a_torn_write_leaves_the_one_before(tmp_path: Path, at: int) -> None:
    path = tmp_path / "applied"
    file = AppliedFile(path)
    file.write(4_711)
    before = path.read_bytes()
    file.write(4_712)
    file.close()
    written = path.read_bytes()
    place = 0  # the second is written into the first place
    torn = bytearray(before.ljust(len(written), b"\0"))
    torn[place : place + at] = written[place : place + at]
    path.write_bytes(torn)
    assert AppliedFile.read(path) in ((4_711, 4_712) if at >= 15 else (4_711,))


def test_what_is_no_position_is_none(tmp_path: Path) -> None:
    path = tmp_path / "applied"
    for text in (b"", b"x" * 9_000, b"1 5 00000000\n", b"-1 5 00000000\n", os.urandom(8_192)):
        path.write_bytes(text)
        assert AppliedFile.read(path) is None
