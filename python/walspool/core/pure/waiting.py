"""What an appender lets others wait for: the durable LSN, and the records up to it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from walspool.core.pure.entry import Entry
from walspool.core.pure.index import ScanReport
from walspool.core.pure.reader import Reader, refuse_odd
from walspool.core.pure.waiters import Waiters
from walspool.errors import SpoolCorrupt
from walspool.records import check_u64

__all__ = ["Waited"]


class Waited(ABC):
    """What can be waited for: an appender's durable LSN, and the records up to it."""

    _waiters: Waiters

    @property
    @abstractmethod
    def durable_lsn(self) -> int:
        """The last durable LSN, or the floor if that is higher."""

    @abstractmethod
    def summary(self) -> ScanReport:
        """What is durable now in the current file."""

    @abstractmethod
    def _alive(self) -> None:
        """Refuse where it was closed."""

    @abstractmethod
    def _own(self) -> None:
        """Refuse where it is another process's."""

    def wait_lsn(self, since_lsn: int, timeout: float | None) -> bool:
        """Wait until ``durable_lsn`` is above ``since_lsn``; false when ``timeout`` seconds have passed before."""
        check_u64("since_lsn", since_lsn)

        def passed() -> bool:
            self._alive()
            return self.durable_lsn > since_lsn

        return self._waiters.wait(passed, timeout)

    def wait_entries(
        self, reader: Reader, since_lsn: int, timeout: float | None, max_count: int, max_bytes: int
    ) -> list[Entry] | None:
        """Wait as ``wait_lsn`` does, then read on with ``reader``, which has come to the end of its file.

        ``None`` after ``timeout`` seconds; nothing where the records are in another file or can't be read.
        """
        refuse_odd(max_count=max_count, max_bytes=max_bytes)
        if not self.wait_lsn(since_lsn, timeout):
            return None
        try:
            return reader.read_entries(max_count, max_bytes) if reader.extend(self.summary()) else []
        except (OSError, SpoolCorrupt):
            return []  # a reader that is made for it tells why

    def add_listener(self, fd: int) -> None:
        """Write a 1 to the eventfd ``fd`` whenever there may be something new."""
        self._own()
        self._waiters.add(fd)

    def remove_listener(self, fd: int) -> None:
        """End that; no write to ``fd`` is under way on return."""
        self._own()
        self._waiters.remove(fd)
