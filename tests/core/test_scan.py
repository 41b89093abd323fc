"""The valid prefix of a file, and what is known of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit


def scan(core: ModuleType, tmp_path: Path, data: bytes, **options: Any) -> Any:
    path = tmp_path / "log"
    path.write_bytes(data)
    return core.scan_file(kit.open_file(core, path), path, **options)


def test_a_report_tells_what_the_prefix_holds(core: ModuleType, tmp_path: Path) -> None:
    data = kit.v3(5, term=2) + kit.v3(9, term=7) + kit.v3(10, term=4)
    report = scan(core, tmp_path, data, base_lsn=4)
    assert kit.facts(report) == {
        "records": 3,
        "valid_bytes": len(data),
        "file_bytes": len(data),
        "base_lsn": 4,
        "first_lsn": 5,
        "last_lsn": 10,
        "highest_lsn": 10,
        "highest_term": 7,
        "last_term": 4,
        "ordered": True,
        "reframe": False,
        "v1_bytes": 0,
        "last_wide": False,
        "tail_crc": int.from_bytes(data[-4:], "little"),
        "marked_bytes": len(data),
        "stop": None,
        "reason": "",
        "zero_tail": False,
        "behind_frames": 0,
        "behind_first_lsn": None,
        "behind_highest_lsn": 0,
        "behind_end": 0,
        "behind_any": False,
        "foreign": False,
        "checkpoints": [(5, 0)],
    }


def test_a_report_can_not_be_changed(core: ModuleType, tmp_path: Path) -> None:
    report = scan(core, tmp_path, kit.v3(1))
    with pytest.raises(AttributeError):
        report.records = 5


def test_an_empty_file(core: ModuleType, tmp_path: Path) -> None:
    report = scan(core, tmp_path, b"", base_lsn=8)
    assert (report.records, report.first_lsn, report.last_lsn, report.highest_lsn) == (0, None, None, 8)
    assert (report.ordered, report.tail_crc, len(report.index)) == (True, 0, 0)


@pytest.mark.parametrize(
    ("data", "ordered", "highest"),
    [
        (kit.log(1, 3), True, 3),
        (kit.v3(1) + kit.v3(3) + kit.v3(2), False, 3),
        (kit.v3(1) + kit.v3(1), False, 1),
        (kit.v3(0), False, 0),
    ],
)
def test_order(core: ModuleType, tmp_path: Path, data: bytes, ordered: bool, highest: int) -> None:
    report = scan(core, tmp_path, data)
    assert (report.stop, report.ordered, report.highest_lsn) == (None, ordered, highest)
    assert not scan(core, tmp_path, data, base_lsn=3).ordered


@pytest.mark.parametrize(
    ("data", "reframe"),
    [
        (kit.v3(1), False),
        (kit.v3(1, timestamp_ms=0), True),
        (kit.wide(1), True),
        (kit.v2(1), True),
        (kit.v1(1), True),
        (kit.v2(1) + kit.v3(2), True),
    ],
)
def test_what_a_prune_must_write_anew(core: ModuleType, tmp_path: Path, data: bytes, reframe: bool) -> None:
    assert scan(core, tmp_path, data).reframe == reframe


def test_terms_of_legacy_records_are_those_of_their_payloads(core: ModuleType, tmp_path: Path) -> None:
    change = b'{"operation":"insert","term":%d}'
    report = scan(core, tmp_path, kit.v1(1, change % 9) + kit.v2(2, change % 5) + kit.v2(3, b"opaque"))
    assert (report.highest_term, report.last_term) == (9, 1)


def test_a_checkpoint_for_each_64th_record(core: ModuleType, tmp_path: Path) -> None:
    size = len(kit.v3(1))
    report = scan(core, tmp_path, kit.log(10, 210))
    expected = [(10 + 64 * place, 64 * place * size) for place in range(4)]
    assert report.index.checkpoints() == expected
    assert len(report.index) == 4
    assert [report.index.seek(lsn) for lsn in (0, 9, 10, 73, 74, 2**64 - 1)] == [0, 0, 0, 0, 64 * size, 192 * size]


def test_a_checkpoint_that_goes_back_is_not_recorded(core: ModuleType, tmp_path: Path) -> None:
    frames = [kit.v3(lsn) for lsn in [*range(101, 165), *range(1, 65), *range(201, 265)]]
    assert [lsn for lsn, _ in scan(core, tmp_path, b"".join(frames)).index.checkpoints()] == [101, 201]


# Layouts.


def test_both_layouts_in_one_file(core: ModuleType, tmp_path: Path) -> None:
    data = kit.v3(1) + kit.wide(2) + kit.wide(3) + kit.v2(4) + kit.v3(5) + kit.wide(6)
    report = scan(core, tmp_path, data)
    assert (report.records, report.stop, report.last_wide) == (6, None, True)
    assert not scan(core, tmp_path, data + kit.v2(7)).last_wide


def test_the_layout_of_the_frame_before_is_tried_first(core: ModuleType, tmp_path: Path) -> None:
    double = kit.ambiguous(2)
    narrow = scan(core, tmp_path, kit.v3(1) + double)
    assert (narrow.highest_lsn, narrow.last_wide) == (2, False)
    # Read as wide, its LSN is the timestamp.
    wide = scan(core, tmp_path, kit.wide(1) + double)
    assert (wide.highest_lsn, wide.last_wide) == (1000, True)
    # An LSN that is not above the last counts only when the other layout does not match.
    back = scan(core, tmp_path, kit.wide(1000) + kit.ambiguous(2000))
    assert (back.highest_lsn, back.last_wide) == (2000, False)


def test_version_1_runs_at_the_start_only(core: ModuleType, tmp_path: Path) -> None:
    legacy = kit.v1(1) + kit.v1(2)
    report = scan(core, tmp_path, legacy + kit.v3(3))
    assert (report.records, report.v1_bytes) == (3, len(legacy))
    report = scan(core, tmp_path, legacy + kit.v2(3) + kit.v1(4))
    assert (report.records, report.v1_bytes, report.stop) == (3, len(legacy), "legacy")


@pytest.mark.parametrize(
    ("tail", "counts"),
    [
        (b"", True),
        (b"x", True),
        (b"xyz", True),
        (bytes(50), True),
        (kit.v1(2), True),
        (b"RDLW\x09", True),
        (b"wxyz", False),
        (bytes(9) + b"x", False),
    ],
)
def test_a_version_1_frame_counts_only_where_something_follows_it(
    core: ModuleType, tmp_path: Path, tail: bytes, counts: bool
) -> None:
    assert (scan(core, tmp_path, kit.v1(1) + tail).records > 0) == counts


def test_a_flipped_version_does_not_make_a_version_1_frame(core: ModuleType, tmp_path: Path) -> None:
    # Read as version 1, these frames end at the end of the file, all but for the checksum that still matches.
    for size in range(40):
        payload = bytes(size)
        for frame in (kit.v3(37 + size - 21, payload), kit.wide(5, payload, epoch=45 + size - 21)):
            flipped = frame[:4] + b"\x01" + frame[5:]
            report = scan(core, tmp_path, flipped)
            assert (report.records, report.stop) == (0, "legacy")


@pytest.mark.parametrize(
    ("frame", "stop"),
    [
        (b"RDLX" + kit.v3(2)[4:], "magic"),
        (b"RDLW\x04" + kit.v3(2)[5:], "version"),
        (kit.v3(2)[:-1], "torn"),
        (kit.wide(2)[:30], "torn"),
        (kit.v2(2)[:24], "torn"),
        (kit.flip(kit.v3(2), 32, 7), "implausible"),
        (kit.flip(kit.v2(2), 24, 7), "implausible"),
        (b"RDLW\x01" + bytes(8) + b"\xff" * 8, "implausible"),
        (kit.flip(kit.v3(2), -1), "crc mismatch"),
        (kit.flip(kit.v2(2), -1), "crc mismatch"),
        (kit.v1(2), "legacy"),
    ],
)
def test_where_and_why_the_prefix_stops(core: ModuleType, tmp_path: Path, frame: bytes, stop: str) -> None:
    good = kit.v3(1)
    report = scan(core, tmp_path, good + frame)
    assert (report.records, report.valid_bytes, report.stop) == (1, len(good), stop)
    assert report.reason.endswith(f" at offset {len(good)}")


def test_frames_larger_than_what_is_read_at_once(core: ModuleType, tmp_path: Path) -> None:
    change = b'{"operation":"insert","term":7,"x":"' + b"y" * (3 << 20) + b'"}'
    payload = b"z" * ((1 << 20) + 7)
    data = kit.v1(1, change) + kit.v2(2, change) + kit.v3(3, payload) + kit.wide(4, payload) + kit.v3(5)
    report = scan(core, tmp_path, data)
    assert (report.records, report.stop, report.highest_term) == (5, None, 7)
    assert scan(core, tmp_path, kit.flip(data, len(data) - 200)).records == 3


# The mark, and stopping at an LSN.


def test_the_mark_divides_the_prefix(core: ModuleType, tmp_path: Path) -> None:
    size = len(kit.v3(1))
    for mark, ends in ((0, 0), (2, 2), (4, 4), (9, 4)):
        assert scan(core, tmp_path, kit.log(1, 4), mark=mark).marked_bytes == ends * size
    assert scan(core, tmp_path, kit.log(1, 4)).marked_bytes == 4 * size


def test_until_an_lsn(core: ModuleType, tmp_path: Path) -> None:
    size, data = len(kit.v3(1)), kit.log(1, 6)
    report = scan(core, tmp_path, data, until_lsn=4)
    assert (report.records, report.valid_bytes, report.stop, report.highest_lsn) == (4, 4 * size, None, 4)
    # What follows is never judged, once that LSN was seen.
    for tail in (b"junk", b"RDLW\x03", kit.v3(9)[:-1]):
        report = scan(core, tmp_path, kit.log(1, 4) + tail, until_lsn=4)
        assert (report.records, report.stop, report.foreign) == (4, None, False)
    report = scan(core, tmp_path, kit.log(1, 3) + b"junk", until_lsn=4)
    assert (report.records, report.stop) == (3, "magic")
    # A record that is out of order but durable belongs to it.
    report = scan(core, tmp_path, kit.v3(1) + kit.v3(4) + kit.v3(2) + kit.v3(5), until_lsn=4)
    assert (report.records, report.last_lsn) == (3, 2)


def test_a_scan_goes_on_where_an_earlier_one_ended(core: ModuleType, tmp_path: Path) -> None:
    data = kit.log(1, 150) + kit.wide(151) + kit.log(152, 300)
    whole = kit.facts(scan(core, tmp_path, data, mark=140, base_lsn=0))
    for cut in (0, 1, 64, 128, 150, 151, 300):
        end = cut * len(kit.v3(1)) + (8 if cut > 150 else 0)
        first = scan(core, tmp_path, data[:end] + b"RD", mark=140)
        assert first.records == cut
        resumed = scan(core, tmp_path, data, mark=140, resume=first)
        assert kit.facts(resumed) == whole
        assert first.index.checkpoints() == resumed.index.checkpoints()


# Errors of the system are raised, never taken for damage.


def test_a_directory_is_no_log(core: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        core.scan(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.EISDIR, tmp_path)


def test_a_file_that_is_not_there(core: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        core.scan(tmp_path / "none")
    assert caught.value.filename == tmp_path / "none"


def test_a_name_that_is_no_text(core: ModuleType, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    path.write_bytes(kit.log(1, 3))
    assert core.scan(path).records == 3
    assert core.build_seek_index(str(path)) == [(1, 0)]


def test_a_descriptor_that_can_not_be_read(core: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(kit.v3(1))
    file = core.File(os.open(path, os.O_WRONLY | os.O_CLOEXEC), path)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        core.scan_file(file, path)
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, path)


def test_a_file_owns_its_descriptor(core: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(kit.log(1, 3))
    file = kit.open_file(core, path)
    fd = file.fileno()
    assert file.path == path
    reader = core.Reader(file, path, core.scan_file(file, path))
    del file
    assert len(reader.read_entries()) == 3
    del reader
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
