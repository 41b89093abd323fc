"""Payloads that are not bytes: whatever exports a contiguous buffer is taken, all else is refused alike."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit


class Pair(ctypes.Structure):
    """A struct with padding inside."""

    _fields_ = (("number", ctypes.c_int), ("weight", ctypes.c_double))


class Text(bytes):
    """Bytes that a subclass may have made mutable."""


def released() -> memoryview:
    view = memoryview(bytearray(b"abc"))
    view.release()
    return view


GOOD: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"abc",
    "empty bytes": lambda: b"",
    "subclass of bytes": lambda: Text(b"abc"),
    "bytearray": lambda: bytearray(b"abc"),
    "empty bytearray": bytearray,
    "memoryview": lambda: memoryview(b"abcdef")[1:4],
    "two dimensions": lambda: memoryview(bytes(range(12))).cast("B", [3, 4]),
    "array": lambda: array.array("d", [1.0, 2.5]),
    "empty array": lambda: array.array("d"),
    "ctypes array": lambda: (ctypes.c_int * 3)(1, 2, 3),
    "ctypes scalar": lambda: ctypes.c_int(5),
    "ctypes struct": lambda: Pair(1, 2.0),
    "ctypes array of structs": lambda: (Pair * 2)(Pair(1, 2.0), Pair(3, 4.0)),
    "none of three": lambda: ((ctypes.c_char * 3) * 0)(),
    "three of none": lambda: ((ctypes.c_char * 0) * 3)(),
    "view of none of three": lambda: memoryview(((ctypes.c_char * 3) * 0)()),
    "view of a scalar": lambda: memoryview(ctypes.c_int(5)),
}
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "reversed": (lambda: memoryview(b"abc")[::-1], ValueError, "data must be a contiguous buffer"),
    "every other": (lambda: memoryview(b"abcd")[::2], ValueError, "data must be a contiguous buffer"),
    "released": (released, ValueError, "released memoryview"),
    "int": (lambda: 5, TypeError, "data must be a bytes-like object, not int"),
    "str": (lambda: "abc", TypeError, "data must be a bytes-like object, not str"),
    "None": (lambda: None, TypeError, "data must be a bytes-like object, not NoneType"),
    "list": (lambda: [1], TypeError, "data must be a bytes-like object, not list"),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_contiguous_buffers_are_payloads(core: ModuleType, tmp_path: Path, make: Callable[[], Any]) -> None:
    data = make()
    expected = memoryview(data).tobytes()
    assert core.encode_frame(1, data, timestamp_ms=5) == kit.v3(1, expected, timestamp_ms=5)
    assert core.crc32(data) == core.crc32(expected)
    writer = kit.Writer(core, tmp_path)
    assert writer.append(data=data) == 1
    assert writer.appender.append_many([(2, data)], None, None, 0) == 1
    assert [entry[3] for entry in writer.entries()] == [expected] * 2


@pytest.mark.parametrize(("make", "error", "words"), BAD.values(), ids=BAD)
def test_all_else_is_refused(
    core: ModuleType, tmp_path: Path, make: Callable[[], Any], error: type[Exception], words: str
) -> None:
    writer = kit.Writer(core, tmp_path)
    for call in (
        lambda: core.encode_frame(1, make()),
        lambda: core.crc32(make()),
        lambda: writer.append(data=make()),
        lambda: writer.appender.append_many([(1, make())], None, None, 0),
    ):
        with pytest.raises(error, match=words):
            call()
    assert writer.entries() == []


def test_a_buffer_is_let_go(core: ModuleType, tmp_path: Path) -> None:
    data = bytearray(b"abc")
    writer = kit.Writer(core, tmp_path)
    writer.appender.append(None, data, None, None)
    core.encode_frame(1, data)
    with pytest.raises(ValueError, match="contiguous"):
        core.crc32(memoryview(data)[::-1])
    data.extend(b"more")
