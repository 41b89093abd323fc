"""Lines of a file or a pipe, as they arrive, into a log."""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import walspool
from walspool.cli import output
from walspool.cli.app import LSN_MAX

__all__ = ["Feed", "lines_of", "open_input"]

CHUNK = 1 << 20
BATCH_BYTES = 4 << 20
LOOK_AROUND_S = 0.5
LINE_LIMIT = 256 << 20
NUMBERED = re.compile(rb"([0-9]{1,20})\t")


def open_input(file: Path | None) -> tuple[int, int | None]:
    """A descriptor to read lines from, and how many bytes it has where that is known."""
    if file is None or str(file) == "-":
        if sys.stdin is None:
            raise OSError(errno.EBADF, "standard input is closed")
        source = os.dup(0)
    else:
        source = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(source)
    if stat.S_ISDIR(status.st_mode):
        os.close(source)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    return source, status.st_size if stat.S_ISREG(status.st_mode) else None


def lines_of(source: int) -> Iterator[list[bytes]]:
    """Batches of whole lines without their newlines: what has arrived so far, up to a few MiB.

    A last line without a newline counts. So does the beginning of one beyond the size limit of a record, which
    the log then refuses: a line without an end must not fill the memory.
    """
    pending = bytearray()
    while True:
        searched = len(pending)
        more = _read_available(source, pending)
        end = pending.rfind(b"\n", searched)
        if end >= 0:
            whole = bytes(pending[:end])
            del pending[: end + 1]
            yield whole.split(b"\n")
        if pending and (not more or len(pending) > LINE_LIMIT):
            yield [bytes(pending)]
            pending.clear()
        if not more:
            return


def _read_available(source: int, pending: bytearray) -> bool:
    """Wait for some bytes, then take what else is there without waiting; whether more may come."""
    taken = 0
    while not _ready(source, LOOK_AROUND_S):
        pass  # a Ctrl-C that came just before the wait is raised between two of them
    while True:
        chunk = os.read(source, CHUNK)
        if not chunk:
            return False
        pending += chunk
        taken += len(chunk)
        if taken >= BATCH_BYTES or not _ready(source, 0):
            return True


def _ready(source: int, seconds: float) -> bool:
    return bool(select.select([source], [], [], seconds)[0])


class Feed:
    """Appends lines and answers their LSNs."""

    def __init__(self, spool: walspool.LogicalWalSpool, *, following: bool, as_json: bool) -> None:
        self._spool = spool
        self._following = following
        self._as_json = as_json
        self._line = 0

    def append(self, lines: Sequence[bytes]) -> None:
        """Append one batch. On an error everything before the line at fault is appended and answered."""
        if self._following:
            self._append_next(lines)
        else:
            self._append_numbered(lines)
        self._line += len(lines)

    def _append_next(self, lines: Sequence[bytes]) -> None:
        before = self._spool.current_lsn
        try:
            self._spool.append_next_many(lines)
        except walspool.PayloadTooLarge as error:
            at_fault = error.index or 0
            if at_fault:
                self._spool.append_next_many(lines[:at_fault])
            raise self._blame(at_fault, error) from error
        finally:
            # also when interrupted: what is durable has been given its LSN, and is answered
            self._answer(range(before + 1, self._spool.durable_lsn + 1))

    def _append_numbered(self, lines: Sequence[bytes]) -> None:
        records, malformed = self._parse(lines)
        before = self._spool.durable_lsn
        try:
            self._spool.append_many(records)
        except (walspool.LsnOrderError, walspool.PayloadTooLarge) as error:
            at_fault = error.index or 0
            records = records[:at_fault]
            self._spool.append_many(records)
            raise self._blame(at_fault, error) from error
        finally:
            durable = self._spool.durable_lsn
            self._answer([lsn for lsn, _ in records if before < lsn <= durable])
        if malformed is not None:
            raise ValueError(f"line {self._line + malformed + 1} is not an LSN, a tab and a payload")

    def _parse(self, lines: Sequence[bytes]) -> tuple[list[tuple[int, bytes]], int | None]:
        """The records, and the index of the first line that is none."""
        records: list[tuple[int, bytes]] = []
        for index, each in enumerate(lines):
            match = NUMBERED.match(each)
            if match is None or int(match[1]) > LSN_MAX:
                return records, index
            records.append((int(match[1]), each[match.end() :]))
        return records, None

    def _blame(self, index: int, error: walspool.WalspoolError) -> ValueError:
        return ValueError(f"line {self._line + index + 1}: {error}")

    def _answer(self, lsns: Sequence[int]) -> None:
        for lsn in lsns:
            if self._as_json:
                output.json_line({"lsn": lsn})
            else:
                output.line(str(lsn))
        output.flush()
