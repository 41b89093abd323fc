"""What the pure core does when a call of the system fails, or when it is interrupted between any two of its steps."""

from __future__ import annotations

import errno
import linecache
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.core import kit
from walspool.core import pure
from walspool.errors import SpoolPoisoned

SIZE = len(kit.v3(1))
WRITES = ("pwrite", "fsync", "fdatasync", "ftruncate", "fstat")


class Faults:
    """Makes calls of ``os`` on one file fail, and notes all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, int]] = []
        self._rules: list[tuple[str, int, int | None, list[Any]]] = []
        for name in WRITES:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def fail(self, name: str, fd: int, *outcomes: Any, size: int | None = None) -> None:
        """The next calls fail with these numbers; negative: half of the bytes are written first; None: they succeed."""
        self._rules.append((name, fd, size, list(outcomes)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: int, *args: Any) -> Any:
            self.calls.append((name, fd))
            for rule, of, size, outcomes in self._rules:
                if (rule, of) == (name, fd) and outcomes and (size is None or size == len(args[0])):
                    outcome = outcomes.pop(0)
                    if outcome is None:
                        break
                    if name == "pwrite" and outcome < 0:
                        # Part of it, and then the error.
                        real(fd, args[0][: len(args[0]) // 2], args[1])
                        raise OSError(-outcome, "half done")
                    raise OSError(outcome, "injected")
            return real(fd, *args)

        return call

    def on(self, fd: int) -> list[str]:
        """The calls on a file since the last time."""
        names = [name for name, of in self.calls if of == fd and name != "fstat"]
        self.calls.clear()
        return names


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Faults to order."""
    return Faults(monkeypatch)


class Bench:
    """A writer of the pure core with two records in it, and the descriptors of its files."""

    def __init__(self, tmp_path: Path, **options: Any) -> None:
        self.mark_file = kit.open_file(pure, tmp_path / "mark")
        self.writer = kit.Writer(pure, tmp_path, mark=(self.mark_file, kit.MARK_TEMPLATE), **options)
        self.log = self.writer.file.fileno()
        self.mark = self.mark_file.fileno()
        self.writer.append()
        self.writer.append()

    def as_it_was(self) -> None:
        """Nothing of what failed is left, and the spool is usable."""
        assert self.writer.path.read_bytes() == kit.log(1, 2)
        assert self.writer.mark() == 2
        assert self.writer.appender.poisoned is None
        assert self.writer.append() == 3
        assert self.writer.path.read_bytes() == kit.log(1, 3)
        assert self.writer.mark() == 3

    def is_poisoned(self, reason: str) -> None:
        """Nothing is written any more, and all that was acknowledged is read."""
        before = self.writer.path.read_bytes(), self.writer.mark()
        for call in (self.writer.append, self.writer.appender.seal, self.writer.appender.unseal):
            with pytest.raises(SpoolPoisoned) as caught:
                call()
            assert caught.value.reason == self.writer.appender.poisoned == reason
        assert self.writer.lsns() == [1, 2]
        self.writer.appender.close()
        assert (self.writer.path.read_bytes(), self.writer.mark()) == before


@pytest.fixture
def bench(tmp_path: Path, faults: Faults) -> Bench:
    """A writer with two records in it."""
    made = Bench(tmp_path)
    faults.calls.clear()
    return made


def fails(bench: Bench, number: int, work: Callable[[], Any] | None = None, path: Path | None = None) -> OSError:
    with pytest.raises(OSError, match=r".+") as caught:
        (work or bench.writer.append)()
    assert (caught.value.errno, caught.value.filename) == (number, path or bench.writer.path)
    return caught.value


def test_one_flush_is_one_write_one_sync_one_mark(bench: Bench, faults: Faults) -> None:
    bench.writer.append()
    calls = [(name, fd) for name, fd in faults.calls if name != "fstat"]
    assert calls == [("pwrite", bench.log), ("fsync", bench.log), ("pwrite", bench.mark)]


def test_where_the_size_stays_data_alone_is_synced(tmp_path: Path, faults: Faults) -> None:
    bench = Bench(tmp_path, fill_after=1)
    faults.calls.clear()
    bench.writer.append()
    assert faults.on(bench.log) == ["pwrite", "fdatasync"]


@pytest.mark.parametrize("outcome", [errno.ENOSPC, -errno.ENOSPC, errno.EIO])
def test_a_failed_write_is_cut_back(bench: Bench, faults: Faults, outcome: int) -> None:
    faults.fail("pwrite", bench.log, outcome)
    fails(bench, abs(outcome))
    assert faults.on(bench.log) == ["pwrite", "ftruncate", "fsync"]
    bench.as_it_was()


def test_a_short_write_is_continued_and_an_empty_one_is_an_error(bench: Bench, faults: Faults) -> None:
    bench.writer.appender.raise_floor(2)
    real = os.pwrite
    counts = iter([1, 0])

    def short(fd: int, data: Any, offset: int) -> int:
        return real(fd, data[: next(counts)], offset) if fd == bench.log else real(fd, data, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        fails(bench, errno.EIO)
        counts = iter([5, 30, 100])
        assert bench.writer.append() == 3
    assert bench.writer.path.read_bytes() == kit.log(1, 3)


def test_a_failed_cut_is_done_before_the_next_append_whose_error_it_is(bench: Bench, faults: Faults) -> None:
    faults.fail("pwrite", bench.log, -errno.ENOSPC)
    faults.fail("ftruncate", bench.log, errno.EIO, errno.EROFS)
    fails(bench, errno.ENOSPC)
    assert bench.writer.path.stat().st_size > 2 * SIZE
    assert faults.on(bench.log) == ["pwrite", "ftruncate"]
    fails(bench, errno.EROFS)
    assert faults.on(bench.log) == ["ftruncate"]
    bench_calls = bench.writer.append()
    assert bench_calls == 3
    assert faults.on(bench.log) == ["ftruncate", "fsync", "pwrite", "fsync"]
    assert bench.writer.path.read_bytes() == kit.log(1, 3)


@pytest.mark.parametrize("way", ["seal", "close"])
def test_a_failed_cut_is_done_by_whoever_comes_next(bench: Bench, faults: Faults, way: str) -> None:
    faults.fail("pwrite", bench.log, -errno.ENOSPC)
    faults.fail("ftruncate", bench.log, errno.EIO)
    fails(bench, errno.ENOSPC)
    getattr(bench.writer.appender, way)()
    assert bench.writer.path.read_bytes() == kit.log(1, 2)


def test_a_failed_sync_poisons(bench: Bench, faults: Faults) -> None:
    faults.fail("fsync", bench.log, errno.EIO)
    fails(bench, errno.EIO)
    assert faults.on(bench.log) == ["pwrite", "fsync"]
    bench.is_poisoned("sync failed: Input/output error")
    assert bench.writer.mark() == 2


def test_a_failed_sync_of_a_cut_poisons(bench: Bench, faults: Faults) -> None:
    faults.fail("pwrite", bench.log, errno.ENOSPC)
    faults.fail("fsync", bench.log, errno.EIO)
    fails(bench, errno.ENOSPC)
    bench.is_poisoned("sync after a cut failed: Input/output error")


@pytest.mark.parametrize("outcome", [errno.EIO, -errno.EIO])
def test_a_failed_mark_is_taken_back(bench: Bench, faults: Faults, outcome: int) -> None:
    faults.fail("pwrite", bench.mark, outcome)
    fails(bench, errno.EIO, path=bench.writer.mark_path)
    calls = [(name, fd) for name, fd in faults.calls if name != "fstat"]
    log, mark = bench.log, bench.mark
    assert calls == [
        ("pwrite", log),
        ("fsync", log),
        ("pwrite", mark),
        ("pwrite", mark),
        ("ftruncate", log),
        ("fsync", log),
    ]
    bench.as_it_was()


def test_a_mark_that_can_not_be_taken_back_poisons(bench: Bench, faults: Faults) -> None:
    faults.fail("pwrite", bench.mark, -errno.EIO, errno.EIO)
    fails(bench, errno.EIO, path=bench.writer.mark_path)
    # The record may be claimed by the mark, so it is not cut.
    assert faults.on(bench.log) == ["pwrite", "fsync"]
    with pytest.raises(SpoolPoisoned):
        bench.writer.append()
    assert bench.writer.appender.poisoned == "writing the mark failed: Input/output error"
    assert bench.writer.path.read_bytes() == kit.log(1, 3)
    assert bench.writer.lsns() == [1, 2]


def test_an_error_of_the_look_at_the_file_leaves_all_as_it_is(bench: Bench, faults: Faults) -> None:
    faults.fail("fstat", bench.log, errno.EIO)
    fails(bench, errno.EIO)
    assert faults.on(bench.log) == []
    bench.as_it_was()


def test_zeros_that_can_not_be_written_are_done_without(tmp_path: Path, faults: Faults) -> None:
    bench = Bench(tmp_path, fill_after=2)
    ahead = (256 << 10) - 3 * SIZE
    faults.fail("pwrite", bench.log, -errno.ENOSPC, size=ahead)
    faults.calls.clear()
    assert bench.writer.append() == 3
    assert faults.on(bench.log) == ["pwrite", "pwrite", "fsync"]
    size = bench.writer.path.stat().st_size
    assert size == 3 * SIZE + ahead // 2
    while bench.writer.appender.summary().valid_bytes <= size:
        bench.writer.append(data=b"x" * 9000)
    # Not tried again in this file, but in the next.
    assert bench.writer.path.stat().st_size == bench.writer.appender.summary().valid_bytes
    assert bench.writer.appender.seal().records == bench.writer.appender.durable_lsn
    path = tmp_path / "next"
    file = kit.open_file(pure, path)
    bench.writer.appender.swap(file, path, pure.scan_file(file, path))
    bench.writer.append()
    assert path.stat().st_size == 256 << 10


def test_every_call_in_a_batch_gets_the_error(bench: Bench, faults: Faults) -> None:
    faults.fail("pwrite", bench.log, errno.ENOSPC)
    items: list[Any] = [(None, b"a", None, 1000), (1, b"b", None, 1000), (None, b"c", None, 1000)]
    results = kit.append_each(pure, bench.writer.appender, items)
    assert [getattr(result, "errno", type(result).__name__) for result in results] == [
        errno.ENOSPC,
        "LsnOrderError",
        errno.ENOSPC,
    ]
    bench.as_it_was()


def test_each_goes_on_after_a_batch_that_failed(bench: Bench, faults: Faults) -> None:
    faults.fail("pwrite", bench.log, errno.ENOSPC)
    items: list[Any] = [(None, b"x" * (3 << 20), None, 1000), (None, b"y" * (3 << 20), None, 1000)]
    results = kit.append_each(pure, bench.writer.appender, items)
    assert (getattr(results[0], "errno", None), results[1]) == (errno.ENOSPC, 3)
    faults.fail("fsync", bench.log, errno.EIO)
    results = kit.append_each(pure, bench.writer.appender, items)
    assert [type(result) for result in results] == [OSError, SpoolPoisoned]


def test_an_error_says_how_far_the_call_had_come(bench: Bench, faults: Faults) -> None:
    payloads = [b"x" * (3 << 20)] * 4
    faults.fail("pwrite", bench.log, None, None, errno.ENOSPC)
    error = fails(bench, errno.ENOSPC, lambda: bench.writer.appender.append_next_many(payloads, None, 1000, 0))
    assert error.appended_through == 4  # type: ignore[attr-defined]
    assert bench.writer.lsns() == [1, 2, 3, 4]
    faults.fail("pwrite", bench.log, errno.ENOSPC)
    error = fails(bench, errno.ENOSPC, lambda: bench.writer.appender.append_next_many(payloads, None, 1000, 0))
    assert not hasattr(error, "appended_through")
    faults.fail("fsync", bench.log, None, errno.EIO)
    frames = b"".join(kit.v3(lsn, payload) for lsn, payload in enumerate(payloads, 5))
    error = fails(bench, errno.EIO, lambda: bench.writer.appender.append_frames(frames, 0))
    assert error.appended_through == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["seal", "close"])
def test_a_trim_that_fails(tmp_path: Path, faults: Faults, way: str) -> None:
    bench = Bench(tmp_path, fill_after=0)
    call = getattr(bench.writer.appender, way)
    faults.fail("ftruncate", bench.log, errno.EIO)
    fails(bench, errno.EIO, call)
    if way == "seal":
        # Appends go on as before.
        assert bench.writer.append() == 3
        faults.fail("fsync", bench.log, errno.EIO)
        fails(bench, errno.EIO, call)
        assert bench.writer.appender.poisoned == "sync after a cut failed: Input/output error"
    else:
        assert bench.writer.appender.closed
        call()


def test_a_handler_that_appends_during_a_flush_is_told_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = os.fsync, list[None]()

    def reentered(fd: int) -> None:
        if not seen:
            seen.append(None)
            with pytest.raises(RuntimeError, match="from within a flush"):
                bench.writer.append()
        real(fd)

    monkeypatch.setattr(os, "fsync", reentered)
    assert bench.writer.append() == 3
    assert len(seen) == 1
    assert bench.writer.path.read_bytes() == kit.log(1, 3)


# Ctrl-C.


class Interrupt:
    """Raises KeyboardInterrupt at one chosen step of the core's code, counted from the start of the work.

    A step is a function's start, a line, or a function's return.
    """

    def __init__(self, at: int, again: int | None = None) -> None:
        self.left = at
        self.again = again
        self.raised = 0

    def _watch(self, frame: FrameType, event: str, arg: Any) -> Any:
        # What a destructor raises is lost anyway.
        if "core/pure/" not in frame.f_code.co_filename or frame.f_code.co_name == "__del__":
            return None
        self._step()
        line = frame.f_lineno

        def within(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal line
            before, line = line, frame.f_lineno
            source = linecache.getline(frame.f_code.co_filename, line).lstrip()
            # Between the body of a "with" and its end the interpreter does not look for signals.
            leaving = event == "line" and source.startswith("with ") and before > line
            if event != "exception" and not leaving:
                self._step()
            return within

        return within

    def _step(self) -> None:
        if self.left == 0:
            self.raised += 1
            self.left = -1 if self.again is None else self.again
            self.again = None
            raise KeyboardInterrupt
        self.left -= 1

    def run(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``, or KeyboardInterrupt itself."""
        before = sys.gettrace()
        sys.settrace(self._watch)
        try:
            return work()
        except KeyboardInterrupt:
            return KeyboardInterrupt
        finally:
            sys.settrace(before)


def sweep(tmp_path: Path, again: int | None) -> tuple[int, int, int]:
    """Interrupt an append before each of its steps: how often it was not appended, was, and was never interrupted."""
    lost = kept = whole = 0
    for at in range(20_000):
        folder = tmp_path / str(at)
        folder.mkdir()
        writer = kit.Writer(pure, folder, fill_after=1 if at % 2 else 64)
        writer.append()
        interrupt = Interrupt(at, again)
        result = interrupt.run(writer.append)
        durable = writer.appender.durable_lsn
        after = writer.append()
        assert after is not None
        # Either it is there and published, or it is as if it had not been tried: the LSN tells which.
        assert after in (2, 3)
        kept += after == 3
        lost += after == 2
        assert durable <= after - 1
        assert writer.lsns() == list(range(1, after + 1))
        assert writer.mark() == after
        writer.appender.seal()
        assert writer.path.read_bytes() == kit.log(1, after)
        assert kit.facts(writer.appender.summary()) == kit.facts(pure.scan(writer.path))
        writer.appender.close()
        if not interrupt.raised:
            whole += 1
            assert result == 2
            break
        # It may have come too late to stop the return, never the record's fate.
        assert result is KeyboardInterrupt
        if again is None:
            assert durable == after - 1
    return lost, kept, whole


@pytest.mark.parametrize("again", [None, 0, 7, 60])
def test_ctrl_c_between_any_two_steps(tmp_path: Path, again: int | None) -> None:
    lost, kept, whole = sweep(tmp_path, again)
    assert whole == 1
    assert lost > 20
    assert kept > 5


def test_ctrl_c_while_another_thread_appends(tmp_path: Path) -> None:
    writer = kit.Writer(pure, tmp_path)
    writer.appender.hold()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(writer.append()))
    thread.start()
    writer.appender.release()
    thread.join()
    assert results == [1]
    for at in range(0, 400, 13):
        Interrupt(at).run(writer.append)
        thread = threading.Thread(target=lambda: results.append(writer.append()))
        thread.start()
        thread.join()
    assert writer.lsns() == list(range(1, writer.appender.durable_lsn + 1))
    assert set(results) <= set(writer.lsns())
