"""What the pure core does when a signal handler or a destructor calls it from within its own calls."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow
import pytest

from tests.core import kit
from walspool.core import pure
from walspool.core.pure.flush import Batch, Mark
from walspool.core.pure.waiters import Waiters
from walspool.errors import SpoolClosed, SpoolCorrupt


def at_step(step: int, handler: Callable[[], Any], work: Callable[[], Any]) -> tuple[Any, bool]:
    """The result of ``work`` with ``handler`` called before one line of the appender or the flusher; if it was."""
    left, called = step, False

    def watch(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left, called
        if not frame.f_code.co_filename.endswith(("pure/appender.py", "pure/flush.py")):
            return None
        if event == "line":
            left -= 1
            if left == -1:
                called = True
                handler()
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        return work(), called
    finally:
        sys.settrace(before)


def test_an_append_within_an_append_loses_nothing(tmp_path: Path) -> None:
    refused = through = 0
    for step in range(1000):
        folder = tmp_path / str(step)
        folder.mkdir()
        writer = kit.Writer(pure, folder)
        given: list[int | None] = []

        def handler(writer: kit.Writer = writer, given: list[int | None] = given) -> None:
            nonlocal refused
            try:
                given.append(writer.append())
            except RuntimeError:
                refused += 1

        result, called = at_step(step, handler, writer.append)
        assert sorted([*given, result]) == list(range(1, len(given) + 2))
        assert writer.lsns() == list(range(1, len(given) + 2))
        assert writer.mark() == len(given) + 1
        through += len(given)
        writer.appender.close()
        if not called:
            break
    assert (refused > 20, through > 2, called) == (True, True, False)


def test_a_batch_begun_behind_another_record_is_refused(tmp_path: Path) -> None:
    writer = kit.Writer(pure, tmp_path)
    flusher = writer.appender._flusher
    stale = Batch(flusher.durable)
    stale.add(1, b"stale", 1, 1000)
    writer.append()
    with pytest.raises(RuntimeError, match="behind another record"):
        flusher.flush(stale)
    assert writer.path.read_bytes() == kit.v3(1)


def test_a_close_within_an_append_cuts_nothing_acknowledged(tmp_path: Path) -> None:
    kept = 0
    for step in range(1000):
        folder = tmp_path / str(step)
        folder.mkdir()
        writer = kit.Writer(pure, folder, fill_after=0)

        def work(writer: kit.Writer = writer) -> int | None:
            try:
                return writer.append()
            except SpoolClosed:
                return None

        result, called = at_step(step, writer.appender.close, work)
        assert writer.appender.closed or not called
        writer.appender.close()
        assert writer.path.read_bytes() == (b"" if result is None else kit.v3(1))
        kept += result == 1
        with pytest.raises(SpoolClosed):
            writer.append()
        if not called:
            break
    assert (kept > 20, called) == (True, False)


@pytest.mark.parametrize("kind", ["tuple_runs", "entry_runs"])
def test_an_iterator_meets_its_failure_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(kit.log(1, 3))
    file = kit.open_file(pure, bad)
    report = pure.scan_file(file, bad)

    def both() -> Iterator[Any]:
        runs = [getattr(pure.Reader(file, bad, report), kind)() for _ in range(2)]
        return chain.from_iterable(chain.from_iterable(runs))

    real = os.pread
    failures = [OSError(errno.EIO, "injected"), KeyboardInterrupt()]

    def pread(fd: int, length: int, offset: int) -> bytes:
        if failures:
            raise failures.pop(0)
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    records = both()
    for expected in (OSError, KeyboardInterrupt):
        with pytest.raises(expected):
            next(records)
    assert len(list(records)) == 6
    bad.write_bytes(kit.flip(kit.log(1, 3), len(kit.v3(1)) + 40))
    records = both()
    next(records)
    for _ in range(3):
        with pytest.raises(SpoolCorrupt):
            next(records)


def test_close_takes_back_a_mark_that_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = kit.Writer(pure, tmp_path)
    writer.append()
    real, calls = Mark.write, list[int]()

    def write(mark: Mark, lsn: int) -> None:
        calls.append(lsn)
        if len(calls) == 1:
            real(mark, lsn)
        if len(calls) <= 2:
            raise KeyboardInterrupt
        real(mark, lsn)

    monkeypatch.setattr(Mark, "write", write)
    with pytest.raises(KeyboardInterrupt):
        writer.append()
    assert writer.mark() == 2
    writer.appender.close()
    assert calls == [2, 1, 1]
    assert writer.mark() == 1
    assert writer.path.read_bytes() == kit.v3(1)


def test_a_listener_may_go_during_a_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    waiters, told = Waiters(), list[int]()

    def write(fd: int, data: bytes) -> int:
        told.append(fd)
        # As a destructor does that the garbage collector runs here.
        waiters.remove(8)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    assert waiters._listener_lock.acquire(blocking=False)
    assert waiters._listener_lock.acquire(blocking=False)
    waiters._listener_lock.release()
    waiters._listener_lock.release()
    for fd in (7, 8, 9):
        waiters.add(fd)
    waiters.wake()
    assert told == [7, 9]


def test_an_arrow_stream_gives_all_rows_each_time(tmp_path: Path) -> None:
    writer = kit.Writer(pure, tmp_path, kit.log(1, 3))
    stream = pure.ArrowStream(iter([pure.Reader(writer.file, writer.path, writer.appender.summary())]))
    assert [pyarrow.table(stream)["lsn"].to_pylist() for _ in range(2)] == [[1, 2, 3]] * 2


def test_an_abandoned_copy_takes_no_lock(tmp_path: Path) -> None:
    writer = kit.Writer(pure, tmp_path)
    monitor = writer.appender
    monitor.abandon()
    monitor._door = monitor._mutex = None
    with pytest.raises(SpoolClosed):
        monitor.append_next_many([b"x"], None, None, 0)
