"""Where frames end, for both ends of a stream; what is in them the cores know."""

from __future__ import annotations

import struct
from typing import Final

from walspool import core
from walspool.records import Position
from walspool.spool.segments import position_of

__all__ = ["FEW_FRAMES", "frame_bytes", "is_whole", "last_of"]

#: Looking for the last of more frames than this takes longer than reading it from the log.
FEW_FRAMES: Final = 64
#: A frame up to its payload, whose length comes last, and the checksum behind it.
_FRAME_HEAD: Final = struct.Struct("<29xI")
_FRAME_END_BYTES: Final = 4
_MAX_PAYLOAD_BYTES: Final = 256 << 20


def frame_bytes(data: bytes | memoryview, at: int) -> int:
    """How long the frame is that begins there."""
    (payload_bytes,) = _FRAME_HEAD.unpack_from(data, at)
    return _FRAME_HEAD.size + int(payload_bytes) + _FRAME_END_BYTES


def is_whole(data: bytes | memoryview) -> bool:
    """Whether it begins with a whole frame, or with one that never will be."""
    if len(data) < _FRAME_HEAD.size:
        return False
    needed = frame_bytes(data, 0)
    return len(data) >= needed or needed > _FRAME_HEAD.size + _MAX_PAYLOAD_BYTES + _FRAME_END_BYTES


def last_of(data: bytes | memoryview, count: int) -> Position:
    """The position of the last of so many frames, one at least."""
    at = 0
    for _ in range(count - 1):
        at += frame_bytes(data, at)
    return position_of(core.decode_frame(data, at)[0])
