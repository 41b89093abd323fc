"""What the spool tests share: every byte of a folder, logs to start from, and programs in other processes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import walspool

#: How long a test waits for something that must happen; reached only by a defect.
PATIENCE_S = 60.0


def environment(core_name: str) -> dict[str, str]:
    """For another interpreter: this package, with this core."""
    home = str(Path(walspool.__file__).parents[1])
    path = os.pathsep.join(each for each in (home, os.environ.get("PYTHONPATH", "")) if each)
    return {**os.environ, "WALSPOOL_CORE": core_name, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every regular file in a folder, by name."""
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir()) if each.is_file()}


def payload(lsn: int, size: int = 40) -> bytes:
    """What the record with this LSN holds; of a size that varies with it."""
    text = b"record %d;" % lsn
    return (text * (size // len(text) + 1))[: size + lsn % 7]


def fill(log: walspool.LogicalWalSpool, count: int, *, size: int = 40) -> None:
    """Append ``count`` records of known content, four with each flush."""
    first, term = log.current_lsn + 1, log.current_term
    for low in range(first, first + count, 4):
        some = range(low, min(low + 4, first + count))
        log.append_frames(
            b"".join(
                walspool.core.encode_frame(lsn, payload(lsn, size), term=term, timestamp_ms=1000 + lsn) for lsn in some
            )
        )


def holds(log: walspool.LogicalWalSpool, first: int, last: int, *, size: int = 40) -> bool:
    """Whether the log holds exactly the records that ``fill`` makes, from ``first`` to ``last``."""
    return list(log.tuples()) == [(lsn, payload(lsn, size)) for lsn in range(first, last + 1)]


@contextlib.contextmanager
def refused(
    log: walspool.LogicalWalSpool, kind: type[BaseException], *words: str, **facts: Any
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """The block raises this very error, with these words and facts, and the log is as it was, and usable."""
    folder = log.path.parent
    before = contents(folder), log.current_lsn, log.durable_lsn, log.record_count, log.size_bytes, log.current_term
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.type is kind
    for each in words:
        assert each in str(caught.value)
    for name, value in facts.items():
        assert getattr(caught.value, name) == value, name
    after = contents(folder), log.current_lsn, log.durable_lsn, log.record_count, log.size_bytes, log.current_term
    assert after == before
    lsn = log.append_next(b"still usable")
    assert lsn == before[1] + 1
    assert log.read_since(lsn - 1) == [(lsn, b"still usable")]
    assert log.verify().ok


class Program:
    """A Python program in another process, talked to a line at a time."""

    def __init__(self, core_name: str, text: str, *arguments: object, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", text, *map(str, arguments)],
            env=environment(core_name),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout

    def line(self) -> str:
        """The next line that it prints; the empty one if it ends, or says nothing for so long that it is ended."""
        patience = threading.Timer(PATIENCE_S, self.process.kill)
        patience.start()
        try:
            return self._out.readline().rstrip("\n")
        finally:
            patience.cancel()

    def tell(self, text: str = "") -> None:
        """Give it a line to read."""
        self._in.write(text + "\n")

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def finish(self) -> str:
        """Wait for its good end; what it still printed."""
        self._in.close()
        rest = self._out.read()
        assert self.process.wait(PATIENCE_S) == 0, rest
        return rest

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._in.close()
        self._out.close()


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Within the block this process can write no file past ``size`` bytes: a full disk, as far as it can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
