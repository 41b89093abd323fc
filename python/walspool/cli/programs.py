"""Programs of the user's that a verb runs: what they read, what they answer, and that none of them is left behind."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import walspool
from walspool.cli import output

__all__ = ["ApplyProgram", "LoadProgram", "SnapshotProgram"]

#: How long a program may take to end once it has no more to read.
_END_S = 5.0
_CHUNK = 256 << 10
_MAX_ANSWER = 64
_Process = subprocess.Popen[bytes]


def _begin(command: str, facts: dict[str, Any] | None = None, **streams: Any) -> _Process:
    """The command under ``sh -c``, in a process group of its own: Ctrl-C reaches this program alone."""
    given = {**os.environ, **{name: str(value) for name, value in (facts or {}).items()}}
    return subprocess.Popen(["/bin/sh", "-c", command], env=given, start_new_session=True, **streams)


def _kill(process: _Process | None) -> None:
    if process is None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        with suppress(OSError):  # what it did not want to read
            stream.close()


def _abandon(process: _Process) -> None:
    _kill(process)
    _close(process.stdout)


def _ending(process: _Process) -> str:
    code = process.wait()
    return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"


class ApplyProgram:
    r"""One program for all records: each on a line, and the record's LSN back once it is done with it.

    A line is LSN, term, timestamp (Unix ms) and the payload in base64, with tabs between.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._process: _Process | None = None

    def __call__(self, entry: walspool.Entry) -> None:
        """Give it a record and wait for the answer. ``WalspoolError``: it did not take it, and is started again."""
        process = self._process
        if process is None or process.poll() is not None:
            self.kill()
            process = self._process = _begin(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        payload = base64.b64encode(entry.payload)
        try:
            process.stdin.write(b"%d\t%d\t%d\t%s\n" % (entry.lsn, entry.term, entry.timestamp_ms, payload))
            process.stdin.flush()
            answer = process.stdout.readline(_MAX_ANSWER)
        except OSError:
            answer = b""
        if answer == b"%d\n" % entry.lsn:
            return
        if answer:
            self.kill()
            raise walspool.WalspoolError(f"the --apply program answered {answer!a}, not the LSN {entry.lsn}")
        _close(process.stdin)
        raise walspool.WalspoolError(f"the --apply program did not answer for LSN {entry.lsn}: {self._end()}")

    def _end(self) -> str:
        process, self._process = self._process, None
        if process is None:
            return "it was ended"
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            _kill(process)
        _close(process.stdout)
        return _ending(process)

    def close(self) -> None:
        """It reads its end, and then has five seconds."""
        if self._process is not None:
            _close(self._process.stdin)
            self._end()

    def kill(self) -> None:
        """End it at once."""
        process = self._process
        if process is not None:
            _kill(process)
            _close(process.stdin)
            _close(process.stdout)


class LoadProgram:
    """A program that reads a snapshot to its end; ``WALSPOOL_LSN`` says what it stands for. 0: it is loaded."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._process: _Process | None = None

    def __call__(self, lsn: int, chunks: Iterator[bytes]) -> None:
        """Run it. It is killed, and never sees the end, where the snapshot does not come whole."""
        # what it prints is no answer, and goes with what else there is to say
        process = _begin(self._command, {"WALSPOOL_LSN": lsn}, stdin=subprocess.PIPE, stdout=sys.stderr.fileno())
        self._process = process
        assert process.stdin is not None
        taken = True
        try:
            for chunk in chunks:
                try:
                    process.stdin.write(chunk)
                except BrokenPipeError:
                    taken = False
                    break
            else:
                try:
                    process.stdin.close()
                except BrokenPipeError:
                    taken = False
            code = process.wait() if taken else 1
        except BaseException:
            _kill(process)
            raise
        finally:
            _close(process.stdin)
            self._process = None
        if code:
            raise walspool.WalspoolError(f"the --snapshot program did not load LSN {lsn}: {_ending(process)}")

    def kill(self) -> None:
        """End it at once."""
        _kill(self._process)


class SnapshotProgram:
    """A program that writes the LSN that its snapshot stands for on a line, and then its bytes: one for each call."""

    def __init__(self, command: str, data_path: Path) -> None:
        self._command = command
        self._data_path = data_path
        self._lock = threading.Lock()
        self._processes: weakref.WeakSet[_Process] = weakref.WeakSet()
        self._killed = False

    def __call__(self) -> tuple[int, Iterable[bytes]]:
        """The LSN, and the bytes as they come."""
        with self._lock:
            if self._killed:
                raise ChildProcessError("the server ends")
            process = _begin(
                self._command, {"WALSPOOL_DATA_PATH": self._data_path}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            self._processes.add(process)
        assert process.stdout is not None
        line = process.stdout.readline(_MAX_ANSWER)
        word = line.removesuffix(b"\n")
        if line == word or not word.isdigit() or len(word) > 20:
            _kill(process)
            _close(process.stdout)
            raise self._told(f"the --snapshot program began with {line!a}, not with an LSN on a line")
        return int(word), _Output(process, self._told)

    def kill(self) -> None:
        """End those that run, and begin no more. Whoever reads what one of them writes finds its end."""
        with self._lock:
            self._killed = True
            for process in self._processes:
                _kill(process)

    def _told(self, words: str) -> ChildProcessError:
        """Told here: whoever asked for the snapshot learns that it is not whole, and nothing else."""
        if not self._killed:
            output.complain(f"warning: {words}")
        return ChildProcessError(words)


class _Output:
    """What a program writes. Whoever has it no more ends the program."""

    def __init__(self, process: _Process, told: Callable[[str], ChildProcessError]) -> None:
        self._process = process
        self._told = told
        weakref.finalize(self, _abandon, process)

    def __iter__(self) -> _Output:
        return self

    def __next__(self) -> bytes:
        assert self._process.stdout is not None
        chunk: bytes = self._process.stdout.read1(_CHUNK)  # type: ignore[attr-defined]  # it is a BufferedReader
        if chunk:
            return chunk
        if self._process.wait():
            raise self._told(f"the --snapshot program failed: {_ending(self._process)}")
        raise StopIteration
