"""The log under a primary: files with a buffer in front of them, or the buffer alone."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

from walspool.errors import SpoolClosed, SpoolError, StaleTermError
from walspool.records import check_u64, stable_bytes
from walspool.replication.buffer import WalBuffer
from walspool.replication.resume import LogBounds
from walspool.spool.interrupt import SIGNALS_S
from walspool.spool.log import LogicalWalSpool

__all__ = ["Backing", "MemoryBacking", "SpoolBacking"]

log = logging.getLogger("walspool")


class Backing(ABC):
    """What a primary needs of a log. Safe to use from any number of threads."""

    def __init__(self, buffer: WalBuffer) -> None:
        self.buffer = buffer

    @property
    @abstractmethod
    def current_lsn(self) -> int:
        """The highest LSN."""

    @property
    @abstractmethod
    def term(self) -> int:
        """The term that new records have."""

    @abstractmethod
    def begin_term(self, term: int) -> None:
        """Go on in ``term``, unless the log is in a higher one already."""

    @property
    @abstractmethod
    def fenced_term(self) -> int:
        """The highest term in which another primary was met, 0 for none."""

    @abstractmethod
    def fence(self, term: int) -> None:
        """Refuse records in ``term`` and below, durably."""

    @abstractmethod
    def append(self, lsn: int, data: Any) -> None:
        """Append a record; as durable as it gets on return."""

    @abstractmethod
    def append_next(self, data: Any) -> int:
        """``append`` with the next LSN, which it returns."""

    @abstractmethod
    async def aappend_next(self, data: Any) -> int:
        """``append_next`` for asyncio."""

    @abstractmethod
    def wait_after(self, since_lsn: int, timeout: float | None) -> bool:
        """Wait until the log is past ``since_lsn``; False after ``timeout`` seconds."""

    @property
    @abstractmethod
    def gone_through(self) -> int:
        """The highest LSN at or below which records are pruned or lost; told without a look at the disk."""

    @abstractmethod
    def bounds(self) -> LogBounds:
        """What the log still has."""

    @abstractmethod
    def extent_after(self, lsn: int) -> tuple[int, int]:
        """How many records above ``lsn`` there are, and their bytes."""

    @abstractmethod
    def stamp_after(self, lsn: int) -> int | None:
        """The timestamp of the first record above ``lsn``; ``None`` without one."""

    @abstractmethod
    def prunable(self, lsn: int) -> int:
        """How far a prune through ``lsn`` goes: nothing that is appended from now on is at or below it."""

    @abstractmethod
    def prune(self, lsn: int) -> None:
        """Drop every record at or below ``lsn``."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; wakes who waits."""


class SpoolBacking(Backing):
    """Files first; the buffer never holds what the disk does not."""

    def __init__(self, buffer: WalBuffer, spool: LogicalWalSpool) -> None:
        super().__init__(buffer)
        self.spool = spool
        buffer.set_current_lsn(spool.current_lsn)

    @property
    def current_lsn(self) -> int:
        return self.spool.current_lsn

    @property
    def term(self) -> int:
        return self.spool.current_term

    def begin_term(self, term: int) -> None:
        if term > max(self.spool.current_term, self.spool.fenced_term):
            self.spool.begin_term(term)

    @property
    def fenced_term(self) -> int:
        return self.spool.fenced_term

    def fence(self, term: int) -> None:
        self.spool.fence(term)

    def append(self, lsn: int, data: Any) -> None:
        payload = stable_bytes(data)
        self.spool.append(lsn, payload)
        self._feed(lsn, payload)

    def append_next(self, data: Any) -> int:
        payload = stable_bytes(data)
        lsn = self.spool.append_next(payload)
        self._feed(lsn, payload)
        return lsn

    async def aappend_next(self, data: Any) -> int:
        payload = stable_bytes(data)
        lsn = await self.spool.aappend_next(payload)
        self._feed(lsn, payload)
        return lsn

    def wait_after(self, since_lsn: int, timeout: float | None) -> bool:
        if not self.spool.wait_for_lsn_after(since_lsn, timeout):
            return False
        if self.buffer.current_lsn <= since_lsn:  # who appended it has not fed the buffer yet
            self._catch_up(self.spool.current_lsn)
        return True

    def _feed(self, lsn: int, payload: bytes) -> None:
        if not self.buffer.append_if_next(lsn, payload):
            self._catch_up(lsn)

    def _catch_up(self, lsn: int) -> None:
        """Records between may be another thread's that was not back here yet, or none: the files know."""
        held = self.buffer.current_lsn
        records = []
        try:
            for each in self.spool.tuples(held):
                if each[0] > lsn:
                    break
                records.append(each)
        except (SpoolError, OSError) as error:
            # the record is durable, so the append stands; a buffer with a gap would hide records from its readers
            log.error("the buffer starts anew behind LSN %d: %s", lsn, error)
            self.buffer.restart(lsn)
            return
        self.buffer.extend(records)

    @property
    def gone_through(self) -> int:
        return max((self.spool.pruned_through, *(high for _, high in self.spool.holes)))

    def bounds(self) -> LogBounds:
        # the end first: what is appended meanwhile must not look like a log that lost its records
        spool, current_lsn = self.spool, self.spool.current_lsn
        return LogBounds(spool.oldest_lsn, current_lsn, spool.pruned_through, spool.holes)

    def extent_after(self, lsn: int) -> tuple[int, int]:
        return self.spool.extent_after(lsn)

    def stamp_after(self, lsn: int) -> int | None:
        found = self.spool.read_entries(lsn, 1)
        return found[0].timestamp_ms if found else None

    def prunable(self, lsn: int) -> int:
        return lsn  # the spool's LSNs go on above it

    def prune(self, lsn: int) -> None:
        self.spool.prune_through(lsn)
        self.buffer.prune_through(lsn)
        self.buffer.restart(lsn)  # what was not fed yet must not come any more

    def close(self) -> None:
        self.spool.close()


class MemoryBacking(Backing):
    """No data path: nothing is durable, everything else is as with files."""

    def __init__(self, buffer: WalBuffer) -> None:
        super().__init__(buffer)
        self._term = 1
        self._fence = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, threading.Event]] = []
        self._closed = False

    @property
    def current_lsn(self) -> int:
        return self.buffer.current_lsn

    @property
    def term(self) -> int:
        return self._term

    def begin_term(self, term: int) -> None:
        self._term = max(self._term, term)

    @property
    def fenced_term(self) -> int:
        return self._fence

    def fence(self, term: int) -> None:
        self._fence = max(self._fence, term)

    def append(self, lsn: int, data: Any) -> None:
        self._writable()
        self.buffer.append(lsn, data)
        self._wake()

    def append_next(self, data: Any) -> int:
        self._writable()
        lsn = self.buffer.append_next(data)
        self._wake()
        return lsn

    async def aappend_next(self, data: Any) -> int:
        return self.append_next(data)

    def wait_after(self, since_lsn: int, timeout: float | None) -> bool:
        check_u64("since_lsn", since_lsn)
        deadline = None if timeout is None else time.monotonic() + timeout
        passed = threading.Event()
        entry = (since_lsn, passed)
        with self._lock:
            self._waiting.append(entry)
        try:
            while self.current_lsn <= since_lsn:
                self._open()
                left = SIGNALS_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                passed.wait(min(left, SIGNALS_S))
            return True
        finally:
            with self._lock:
                if entry in self._waiting:
                    self._waiting.remove(entry)

    def _wake(self) -> None:
        if not self._waiting:
            return
        with self._lock:
            ready = [each for each in self._waiting if self._closed or each[0] < self.current_lsn]
            self._waiting = [each for each in self._waiting if each not in ready]
        for _, passed in ready:
            passed.set()

    @property
    def gone_through(self) -> int:
        return self.buffer.pruned_through

    def bounds(self) -> LogBounds:
        buffer, current_lsn = self.buffer, self.buffer.current_lsn  # the end first, as above
        return LogBounds(buffer.oldest_lsn, current_lsn, buffer.pruned_through)

    def extent_after(self, lsn: int) -> tuple[int, int]:
        return self.buffer.extent_after(lsn)

    def stamp_after(self, lsn: int) -> int | None:
        return None  # the buffer keeps none

    def prunable(self, lsn: int) -> int:
        return min(lsn, self.buffer.current_lsn)

    def prune(self, lsn: int) -> None:
        self.buffer.prune_through(lsn)

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _writable(self) -> None:
        self._open()
        if self._term <= self._fence:
            raise StaleTermError(term=self._term, current_term=self._fence)

    def _open(self) -> None:
        if self._closed:
            raise SpoolClosed("the primary is closed; open it again", path=None)
