"""Appends of asyncio tasks, which a thread takes together: what gathers while a flush runs shares the next."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

from walspool.core.pure.appender import Appender
from walspool.core.pure.order import Checked, checked

__all__ = ["Inbox", "Outbox"]


class _Bell(Protocol):
    def ring(self) -> None: ...


class _Future(Protocol):
    def done(self) -> bool: ...
    def set_result(self, result: int, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


class Outbox:
    """Where one event loop finds the results of its appends; ``bell`` tells it that there are some."""

    def __init__(self, bell: _Bell) -> None:
        self._bell = bell
        self._done: deque[tuple[_Future, int | BaseException]] = deque()

    def resolve(self) -> None:
        """Give every future its result; one that was cancelled meanwhile gets none.

        After an error, as by a signal handler, the rest stays for the next call.
        """
        try:
            while self._done:
                future, result = self._done.popleft()
                if future.done():
                    continue
                if isinstance(result, int):
                    future.set_result(result)
                else:
                    future.set_exception(result)
        except BaseException:
            self._bell.ring()
            raise


_Waiting = tuple[Checked, _Future, Outbox]

#: So many are flushed although more may come: the loop runs its other tasks meanwhile.
_ENOUGH: Final = 32
#: How long fewer wait for a loop that has ended, and so never says that they are all.
_PATIENCE_S: Final = 0.005


class Inbox:
    """Takes appends from any number of event loops; one thread at a time is in ``run``.

    No lock is taken: a signal handler or a destructor may stop it while it is in use in the same thread.
    """

    def __init__(self, appender: Appender) -> None:
        self._appender = appender
        self._waiting: deque[_Waiting] = deque()
        self._wake = threading.Semaphore(0)
        self._released = False
        self._stopped = False

    def put(
        self, outbox: Outbox, future: _Future, lsn: int | None, data: Any, term: int | None, timestamp_ms: int | None
    ) -> bool:
        """Leave an append, whose result ``future`` gets by way of ``outbox``; false after ``stop``.

        To be flushed, it waits for company or for ``release``.
        """
        waiting = checked((lsn, data, term, timestamp_ms)), future, outbox
        if self._stopped:
            return False
        self._waiting.append(waiting)
        if len(self._waiting) in (1, _ENOUGH):  # the first starts the patience of whoever waits
            self._wake.release()
        if self._stopped:
            # ``run`` may have come to its end in between; what it has taken it answers
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
                return False
        return True

    def run(self) -> bool:
        """Append what comes, until the file is full (true), or ``stop`` was called and nothing is left (false)."""
        while True:
            if not self._waiting:
                if self._stopped:
                    return False
                self._wake.acquire()
            elif self._due() or not self._wake.acquire(timeout=_PATIENCE_S):
                self._released = False
                if not self._round():
                    return True

    def _due(self) -> bool:
        return self._released or self._stopped or len(self._waiting) >= _ENOUGH

    def release(self) -> None:
        """Have all flushed that waits: a loop has run every task that could add to it."""
        if self._waiting:
            self._released = True
            self._wake.release()

    def _round(self) -> bool:
        """Append what waits; false when the file is full. A method, so that nothing of it is kept while none waits."""
        taken = self._take()
        if not taken:
            return True
        try:
            results = self._appender.append_each([item for item, _, _ in taken])
        except BaseException as error:
            _answer(taken, [error] * len(taken))
            return True
        done = len(results)
        _answer(taken[:done], results)
        self._waiting.extendleft(reversed(taken[done:]))
        return done == len(taken)

    def _take(self) -> list[_Waiting]:
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._waiting.popleft())
        return taken

    def fail(self, error: BaseException) -> None:
        """Let all that waits fail with ``error``."""
        taken = self._take()
        _answer(taken, [error] * len(taken))

    def stop(self) -> None:
        """Take no more."""
        self._stopped = True
        self._wake.release()


def _answer(taken: list[_Waiting], results: Sequence[int | BaseException]) -> None:
    outboxes = set()
    for (_, future, outbox), result in zip(taken, results, strict=True):
        outbox._done.append((future, result))
        outboxes.add(outbox)
    for outbox in outboxes:
        outbox._bell.ring()
