"""What has come of a stream and is not in the log yet: one buffer, filled and emptied again and again."""

from __future__ import annotations

import mmap
from typing import Final

from walspool.net.frames import frame_bytes, is_whole

__all__ = ["BUFFER_BYTES", "Intake"]

#: So many bytes are written and synced at a time, where so many have come.
BUFFER_BYTES: Final = 4 << 20


class Intake:
    """Bytes are put into ``room``, ``came`` says how many, ``held`` has them, ``gone`` says how many are done."""

    def __init__(self) -> None:
        self._buffer = _buffer(BUFFER_BYTES)
        self._count = 0

    @property
    def room(self) -> memoryview:
        """Where the next bytes go; empty only while ``has_frame``."""
        return self._buffer[self._count :]

    @property
    def held(self) -> memoryview:
        """What has come and is not done. Good until ``gone``."""
        return self._buffer[: self._count]

    @property
    def has_frame(self) -> bool:
        """Whether it begins with a whole frame, or with one that never will be."""
        return is_whole(self.held)

    def came(self, count: int) -> None:
        """So many bytes were put into ``room``. A frame that is larger than the buffer gets one of its own."""
        self._count += count
        if self._count == len(self._buffer) and not self.has_frame:
            self._move(frame_bytes(self.held, 0), self.held)

    def gone(self, count: int) -> None:
        """The first so many bytes of ``held`` are done."""
        rest = self._buffer[count : self._count]
        if len(self._buffer) > BUFFER_BYTES > len(rest):
            self._move(BUFFER_BYTES, rest)
        else:
            self._buffer[: len(rest)] = rest
        self._count = len(rest)

    def clear(self) -> None:
        """Forget what has come."""
        self.gone(self._count)

    def _move(self, size: int, rest: memoryview) -> None:
        moved = _buffer(size)
        moved[: len(rest)] = rest
        self._buffer = moved


def _buffer(size: int) -> memoryview:
    """Zeros that cost no memory before something is put in their place."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
