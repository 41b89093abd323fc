"""Every way to append, and what it leaves in the files."""

from __future__ import annotations

import asyncio
import enum
import errno
import mmap
import time
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.spool.kit import contents, files_limited_to, fill, holds, payload

MIB = 1 << 20


def test_append_in_every_form(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        assert log.append(2, b"two") is None  # type: ignore[func-returns-value]
        log.append_with_timestamp(4, 777, b"four")
        log.append_with_term_and_timestamp(5, 6, 888, b"six")
        assert log.append_next(b"seven") == 7
        log.append_many([(9, b"nine"), (12, b"twelve")], timestamp_ms=5)
        assert log.append_next_many([b"a", b"b", b"c"]) == range(13, 16)
        frames = core.encode_frame(20, b"frame", term=6) + core.encode_frame(21, b"")
        with pytest.raises(walspool.StaleTermError):
            log.append_frames(frames)
        frames = core.encode_frame(20, b"frame", term=6) + core.encode_frame(21, b"", term=7, timestamp_ms=3)
        assert log.append_frames(frames) == walspool.FramesAppended(2, 20, 21, len(frames))
        asyncio.run(log.aappend(30, b"thirty"))
        assert asyncio.run(log.aappend_next(b"next")) == 31
        assert [(each.term, each.lsn, each.payload) for each in log] == [
            (1, 2, b"two"),
            (1, 4, b"four"),
            (5, 6, b"six"),
            (5, 7, b"seven"),
            (5, 9, b"nine"),
            (5, 12, b"twelve"),
            (5, 13, b"a"),
            (5, 14, b"b"),
            (5, 15, b"c"),
            (6, 20, b"frame"),
            (7, 21, b""),
            (7, 30, b"thirty"),
            (7, 31, b"next"),
        ]
        assert [each.timestamp_ms for each in log][1:6] == [777, 888, log.read_entries(6, 1)[0].timestamp_ms, 5, 5]
        assert (log.current_lsn, log.durable_lsn, log.oldest_lsn, log.current_term) == (31, 31, 2, 7)
        before = log.read_entries()
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.read_entries() == before
        assert (log.current_lsn, log.current_term, log.recovery.verdict) == (31, 7, "clean")


def test_nothing_to_append(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        log.append_many([])
        assert log.append_next_many([]) == range(0)
        assert log.append_frames(b"") == walspool.FramesAppended(0, None, None, 0)
        assert log.stats().flushes == 0
        assert log.record_count == 0


def test_an_empty_log(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "deep" / "er" / "app.db") as log:
        assert (log.current_lsn, log.durable_lsn, log.oldest_lsn, log.current_term) == (0, 0, None, 1)
        assert (log.record_count, log.size_bytes, log.closed) == (0, 0, False)
        assert log.path == walspool.LogicalWalSpool.path_for(tmp_path / "deep" / "er" / "app.db")
        assert log.position() is None
        assert (log.read_since(0), log.read_entries(), list(log), list(log.tuples())) == ([], [], [], [])
        assert log.read_frames(0) == walspool.FrameBatch(memoryview(b""), 0, None, None)
        assert log.seek_floor_offset(5) == 0
        assert log.segments == (walspool.SegmentInfo(log.path, None, None, 0, 0, False),)
        assert log.verify() == walspool.VerifyReport(True, 0, 0, 1, ())
        assert (log.recovery.records, log.recovery.verdict, log.recovery.quarantine) == (0, "clean", None)
        assert log.prune_through(0) == walspool.PruneReport(0, 0, 0)
        assert all(each.stat().st_mode & 0o777 == 0o600 for each in log.path.parent.iterdir())
    assert log.closed


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_any_contiguous_buffer(core: ModuleType, tmp_path: Path, size: int) -> None:
    data = payload(1, size)[:size] * 8
    with mmap.mmap(-1, len(data) or 1) as region:
        region[:] = data or b"\0"
        buffers: list[Any] = [data, bytearray(data), memoryview(data), array("Q", data)]
        buffers += [memoryview(data).cast("B", [2, 4 * size]), region] if size else []
        with walspool.open(tmp_path / "app.db") as log:
            for each in buffers:
                log.append_next(each)
            log.append_next_many(buffers)
            log.append_many([(log.current_lsn + 1, buffers[-1])])
            assert [kept for _, kept in log.tuples()] == [data] * (2 * len(buffers) + 1)
            frame = core.encode_frame(log.current_lsn + 1, data)
            assert log.append_frames(memoryview(bytearray(frame))).records == 1


def test_an_int_of_another_class(core: ModuleType, tmp_path: Path) -> None:
    class Number(enum.IntEnum):
        SEVEN = 7

    with walspool.open(tmp_path / "app.db") as log:
        log.append(Number.SEVEN, b"x", term=Number.SEVEN, timestamp_ms=Number.SEVEN)
        (entry,) = log
        assert (entry.lsn, entry.term, entry.timestamp_ms) == (7, 7, 7)
        assert type(entry.lsn) is int


def test_the_term_that_is_not_given(core: ModuleType, tmp_path: Path) -> None:
    def change(term: int) -> bytes:
        return walspool.ChangeRecord(term, 1, 1, walspool.ChangeOperation.DELETE, "c", 1, "row").encode()

    with walspool.open(tmp_path / "app.db") as log:
        log.append_next(b"opaque")
        log.append_next(change(4))
        log.append_next(b"opaque")
        log.append_next(change(4).replace(b'"term":4,', b"").replace(b',"term":4', b""))
        log.append_next_many([b"x", change(5), b"y"])
        log.append_next(change(2), term=6)
        assert [each.term for each in log] == [1, 4, 4, 4, 4, 5, 5, 6]
        assert log.current_term == 6
    with walspool.open(tmp_path / "app.db") as log:
        log.prune_through(log.current_lsn)
        assert log.current_term == 6
    with walspool.open(tmp_path / "app.db") as log:
        assert log.current_term == 6
        log.append_next(b"z")
        assert [each.term for each in log] == [6]


def test_the_timestamp_that_is_not_given(core: ModuleType, tmp_path: Path) -> None:
    before = time.time_ns() // 1_000_000
    with walspool.open(tmp_path / "app.db") as log:
        log.append(1, b"x")
        log.append_next_many([b"y"] * 3)
        asyncio.run(log.aappend_next(b"z"))
        stamps = [each.timestamp_ms for each in log]
    assert len(stamps) == 5
    assert all(before <= each <= time.time_ns() // 1_000_000 for each in stamps)
    assert stamps[1] == stamps[2] == stamps[3]


def test_segments_of_a_growing_log(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=1000) as log:
        fill(log, 100)
        segments = log.segments
        assert len(segments) > 5
        assert log.stats().rotations == len(segments) - 1
        assert [each.sealed for each in segments] == [True] * (len(segments) - 1) + [False]
        assert all(each.bytes >= 1000 for each in segments[:-1])
        assert sum(each.records for each in segments) == log.record_count == 100
        assert sum(each.bytes for each in segments) == log.size_bytes
        expected = 1
        for each in segments[:-1]:
            assert each.first_lsn == expected
            assert each.path.name == f"app.db.logical.wal.{expected:020d}"
            assert each.path.stat().st_size == each.bytes
            _, before, report, _ = core.decode_sidecar((tmp_path / (each.path.name + ".idx")).read_bytes())
            assert (before, report.records, report.highest_lsn) == (expected - 1, each.records, each.last_lsn)
            expected = (each.last_lsn or 0) + 1
        assert holds(log, 1, 100)
    with walspool.open(tmp_path / "app.db", segment_bytes=None) as log:
        assert log.segments[:-1] == segments[:-1]
        assert log.recovery.scanned_bytes == segments[-1].bytes
        fill(log, 100)
        assert len(log.segments) == len(segments)
        assert holds(log, 1, 200)


def test_a_list_larger_than_a_batch(core: ModuleType, tmp_path: Path) -> None:
    blocks = [bytes([lsn]) * MIB for lsn in range(1, 11)] + [b"x" * 5 * MIB]
    with walspool.open(tmp_path / "app.db") as log:
        assert log.append_next_many(blocks) == range(1, 12)
        assert log.stats().flushes == 5
        log.append_many([(12, blocks[0]), (13, blocks[-1]), (14, b"small")])
        assert log.stats().flushes == 8
        assert log.stats().appends == 14
        assert [data for _, data in log.tuples()] == [*blocks, blocks[0], blocks[-1], b"small"]


def test_a_list_that_fails_half_way(core: ModuleType, tmp_path: Path) -> None:
    items = [(lsn, bytes([lsn]) * MIB) for lsn in range(1, 13)]
    with walspool.open(tmp_path / "app.db") as log:
        with files_limited_to(8 * MIB), pytest.raises(OSError, match=r"app\.db\.logical\.wal") as caught:
            log.append_many(items)
        assert caught.value.errno == errno.EFBIG
        assert Path(caught.value.filename) == log.path
        assert caught.value.appended_through == 6  # type: ignore[attr-defined]
        assert (log.current_lsn, log.record_count) == (6, 6)
        assert log.path.stat().st_size == log.size_bytes
        with files_limited_to(8 * MIB), pytest.raises(OSError, match=r"app\.db\.logical\.wal") as caught:
            log.append_next_many([data for _, data in items[6:9]])
        assert getattr(caught.value, "appended_through", None) is None
        log.append_many(items[6:])
        assert list(log.tuples()) == items
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert (log.recovery.verdict, log.record_count) == ("clean", 12)


def test_one_append_on_a_full_disk(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 3)
        size = log.path.stat().st_size
        for room in (0, 10, 50):
            with files_limited_to(size + room), pytest.raises(OSError, match=r"app\.db\.logical\.wal") as caught:
                log.append(4, payload(4, 200))
            assert caught.value.errno == errno.EFBIG
            assert (log.current_lsn, log.path.stat().st_size) == (3, size)
            with files_limited_to(size + room), pytest.raises(OSError, match=r"app\.db\.logical\.wal"):
                asyncio.run(log.aappend(4, payload(4, 200)))
        fill(log, 3)
        assert holds(log, 1, 6)
        assert log.verify().ok


def test_frames_from_one_log_to_another(core: ModuleType, tmp_path: Path) -> None:
    with (
        walspool.open(tmp_path / "one" / "app.db", segment_bytes=2000) as one,
        walspool.open(tmp_path / "two" / "app.db", segment_bytes=2000) as two,
        walspool.open(tmp_path / "six" / "app.db") as six,
    ):
        fill(one, 200)
        one.append(500, b"", term=9)
        for target, size in ((two, 700), (six, 1 << 20)):
            while (batch := one.read_frames(target.current_lsn, size)).records:
                taken = target.append_frames(batch.data)
                assert (taken.records, taken.consumed) == (batch.records, len(batch.data))
                assert (taken.first_lsn, taken.last_lsn) == (batch.first_lsn, batch.last_lsn)
            assert target.read_entries() == one.read_entries()
            assert target.position() == one.position()
            assert target.current_term == 9
        frames = [b"".join(each.path.read_bytes() for each in log.segments) for log in (one, two, six)]
        assert frames[0].rstrip(b"\0") == frames[1].rstrip(b"\0") == frames[2].rstrip(b"\0")
        whole = b"".join(core.encode_frame(lsn, bytes(900), term=9) for lsn in range(501, 520))
        rotations = two.stats().rotations
        assert two.append_frames(whole) == walspool.FramesAppended(19, 501, 519, len(whole))
        assert two.append_frames(core.encode_frame(520, b"", term=9)).records == 1
        assert two.stats().rotations == rotations + 1
        assert two.record_count == 221


def test_counters(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        log.append_next_many([b"12345"] * 10)
        log.append_next(b"1")
        log.read_since(0)
        log.prune_through(3)
        stats = log.stats()
        assert (stats.appends, stats.appended_bytes, stats.flushes, stats.prunes) == (11, 51, 2, 1)
        assert stats.sync_ns_total >= stats.sync_ns_max > 0
        assert sum(stats.sync_us_histogram) >= 2
        assert stats.records_per_flush_histogram[1] == 1
        assert stats.records_per_flush_histogram[4] == 1
        assert len(stats.records_per_flush_histogram) == len(stats.sync_us_histogram) == 32
        assert (stats.reads, stats.read_bytes) == (1, 51)
        list(log.entries())
        assert log.stats().reads == 2
        assert log.stats().read_bytes > 51


def test_a_log_is_a_context_manager_of_both_kinds(core: ModuleType, tmp_path: Path) -> None:
    async def use() -> None:
        async with walspool.open(tmp_path / "app.db") as log:
            await log.aappend(1, b"x")
            assert await log.aappend_next(b"y") == 2
        assert log.closed
        log = walspool.open(tmp_path / "app.db")
        await log.aclose()
        assert log.closed

    asyncio.run(use())
    with walspool.LogicalWalSpool.open(str(tmp_path / "app.db")) as log:
        assert log.read_since(0) == [(1, b"x"), (2, b"y")]
        assert "writer" in repr(log)


def test_zeros_ahead_are_trimmed(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 300)
        assert log.path.stat().st_size >= log.size_bytes
        assert log.path.read_bytes()[log.size_bytes :].strip(b"\0") == b""
        size = log.size_bytes
    assert log.path.stat().st_size == size
    assert contents(tmp_path)["app.db.logical.wal"][-4:] != bytes(4)
