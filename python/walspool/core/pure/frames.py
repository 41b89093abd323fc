"""Frames that come as bytes, as replication ships them: checked, never encoded again."""

# No annotations as texts here: those of a NamedTuple would be compiled, one by one, at each start of a program.

import zlib
from typing import NamedTuple

from walspool.core.pure.frame import CRC, MAGIC, MAX_PAYLOAD, V3, crc_mismatch
from walspool.errors import FrameCorrupt

__all__ = ["RawFrame", "split_frames"]


class RawFrame(NamedTuple):
    """One verified frame of a buffer."""

    data: memoryview
    end: int
    lsn: int
    term: int
    timestamp_ms: int
    tail: int


def split_frames(buffer: memoryview, start: int) -> tuple[list[RawFrame], FrameCorrupt | None]:
    """The whole frames in ``buffer`` from ``start`` on, and what is wrong behind them. The last may be incomplete."""
    if start > len(buffer):
        raise ValueError("start must lie within the buffer")
    frames: list[RawFrame] = []
    try:
        while (frame := _first(buffer, start)) is not None:
            frames.append(frame)
            start = frame.end
    except FrameCorrupt as bad:
        return frames, bad
    return frames, None


def _first(buffer: memoryview, start: int) -> RawFrame | None:
    """The frame at ``start``; ``None`` where one may yet come of what is there."""
    head = buffer[start : start + V3.size]
    if not MAGIC.startswith(head[:4].tobytes()):
        raise FrameCorrupt(reason="wrong magic", offset=start)
    if len(head) <= 4:
        return None
    if head[4] in (1, 2):
        raise FrameCorrupt(reason=f"version {head[4]} frame, only version 3 is taken", offset=start)
    if head[4] != 3:
        raise FrameCorrupt(reason=f"unknown version {head[4]}", offset=start)
    if len(head) < V3.size:
        return None
    _, _, term, lsn, timestamp_ms, length = V3.unpack(head)
    if length > MAX_PAYLOAD:
        raise FrameCorrupt(reason=f"implausible payload length {length}", offset=start)
    end = start + V3.size + length + CRC.size
    if end > len(buffer):
        return None
    data = buffer[start:end]
    computed = zlib.crc32(data[4:-4])
    (stored,) = CRC.unpack(data[-4:])
    if computed != stored:
        raise FrameCorrupt(reason=crc_mismatch(stored, computed).reason, offset=start)
    return RawFrame(data, end, lsn, term, timestamp_ms, stored)
