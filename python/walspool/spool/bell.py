"""A descriptor that one thread rings and another waits on, in ``poll`` or in an event loop."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

__all__ = ["Bell"]


class Bell:
    """An eventfd, or a pipe where there is none. ``ring_fd`` takes 8 bytes a ring, ``wait_fd`` is then readable."""

    def __init__(self) -> None:
        self.wait_fd = self.ring_fd = -1
        if hasattr(os, "eventfd"):
            self.wait_fd = self.ring_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.wait_fd, self.ring_fd = os.pipe()
            os.set_blocking(self.wait_fd, False)
            os.set_blocking(self.ring_fd, False)

    def ring(self) -> None:
        """Make ``wait_fd`` readable; a closed bell stays silent."""
        if self.ring_fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self.ring_fd, (1).to_bytes(8, "little"))

    def drain(self) -> None:
        """Take all rings so far."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wait_fd, 1 << 12):
                if self.wait_fd == self.ring_fd:
                    return

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Close the descriptors. May be called twice, and at the interpreter's end, when this module may be empty."""
        for fd in {self.wait_fd, self.ring_fd}:
            if fd >= 0:
                close(fd)
        self.wait_fd = self.ring_fd = -1

    __del__ = close
