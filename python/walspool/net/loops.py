"""The threads of one follower, which know nothing of it: dropping one that was not stopped ends them all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

__all__ = ["Loops"]


class Loops:
    """A thread for each of ``loops``, by name."""

    def __init__(self, loops: Mapping[str, Callable[[], None]]) -> None:
        self.threads = [
            threading.Thread(target=self._run, args=(loop,), name=name, daemon=True) for name, loop in loops.items()
        ]
        # a destructor may come in the middle of anything, of this thread, too
        self._lock = threading.RLock()
        self._running = len(self.threads)
        self._leave: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin them all."""
        for thread in self.threads:
            thread.start()

    def abandon(self, leave: Callable[[], None]) -> None:
        """Nobody will join them: whichever ends last calls ``leave``."""
        with self._lock:
            self._leave = leave
            over = not self._running
        if over:
            leave()

    def _run(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        finally:
            with self._lock:
                self._running -= 1
                leave = None if self._running else self._leave
            if leave is not None:
                leave()
