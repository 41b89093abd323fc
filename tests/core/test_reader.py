"""Verified reading of one file."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit
from walspool.changes import ChangeRecord
from walspool.core import pure
from walspool.errors import SpoolCorrupt

SIZE = len(kit.v3(1))
pyarrow: Any = importlib.import_module("pyarrow")


def reader_of(core: ModuleType, tmp_path: Path, data: bytes, **options: Any) -> Any:
    path = tmp_path / "log"
    path.write_bytes(data)
    file = kit.open_file(core, path)
    return core.Reader(file, path, core.scan_file(file, path), **options)


def lsns(records: list[tuple[int, bytes]]) -> list[int]:
    return [lsn for lsn, _ in records]


@pytest.mark.parametrize("since", [0, 1, 63, 64, 65, 128, 199, 200, 201, 2**64 - 1])
def test_records_above_an_lsn(core: ModuleType, tmp_path: Path, since: int) -> None:
    expected = list(range(since + 1, 201)) if since < 200 else []
    data = kit.log(1, 200)
    assert lsns(reader_of(core, tmp_path, data, since_lsn=since).read_tuples()) == expected
    assert lsns(kit.flat(reader_of(core, tmp_path, data, since_lsn=since).tuple_runs())) == expected
    assert [entry.lsn for entry in kit.flat(reader_of(core, tmp_path, data, since_lsn=since).entry_runs())] == expected


def test_every_way_of_reading_gives_the_same(core: ModuleType, tmp_path: Path) -> None:
    data = kit.v1(1, b"") + kit.v1(2) + kit.v2(4) + kit.wide(5, epoch=3) + kit.v3(6, b"x" * 3000, term=2)
    entries = reader_of(core, tmp_path, data).read_entries()
    assert [kit.fields(entry) for entry in entries] == [
        (1, 1, 0, b"", 1, None),
        (2, 1, 0, b"payload", 1, None),
        (4, 1, 1000, b"payload", 2, None),
        (5, 1, 1000, b"payload", 3, 3),
        (6, 2, 1000, b"x" * 3000, 3, None),
    ]
    pairs = [(entry.lsn, entry.payload) for entry in entries]
    assert kit.flat(reader_of(core, tmp_path, data).entry_runs()) == entries
    assert kit.flat(reader_of(core, tmp_path, data).tuple_runs()) == pairs
    assert reader_of(core, tmp_path, data).read_tuples() == pairs


def test_each_call_goes_on_where_the_one_before_stopped(core: ModuleType, tmp_path: Path) -> None:
    reader = reader_of(core, tmp_path, kit.log(1, 44), since_lsn=1)
    assert lsns(reader.read_tuples(2)) == [2, 3]
    assert reader.offset == 3 * SIZE
    assert [entry.lsn for entry in reader.read_entries(1)] == [4]
    runs = reader.tuple_runs()
    assert lsns(next(runs)) == list(range(5, 13))
    assert lsns(next(runs)) == list(range(13, 29))
    assert [entry.lsn for entry in next(reader.entry_runs())] == list(range(29, 37))
    assert reader.offset == 36 * SIZE
    assert reader.read_frames(1)[1:] == (1, 37, 37)
    assert reader.read_tuples(0) == []
    assert lsns(reader.read_tuples()) == [38, 39, 40, 41, 42, 43, 44]
    assert reader.offset == 44 * SIZE
    assert reader.read_entries() == reader.read_tuples() == kit.flat(reader.tuple_runs()) == []
    assert reader.read_frames(100) == (b"", 0, None, None)


def test_bounds_in_bytes(core: ModuleType, tmp_path: Path) -> None:
    data = b"".join(kit.v3(lsn, b"p" * 100) for lsn in range(1, 6))
    reader = reader_of(core, tmp_path, data)
    assert len(reader.read_entries(max_bytes=250)) == 2
    assert len(reader.read_entries(max_bytes=0)) == 1
    assert len(reader.read_entries(1, 250)) == 1
    assert len(reader.read_entries(max_bytes=100)) == 1
    reader = reader_of(core, tmp_path, data)
    assert reader.read_frames(2 * 137) == (data[: 2 * 137], 2, 1, 2)
    assert reader.read_frames(0) == (data[2 * 137 : 3 * 137], 1, 3, 3)
    assert reader.read_frames(2 * 137 - 1)[1] == 1


def test_frames_leave_as_version_3(core: ModuleType, tmp_path: Path) -> None:
    change = b'{"operation":"insert","term":6}'
    data = (
        kit.v1(1, change) + kit.v2(2, b"x", 5) + kit.wide(3, b"y", 4, 7, epoch=9) + kit.v3(4, timestamp_ms=0)
    ) + kit.v3(5)
    frames, records, first, last = reader_of(core, tmp_path, data).read_frames(1 << 20)
    assert (records, first, last) == (5, 1, 5)
    assert frames == kit.v3(1, change, 6, 0) + kit.v3(2, b"x", 1, 5) + kit.v3(3, b"y", 4, 7) + kit.v3(
        4, timestamp_ms=0
    ) + kit.v3(5)


def test_a_change_record_is_given_the_term_of_its_frame_where_that_is_asked_for(
    core: ModuleType, tmp_path: Path
) -> None:
    same, other, opaque = b'{"term":5,"operation":"insert"}', b'{ "term":4,"operation":"insert"}', b'{"term":4}'
    data = kit.v3(1, same, 5) + kit.v3(2, other, 5) + kit.v3(3, opaque, 5) + kit.v2(4, other) + kit.wide(5, other, 5)
    changed = ChangeRecord.decode(other).with_term(5).encode()
    assert reader_of(core, tmp_path, data).read_tuples(reencode=True) == [
        (1, same),
        (2, changed),
        (3, opaque),
        (4, other),
        (5, changed),
    ]
    assert [payload for _, payload in reader_of(core, tmp_path, data).read_tuples()] == [
        same,
        other,
        opaque,
        other,
        other,
    ]


@pytest.mark.parametrize("since", [0, 1, 63, 64, 65, 199, 200, 201])
def test_a_list_of_a_file_is_what_a_reader_gives_with_its_payloads_bytes(
    core: ModuleType, tmp_path: Path, since: int
) -> None:
    change = b'{"term":4,"operation":"insert"}'
    data = b"".join(kit.v3(lsn, change if lsn % 3 == 0 else b"x" * (lsn % 7), 5) for lsn in range(1, 201))
    (path := tmp_path / "log").write_bytes(data)
    file = kit.open_file(core, path)
    report = core.scan_file(file, path)
    for count, room in [(None, None), (0, None), (1, None), (70, None), (None, 0), (None, 40), (3, 1000)]:
        reader = core.Reader(file, path, report, since_lsn=since)
        entries = core.Reader(file, path, report, since_lsn=since).read_entries(count, room)
        assert core.read_entries(file, path, report, since, count, room) == (
            entries,
            sum(len(each.payload) for each in entries),
        )
        tuples = reader.read_tuples(count, reencode=True)
        assert core.read_tuples(file, path, report, since, count) == (tuples, sum(len(each) for _, each in tuples))


def test_a_list_of_a_file_refuses_odd_arguments(core: ModuleType, tmp_path: Path) -> None:
    (path := tmp_path / "log").write_bytes(kit.log(1, 9))
    file = kit.open_file(core, path)
    report = core.scan_file(file, path)
    for read, names in ((core.read_tuples, ["max_count"]), (core.read_entries, ["max_count", "max_bytes"])):
        for name in names:
            with pytest.raises(ValueError, match=f"^{name} must be between 0 and"):
                read(file, path, report, 0, **{name: -1})
            with pytest.raises(TypeError, match=f"^{name} must be an int, not bool"):
                read(file, path, report, 0, **{name: True})
        with pytest.raises(TypeError, match=r"^since_lsn must be an int, not float"):
            read(file, path, report, 1.0)


def test_nothing_is_read_for_what_lies_above_all_records(core: ModuleType, tmp_path: Path) -> None:
    data = kit.v1(7) + kit.v1(3)
    (path := tmp_path / "log").write_bytes(data)
    file = kit.open_file(core, path)
    report = core.scan_file(file, path)
    assert not report.ordered
    os.truncate(path, 0)
    assert core.read_tuples(file, path, report, 7) == ([], 0)
    with pytest.raises(SpoolCorrupt):
        core.read_tuples(file, path, report, 6)


def test_an_end_before_the_prefixs(core: ModuleType, tmp_path: Path) -> None:
    assert lsns(reader_of(core, tmp_path, kit.log(1, 9), end=4 * SIZE).read_tuples()) == [1, 2, 3, 4]
    assert reader_of(core, tmp_path, kit.log(1, 9), end=0).read_tuples() == []


def test_out_of_order_is_read_in_file_order_without_the_index(core: ModuleType, tmp_path: Path) -> None:
    order = [5, 1, *range(100, 300), 7, 8]
    data = b"".join(kit.v3(lsn) for lsn in order)
    assert lsns(reader_of(core, tmp_path, data).read_tuples()) == order
    assert lsns(reader_of(core, tmp_path, data, since_lsn=6).read_tuples()) == order[2:]


def test_a_payload_of_zero_bytes_and_one_larger_than_a_chunk(core: ModuleType, tmp_path: Path) -> None:
    payloads = [b"", b"x" * (2 << 20), b"", b"y" * (256 << 10), b"z"]
    data = b"".join(kit.v3(lsn, payload) for lsn, payload in enumerate(payloads, 1))
    assert [payload for _, payload in reader_of(core, tmp_path, data).read_tuples()] == payloads
    frames = reader_of(core, tmp_path, data)
    assert b"".join(frames.read_frames(1 << 10)[0] for _ in payloads) == data


Reading = Callable[[Any], Any]
WAYS: dict[str, Reading] = {
    "read_tuples": lambda reader: reader.read_tuples(),
    "read_entries": lambda reader: reader.read_entries(),
    "read_frames": lambda reader: reader.read_frames(1 << 30),
    "tuples": lambda reader: kit.flat(reader.tuple_runs()),
    "entries": lambda reader: kit.flat(reader.entry_runs()),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_rotten_bit_in_the_durable_part_is_an_error_with_the_range_in_doubt(
    core: ModuleType, tmp_path: Path, way: str
) -> None:
    reader = reader_of(core, tmp_path, kit.log(1, 9), since_lsn=1)
    path = tmp_path / "log"
    path.write_bytes(kit.flip(path.read_bytes(), 4 * SIZE + 35))
    with pytest.raises(SpoolCorrupt) as caught:
        WAYS[way](reader)
    error = caught.value
    assert (error.path, error.offset, error.first_lsn, error.last_lsn) == (path, 4 * SIZE, 5, 9)
    assert error.reason.startswith("crc mismatch")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("left", [0, 3 * SIZE, 3 * SIZE + 1, 4 * SIZE - 1])
def test_a_file_that_shrank_is_an_error(core: ModuleType, tmp_path: Path, way: str, left: int) -> None:
    reader = reader_of(core, tmp_path, kit.log(1, 9))
    os.truncate(tmp_path / "log", left)
    with pytest.raises(SpoolCorrupt) as caught:
        WAYS[way](reader)
    assert caught.value.offset == left // SIZE * SIZE
    assert caught.value.first_lsn == left // SIZE + 1
    assert caught.value.reason == f"the file ends at {left}, before {9 * SIZE}"


def test_what_a_failed_call_had_read_is_read_again(core: ModuleType, tmp_path: Path) -> None:
    reader = reader_of(core, tmp_path, kit.log(1, 9))
    path, good = tmp_path / "log", kit.log(1, 9)
    path.write_bytes(kit.flip(good, 4 * SIZE + 35))
    assert lsns(reader.read_tuples(1)) == [1]
    for _ in range(2):
        with pytest.raises(SpoolCorrupt):
            reader.read_tuples()
    assert lsns(reader.read_tuples(3)) == [2, 3, 4]


def test_an_iterator_gives_all_that_is_good_before_it_raises(core: ModuleType, tmp_path: Path) -> None:
    reader = reader_of(core, tmp_path, kit.log(1, 9))
    path = tmp_path / "log"
    path.write_bytes(kit.flip(path.read_bytes(), 4 * SIZE + 35))
    records = chain.from_iterable(reader.tuple_runs())
    assert [next(records)[0] for _ in range(4)] == [1, 2, 3, 4]
    for _ in range(3):
        with pytest.raises(SpoolCorrupt):
            next(records)


def test_a_version_1_frame_that_turned_up_is_not_believed(core: ModuleType, tmp_path: Path) -> None:
    reader = reader_of(core, tmp_path, kit.v1(1) + kit.v3(2))
    path = tmp_path / "log"
    changed = path.read_bytes().replace(b"RDLW\x03", b"RDLW\x01")
    path.write_bytes(changed)
    with pytest.raises(SpoolCorrupt):
        reader.read_entries()


def test_an_argument_out_of_range(core: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="since_lsn must be between 0"):
        reader_of(core, tmp_path, b"", since_lsn=-1)
    with pytest.raises(TypeError, match="since_lsn must be an int"):
        reader_of(core, tmp_path, b"", since_lsn="1")


# Copying.


def test_a_copy_is_version_3_with_timestamps(core: ModuleType, tmp_path: Path) -> None:
    source = kit.v1(1) + kit.v2(2, timestamp_ms=0) + kit.wide(3, epoch=1) + kit.v3(4, timestamp_ms=0) + kit.v3(5)
    reader = reader_of(core, tmp_path, source, since_lsn=1)
    target = tmp_path / "target"
    report = core.copy_frames(reader, kit.open_file(core, target), target, stamp_ms=77)
    expected = kit.v3(2, timestamp_ms=77) + kit.v3(3) + kit.v3(4, timestamp_ms=77) + kit.v3(5)
    assert target.read_bytes() == expected
    assert kit.facts(report) == kit.facts(core.scan(target))


def test_a_copy_goes_on_behind_what_is_there(core: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "target"
    file = kit.open_file(core, target)
    first = core.copy_frames(reader_of(core, tmp_path, kit.log(1, 70)), file, target, stamp_ms=1)
    rest = reader_of(core, tmp_path, kit.log(1, 140), since_lsn=70)
    whole = core.copy_frames(rest, file, target, stamp_ms=1, resume=first)
    assert target.read_bytes() == kit.log(1, 140)
    assert kit.facts(whole) == kit.facts(core.scan(target))


def test_a_copy_of_nothing(core: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "target"
    reader = reader_of(core, tmp_path, kit.log(1, 5), since_lsn=5)
    report = core.copy_frames(reader, kit.open_file(core, target), target, stamp_ms=1)
    assert (report.records, report.valid_bytes, target.read_bytes()) == (0, 0, b"")


def test_a_copy_meets_damage(core: ModuleType, tmp_path: Path) -> None:
    reader = reader_of(core, tmp_path, kit.log(1, 5))
    path = tmp_path / "log"
    path.write_bytes(kit.flip(path.read_bytes(), 2 * SIZE + 35))
    with pytest.raises(SpoolCorrupt) as caught:
        core.copy_frames(reader, kit.open_file(core, tmp_path / "target"), tmp_path / "target", stamp_ms=1)
    assert caught.value.path == path


# Columns.


def test_arrow_columns(core: ModuleType, tmp_path: Path) -> None:
    data = kit.v1(1) + kit.wide(2, term=5, timestamp_ms=2**64 - 1) + kit.v3(2**64 - 1, b"", 2**64 - 1)
    table = pyarrow.table(core.ArrowStream([reader_of(core, tmp_path, data)]))
    assert table.schema == pyarrow.schema(
        [
            pyarrow.field("lsn", pyarrow.uint64(), nullable=False),
            pyarrow.field("term", pyarrow.uint64(), nullable=False),
            pyarrow.field("timestamp", pyarrow.timestamp("ms", tz="UTC"), nullable=False),
            pyarrow.field("payload", pyarrow.binary(), nullable=False),
        ]
    )
    assert table["lsn"].to_pylist() == [1, 2, 2**64 - 1]
    assert table["term"].to_pylist() == [1, 5, 2**64 - 1]
    assert table["timestamp"].cast(pyarrow.int64()).to_pylist() == [0, 2**63 - 1, 1000]
    assert table["payload"].to_pylist() == [b"payload", b"payload", b""]


def test_arrow_takes_one_reader_after_the_other(core: ModuleType, tmp_path: Path) -> None:
    readers = []
    for place in range(3):
        folder = tmp_path / str(place)
        folder.mkdir()
        readers.append(reader_of(core, folder, kit.log(place * 10 + 1, place * 10 + 5)))
    table = pyarrow.table(core.ArrowStream(readers))
    assert table["lsn"].to_pylist() == [1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 21, 22, 23, 24, 25]
    assert pyarrow.table(core.ArrowStream([])).num_rows == 0


def test_arrow_tells_of_damage(core: ModuleType, tmp_path: Path) -> None:
    reader = reader_of(core, tmp_path, kit.log(1, 5))
    path = tmp_path / "log"
    path.write_bytes(kit.flip(path.read_bytes(), 2 * SIZE + 35))
    with pytest.raises((SpoolCorrupt, OSError, pyarrow.ArrowException), match="crc mismatch"):
        pyarrow.table(core.ArrowStream([reader]))


def test_without_pyarrow_the_pure_core_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"^arrow_stream on the pure-Python core needs pyarrow: pip install pyarrow$"):
        pure.ArrowStream([])
