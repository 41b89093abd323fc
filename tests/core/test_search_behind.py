"""What a scan takes for evidence behind the first bad frame."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit

GOOD = kit.log(1, 3)
BAD = kit.flip(kit.v3(4), 35)
#: A frame whose payload holds whole, valid frames with higher LSNs.
CARRIER = kit.v3(4, b"<" + kit.log(50, 52) + b">")


def scan(core: ModuleType, tmp_path: Path, data: bytes, **options: Any) -> Any:
    path = tmp_path / "log"
    path.write_bytes(data)
    report = core.scan_file(kit.open_file(core, path), path, **options)
    assert path.read_bytes() == data
    assert report.file_bytes == len(data)
    return report


def behind(report: Any) -> tuple[int, int | None, int, int, bool]:
    return (
        report.behind_frames,
        report.behind_first_lsn,
        report.behind_highest_lsn,
        report.behind_end,
        report.behind_any,
    )


def test_nothing_behind(core: ModuleType, tmp_path: Path) -> None:
    report = scan(core, tmp_path, GOOD + BAD)
    assert (report.records, report.valid_bytes, report.stop) == (3, len(GOOD), "crc mismatch")
    assert f"at offset {len(GOOD)}" in report.reason
    assert behind(report) == (0, None, 0, 0, False)


def test_the_bad_frames_length_leads_on(core: ModuleType, tmp_path: Path) -> None:
    data = GOOD + BAD + kit.log(5, 7)
    assert behind(scan(core, tmp_path, data)) == (3, 5, 7, len(data), True)
    assert behind(scan(core, tmp_path, data + bytes(100))) == (3, 5, 7, len(data), True)


def test_what_lies_inside_a_bad_frame_is_payload(core: ModuleType, tmp_path: Path) -> None:
    damaged = kit.flip(CARRIER, 33)
    assert behind(scan(core, tmp_path, GOOD + damaged + kit.v3(5)))[:3] == (1, 5, 5)
    assert behind(scan(core, tmp_path, GOOD + damaged)) == (0, None, 0, 0, False)
    assert behind(scan(core, tmp_path, GOOD + damaged + bytes(9))) == (0, None, 0, 0, False)


def test_inside_a_torn_frame_only_a_mark_rules_its_payload_out(core: ModuleType, tmp_path: Path) -> None:
    torn = GOOD + CARRIER[:-1]
    assert behind(scan(core, tmp_path, torn))[:3] == (3, 50, 52)
    assert behind(scan(core, tmp_path, torn, mark=3)) == (0, None, 0, 0, False)
    assert behind(scan(core, tmp_path, torn + bytes(50), mark=3)) == (0, None, 0, 0, False)


def test_both_layouts_of_the_bad_frame_are_tried(core: ModuleType, tmp_path: Path) -> None:
    damaged = kit.flip(kit.wide(4, b"<" + kit.log(50, 52) + b">"), 60)
    assert behind(scan(core, tmp_path, GOOD + damaged + kit.v3(5)))[:3] == (1, 5, 5)
    wide_before = GOOD + kit.wide(4) + kit.flip(kit.v3(5, b"<" + kit.log(50, 52) + b">"), 60)
    assert behind(scan(core, tmp_path, wide_before + kit.v3(6)))[:3] == (1, 6, 6)


def test_a_bad_frame_of_version_2_leads_on_too(core: ModuleType, tmp_path: Path) -> None:
    damaged = kit.flip(kit.v2(4, b"<" + kit.log(50, 52) + b">"), 60)
    assert behind(scan(core, tmp_path, GOOD + damaged + kit.v3(5)))[:3] == (1, 5, 5)


def test_a_place_gone_to_may_be_bad_again(core: ModuleType, tmp_path: Path) -> None:
    again = GOOD + BAD + kit.flip(CARRIER, 33) + kit.v2(9)
    assert behind(scan(core, tmp_path, again)) == (1, 9, 9, len(again), True)


def test_a_lone_frame_in_the_middle_of_other_bytes_proves_nothing(core: ModuleType, tmp_path: Path) -> None:
    lone = GOOD + b"junk" + kit.v3(9)
    assert behind(scan(core, tmp_path, lone + b"more junk")) == (0, None, 0, 0, True)
    assert behind(scan(core, tmp_path, lone + b"mor"))[:3] == (1, 9, 9)
    assert behind(scan(core, tmp_path, lone + b"mor" + bytes(99)))[:3] == (1, 9, 9)
    assert behind(scan(core, tmp_path, lone + b"more" + bytes(99)))[0] == 0
    assert behind(scan(core, tmp_path, lone + bytes(40)))[:3] == (1, 9, 9)
    assert behind(scan(core, tmp_path, lone + kit.BAD_MAGIC_TAIL))[:3] == (1, 9, 9)


def test_two_frames_in_a_row_prove_something_anywhere(core: ModuleType, tmp_path: Path) -> None:
    data = GOOD + b"junk" + kit.log(9, 10)
    assert behind(scan(core, tmp_path, data + b"more junk")) == (2, 9, 10, len(data), True)


def test_runs_add_up(core: ModuleType, tmp_path: Path) -> None:
    first = GOOD + b"junk" + kit.log(20, 21)
    data = first + b"more junk" + kit.v3(9)
    assert behind(scan(core, tmp_path, data)) == (3, 20, 21, len(data), True)


def test_a_stale_frame_counts_for_nothing_and_hides_its_payload(core: ModuleType, tmp_path: Path) -> None:
    stale = kit.v3(2, b"<" + kit.log(50, 52) + b">")
    assert behind(scan(core, tmp_path, GOOD + BAD + stale)) == (0, None, 0, 0, True)
    assert behind(scan(core, tmp_path, GOOD + BAD + stale + kit.v3(6)))[:3] == (1, 6, 6)
    # A run ends at a stale frame, which begins with a magic.
    assert behind(scan(core, tmp_path, GOOD + BAD + kit.v3(6) + stale + b"junk"))[:3] == (1, 6, 6)


def test_the_base_lsn_makes_frames_stale(core: ModuleType, tmp_path: Path) -> None:
    report = scan(core, tmp_path, BAD + kit.log(5, 7), base_lsn=6)
    assert behind(report)[:3] == (1, 7, 7)
    assert (report.records, report.highest_lsn, report.foreign) == (0, 6, False)


def test_version_1_proves_nothing(core: ModuleType, tmp_path: Path) -> None:
    assert behind(scan(core, tmp_path, GOOD + BAD + kit.v1(5) + kit.v1(6))) == (0, None, 0, 0, False)
    # Nor does its length lead anywhere: what looks like frames in it is looked at.
    report = scan(core, tmp_path, GOOD + kit.v1(5, b"<" + kit.log(50, 52) + b">"))
    assert report.stop == "legacy"
    assert behind(report)[:3] == (3, 50, 52)


def test_zeros_and_stray_bytes(core: ModuleType, tmp_path: Path) -> None:
    clean = scan(core, tmp_path, GOOD + bytes(5000))
    assert (clean.stop, clean.reason, clean.zero_tail, clean.valid_bytes) == (None, "", True, len(GOOD))
    whole = scan(core, tmp_path, GOOD)
    assert (whole.stop, whole.zero_tail) == (None, False)
    for stray, stop in ((b"R", "torn"), (b"RDL", "torn"), (b"x", "magic"), (b"\0\0x", "magic"), (b"RDLW", "torn")):
        report = scan(core, tmp_path, GOOD + stray)
        assert (report.stop, report.zero_tail) == (stop, False)
    filled = scan(core, tmp_path, GOOD + bytes(3000) + kit.v3(9) + bytes(3000))
    assert (filled.stop, filled.zero_tail) == ("magic", False)
    assert behind(filled)[:3] == (1, 9, 9)


@pytest.mark.parametrize(
    ("data", "foreign"),
    [
        (b"", False),
        (b"\0", False),
        (bytes(600), False),
        (b"R", False),
        (b"RDL", False),
        (b"RX", True),
        (b"RDLW", False),
        (b"RDLW junk", False),
        (b"\0 junk", False),
        (b"junk", True),
        (b"junk" + kit.v3(1), False),
        (b"junk" + kit.v3(1) + b"junk", False),
        (b"junk" + kit.v1(1), True),
    ],
)
def test_whose_file_it_is(core: ModuleType, tmp_path: Path, data: bytes, foreign: bool) -> None:
    assert scan(core, tmp_path, data).foreign == foreign


def test_a_search_crosses_the_bounds_of_what_is_read_at_once(core: ModuleType, tmp_path: Path) -> None:
    for junk in ((1 << 20) - 3, (1 << 20) - 1, 1 << 20, (3 << 20) + 1):
        data = GOOD + b"j" * junk + kit.log(9, 10)
        assert behind(scan(core, tmp_path, data)) == (2, 9, 10, len(data), True)
        assert scan(core, tmp_path, GOOD + bytes(junk)).zero_tail


def test_a_large_bad_frame_leads_on(core: ModuleType, tmp_path: Path) -> None:
    large = kit.flip(kit.v3(4, b"x" * (5 << 20)), 4 << 20)
    assert behind(scan(core, tmp_path, GOOD + large + kit.v3(5)))[:3] == (1, 5, 5)
