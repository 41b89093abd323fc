"""``WalBuffer``: the newest records in memory."""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import Any

from walspool.errors import LsnOrderError, PayloadTooLarge
from walspool.records import check_u64, stable_bytes

__all__ = ["WalBuffer"]

#: The same bound as on disk.
MAX_PAYLOAD_BYTES = 256 << 20


class WalBuffer:
    """The newest records in memory, for readers that are nearly up to date. Safe to use from any number of threads.

    ``capacity``: how many records it holds; ``max_bytes``: how many bytes of payload. The oldest leave when either is
    passed; the newest stays whatever its size.
    """

    def __init__(self, capacity: int = 100_000, max_bytes: int = 256 << 20) -> None:
        for name, value in (("capacity", capacity), ("max_bytes", max_bytes)):
            if check_u64(name, value) == 0:
                raise ValueError(f"{name} must be at least 1")
        self.capacity = capacity
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        # Parallel lists, of which the first _start items are gone: a slot is looked up by bisection, wherever it lies.
        self._lsns: list[int] = []
        self._payloads: list[bytes] = []
        self._start = 0
        self._bytes = 0
        self._current_lsn = 0
        self._pruned_through = 0

    def __len__(self) -> int:
        return len(self._lsns) - self._start

    @property
    def current_lsn(self) -> int:
        """The highest LSN appended or set."""
        return self._current_lsn

    @property
    def oldest_lsn(self) -> int | None:
        """The LSN of the oldest record held, ``None`` when there is none."""
        with self._lock:
            return self._lsns[self._start] if self._start < len(self._lsns) else None

    @property
    def pruned_through(self) -> int:
        """Records at or below this LSN are not held, because they were pruned, left, or were before its time."""
        return self._pruned_through

    def append(self, lsn: int, data: Any) -> None:
        """Take a record. ``data`` is bytes-like; ``lsn`` must be above ``current_lsn``, else ``LsnOrderError``."""
        payload = _payload(data)
        with self._lock:
            self._add(lsn, payload)

    def append_next(self, data: Any) -> int:
        """``append`` with the LSN after ``current_lsn``, chosen under the same lock; returns it."""
        payload = _payload(data)
        with self._lock:
            self._add(self._current_lsn + 1, payload)
            return self._current_lsn

    def append_if_next(self, lsn: int, payload: bytes) -> bool:
        """Take a record if it follows ``current_lsn`` directly; False when there may be others before it."""
        with self._lock:
            if lsn == self._current_lsn + 1:
                self._add(lsn, payload)
            return lsn <= self._current_lsn

    def extend(self, records: list[tuple[int, bytes]]) -> None:
        """Take those of the records, given in order, that are above ``current_lsn``."""
        with self._lock:
            for lsn, payload in records:
                if lsn > self._current_lsn:
                    self._add(lsn, payload)

    def restart(self, lsn: int) -> None:
        """Forget everything and go on behind ``lsn``; only forward."""
        with self._lock:
            if lsn > self._current_lsn:
                self._drop(len(self))
                self._current_lsn = self._pruned_through = lsn

    def set_current_lsn(self, lsn: int) -> None:
        """Go on behind ``lsn``; only forward."""
        check_u64("lsn", lsn)
        with self._lock:
            if lsn > self._current_lsn:
                if len(self) == 0:
                    self._pruned_through = lsn  # what came before is not here
                self._current_lsn = lsn

    def read_since(self, since_lsn: int, max_count: int | None = None) -> list[tuple[int, bytes]]:
        """``(lsn, payload)`` of the records above ``since_lsn``, in order, at most ``max_count``."""
        check_u64("since_lsn", since_lsn)
        if max_count is not None:
            check_u64("max_count", max_count)
        with self._lock:
            first = bisect_right(self._lsns, since_lsn, self._start)
            end = len(self._lsns) if max_count is None else min(first + max_count, len(self._lsns))
            return list(zip(self._lsns[first:end], self._payloads[first:end], strict=True))

    def read_since_shared(self, since_lsn: int, max_count: int | None = None) -> list[tuple[int, bytes]]:
        """``read_since`` by the reference's other name: every reader gets the very same payload objects, no copies."""
        return self.read_since(since_lsn, max_count)

    def extent_after(self, lsn: int) -> tuple[int, int]:
        """How many records above ``lsn`` it holds, and the bytes of their payloads."""
        with self._lock:
            first = bisect_right(self._lsns, lsn, self._start)
            return len(self._lsns) - first, sum(map(len, self._payloads[first:]))

    def prune_through(self, lsn: int) -> None:
        """Drop every record at or below ``lsn``. ``current_lsn`` stays."""
        check_u64("lsn", lsn)
        with self._lock:
            gone = min(lsn, self._current_lsn)
            self._drop(bisect_right(self._lsns, gone, self._start) - self._start)
            self._pruned_through = max(self._pruned_through, gone)

    def _add(self, lsn: int, payload: bytes) -> None:
        if check_u64("lsn", lsn) <= self._current_lsn:
            raise LsnOrderError(lsn=lsn, last_lsn=self._current_lsn)
        self._lsns.append(lsn)
        self._payloads.append(payload)
        self._bytes += len(payload)
        self._current_lsn = lsn
        while len(self) > self.capacity or (self._bytes > self.max_bytes and len(self) > 1):
            self._pruned_through = self._lsns[self._start]
            self._drop(1)

    def _drop(self, count: int) -> None:
        end = self._start + count
        for at in range(self._start, end):
            self._bytes -= len(self._payloads[at])
            self._payloads[at] = b""
        self._start = end
        if self._start > len(self._lsns) // 2:  # each item is moved once on average
            del self._lsns[: self._start], self._payloads[: self._start]
            self._start = 0


def _payload(data: Any) -> bytes:
    payload = stable_bytes(data)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLarge(size=len(payload), limit=MAX_PAYLOAD_BYTES)
    return payload
