"""Waiting for records and reading them, in one go."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit
from walspool.errors import SpoolClosed

SIZE = len(kit.v3(1))
#: A tag and the length of the rest: its frame matches the wide layout, too.
LOOKS_WIDE = struct.pack("<II", 7, 8) + b"content!"


def reader_of(core: ModuleType, log: kit.Writer, since_lsn: int) -> Any:
    return core.Reader(log.file, log.path, log.appender.summary(), since_lsn=since_lsn)


def test_a_reader_goes_on_from_record_to_record(core: ModuleType, tmp_path: Path) -> None:
    log = kit.Writer(core, tmp_path)
    reader, last = reader_of(core, log, 0), 0
    for lsn in range(1, 200):
        log.append(lsn, b"x" * lsn)
        (entry,) = log.appender.wait_entries(reader, last, None, 128, 1 << 18)
        assert (entry.lsn, entry.payload) == (lsn, b"x" * lsn)
        last = lsn
    assert log.appender.wait_entries(reader, last, 0.0, 128, 1 << 18) is None


def test_a_reader_at_the_end_knows_in_which_layout_the_last_frame_is(core: ModuleType, tmp_path: Path) -> None:
    log = kit.Writer(core, tmp_path, kit.wide(1) + kit.v3(2))
    reader = reader_of(core, log, 2)
    log.append(3, LOOKS_WIDE)
    (entry,) = log.appender.wait_entries(reader, 2, None, 128, 1 << 18)
    assert (entry.lsn, entry.payload) == (3, LOOKS_WIDE)


def test_what_is_awaited_comes_in_portions(core: ModuleType, tmp_path: Path) -> None:
    log = kit.Writer(core, tmp_path)
    reader = reader_of(core, log, 0)
    for lsn in range(1, 8):
        log.append(lsn, b"12345")
    given = [log.appender.wait_entries(reader, 0, None, count, room) for count, room in [(2, 100), (9, 10), (9, 4)]]
    assert [[entry.lsn for entry in each] for each in given] == [[1, 2], [3, 4], [5]]
    assert [entry.lsn for entry in log.appender.wait_entries(reader, 5, None, 128, 1 << 18)] == [6, 7]


def test_nothing_comes_for_a_floor_or_from_another_file(core: ModuleType, tmp_path: Path) -> None:
    log = kit.Writer(core, tmp_path)
    log.append(1)
    reader = reader_of(core, log, 1)
    log.appender.raise_floor(5)
    assert log.appender.wait_entries(reader, 1, None, 128, 1 << 18) == []
    log.append(6)
    log.appender.seal()
    path = tmp_path / "next"
    path.touch()
    file = kit.open_file(core, path)
    log.appender.swap(file, path, core.scan_file(file, path, base_lsn=6))
    for lsn in range(7, 20):
        log.append(lsn)
    assert log.appender.wait_entries(reader, 1, None, 1, 1 << 18) == []


@pytest.mark.parametrize("rotten", [True, False])
def test_nothing_comes_where_it_can_not_be_read(core: ModuleType, tmp_path: Path, rotten: bool) -> None:
    log = kit.Writer(core, tmp_path)
    log.append(1)
    reader = reader_of(core, log, 1)
    log.append(2)
    if rotten:
        data = kit.flip(log.path.read_bytes(), SIZE + 35)
        with open(log.path, "r+b") as file:
            file.write(data)
    else:
        os.truncate(log.path, SIZE)
    assert log.appender.wait_entries(reader, 1, None, 128, 1 << 18) == []


def test_odd_arguments_and_a_closed_appender_are_refused(core: ModuleType, tmp_path: Path) -> None:
    log = kit.Writer(core, tmp_path)
    reader = reader_of(core, log, 0)
    with pytest.raises(TypeError, match=r"^since_lsn must be an int, not str"):
        log.appender.wait_entries(reader, "1", 0, 1, 1)
    with pytest.raises(ValueError, match=r"^max_count must be between 0 and"):
        log.appender.wait_entries(reader, 0, 0, -1, 1)
    with pytest.raises(TypeError, match=r"^max_bytes must be an int, not bool"):
        log.appender.wait_entries(reader, 0, 0, 1, True)
    with pytest.raises(ValueError, match=r"^timeout must not be NaN"):
        log.appender.wait_entries(reader, 0, float("nan"), 1, 1)
    log.appender.close()
    with pytest.raises(SpoolClosed):
        log.appender.wait_entries(reader, 0, 0, 1, 1)
