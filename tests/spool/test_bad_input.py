"""Arguments that are wrong: each call gives one clear error, and the log is as it was and usable."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import mmap
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.spool.kit import contents, fill, refused

LIMIT = 256 << 20
NOT_AN_INT = [(True, "bool"), (1.0, "float"), ("1", "str"), (b"1", "bytes")]
OUT_OF_RANGE = [-1, 2**64, -(2**70)]

Spool = walspool.LogicalWalSpool
#: Every call that takes the LSN of a new record.
APPENDS: dict[str, Callable[[Spool, Any, Any], object]] = {
    "append": lambda log, lsn, data: log.append(lsn, data),
    "append_with_timestamp": lambda log, lsn, data: log.append_with_timestamp(lsn, 1, data),
    "append_with_term_and_timestamp": lambda log, lsn, data: log.append_with_term_and_timestamp(3, lsn, 1, data),
    "append_many": lambda log, lsn, data: log.append_many([(lsn, data)]),
    "aappend": lambda log, lsn, data: asyncio.run(log.aappend(lsn, data)),
}
#: Every call that chooses the LSN itself.
APPENDS_NEXT: dict[str, Callable[[Spool, Any], object]] = {
    "append_next": lambda log, data: log.append_next(data),
    "append_next_many": lambda log, data: log.append_next_many([data]),
    "aappend_next": lambda log, data: asyncio.run(log.aappend_next(data)),
}


def _at_4(call: Callable[[Spool, Any, Any], object], log: Spool, data: Any) -> object:
    return call(log, 4, data)


ALL_APPENDS: dict[str, Callable[[Spool, Any], object]] = {
    **{name: partial(_at_4, call) for name, call in APPENDS.items()},
    **APPENDS_NEXT,
}
#: Every call that takes an LSN to look for.
LOOKUPS: dict[str, Callable[[Spool, Any], object]] = {
    "read_since": lambda log, lsn: log.read_since(lsn),
    "read_entries": lambda log, lsn: log.read_entries(lsn),
    "entries": lambda log, lsn: log.entries(lsn),
    "tuples": lambda log, lsn: log.tuples(lsn),
    "read_frames": lambda log, lsn: log.read_frames(lsn),
    "arrow_stream": lambda log, lsn: log.arrow_stream(lsn),
    "follow": lambda log, lsn: log.follow(lsn, timeout=0),
    "afollow": lambda log, lsn: log.afollow(lsn),
    "wait_for_lsn_after": lambda log, lsn: log.wait_for_lsn_after(lsn, 0),
    "await_lsn_after": lambda log, lsn: asyncio.run(log.await_lsn_after(lsn)),
    "seek_floor_offset": lambda log, lsn: log.seek_floor_offset(lsn),
    "position": lambda log, lsn: log.position(lsn),
    "prune_through": lambda log, lsn: log.prune_through(lsn),
}


@pytest.fixture
def log(core: ModuleType, tmp_path: Path) -> Iterator[Spool]:
    """Three records of term 3."""
    with walspool.open(tmp_path / "app.db") as spool:
        spool.append(1, b"one", term=3)
        fill(spool, 2)
        yield spool


@pytest.fixture(scope="module")
def too_large() -> Iterator[mmap.mmap]:
    """One byte over 256 MiB, none of it in memory."""
    with contextlib.ExitStack() as stack:
        region = stack.enter_context(mmap.mmap(-1, LIMIT + 1))
        stack.callback(gc.collect)  # the traceback of a refusal may still hold a view of it
        yield region


@pytest.mark.parametrize("call", ALL_APPENDS)
def test_payload_over_the_limit(log: Spool, call: str, too_large: mmap.mmap) -> None:
    index = 0 if "many" in call else None
    with refused(log, walspool.PayloadTooLarge, f"{LIMIT + 1} bytes", size=LIMIT + 1, limit=LIMIT, index=index):
        ALL_APPENDS[call](log, too_large)


@pytest.mark.parametrize("call", APPENDS)
def test_lsn_not_above_the_last(log: Spool, call: str) -> None:
    index = 0 if "many" in call else None
    for lsn in (0, 1, 3):
        last = log.current_lsn
        with refused(
            log, walspool.LsnOrderError, f"LSN {lsn} ", f"last LSN {last}", lsn=lsn, last_lsn=last, index=index
        ):
            APPENDS[call](log, lsn, b"x")


@pytest.mark.parametrize("call", APPENDS)
def test_lsn_that_is_none(log: Spool, call: str) -> None:
    for lsn in OUT_OF_RANGE:
        with refused(log, ValueError, f"lsn must be between 0 and 2**64-1, not {lsn}"):
            APPENDS[call](log, lsn, b"x")
    for wrong, kind in [*NOT_AN_INT, (None, "NoneType")]:
        with refused(log, TypeError, f"lsn must be an int, not {kind}"):
            APPENDS[call](log, wrong, b"x")


@pytest.mark.parametrize("call", LOOKUPS)
def test_lsn_to_look_for(log: Spool, call: str) -> None:
    for lsn, kind in NOT_AN_INT:
        with refused(log, TypeError, "lsn must be an int", f"not {kind}"):
            LOOKUPS[call](log, lsn)
    for lsn in OUT_OF_RANGE:
        with refused(log, ValueError, "lsn must be between 0 and 2**64-1", f"not {lsn}"):
            LOOKUPS[call](log, lsn)


@pytest.mark.parametrize("name", ["term", "timestamp_ms"])
def test_term_and_timestamp(log: Spool, name: str) -> None:
    calls: list[Callable[..., object]] = [
        lambda **given: log.append(log.current_lsn + 1, b"x", **given),
        lambda **given: log.append_next(b"x", **given),
        lambda **given: log.append_many([(log.current_lsn + 1, b"x")], **given),
        lambda **given: log.append_next_many([b"x"], **given),
        lambda **given: asyncio.run(log.aappend(log.current_lsn + 1, b"x", **given)),
        lambda **given: asyncio.run(log.aappend_next(b"x", **given)),
    ]
    for call in calls:
        for value, kind in NOT_AN_INT:
            with refused(log, TypeError, f"{name} must be an int, not {kind}"):
                call(**{name: value})
        for number in OUT_OF_RANGE:
            with refused(log, ValueError, f"{name} must be between 0 and 2**64-1, not {number}"):
                call(**{name: number})


@pytest.mark.parametrize("name", ["max_count", "max_bytes"])
def test_counts(log: Spool, name: str) -> None:
    calls: list[Callable[..., object]] = [lambda **given: log.read_entries(0, **given)]
    calls.append((lambda **given: log.read_since(0, **given)) if name == "max_count" else _frames_of(log))
    for call in calls:
        for value, kind in NOT_AN_INT:
            with refused(log, TypeError, f"{name} must be an int, not {kind}"):
                call(**{name: value})
        with refused(log, ValueError, f"{name} must be between 0 and 2**64-1, not -1"):
            call(**{name: -1})


def _frames_of(log: Spool) -> Callable[..., object]:
    return lambda **given: log.read_frames(0, **given)


def test_term_that_goes_back(log: Spool) -> None:
    old = walspool.ChangeRecord(2, 4, 1, walspool.ChangeOperation.INSERT, "c", 1, "row").encode()
    calls: list[Callable[[], object]] = [
        lambda: log.append(log.current_lsn + 1, b"x", term=2),
        lambda: log.append_next(b"x", term=2),
        lambda: log.append_many([(log.current_lsn + 1, b"x")], term=2),
        lambda: log.append_next_many([b"x"], term=2),
        lambda: log.append_frames(walspool.core.encode_frame(log.current_lsn + 1, b"x", term=2)),
        lambda: asyncio.run(log.aappend(log.current_lsn + 1, b"x", term=2)),
        lambda: asyncio.run(log.aappend_next(b"x", term=2)),
        lambda: log.append(log.current_lsn + 1, old),
        lambda: log.append_next_many([b"x", old]),
    ]
    for call in calls:
        with refused(log, walspool.StaleTermError, "term 2 ", "current term 3", term=2, current_term=3):
            call()


@pytest.mark.parametrize("call", ALL_APPENDS)
def test_data_that_is_no_buffer(log: Spool, call: str) -> None:
    for data, kind in [("text", "str"), (7, "int"), (None, "NoneType"), ([1, 2], "list"), (object(), "object")]:
        with refused(log, TypeError, f"data must be a bytes-like object, not {kind}"):
            ALL_APPENDS[call](log, data)


@pytest.mark.parametrize("call", ALL_APPENDS)
def test_data_that_is_not_contiguous(log: Spool, call: str) -> None:
    for data in (memoryview(b"abcdef")[::2], memoryview(array("i", range(6)))[::-1]):
        with refused(log, ValueError, "data must be a contiguous buffer"):
            ALL_APPENDS[call](log, data)


def test_a_bad_item_far_down_a_list(log: Spool, too_large: mmap.mmap) -> None:
    size = log.size_bytes

    def items(bad_lsn: object, bad_data: object) -> list[tuple[Any, Any]]:
        good = [(log.current_lsn + 1 + i, b"x" * 100) for i in range(1000)]
        return [*good[:499], (good[499][0] if bad_lsn is ... else bad_lsn, bad_data), *good[500:]]

    with refused(log, TypeError, "records[499]: data must be a bytes-like object, not str"):
        log.append_many(items(..., "text"))
    with refused(log, TypeError, "records[499]: lsn must be an int, not bool"):
        log.append_many(items(True, b"x"))
    with refused(log, ValueError, "records[499]: lsn must be between 0 and 2**64-1, not -5"):
        log.append_many(items(-5, b"x"))
    with refused(log, ValueError, "records[499]: data must be a contiguous buffer"):
        log.append_many(items(..., memoryview(b"abcdef")[::2]))
    with refused(log, walspool.PayloadTooLarge, "index 499", size=LIMIT + 1, index=499):
        log.append_many(items(..., too_large))
    last = log.current_lsn + 499
    with refused(log, walspool.LsnOrderError, "index 499", f"last LSN {last}", lsn=2, last_lsn=last, index=499):
        log.append_many(items(2, b"x"))
    with refused(log, TypeError, "records[499]: data must be a bytes-like object, not NoneType"):
        log.append_next_many(data for _, data in items(..., None))
    with refused(log, walspool.PayloadTooLarge, "index 499", size=LIMIT + 1, index=499):
        log.append_next_many(data for _, data in items(..., too_large))
    assert log.size_bytes < size + 1000


def test_lists_that_are_none(log: Spool) -> None:
    for bad in (None, 5):
        with refused(log, TypeError, "not iterable"):
            log.append_many(bad)  # type: ignore[arg-type]
        with refused(log, TypeError, "not iterable"):
            log.append_next_many(bad)  # type: ignore[arg-type]
    for item in (b"x", 7, (4,), (4, b"x", 1), [4, b"x"], None):
        with refused(log, TypeError, "records[1]: must be a tuple (lsn, data)"):
            log.append_many([(log.current_lsn + 1, b"fine"), item])  # type: ignore[list-item]


def _frames(log: Spool, count: int = 3) -> list[bytes]:
    first = log.current_lsn + 1
    return [walspool.core.encode_frame(first + i, b"frame", term=3, timestamp_ms=9) for i in range(count)]


def test_frames_with_a_bad_checksum(log: Spool) -> None:
    for position in (0, 4, 6, 14, 29, 36, -1):
        frames = _frames(log)
        bad = bytearray(frames[1])
        bad[position] ^= 1
        offset = len(frames[0])
        with refused(log, walspool.FrameCorrupt, "not a valid frame", f"offset {offset}", offset=offset):
            log.append_frames(frames[0] + bytes(bad) + frames[2])


def test_frames_in_the_wrong_order(log: Spool) -> None:
    one, two, three = _frames(log)
    last = log.current_lsn
    with refused(log, walspool.LsnOrderError, lsn=last + 2, last_lsn=last + 3):
        log.append_frames(one + three + two)
    one = _frames(log)[0]
    with refused(log, walspool.LsnOrderError, lsn=log.current_lsn + 1, last_lsn=log.current_lsn + 1):
        log.append_frames(one + one)


def test_frames_not_above_the_last(log: Spool) -> None:
    last = log.current_lsn
    old = walspool.core.encode_frame(last, b"again", term=3)
    with refused(log, walspool.LsnOrderError, lsn=last, last_lsn=last):
        log.append_frames(old)


def test_half_a_frame_is_left(log: Spool) -> None:
    before = log.current_lsn, log.size_bytes, contents(log.path.parent)
    half = walspool.core.encode_frame(log.current_lsn + 1, b"half", term=3)
    for length in range(len(half)):
        assert log.append_frames(half[:length]) == walspool.FramesAppended(0, None, None, 0)
    assert (log.current_lsn, log.size_bytes, contents(log.path.parent)) == before
    first = log.current_lsn + 1
    whole = walspool.core.encode_frame(first, b"whole", term=3)
    half = walspool.core.encode_frame(first + 1, b"half", term=3)
    assert log.append_frames(whole + half[:30]) == walspool.FramesAppended(1, first, first, len(whole))
    assert log.current_lsn == first
    assert log.append_frames(half) == walspool.FramesAppended(1, first + 1, first + 1, len(half))


def test_frames_that_are_not_version_3(log: Spool) -> None:
    frame = _frames(log, 1)[0]
    for bad in (b"RDLW\x01" + frame[5:], b"RDLW\x02" + frame[5:], b"RDLW\x04" + frame[5:], bytes(80), b"garbage" * 9):
        with refused(log, walspool.FrameCorrupt, offset=0):
            log.append_frames(bad)
    huge = frame[:29] + (LIMIT + 1).to_bytes(4, "little") + frame[33:]
    with refused(log, walspool.FrameCorrupt, offset=0):
        log.append_frames(huge)
    for data, kind in [("text", TypeError), (None, TypeError), (memoryview(frame)[::2], ValueError)]:
        with refused(log, kind, "data must be"):
            log.append_frames(data)


def test_the_last_lsn_there_is(log: Spool) -> None:
    log.append(2**64 - 1, b"the last")
    for call in (lambda: log.append_next(b"x"), lambda: log.append_next_many([b"x"])):
        with pytest.raises(walspool.LsnOrderError) as caught:
            call()
        assert caught.value.last_lsn == 2**64 - 1
    assert log.read_since(2**64 - 2) == [(2**64 - 1, b"the last")]
    assert list(log.follow(2**64 - 1, timeout=0)) == []
    assert log.current_lsn == 2**64 - 1


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"recovery": "repair"}, ValueError, "recovery must be 'truncate' or 'strict', not 'repair'"),
        ({"segment_bytes": 0}, ValueError, "segment_bytes must be at least 1"),
        ({"segment_bytes": -1}, ValueError, "segment_bytes must be between 0 and 2**64-1, not -1"),
        ({"segment_bytes": 1.5}, TypeError, "segment_bytes must be an int, not float"),
        ({"segment_bytes": True}, TypeError, "segment_bytes must be an int, not bool"),
    ],
)
def test_options_of_open(core: ModuleType, tmp_path: Path, options: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        walspool.open(tmp_path / "app.db", **options)
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_data_paths_that_are_none(core: ModuleType, tmp_path: Path) -> None:
    for bad in (None, 7, 1.5):
        with pytest.raises(TypeError):
            walspool.open(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="null"):
        walspool.open(str(tmp_path / "a\0b"))
    assert list(tmp_path.iterdir()) == []
