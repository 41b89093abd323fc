"""The life of a writer, as both cores have it: full files, sealing, swapping, waiting, closing, files that go away."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit
from walspool.errors import (
    LsnOrderError,
    SpoolClosed,
    SpoolCorrupt,
    SpoolPoisoned,
)

SIZE = len(kit.v3(1))


@pytest.fixture
def writer(core: ModuleType, tmp_path: Path) -> kit.Writer:
    """A writer of an empty file."""
    return kit.Writer(core, tmp_path)


# Full files.


def test_a_full_file_takes_nothing_and_says_so(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, segment_bytes=2 * SIZE)
    assert [writer.append() for _ in range(4)] == [1, 2, None, None]
    before = writer.durable()
    assert writer.appender.append_many([(3, b"")], None, 1000, 0) == 0
    assert writer.appender.append_next_many([b""], None, 1000, 0) == (0, None)
    assert writer.appender.append_frames(kit.v3(3), 0) == (0, None, None, 0, True)
    assert kit.append_each(core, writer.appender, [(None, b"", None, 1000)]) == [None]
    # What is wrong is wrong in any file.
    with pytest.raises(LsnOrderError):
        writer.append(2)
    assert writer.durable() == before


def test_a_call_goes_on_in_the_next_file(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, segment_bytes=1 << 20)
    payloads = [bytes([place]) * (1 << 20) for place in range(12)]
    done, first = writer.appender.append_next_many(payloads, None, 1000, 0)
    assert (done, first) == (3, 1)
    report = writer.appender.seal()
    assert report.highest_lsn == 3
    path = tmp_path / "next"
    file = kit.open_file(core, path)
    writer.appender.swap(file, path, core.scan_file(file, path, base_lsn=3))
    assert writer.appender.append_next_many(payloads, None, 1000, done) == (6, 4)
    assert [entry[0] for entry in kit.read_all(core, path)] == [4, 5, 6]
    assert writer.mark() == 6


def test_one_record_goes_into_an_empty_file_whatever_its_size(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, segment_bytes=1)
    assert writer.append(data=b"x" * 100) == 1
    assert writer.append() is None


# Holding, sealing, swapping, closing.


def run(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start ``work`` in a thread; its result or its error comes into the list."""
    results: list[Any] = []

    def body() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, results


def test_while_one_thread_holds_the_others_wait(writer: kit.Writer) -> None:
    writer.appender.hold()
    writer.appender.hold()
    thread, results = run(writer.append)
    assert writer.append() == 1
    writer.appender.release()
    assert writer.append() == 2
    assert results == []
    writer.appender.release()
    thread.join()
    assert results == [3]
    with pytest.raises(RuntimeError):
        writer.appender.release()


def test_sealing_trims_the_file(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, fill_after=0)
    writer.append()
    assert writer.path.stat().st_size == 256 << 10
    report = writer.appender.seal()
    assert writer.path.read_bytes() == kit.v3(1)
    assert kit.facts(report) == kit.facts(core.scan(writer.path))
    assert writer.append() is None
    assert writer.append() is None
    writer.appender.unseal()
    assert writer.append() == 2
    assert writer.durable() == kit.log(1, 2)


def test_nothing_that_was_reached_goes_back_with_a_swap(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, kit.v3(9, term=4))
    path = tmp_path / "next"
    path.write_bytes(kit.v3(3))
    file = kit.open_file(core, path)
    writer.appender.seal()
    writer.appender.swap(file, path, core.scan_file(file, path))
    assert (writer.appender.durable_lsn, writer.appender.current_term) == (9, 4)
    assert writer.append() == 10
    assert path.read_bytes() == kit.v3(3) + kit.v3(10, term=4)
    assert writer.appender.summary().first_lsn == 3


def test_closing(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, fill_after=0)
    writer.append()
    appender = writer.appender
    waiting = [run(lambda: appender.wait_lsn(5, None)) for _ in range(2)]
    assert not appender.closed
    appender.close()
    appender.close()
    assert appender.closed
    assert writer.path.read_bytes() == kit.v3(1)
    for thread, results in waiting:
        thread.join()
        assert [type(result) for result in results] == [SpoolClosed]
    calls: list[Callable[[], Any]] = [
        writer.append,
        lambda: appender.append_many([(2, b"")], None, None, 0),
        lambda: appender.append_many([], None, None, 0),
        lambda: appender.append_next_many([b""], None, None, 0),
        lambda: appender.append_frames(kit.v3(2), 0),
        lambda: appender.wait_lsn(0, 0),
        appender.hold,
        appender.seal,
        appender.unseal,
        lambda: appender.raise_floor(9),
    ]
    for call in calls:
        with pytest.raises(SpoolClosed) as caught:
            call()
        assert caught.value.path == writer.path
    results = kit.append_each(core, appender, [(None, b"", None, None)])
    assert [type(result) for result in results] == [SpoolClosed]
    assert appender.durable_lsn == 1
    assert appender.summary().records == 1


def test_a_copy_in_a_forked_child_refuses_and_touches_nothing(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, fill_after=0)
    writer.append()
    appender, before = writer.appender, writer.path.read_bytes()
    appender.abandon()
    calls: list[Callable[[], Any]] = [
        writer.append,
        lambda: appender.wait_lsn(0, None),
        lambda: appender.durable_lsn,
        lambda: appender.add_listener(0),
        appender.summary,
        appender.stats,
        appender.seal,
        appender.hold,
    ]
    for call in calls:
        with pytest.raises(SpoolClosed):
            call()
    results = kit.append_each(core, appender, [(None, b"", None, None)])
    assert [type(result) for result in results] == [SpoolClosed]
    assert appender.closed
    appender.close()
    assert writer.path.read_bytes() == before


def test_without_close_only_descriptors_are_closed(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path, fill_after=0)
    writer.append()
    before, fd = writer.path.read_bytes(), writer.file.fileno()
    del writer.appender, writer.file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert writer.path.read_bytes() == before
    assert core.scan(writer.path).zero_tail


# Waiting.


def test_waiting_for_an_lsn(writer: kit.Writer) -> None:
    appender = writer.appender
    assert not appender.wait_lsn(0, 0)
    assert not appender.wait_lsn(0, 0.01)
    assert not appender.wait_lsn(0, -1)
    thread, results = run(lambda: appender.wait_lsn(1, None))
    assert writer.append() == 1
    assert appender.wait_lsn(0, None)
    assert writer.append() == 2
    thread.join()
    assert results == [True]
    thread, results = run(lambda: appender.wait_lsn(7, 60))
    appender.raise_floor(8)
    thread.join()
    assert results == [True]
    with pytest.raises(ValueError, match="NaN"):
        appender.wait_lsn(0, float("nan"))


def test_listeners_are_told_of_each_publish(writer: kit.Writer) -> None:
    first, second, closed = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(3))
    os.close(closed)
    for fd in (closed, first, second):
        writer.appender.add_listener(fd)
    writer.append()
    writer.append()
    assert os.eventfd_read(first) == 2
    writer.appender.remove_listener(first)
    writer.append()
    assert os.eventfd_read(second) == 3
    assert select.select([first], [], [], 0)[0] == []
    writer.appender.close()
    assert select.select([second], [], [], 0)[0] == [second]
    os.close(first)
    os.close(second)


def test_many_threads_append_and_read(writer: kit.Writer) -> None:
    def work(name: bytes) -> list[int]:
        return [writer.append(data=name + b" %d" % place) or 0 for place in range(25)]

    threads = [run(lambda name=name: work(b"%d" % name)) for name in range(8)]  # type: ignore[misc]
    given: dict[int, bytes] = {}
    for name, (thread, results) in enumerate(threads):
        thread.join()
        assert results[0] == sorted(results[0])
        given |= {lsn: b"%d %d" % (name, place) for place, lsn in enumerate(results[0])}
    assert {lsn: payload for lsn, _, _, payload, _, _ in writer.entries()} == given
    assert sorted(given) == list(range(1, 201))
    assert kit.facts(writer.appender.summary())["checkpoints"] == [
        (1, 0),
        *writer.appender.summary().index.checkpoints()[1:],
    ]
    assert writer.mark() == 200


def test_a_reader_follows_the_summary(core: ModuleType, writer: kit.Writer) -> None:
    for _ in range(130):
        writer.append()
    report = writer.appender.summary()
    assert report.file_bytes == report.valid_bytes == report.marked_bytes == 130 * SIZE
    reader = core.Reader(writer.file, writer.path, report, since_lsn=128)
    writer.append()
    assert [lsn for lsn, _ in reader.read_tuples()] == [129, 130]
    assert len(report.index) == 3


# Zeros ahead.


def test_zeros_are_written_ahead_once_the_writer_is_busy_with_small_batches(core: ModuleType, tmp_path: Path) -> None:
    step = 256 << 10
    writer = kit.Writer(core, tmp_path, fill_after=3)
    sizes = []
    for _ in range(5):
        writer.append()
        sizes.append(writer.path.stat().st_size)
    assert sizes == [SIZE, 2 * SIZE, 3 * SIZE, step, step]
    assert not any(writer.path.read_bytes()[5 * SIZE :])
    writer.append(data=b"x" * (step + 5))
    large = writer.appender.summary().valid_bytes
    assert writer.path.stat().st_size == large
    writer.append()
    assert writer.path.stat().st_size == 2 * step
    assert writer.lsns() == list(range(1, 8))
    writer.appender.close()
    assert writer.path.stat().st_size == large + SIZE


def test_zeros_do_not_pass_the_segment(core: ModuleType, tmp_path: Path) -> None:
    step = 256 << 10
    writer = kit.Writer(core, tmp_path, fill_after=0, segment_bytes=step - 10)
    while writer.append(data=b"x" * 60_000):
        assert writer.path.stat().st_size == max(step, writer.appender.summary().valid_bytes)
    assert writer.appender.summary().valid_bytes > step


# A file that goes away under the writer.


@pytest.mark.parametrize("how", ["removed", "shortened"])
def test_a_file_that_goes_away_is_found_out(core: ModuleType, tmp_path: Path, how: str) -> None:
    writer = kit.Writer(core, tmp_path)
    writer.append()
    if how == "removed":
        writer.path.unlink()
    else:
        os.truncate(writer.path, SIZE - 1)
    with pytest.raises(SpoolCorrupt) as corrupt:
        writer.append()
    assert corrupt.value.path == writer.path
    assert corrupt.value.reason == f"the file was {how} under the open spool"
    with pytest.raises(SpoolPoisoned) as poisoned:
        writer.append()
    assert poisoned.value.reason == writer.appender.poisoned == corrupt.value.reason
    assert writer.mark() == 1
    writer.appender.close()


def test_a_descriptor_that_can_not_be_written(core: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"")
    file = core.File(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path)
    appender = core.Appender(file, path, core.scan_file(file, path))
    # The second time what may be left of the first can't be cut off.
    for number in (errno.EBADF, errno.EINVAL):
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            appender.append(None, b"", None, None)
        assert (caught.value.errno, caught.value.filename) == (number, path)
    assert (appender.durable_lsn, path.read_bytes()) == (0, b"")


def test_a_mark_that_can_not_be_written(core: ModuleType, tmp_path: Path) -> None:
    mark_path = tmp_path / "readonly"
    mark_path.write_bytes(b"")
    mark = core.File(os.open(mark_path, os.O_RDONLY | os.O_CLOEXEC), mark_path)
    writer = kit.Writer(core, tmp_path, mark=(mark, kit.MARK_TEMPLATE))
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        writer.append()
    assert caught.value.filename == mark_path
    assert writer.appender.poisoned == "writing the mark failed: Bad file descriptor"
    with pytest.raises(SpoolPoisoned):
        writer.append()


def test_the_marks_template_has_512_bytes(core: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="512 bytes"):
        kit.Writer(core, tmp_path, mark=(kit.open_file(core, tmp_path / "mark"), b"short"))
