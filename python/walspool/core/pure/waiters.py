"""Who waits for the durable LSN: threads, and eventfds."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["Waiters"]

#: What a listener's eventfd is told.
_ONE: Final = (1).to_bytes(8, sys.byteorder)

#: How long a wait lasts in one piece: a signal that comes just before it blocks does not end it.
_SIGNALS_S: Final = 0.1


class Waiters:
    """Threads and eventfds that are woken after each publish."""

    def __init__(self) -> None:
        # One lock for each who waits. A list's own operations are atomic, so that a publish takes no lock for it.
        self._gates: list[Any] = []
        self._listeners: list[int] = []
        # Reentrant: a destructor that the garbage collector runs in here may remove its own.
        self._listener_lock = threading.RLock()

    def wait(self, passed: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until ``passed()``; false when ``timeout`` seconds have gone before."""
        if timeout is not None and timeout != timeout:
            raise ValueError("timeout must not be NaN")
        deadline = None if timeout is None else time.monotonic() + timeout
        gate = threading.Lock()
        gate.acquire()
        self._gates.append(gate)
        try:
            while not passed():
                left = _SIGNALS_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                gate.acquire(timeout=min(left, _SIGNALS_S))
        finally:
            self._gates.remove(gate)
        return True

    def add(self, fd: int) -> None:
        """Write a 1 to the eventfd ``fd`` at each wake."""
        with self._listener_lock:
            self._listeners.append(fd)

    def remove(self, fd: int) -> None:
        """End that; no write to ``fd`` is under way on return."""
        with self._listener_lock:
            while fd in self._listeners:
                with contextlib.suppress(ValueError):
                    self._listeners.remove(fd)

    def wake(self) -> None:
        """There may be something new. Waking twice does no harm."""
        for gate in tuple(self._gates):
            # Who has been woken already needs no second time.
            with contextlib.suppress(RuntimeError):
                gate.release()
        with self._listener_lock:
            for fd in tuple(self._listeners):
                with contextlib.suppress(OSError):
                    # Looked up for each one: it may have been removed, and the number given to another file.
                    if fd in self._listeners:
                        os.write(fd, _ONE)
