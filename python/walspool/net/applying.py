"""Handing each record of a replica's log to its application: in order, at least once, over a durable position.

| state | event | next |
|---|---|---|
| at N | a record behind N is durable here | ``apply`` is called with it |
| at N | ``apply`` returned for the record M | at M, which is written down before the next |
| at N | ``apply`` raised | counted, then tried again with the same record, later each time up to 5 s |
| at N | a snapshot that stands for S is loaded | at S; no ``apply`` runs meanwhile |

The position is written behind each ``apply`` and synced now and then: a killed process finds it exact, after a power
loss it may lag. It never leads.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from walspool.core import Entry
from walspool.errors import SpoolClosed, SpoolCorrupt
from walspool.net.backoff import pause_s
from walspool.spool import files as fs
from walspool.spool.interrupt import SIGNALS_S
from walspool.spool.log import LogicalWalSpool

__all__ = ["AppliedFile", "Apply", "Applying"]

log = logging.getLogger("walspool")

Apply = Callable[[Entry], object]

#: Of the two places that are written in turn, so that one of them is whole at any instant.
_SLOT_BYTES: Final = 4096
_LINE_BYTES: Final = 64
_NEVER: Final[tuple[int, int | None]] = (0, None)
_SYNC_S: Final = 1.0
#: How often what was applied is told while more is at hand.
_TELL_S: Final = 0.05
_MAX_COUNT: Final = 1_000
_MAX_BYTES: Final = 1 << 20


class AppliedFile:
    """The LSN through which ``apply`` has returned. ``lsn`` is ``None`` where nothing was ever written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        fs.refuse_odd_file(path)
        is_new = not path.exists()
        self._fd = fs.create(path, exclusive=False)
        try:
            if is_new:
                fs.sync_directory(path.parent)
            held = [self._parse(fs.pread_exactly(self._fd, _LINE_BYTES, at, path)) for at in (0, _SLOT_BYTES)]
        except BaseException:
            self.close()
            raise
        # the one that was written last; a bootstrap may have set it back, so the LSN does not tell which
        self._count, self.lsn = max((each for each in held if each is not None), default=_NEVER)
        self._synced_s = time.monotonic()

    @classmethod
    def read(cls, path: Path) -> int | None:
        """The LSN in a file; ``None`` where there is no file. ``OSError``."""
        if not path.exists():
            return None
        found = cls(path)
        found.close()
        return found.lsn

    @staticmethod
    def _parse(text: bytes) -> tuple[int, int] | None:
        words = text.split()
        if len(words) != 3 or not (words[0].isdigit() and words[1].isdigit()) or words[2] != _check(words[0], words[1]):
            return None
        return int(words[0]), int(words[1])

    def write(self, lsn: int, *, durable: bool = False) -> None:
        """Write it down; a crash of the process loses nothing of it, one of the machine may lose the last second."""
        at = self._count + 1
        count, text = b"%d" % at, b"%d" % lsn
        line = b" ".join((count, text, _check(count, text))) + b"\n"
        fs.pwrite_all(self._fd, line.ljust(_LINE_BYTES), at % 2 * _SLOT_BYTES, self._path)
        # behind the write: one that failed is repeated in its own place, and never over the other, which is whole
        self._count, self.lsn = at, lsn
        if durable or time.monotonic() - self._synced_s >= _SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Put it on stable storage."""
        fs.sync_file(self._fd, self._path)
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _check(*words: bytes) -> bytes:
    return b"%08x" % zlib.crc32(b" ".join(words))


class Applying:
    """One thread that applies. ``spool``: gives the log, ``None`` while there is none; ``tell``: what is applied now;
    ``lost``: the log can't be read, which is nothing that ``apply`` could have a part in.

    ``OSError``: the position can't be read.
    """

    def __init__(
        self,
        path: Path,
        apply: Apply,
        spool: Callable[[], LogicalWalSpool | None],
        tell: Callable[[int], None],
        lost: Callable[[SpoolCorrupt], None],
        random: Callable[[], float],
    ) -> None:
        self._apply = apply
        self._spool = spool
        self._tell = tell
        self._lost = lost
        self._random = random
        self._file = AppliedFile(path)
        self._ending = threading.Event()
        # held while apply runs, and while a snapshot is loaded
        self._gate = threading.Lock()
        self._loads = 0
        self._thread: int | None = None
        self._closes_itself = False
        #: How often ``apply`` raised.
        self.errors = 0
        #: What it raised last, ``None`` once it has returned since.
        self.error: str | None = None

    @property
    def lsn(self) -> int:
        """``apply`` has returned for everything through here."""
        return self._file.lsn or 0

    def run(self) -> None:
        """Apply until ``end``."""
        self._thread = threading.get_ident()
        failures = 0
        while not self._ending.is_set():
            try:
                if self._round():
                    failures = 0
            except BaseException as error:  # SystemExit, too: a thread that ends by it ends without a word
                self.errors += 1
                self.error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                log.warning("apply failed behind LSN %d, and is tried again: %s", self.lsn, ascii(self.error))
                self._tell_now()
                self._ending.wait(pause_s(failures, self._random()))
                failures += 1
        self._thread = None
        if self._closes_itself:
            self.close()

    def _round(self) -> bool:
        """Apply what there is; whether there was something."""
        loads = self._loads  # before the log is asked for: one that a snapshot replaces meanwhile must not count
        try:
            entries = self._some(loads)
        except SpoolClosed:  # a bootstrap is about to open another
            entries = []
            self._ending.wait(SIGNALS_S)
        except SpoolCorrupt as error:
            entries = []
            self._lost(error)
        if entries:
            self._all(entries, loads)
        return bool(entries)

    def _some(self, loads: int) -> list[Entry]:
        """The next records, after a short wait for some."""
        spool = self._spool()
        if spool is None:
            self._ending.wait(SIGNALS_S)
            return []
        at = self._file.lsn
        if at is None:  # nothing was ever applied: what lies below the log is in what it was started with
            at = spool.pruned_through
            if at:
                self._begin_behind(at, loads)
        entries = spool.some_after(at, _MAX_COUNT, _MAX_BYTES)
        if not entries:
            spool.wait_for_lsn_after(max(at, spool.durable_lsn), SIGNALS_S)
        return entries

    def _begin_behind(self, lsn: int, loads: int) -> None:
        with self._gate:
            if not self._ending.is_set() and self._loads == loads:
                self._file.write(lsn)
        self._tell_now()

    def _all(self, entries: list[Entry], loads: int) -> None:
        told_s = time.monotonic()
        for entry in entries:
            with self._gate:
                if self._ending.is_set() or self._loads != loads:  # these records are of the log before a snapshot
                    return
                self._apply(entry)
                self._file.write(entry.lsn)
            self.error = None
            if time.monotonic() - told_s >= _TELL_S:
                self._tell_now()
                told_s = time.monotonic()
        self._tell_now()

    def _tell_now(self) -> None:
        with self._gate:  # else a snapshot may set it back in between, and what is told would lead
            self._tell(self.lsn)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While this lasts nothing is applied. ``SpoolClosed`` where ``end`` comes before ``apply`` has returned."""
        while not self._gate.acquire(timeout=SIGNALS_S):
            if self._ending.is_set():  # apply itself may be what ends, and waits for whoever waits here
                raise SpoolClosed("the follower is stopped", path=None)
        try:
            yield
        finally:
            self._gate.release()

    def begin_at(self, lsn: int) -> None:
        """Go on behind a snapshot, durably. Within ``paused``."""
        self._loads += 1
        self._file.write(lsn, durable=True)

    def end(self) -> None:
        """Begin with no further record; the one under way is finished."""
        self._ending.set()

    def close(self) -> None:
        """Write down how far it came. Behind the end of ``run``, or from ``apply``: then once that has returned."""
        if self._thread == threading.get_ident():
            self._closes_itself = True
            return
        try:
            self._file.sync()
        finally:
            self._file.close()
