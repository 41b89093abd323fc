"""Appends of asyncio tasks: one thread makes durable what has gathered, and wakes each event loop once a flush."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from walspool import core
from walspool.errors import SpoolClosed
from walspool.spool.bell import Bell
from walspool.spool.segments import WriterSegments

if TYPE_CHECKING:
    import asyncio

__all__ = ["Flusher"]

#: How long the destructor of a spool waits for its last flush.
_FORGET_S: Final = 1.0


class _LoopEnd:
    """One event loop's end: results arrive in the outbox, and the bell tells the loop so.

    The bell closes when nobody holds it; sooner, its descriptor's number might be another file's by then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = weakref.ref(loop)
        self.bell = Bell()
        self.outbox = core.Outbox(self.bell)
        self._releasing = False
        loop.add_reader(self.bell.wait_fd, self.resolve)

    def release_soon(self, loop: asyncio.AbstractEventLoop, inbox: core.Inbox) -> None:
        """Have ``inbox`` flushed once the tasks that can run now have run."""
        if not self._releasing:
            self._releasing = True
            loop.call_soon(self._release, inbox)

    def _release(self, inbox: core.Inbox) -> None:
        self._releasing = False
        inbox.release()

    def resolve(self) -> None:
        """Runs in the loop: give every waiting task its result."""
        self.bell.drain()
        self.outbox.resolve()


class Flusher:
    """Takes appends from any number of event loops. Its thread knows the segments, and not the spool."""

    def __init__(self, path: object) -> None:
        self._path = path
        self._ends: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopEnd] = weakref.WeakKeyDictionary()
        #: The end of the loop that came last: looking it up above takes as long as all the rest.
        self._latest: Callable[[], _LoopEnd | None] = _no_end
        self._running_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
        #: ``None`` until ``start``: while there is one, it knows by itself whether the spool was closed.
        self.inbox: core.Inbox | None = None
        self._thread: threading.Thread | None = None
        self._start_lock = threading.RLock()
        self._stopped = False
        #: What the thread does at its end.
        self._last: list[Callable[[], None]] = []

    def submit(self, lsn: int | None, data: Any, term: int | None, timestamp_ms: int | None) -> asyncio.Future[int]:
        """Queue one append of the running loop; the future gets its LSN or its error."""
        inbox, running_loop = self.inbox, self._running_loop
        if inbox is None or running_loop is None:
            raise SpoolClosed(path=self._path)
        loop = running_loop()
        end = self._latest()
        if end is None or end.loop() is not loop:
            end = self._end(loop)
        future = loop.create_future()
        if not inbox.put(end.outbox, future, lsn, data, term, timestamp_ms):
            raise SpoolClosed(path=self._path)
        end.release_soon(loop, inbox)
        return future

    def _end(self, loop: asyncio.AbstractEventLoop) -> _LoopEnd:
        end = self._ends.get(loop)
        if end is None:
            for each in [each for each in self._ends if each.is_closed()]:
                self._ends.pop(each, None)  # results that nobody came for would keep their loop alive
            end = self._ends[loop] = _LoopEnd(loop)
        self._latest = weakref.ref(end)
        return end

    def start(self, segments: WriterSegments) -> None:
        """Start the thread, if nobody has."""
        with self._start_lock:
            if self.inbox is None:
                import asyncio  # only here: a program that does not use it should not pay for it at each start

                self._running_loop = asyncio.get_running_loop
                inbox = core.Inbox(segments.appender)
                self._thread = threading.Thread(
                    target=_run, args=(inbox, segments, self._last), name="walspool-flusher", daemon=True
                )
                try:
                    self._thread.start()
                except BaseException:  # Ctrl-C may come when it runs already
                    inbox.stop()
                    raise
                self.inbox = inbox
                if self._stopped:
                    inbox.stop()  # ``close`` came in between

    def close(self) -> None:
        """Finish what was handed over, then end the thread."""
        self._stopped = True
        if self.inbox is not None and self._thread is not None:
            self.inbox.stop()
            self._thread.join()

    def forget(self, then: Callable[[], None]) -> None:
        """End the thread of a spool that was never closed; it does ``then`` behind its last flush.

        Waits for it no longer than a moment: a destructor may run in that very thread, or where it keeps that waiting.
        """
        self._stopped = True
        if self.inbox is None or self._thread is None or not self._thread.is_alive():
            then()
            return
        self._last.append(then)
        self.inbox.stop()
        if self._thread.ident != threading.get_ident() and not sys.is_finalizing():
            self._thread.join(_FORGET_S)

    def abandon(self) -> None:
        """In a forked child the thread does not exist, and the inbox's lock may be held for ever: let go of both."""
        self.inbox = None


def _no_end() -> None:
    return None


def _run(inbox: core.Inbox, segments: WriterSegments, last: list[Callable[[], None]]) -> None:
    going_on = True
    while going_on:
        try:
            going_on = inbox.run()
            if going_on:
                segments.rotate()
        except BaseException as error:  # every waiting task must hear of it, whatever it is
            inbox.fail(error)
    for each in last:
        each()
