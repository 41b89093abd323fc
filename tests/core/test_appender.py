"""What a writer appends and what it refuses, as both cores have it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit
from walspool.errors import (
    FrameCorrupt,
    LsnOrderError,
    PayloadTooLarge,
    StaleTermError,
)

SIZE = len(kit.v3(1))
MAX = 2**64 - 1


@pytest.fixture
def writer(core: ModuleType, tmp_path: Path) -> kit.Writer:
    """A writer of an empty file."""
    return kit.Writer(core, tmp_path)


def test_what_append_returns_is_on_disk_marked_and_readable(writer: kit.Writer) -> None:
    assert writer.append(5) == 5
    assert writer.append() == 6
    assert writer.append(9, b"other", 3) == 9
    assert writer.durable() == kit.v3(5) + kit.v3(6) + kit.v3(9, b"other", 3)
    assert writer.mark() == 9
    assert writer.lsns() == [5, 6, 9]
    assert (writer.appender.durable_lsn, writer.appender.current_term) == (9, 3)


def test_it_goes_on_behind_what_is_there(core: ModuleType, tmp_path: Path) -> None:
    content = kit.v1(2) + kit.wide(4, term=7)
    writer = kit.Writer(core, tmp_path, content)
    assert (writer.appender.durable_lsn, writer.appender.current_term) == (4, 7)
    assert writer.append() == 5
    assert writer.durable() == content + kit.v3(5, term=7)
    assert kit.facts(writer.appender.summary()) == kit.facts(core.scan(writer.path))


def test_floor_and_term_hold_from_the_start(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, kit.v3(4, term=2), floor_lsn=10, term=5)
    assert (writer.appender.durable_lsn, writer.appender.current_term) == (10, 5)
    with pytest.raises(LsnOrderError):
        writer.append(10)
    with pytest.raises(StaleTermError):
        writer.append(11, term=4)
    assert writer.append() == 11
    assert writer.entries()[-1][1] == 5
    writer.appender.raise_floor(20)
    writer.appender.raise_floor(3)
    assert writer.appender.durable_lsn == 20
    assert writer.append() == 21


def test_a_term_that_is_not_given(writer: kit.Writer) -> None:
    for data in (b"opaque", b'{"operation":"insert"}', b'{"operation":"insert","term":4}', b'{"term":9}'):
        writer.append(data=data)
    assert [entry[1] for entry in writer.entries()] == [1, 1, 4, 4]
    with pytest.raises(StaleTermError) as caught:
        writer.append(data=b'{"operation":"insert","term":3}')
    assert (caught.value.term, caught.value.current_term, caught.value.index) == (3, 4, None)
    writer.append(data=b'{"operation":"insert","term":3}', term=4)
    assert writer.entries()[-1][1] == 4


def test_a_fence_keeps_own_records_out(writer: kit.Writer) -> None:
    writer.append(1, term=3)
    writer.appender.fence(0)
    writer.appender.fence(5)
    writer.appender.fence(4)
    assert writer.appender.current_term == 3
    payload = b'{"operation":"insert","term":5}'
    for refused in (
        lambda: writer.append(),
        lambda: writer.append(2, term=5),
        lambda: writer.append(2, term=6),  # a record does not promote
        lambda: writer.appender.append(None, payload, None, 1),
        lambda: writer.appender.append(None, payload.replace(b"5", b"6"), None, 1),
        lambda: writer.appender.append_many([(2, b"")], None, 1, 0),
        lambda: writer.appender.append_next_many([b""], 5, 1, 0),
    ):
        with pytest.raises(StaleTermError) as caught:
            refused()
        assert (caught.value.term, caught.value.current_term) == (3, 5)
    writer.appender.raise_term(6)
    results = kit.append_each(writer.core, writer.appender, [(None, b"", 4, 1), (None, b"", 6, 1)])
    assert isinstance(results[0], StaleTermError)
    assert results[1] == 2
    assert writer.append() == 3
    writer.appender.fence(9)
    assert writer.appender.append_frames(kit.v3(4, term=6) + kit.v3(5, term=9), 0)[:3] == (2, 4, 5)
    with pytest.raises(StaleTermError, match=r"^term 9 is another primary's; nothing was appended; promote"):
        writer.append()
    assert writer.lsns() == [1, 2, 3, 4, 5]


def test_a_timestamp_that_is_not_given_is_now(core: ModuleType, writer: kit.Writer) -> None:
    writer.appender.append(None, b"x", None, None)
    assert 1_600_000_000_000 < writer.entries()[0][2] < 10_000_000_000_000


@pytest.mark.parametrize(
    ("lsn", "data", "term", "error", "words"),
    [
        (0, b"", None, LsnOrderError, "LSN 0 is not above the last LSN 5"),
        (5, b"", None, LsnOrderError, "LSN 5 is not above the last LSN 5"),
        (-1, b"", None, ValueError, "lsn must be between 0 and 2**64-1, not -1"),
        (2**64, b"", None, ValueError, "lsn must be between"),
        (True, b"", None, TypeError, "lsn must be an int, not bool"),
        (1.0, b"", None, TypeError, "lsn must be an int, not float"),
        ("1", b"", None, TypeError, "lsn must be an int, not str"),
        (6, "text", None, TypeError, "data must be a bytes-like object, not str"),
        (6, memoryview(b"abcd")[::2], None, ValueError, "data must be a contiguous buffer"),
        (6, memoryview(bytes(1)).cast("B", (1, 1)), None, None, ""),
        (6, b"", -1, ValueError, "term must be between"),
        (6, b"", False, TypeError, "term must be an int, not bool"),
        (6, b"", 1, StaleTermError, "term 1 is below the current term 2"),
    ],
)
def test_bad_input_is_one_clear_error(
    writer: kit.Writer, lsn: Any, data: Any, term: Any, error: type[Exception] | None, words: str
) -> None:
    writer.append(5, term=2)
    before = writer.path.read_bytes()
    if error is None:
        assert writer.append(lsn, data, term) == lsn
        return
    with pytest.raises(error) as caught:
        writer.append(lsn, data, term)
    assert words in str(caught.value)
    assert type(caught.value) is error
    assert writer.path.read_bytes() == before
    assert writer.append() == 6


def test_a_payload_above_the_limit(writer: kit.Writer) -> None:
    large = memoryview(bytearray((256 << 20) + 1))
    with pytest.raises(PayloadTooLarge) as caught:
        writer.appender.append(None, large, None, None)
    assert (caught.value.size, caught.value.index) == (len(large), None)
    with pytest.raises(PayloadTooLarge) as caught:
        writer.appender.append_next_many([b"", large], None, None, 0)
    assert (caught.value.size, caught.value.index) == (len(large), 1)
    assert writer.path.read_bytes() == b""


def test_the_last_lsn_there_is(writer: kit.Writer) -> None:
    assert writer.append(MAX - 1) == MAX - 1
    with pytest.raises(LsnOrderError):
        writer.appender.append_next_many([b"a", b"b"], None, 1000, 0)
    assert writer.append() == MAX
    with pytest.raises(LsnOrderError) as caught:
        writer.append()
    assert (caught.value.lsn, caught.value.last_lsn) == (MAX, MAX)
    assert writer.lsns() == [MAX - 1, MAX]


# Many at once.


def test_append_many(writer: kit.Writer) -> None:
    assert writer.appender.append_many([(3, b"a"), (5, bytearray(b"b")), (9, memoryview(b"c"))], 2, 1000, 0) == 3
    assert writer.durable() == kit.v3(3, b"a", 2) + kit.v3(5, b"b", 2) + kit.v3(9, b"c", 2)
    assert writer.appender.stats()["flushes"] == 1
    assert writer.appender.append_many([], None, None, 0) == 0


def test_append_next_many(writer: kit.Writer) -> None:
    assert writer.appender.append_next_many([b"a", b"b"], None, 1000, 0) == (2, 1)
    assert writer.appender.append_next_many([], None, 1000, 0) == (0, None)
    assert writer.appender.append_next_many([b"x", b"c"], 4, 1000, 1) == (2, 3)
    assert writer.durable() == kit.v3(1, b"a") + kit.v3(2, b"b") + kit.v3(3, b"c", 4)


@pytest.mark.parametrize(
    ("bad", "error", "index", "words"),
    [
        ((500, b""), LsnOrderError, 500, "LSN 500"),
        ((True, b""), TypeError, None, "records[500]: lsn must be an int, not bool"),
        ((2**64, b""), ValueError, None, "records[500]: lsn must be between"),
        ((501, 5), TypeError, None, "records[500]: data must be a bytes-like object, not int"),
        ((501, memoryview(b"abcd")[::2]), ValueError, None, "records[500]: data must be a contiguous buffer"),
        ((501, b'{"operation":"insert","term":0}'), StaleTermError, 500, "term 0 is below"),
    ],
)
def test_one_bad_item_and_nothing_is_appended(
    writer: kit.Writer, bad: Any, error: type[Exception], index: int | None, words: str
) -> None:
    items: list[Any] = [(lsn, b"x" * 20_000) for lsn in range(1, 501)]
    with pytest.raises(error) as caught:
        writer.appender.append_many([*items, bad, (502, b"")], None, 1000, 0)
    assert getattr(caught.value, "index", None) == index
    assert words in str(caught.value)
    assert writer.path.read_bytes() == b""
    assert writer.mark() is None


def test_the_first_bad_item_decides(writer: kit.Writer) -> None:
    with pytest.raises(LsnOrderError) as caught:
        writer.appender.append_many([(2, b""), (1, b""), ("3", b"")], None, 1000, 0)
    assert caught.value.index == 1
    with pytest.raises(TypeError, match=r"records\[1\]"):
        writer.appender.append_many([(2, b""), ("3", b""), (1, b"")], None, 1000, 0)


def test_batches_hold_whole_frames_up_to_4_mib(writer: kit.Writer) -> None:
    half = b"x" * ((2 << 20) - 37)
    assert writer.appender.append_next_many([half, half, b"small", b"y" * (5 << 20), b"small"], None, 1000, 0) == (5, 1)
    stats = writer.appender.stats()
    assert (stats["flushes"], stats["appends"]) == (4, 5)
    assert stats["appended_bytes"] == 2 * len(half) + 10 + (5 << 20)
    assert stats["records_per_flush_histogram"][:4] == (0, 3, 1, 0)
    assert sum(stats["sync_us_histogram"]) == 4
    assert 0 < stats["sync_ns_max"] <= stats["sync_ns_total"]
    assert len(stats["sync_us_histogram"]) == len(stats["records_per_flush_histogram"]) == 32


def test_items_that_change_during_the_call_are_copied_once(writer: kit.Writer) -> None:
    data, ended = bytearray(2000), threading.Event()

    def scribble() -> None:
        while not ended.is_set():
            for value in range(256):
                data[:] = bytes([value]) * len(data)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(30):
            writer.append(data=data)  # type: ignore[arg-type]
            writer.appender.append_next_many([data] * 3, None, 1000, 0)
    finally:
        ended.set()
        thread.join()
    assert writer.lsns() == list(range(1, 121))


# Raw frames.


def test_frames_are_appended_as_they_are(writer: kit.Writer) -> None:
    data = kit.v3(3, term=2, timestamp_ms=0) + kit.v3(9, term=2)
    assert writer.appender.append_frames(data, 0) == (2, 3, 9, len(data), False)
    assert writer.durable() == data
    assert writer.appender.summary().reframe
    more = bytearray(data + kit.v3(10, term=2))
    assert writer.appender.append_frames(more, len(data)) == (1, 10, 10, len(more), False)
    assert writer.durable() == bytes(more)


def test_an_incomplete_frame_at_the_end_is_left(writer: kit.Writer) -> None:
    whole, part = kit.v3(1), kit.v3(2)
    for size in range(len(part)):
        assert writer.appender.append_frames(part[:size], 0) == (0, None, None, 0, False)
    assert writer.appender.append_frames(whole + part[:40], 0) == (1, 1, 1, len(whole), False)
    assert writer.durable() == whole


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (kit.flip(kit.v3(3), 35), "crc mismatch"),
        (kit.wide(3, b"x" * 50, timestamp_ms=20), "crc mismatch"),
        (kit.v2(3), "version 2"),
        (kit.v1(3), "version 1"),
        (b"RDLW\x09", "unknown version 9"),
        (b"junk", "magic"),
        (b"RX", "magic"),
        (kit.flip(kit.v3(3), 32, 7), "implausible"),
    ],
)
def test_a_bad_frame_and_nothing_is_appended(writer: kit.Writer, bad: bytes, words: str) -> None:
    good = kit.log(1, 2)
    with pytest.raises(FrameCorrupt) as caught:
        writer.appender.append_frames(good + bad + kit.v3(4), 0)
    assert (words in caught.value.reason, caught.value.offset) == (True, len(good))
    with pytest.raises(FrameCorrupt) as caught:
        writer.appender.append_frames(b"skipped" + good + bad + kit.v3(4), 7)
    assert caught.value.offset == len(good) + 7
    assert writer.path.read_bytes() == b""


def test_frames_must_be_in_order(writer: kit.Writer) -> None:
    writer.append(5, term=2)
    before = writer.durable()
    for lsns in ((5,), (6, 6), (7, 6)):
        with pytest.raises(LsnOrderError):
            writer.appender.append_frames(b"".join(kit.v3(lsn, term=2) for lsn in lsns), 0)
    with pytest.raises(StaleTermError):
        writer.appender.append_frames(kit.v3(6, term=3) + kit.v3(7, term=2), 0)
    with pytest.raises(TypeError, match="data must be a bytes-like object"):
        writer.appender.append_frames("text", 0)
    with pytest.raises(ValueError, match="within the buffer"):
        writer.appender.append_frames(b"", 1)
    assert writer.durable() == before


# Each on its own merits.


def test_each_item_has_its_own_result(writer: kit.Writer) -> None:
    items: list[Any] = [
        (None, b"a", None, 1000),
        (1, b"b", None, 1000),
        (7, b"c", 3, 1000),
        (None, 5, None, 1000),
        (None, b"d", 2, 1000),
        (None, b"e", None, 1000),
    ]
    results = kit.append_each(writer.core, writer.appender, items)
    assert [result if isinstance(result, int) else type(result) for result in results] == [
        1,
        LsnOrderError,
        7,
        TypeError,
        StaleTermError,
        8,
    ]
    assert writer.durable() == kit.v3(1, b"a") + kit.v3(7, b"c", 3) + kit.v3(8, b"e", 3)
    assert writer.appender.stats()["flushes"] == 1


def test_each_until_the_file_is_full(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, segment_bytes=4 << 20)
    items: list[Any] = [(None, b"x" * (3 << 20), None, 1000)] * 4
    assert kit.append_each(core, writer.appender, items) == [1, 2, None, None]
    assert kit.append_each(core, writer.appender, items) == [None] * 4
