"""Bytes for a ``Sink`` that came by no socket."""

from __future__ import annotations

from walspool.net.sink import Sink

__all__ = ["feed"]


def feed(sink: Sink, data: bytes, now_s: float) -> bool:
    """Let ``sink`` take all of it, or as much as it does."""
    left = memoryview(data)
    while True:
        room = sink.room[: len(left)]
        room[:] = left[: len(room)]
        if not sink.take(len(room), now_s):
            return False
        left = left[len(room) :]
        if not left:
            return True
