"""Every way to read, and what a log says of itself."""

from __future__ import annotations

import gc
import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pytest

import walspool
from tests.spool.kit import contents, fill, holds, payload

Spool = walspool.LogicalWalSpool


@pytest.fixture
def log(core: ModuleType, tmp_path: Path) -> Iterator[Spool]:
    """200 records in several segments."""
    with walspool.open(tmp_path / "app.db", segment_bytes=4000) as spool:
        fill(spool, 200)
        assert len(spool.segments) > 3
        yield spool


def _records(first: int, last: int) -> list[tuple[int, bytes]]:
    return [(lsn, payload(lsn)) for lsn in range(first, last + 1)]


def test_read_since(log: Spool) -> None:
    for since, count in itertools.product(
        [0, 1, 63, 64, 65, 128, 199, 200, 5000, 2**64 - 1], [None, 0, 1, 64, 150, 10**6]
    ):
        last = 200 if count is None else min(200, since + count)
        assert log.read_since(since, count) == _records(since + 1, last), (since, count)
        assert [(each.lsn, each.payload) for each in log.read_entries(since, count)] == _records(since + 1, last)
    assert list(log.tuples(77)) == _records(78, 200)
    assert list(log.entries(77)) == log.read_entries(77)
    assert list(log) == log.read_entries()


def test_read_entries_by_bytes(log: Spool) -> None:
    assert [each.lsn for each in log.read_entries(10, max_bytes=0)] == [11]
    assert [each.lsn for each in log.read_entries(10, max_bytes=1)] == [11]
    some = log.read_entries(10, max_bytes=300)
    assert sum(len(each.payload) for each in some) <= 300
    assert sum(len(payload(lsn)) for lsn in range(11, some[-1].lsn + 2)) > 300
    assert len(log.read_entries(10, 3, max_bytes=300)) == 3
    assert log.read_entries(200, max_bytes=300) == []
    assert log.read_entries(10, 0, max_bytes=300) == []
    read: list[walspool.Entry] = []
    while part := log.read_entries(read[-1].lsn if read else 0, max_bytes=1000):
        read += part
    assert read == log.read_entries()


def test_entries(log: Spool) -> None:
    entry = log.read_entries(2, 1)[0]
    assert (entry.lsn, entry.term, entry.timestamp_ms, entry.payload) == (3, 1, 1003, payload(3))
    assert (entry.version, entry.ownership_epoch) == (3, None)
    assert type(entry) is walspool.Entry
    assert type(entry.payload) is bytes
    same = walspool.Entry(lsn=3, term=1, timestamp_ms=1003, payload=payload(3), version=3, ownership_epoch=None)
    assert same == entry
    assert hash(same) == hash(entry)
    assert entry != log.read_entries(3, 1)[0]
    other: object = "something else"
    assert entry != other
    assert repr(entry) == (
        f"Entry(lsn=3, term=1, timestamp_ms=1003, payload={payload(3)!r}, version=3, ownership_epoch=None)"
    )
    with pytest.raises(AttributeError):
        entry.lsn = 4  # type: ignore[misc]
    with pytest.raises(walspool.RecordDecodeError):
        entry.change()


def test_change_records(core: ModuleType, tmp_path: Path) -> None:
    record = walspool.ChangeRecord(
        2, 1, 3, walspool.ChangeOperation.INSERT, "users", 4, "row", metadata=None, extra={"more": [1, "ü"]}
    )
    with walspool.open(tmp_path / "app.db") as log:
        log.append(1, record.encode(), term=7)
        log.append(2, record.encode()[:-1] + b"!", term=7)
        log.append(3, b'{"operation":"insert"}', term=7)
        assert log.read_entries()[0].change() == record
        assert [data for _, data in log.tuples()] == [each.payload for each in log]
        assert log.read_entries()[0].payload == record.encode()
        one, two, three = log.read_since(0)
        assert walspool.ChangeRecord.decode(one[1]).term == 7
        assert walspool.ChangeRecord.decode(one[1]).extra == {"more": [1, "ü"]}
        assert two[1] == record.encode()[:-1] + b"!"
        assert walspool.ChangeRecord.decode(three[1]).term == 7
        assert log.read_since(1, 1) == [two]


def test_iterators_are_lazy_and_see_one_instant(log: Spool) -> None:
    entries, tuples = log.entries(), log.tuples(100)
    assert next(entries).lsn == 1
    assert next(tuples) == (101, payload(101))
    fill(log, 50)
    log.prune_through(150)
    assert [each.lsn for each in entries] == list(range(2, 201))
    assert list(tuples) == _records(102, 200)
    assert holds(log, 151, 250)


def test_read_frames(log: Spool, core: ModuleType) -> None:
    for size in (0, 1, 100, 5000, 1 << 20):
        read, since = b"", 0
        while (batch := log.read_frames(since, size)).records:
            assert batch.first_lsn == since + 1
            assert batch.last_lsn == since + batch.records
            assert len(batch.data) <= max(size, 37 + 46)
            since, read = batch.last_lsn, read + bytes(batch.data)
        assert since == 200
        offset = 0
        for lsn in range(1, 201):
            entry, offset = core.decode_frame(read, offset)
            assert (entry.lsn, entry.payload, entry.timestamp_ms) == (lsn, payload(lsn), 1000 + lsn)
        assert offset == len(read) == log.size_bytes
    assert log.read_frames(200) == walspool.FrameBatch(memoryview(b""), 0, None, None)


def test_read_frames_stay_what_they_were(log: Spool) -> None:
    held: list[memoryview] = []
    parts: list[bytes] = []
    for turn in range(3):  # memory is used again once nobody looks at it any more, and no sooner
        since = 0
        while (batch := log.read_frames(since, 1000)).records:
            since = batch.last_lsn
            if batch.first_lsn % 3 == turn:
                held.append(batch.data[:46])
                parts.append(bytes(batch.data[:46]))
    log.close()
    gc.collect()
    assert [bytes(each) for each in held] == parts
    assert len(parts) > 9
    with pytest.raises(TypeError, match="read-only"):
        held[0][0] = 0


def test_arrow_stream(log: Spool) -> None:
    for since in (0, 100, 200):
        reader = pyarrow.RecordBatchReader.from_stream(log.arrow_stream(since))
        assert [(field.name, str(field.type), field.nullable) for field in reader.schema] == [
            ("lsn", "uint64", False),
            ("term", "uint64", False),
            ("timestamp", "timestamp[ms, tz=UTC]", False),
            ("payload", "binary", False),
        ]
        table = reader.read_all()
        table.validate(full=True)
        assert table["lsn"].to_pylist() == list(range(since + 1, 201))
        assert table["term"].to_pylist() == [1] * (200 - since)
        assert table["timestamp"].cast("int64").to_pylist() == list(range(1001 + since, 1201))
        assert table["payload"].to_pylist() == [payload(lsn) for lsn in range(since + 1, 201)]


def test_arrow_stream_of_much_and_of_damage(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=16 << 20) as log:
        log.append_next_many([bytes([each]) * 3_000_000 for each in range(12)])
        batches = list(pyarrow.RecordBatchReader.from_stream(log.arrow_stream()))
        assert sum(each.num_rows for each in batches) == 12
        assert len(batches) > 1
        held = pyarrow.RecordBatchReader.from_stream(log.arrow_stream())
        log.prune_through(12)
        assert held.read_all()["payload"][11].as_py() == bytes([11]) * 3_000_000
        fill(log, 10)
        os.truncate(log.path, log.size_bytes - 20)
        broken = pyarrow.RecordBatchReader.from_stream(log.arrow_stream())
        with pytest.raises((OSError, pyarrow.ArrowException), match=r"app\.db\.logical\.wal.* damaged"):
            broken.read_all()


def _crc(lsn: int, term: int, data: bytes) -> int:
    return zlib.crc32(b"\3" + struct.pack("<QQQI", term, lsn, 0, len(data)) + data)


def test_positions(log: Spool) -> None:
    for lsn in (1, 64, 65, 199, 200):
        assert log.position(lsn) == walspool.Position(1, lsn, _crc(lsn, 1, payload(lsn)))
    assert log.position() == log.position(200)
    assert log.position(0) is None
    assert log.position(201) is None
    log.append(300, b"behind a gap", term=4)
    assert log.position() == walspool.Position(4, 300, _crc(300, 4, b"behind a gap"))
    assert log.position(250) is None
    boundary = log.position(120)
    log.prune_through(120)
    assert log.position(120) == boundary
    assert log.position(119) is None
    log.prune_through(290)
    assert log.position(290) is None
    assert log.position(200) == walspool.Position(1, 200, _crc(200, 1, payload(200)))
    last = log.position()
    log.prune_through(10_000)
    assert log.position() == log.position(300) == last
    assert log.current_lsn == 10_000


def test_position_of_what_a_prune_stamps(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        for lsn in range(1, 6):
            log.append(lsn, payload(lsn), timestamp_ms=0)
        before = [log.position(lsn) for lsn in range(1, 6)]
        log.prune_through(2)
        assert all(each.timestamp_ms > 0 for each in log)
        assert [log.position(lsn) for lsn in range(2, 6)] == before[1:]


def test_seek_floor_offset(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=9000) as log:
        for lsn in range(3, 1000, 3):
            log.append(lsn, payload(lsn))
        checkpoints, offset = [], 0
        for segment in log.segments:
            data = segment.path.read_bytes()
            at = 0
            for ordinal in range(segment.records):
                entry, following = core.decode_frame(data, at)
                if ordinal % 64 == 0:
                    checkpoints.append((entry.lsn, offset + at))
                at = following
            offset += at
        assert len(checkpoints) > len(log.segments) > 2
        for since in range(1010):
            expected = max((at for lsn, at in checkpoints if lsn <= since), default=0)
            assert log.seek_floor_offset(since) == expected


def test_verify(log: Spool) -> None:
    report = log.verify()
    assert report == walspool.VerifyReport(True, 200, log.size_bytes, len(log.segments), ())
    victim = log.segments[1]
    with victim.path.open("r+b") as file:
        file.seek(victim.bytes // 2)
        file.write(b"damaged")
    before = contents(log.path.parent)
    report = log.verify()
    assert contents(log.path.parent) == before
    assert not report.ok
    (problem,) = [each for each in report.problems if each.path == victim.path]
    assert 0 < (problem.offset or 0) <= victim.bytes // 2
    assert (victim.first_lsn or 0) < (problem.first_lsn or 0) <= (problem.last_lsn or 0) == victim.last_lsn
    assert problem.reason
    with pytest.raises(walspool.SpoolCorrupt) as caught:
        log.read_since(0)
    assert Path(os.fspath(caught.value.path)) == victim.path
    assert (caught.value.offset, caught.value.first_lsn) == (problem.offset, problem.first_lsn)
    assert caught.value.last_lsn == victim.last_lsn
    assert log.read_since(0, 30) == _records(1, 30)
    assert log.read_since(victim.last_lsn or 0) == _records((victim.last_lsn or 0) + 1, 200)


@pytest.mark.parametrize("name", ["read_since", "read_entries", "read_frames", "entries", "tuples"])
def test_no_read_passes_over_damage(log: Spool, name: str) -> None:
    victim = log.segments[0]
    with victim.path.open("r+b") as file:
        file.seek(victim.bytes // 2)
        file.write(b"damaged")
    seen: list[int] = []
    with pytest.raises(walspool.SpoolCorrupt) as caught:
        _read_all(log, name, seen)
    assert caught.value.first_lsn is not None
    assert seen == list(range(1, caught.value.first_lsn))[: len(seen)]


def _read_all(log: Spool, name: str, seen: list[int]) -> None:
    call: Any = getattr(log, name)
    if name in ("entries", "tuples"):
        seen.extend(each[0] if name == "tuples" else each.lsn for each in call())
    elif name == "read_frames":
        while (batch := call(seen[-1] if seen else 0, 500)).records:
            seen += range(batch.first_lsn, batch.last_lsn + 1)
    else:
        while part := call(seen[-1] if seen else 0, 10):
            seen += [each[0] if name == "read_since" else each.lsn for each in part]


def test_names_that_are_not_utf_8(core: ModuleType, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9 \xff.db"
    for path in (os.fsdecode(odd), Path(os.fsdecode(odd))):
        with walspool.open(path, segment_bytes=100) as log:
            fill(log, 3)
            assert log.verify().ok
    with walspool.open(Path(os.fsdecode(odd)), read_only=True) as log:
        assert holds(log, 1, 6)
        os.truncate(log.path, 10)
        with pytest.raises(walspool.SpoolCorrupt) as caught:
            log.read_since(0)
        assert os.fsencode(caught.value.path).startswith(odd)
        assert "caf" in str(caught.value)
    assert {each[: len(b"caf\xe9 \xff.db")] for each in os.listdir(os.fsencode(tmp_path))} == {b"caf\xe9 \xff.db"}
