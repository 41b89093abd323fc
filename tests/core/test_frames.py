"""Bytes to frames and back."""

from __future__ import annotations

import array
import pickle
import zlib
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core import kit
from walspool.errors import FrameCorrupt, PayloadTooLarge

U64 = st.integers(0, 2**64 - 1)


def test_a_frame_is_laid_out_as_the_format_says(core: ModuleType) -> None:
    assert core.encode_frame(7, b"abc", term=2, timestamp_ms=9) == kit.v3(7, b"abc", 2, 9)
    assert core.encode_frame(1, b"") == kit.v3(1, b"", 1, 0)
    assert len(core.encode_frame(1, b"")) == 37


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lsn=U64, term=U64, timestamp_ms=U64, payload=st.binary(max_size=200), before=st.binary(max_size=9))
def test_round_trip(core: ModuleType, lsn: int, term: int, timestamp_ms: int, payload: bytes, before: bytes) -> None:
    frame = core.encode_frame(lsn, payload, term=term, timestamp_ms=timestamp_ms)
    entry, end = core.decode_frame(before + frame + b"more", len(before))
    assert kit.fields(entry) == (lsn, term, timestamp_ms, payload, 3, None)
    assert end == len(before) + len(frame)


def test_every_layout_is_read(core: ModuleType) -> None:
    change = b'{"operation":"insert","term":6}'
    assert kit.fields(core.decode_frame(kit.wide(4, b"x", 3, 8, epoch=5))[0]) == (4, 3, 8, b"x", 3, 5)
    assert kit.fields(core.decode_frame(kit.wide(4, b"x", 3, 8, epoch=0))[0]) == (4, 3, 8, b"x", 3, None)
    assert kit.fields(core.decode_frame(kit.v2(4, b"x", 8))[0]) == (4, 1, 8, b"x", 2, None)
    assert kit.fields(core.decode_frame(kit.v2(4, change, 8))[0]) == (4, 6, 8, change, 2, None)
    assert kit.fields(core.decode_frame(kit.v1(4, change))[0]) == (4, 6, 0, change, 1, None)


def test_the_narrow_layout_is_tried_first(core: ModuleType) -> None:
    entry, end = core.decode_frame(kit.ambiguous(4))
    assert (entry.lsn, len(entry.payload), end) == (4, 16, len(kit.ambiguous(4)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "torn"),
        (b"RD", "torn"),
        (b"RX", "magic"),
        (b"RDLX\x03", "magic"),
        (b"RDLW", "torn"),
        (b"RDLW\x04", "version 4"),
        (b"RDLW\x00", "version 0"),
        (kit.v3(1)[:20], "torn"),
        (kit.v3(1)[:-1], "torn"),
        (kit.v1(1)[:-1], "torn"),
        (kit.v2(1)[:-1], "torn"),
        (kit.flip(kit.v3(1), 35), "crc mismatch"),
        (kit.flip(kit.v2(1), 27), "crc mismatch"),
        (kit.flip(kit.v3(1), 32, 7), "implausible"),
    ],
)
def test_what_is_no_frame_is_refused_with_reason_and_offset(core: ModuleType, data: bytes, words: str) -> None:
    with pytest.raises(FrameCorrupt) as caught:
        core.decode_frame(b"junk" + data, 4)
    assert words in caught.value.reason
    assert caught.value.offset == 4


def test_an_offset_behind_the_buffer_is_a_wrong_argument(core: ModuleType) -> None:
    with pytest.raises(ValueError, match="past the end"):
        core.decode_frame(b"abc", 4)


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
def test_any_contiguous_buffer_will_do(core: ModuleType, buffer: Any) -> None:
    assert core.encode_frame(1, buffer(b"abc")) == kit.v3(1, b"abc", 1, 0)
    assert core.decode_frame(buffer(kit.v3(1)))[0].payload == b"payload"
    assert core.crc32(buffer(b"abc"), 5) == zlib.crc32(b"abc", 5)


@pytest.mark.parametrize(
    ("lsn", "error", "words"),
    [
        (True, TypeError, "lsn must be an int, not bool"),
        (1.0, TypeError, "lsn must be an int, not float"),
        ("1", TypeError, "lsn must be an int, not str"),
        (-1, ValueError, "lsn must be between 0 and 2**64-1, not -1"),
        (2**64, ValueError, "lsn must be between 0 and 2**64-1, not 18446744073709551616"),
    ],
)
def test_numbers_are_taken_exactly(core: ModuleType, lsn: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        core.encode_frame(lsn, b"")
    assert str(caught.value) == words


def test_data_must_be_a_contiguous_buffer(core: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"^data must be a bytes-like object, not str$"):
        core.encode_frame(1, "text")
    with pytest.raises(ValueError, match=r"^data must be a contiguous buffer$"):
        core.encode_frame(1, memoryview(b"abcd")[::2])


def test_a_payload_above_the_limit_is_refused_before_it_is_copied(core: ModuleType) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        core.encode_frame(1, memoryview(bytearray((256 << 20) + 1)))
    assert (caught.value.size, caught.value.limit, caught.value.index) == ((256 << 20) + 1, 256 << 20, None)


def test_an_entry_is_a_value(core: ModuleType) -> None:
    entry = core.Entry(lsn=1, term=2, timestamp_ms=3, payload=b"x")
    assert entry == core.Entry(lsn=1, term=2, timestamp_ms=3, payload=b"x", version=3, ownership_epoch=None)
    assert entry != core.Entry(lsn=1, term=2, timestamp_ms=3, payload=b"y")
    assert hash(entry) == hash(pickle.loads(pickle.dumps(entry)))
    assert repr(entry) == "Entry(lsn=1, term=2, timestamp_ms=3, payload=b'x', version=3, ownership_epoch=None)"
    with pytest.raises(AttributeError):
        entry.lsn = 5
