"""Appends of asyncio tasks: one thread hands over what has gathered, and wakes each event loop once a flush."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from walspool.errors import SpoolClosed
from walspool.spool.bell import Bell

if TYPE_CHECKING:
    import asyncio

__all__ = ["AppendItem", "Flusher"]

#: LSN (``None`` for the next), payload, term, timestamp: as ``Appender.append_each`` takes them.
AppendItem = tuple[int | None, Any, int | None, int | None]
_Result = int | BaseException


class _LoopEnd:
    """One event loop's end: results arrive in ``done``, and the bell tells the loop so.

    The bell closes when nobody holds this end; sooner, its descriptor's number might be another file's by then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done: deque[tuple[asyncio.Future[int], _Result]] = deque()
        self.bell = Bell()
        loop.add_reader(self.bell.wait_fd, self.resolve)

    def resolve(self) -> None:
        """Runs in the loop: give every waiting task its result."""
        self.bell.drain()
        while self.done:
            future, result = self.done.popleft()
            if future.done():
                continue  # cancelled while the write was under way
            if isinstance(result, int):
                future.set_result(result)
            else:
                future.set_exception(result)


class Flusher:
    """Takes appends from any number of event loops. ``append_each`` appends items and answers for each.

    It is a method of the spool and held weakly: the thread must not keep alive a spool that everybody else forgot.
    """

    def __init__(self, append_each: Callable[[list[AppendItem]], list[_Result]], path: object) -> None:
        self._append_each = weakref.WeakMethod(append_each)
        self._path = path
        self._ends: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopEnd] = weakref.WeakKeyDictionary()
        self._running_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
        self._waiting: deque[tuple[_LoopEnd, asyncio.Future[int], AppendItem]] = deque()
        self._wake = threading.Semaphore(0)
        self._asleep = False
        self._stop = False
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()

    def submit(self, item: AppendItem) -> asyncio.Future[int]:
        """Queue one append of the running loop; the future gets its LSN or its error."""
        if self._running_loop is None:
            import asyncio  # only here: a program that does not use it should not pay for it at each start

            self._running_loop = asyncio.get_running_loop
        loop = self._running_loop()
        end = self._ends.get(loop)
        if end is None:
            end = self._ends[loop] = _LoopEnd(loop)
        if self._stop:
            raise SpoolClosed(path=self._path)
        future = loop.create_future()
        self._waiting.append((end, future, item))
        if self._thread is None:
            self._start()
        if self._asleep:
            self._asleep = False
            self._wake.release()
        if self._stop:
            self._flush()  # ``close`` came in between, and has nobody left to take this
        return future

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="walspool-flusher", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._asleep = True
            if not self._waiting:
                if self._stop:
                    return
                self._wake.acquire()
            self._asleep = False
            self._flush()

    def _flush(self) -> None:
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                taken.append(self._waiting.popleft())
        if not taken:
            return
        results: list[_Result]
        try:
            results = self._answers([item for _, _, item in taken])
        except BaseException as error:  # every waiting task must hear of it, whatever it is
            results = [error] * len(taken)
        ends = set()
        for (end, future, _), result in zip(taken, results, strict=True):
            end.done.append((future, result))
            ends.add(end)
        for end in ends:
            end.bell.ring()

    def _answers(self, items: list[AppendItem]) -> list[_Result]:
        append_each = self._append_each()
        if append_each is None:
            raise SpoolClosed(path=self._path)
        return append_each(items)

    def close(self) -> None:
        """Finish what was handed over, then end the thread."""
        self._stop = True
        self._wake.release()
        if self._thread is not None:
            self._thread.join()
        self._flush()

    def forget(self) -> None:
        """End the thread of a spool that was never closed, without waiting for it."""
        self._stop = True
        self._wake.release()

    def abandon(self) -> None:
        """In a forked child the thread does not exist: refuse, touch nothing."""
        self._stop = True
