"""Waiting for more, in threads and in asyncio, over anything that can be read and waited on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeAlias

from walspool.core import Entry

if TYPE_CHECKING:
    from walspool.core import Appender, Reader

__all__ = [
    "Followable",
    "LoopWaiter",
    "ReadOn",
    "Wakeup",
    "afollow",
    "await_lsn_after",
    "follow",
    "looking_again",
    "reading_on",
    "remaining",
]

#: After so many records an asyncio follower lets the loop have a look.
_LOOP_EVERY = 512


#: Waits for records above an LSN, for some seconds: the first of them, ``None`` when the time is over, and nothing
#: where only a look at all of the log can tell.
ReadOn: TypeAlias = Callable[[int, float | None], list[Entry] | None]

#: How much one who has waited reads at once.
_AT_ONCE = 128
_AT_ONCE_BYTES = 256 << 10


class Wakeup(Protocol):
    """A descriptor that becomes readable when there may be more."""

    @property
    def wait_fd(self) -> int | None:
        """The descriptor, ``None`` where the system offers none and looking now and then must do."""

    def drain(self) -> None:
        """Take what was signalled so far."""

    def close(self) -> None:
        """Let go of the descriptor."""


class Followable(Protocol):
    """What ``follow`` needs of a log."""

    @property
    def durable_lsn(self) -> int:
        """The highest LSN that can be read."""

    def entries_after(self, lsn: int) -> Iterable[Entry]:
        """All records above ``lsn`` that are durable now; an error where some of them were pruned."""

    def some_after(self, lsn: int, max_count: int, max_bytes: int) -> list[Entry]:
        """The first of them."""

    def reading_on(self, lsn: int) -> ReadOn:
        """For one who has read everything up to ``lsn``."""

    def wakeup(self) -> Wakeup:
        """Something to wait on in an event loop."""


def follow(log: Followable, since_lsn: int, timeout: float | None) -> Iterator[Entry]:
    """Records above ``since_lsn``, then each new one; ends after ``timeout`` seconds without one."""
    last = since_lsn
    while True:
        for entry in log.entries_after(last):
            last = max(last, entry.lsn)
            yield entry
        last = _past_floor(log, last)
        read_on = log.reading_on(last)
        while entries := read_on(last, timeout):
            for entry in entries:
                last = entry.lsn
                yield entry
        if entries is None:
            return


def reading_on(appender: Appender, reader: Reader, pruned_through: Callable[[], int]) -> ReadOn:
    """With one reader that stays at the end of the appender's file: nothing is made anew for each record."""

    def read_on(last: int, timeout: float | None) -> list[Entry] | None:
        entries = appender.wait_entries(reader, last, timeout, _AT_ONCE, _AT_ONCE_BYTES)
        return [] if entries and pruned_through() > last else entries

    return read_on


def looking_again(wait: Callable[[int, float | None], bool]) -> ReadOn:
    """Without a reader: whoever has waited looks for himself."""
    return lambda last, timeout: [] if wait(last, timeout) else None


def _past_floor(log: Followable, last: int) -> int:
    """Step over LSNs that no record has: ``durable_lsn`` may be a floor, and waiting for less would never sleep."""
    durable = log.durable_lsn
    return durable if durable > last and not log.some_after(last, 1, 1) else last


class LoopWaiter:
    """Turns a wakeup's descriptor into something to await, in one event loop. Close it."""

    def __init__(self, wakeup: Wakeup, poll_s: float = 0.1) -> None:
        import asyncio  # only here: a program that does not use it should not pay for it at each start

        self._wakeup = wakeup
        self._poll_s = poll_s
        self._sleep = asyncio.sleep
        self._rung = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> LoopWaiter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptor. May be called twice."""
        self._wakeup.close()

    def ring(self) -> None:
        """Wake who waits. For the loop's own thread."""
        self._rung.set()

    def clear(self) -> None:
        """From here on, only what happens next wakes."""
        self._wakeup.drain()
        self._rung.clear()

    async def yield_once(self) -> None:
        """Let the loop have a look at others."""
        await self._sleep(0)

    async def wait(self, timeout: float | None = None) -> None:
        """Until something may have happened since ``clear``, or for ``timeout`` seconds."""
        fd = self._wakeup.wait_fd
        if fd is None:
            timeout = self._poll_s if timeout is None else min(timeout, self._poll_s)
        else:  # only now: who is busy with what came before need not hear of each sync
            self._loop.add_reader(fd, self._rung.set)
        timer = None if timeout is None else self._loop.call_later(timeout, self._rung.set)
        try:
            await self._rung.wait()
        finally:
            if timer is not None:
                timer.cancel()
            if fd is not None:
                self._loop.remove_reader(fd)


async def afollow(log: Followable, since_lsn: int) -> AsyncIterator[Entry]:
    """Records above ``since_lsn``, then each new one, without a thread."""
    last = since_lsn
    with LoopWaiter(log.wakeup()) as waiter:
        while True:
            waiter.clear()
            start = last
            for number, entry in enumerate(log.entries_after(start), 1):
                last = max(last, entry.lsn)
                yield entry
                if number % _LOOP_EVERY == 0:
                    await waiter.yield_once()
            if last == start:
                await waiter.wait()


async def await_lsn_after(log: Followable, since_lsn: int) -> bool:
    """True as soon as the log is past ``since_lsn``; decodes nothing."""
    with LoopWaiter(log.wakeup()) as waiter:
        while True:
            waiter.clear()
            if log.durable_lsn > since_lsn:
                return True
            await waiter.wait()


def remaining(deadline: float | None) -> float | None:
    """Seconds until a monotonic deadline, never negative; ``None`` for no deadline."""
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
