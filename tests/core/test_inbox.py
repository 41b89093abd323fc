"""Appends that tasks leave for one thread, and the results that their loops find."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit
from walspool.errors import LsnOrderError, PayloadTooLarge, SpoolClosed, StaleTermError
from walspool.spool.bell import Bell

PATIENCE_S = 60.0


class Desk:
    """An inbox over a new file, one outbox, and the futures of what was put."""

    def __init__(self, core: ModuleType, folder: Path, **options: Any) -> None:
        self.core = core
        self.writer = kit.Writer(core, folder, **options)
        self.inbox = core.Inbox(self.writer.appender)
        self.bell, self.outbox = self.end()
        self.futures: list[kit.Future] = []

    def end(self) -> tuple[Bell, Any]:
        bell = Bell()
        return bell, self.core.Outbox(bell)

    def put(self, lsn: int | None = None, data: Any = b"payload", term: int | None = None) -> bool:
        self.futures.append(kit.Future())
        taken: bool = self.inbox.put(self.outbox, self.futures[-1], lsn, data, term, 1000)
        return taken

    def results(self) -> list[Any]:
        return [each.result if isinstance(each.result, int | None) else type(each.result) for each in self.futures]


@pytest.fixture
def desk(core: ModuleType, tmp_path: Path) -> Desk:
    """A desk with an empty file that never gets full."""
    return Desk(core, tmp_path)


def rings(bell: Bell) -> int:
    """How often it rang; a pipe or an eventfd never says so by itself, so this reads it."""
    try:
        data = os.read(bell.wait_fd, 1 << 12)
    except BlockingIOError:
        return 0
    return int.from_bytes(data[:8], sys.byteorder) if bell.wait_fd == bell.ring_fd else len(data) // 8


def test_what_was_put_is_durable_together_and_answered_at_the_loops_end(desk: Desk) -> None:
    for lsn, data, term in [(None, b"a", None), (1, b"b", None), (7, bytearray(b"c"), 3), (None, b"d", 2)]:
        assert desk.put(lsn, data, term)
    desk.inbox.stop()
    assert desk.inbox.run() is False
    assert desk.results() == [None] * 4
    assert rings(desk.bell) >= 1
    desk.outbox.resolve()
    assert desk.results() == [1, LsnOrderError, 7, StaleTermError]
    assert desk.writer.durable() == kit.v3(1, b"a") + kit.v3(7, b"c", 3)
    assert desk.writer.appender.stats()["flushes"] == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((None, "text", None), TypeError),
        ((True, b"x", None), TypeError),
        ((2**64, b"x", None), ValueError),
        ((None, b"x", -1), ValueError),
        ((None, bytes((256 << 20) + 1), None), PayloadTooLarge),
    ],
)
def test_what_is_no_append_is_refused_at_once(desk: Desk, arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        desk.put(*arguments)
    desk.inbox.stop()
    assert desk.inbox.run() is False
    assert desk.writer.lsns() == []


def test_a_payload_is_taken_as_it_is_when_it_is_put(desk: Desk) -> None:
    data = bytearray(b"before")
    desk.put(data=data)
    data[:] = b"behind"
    desk.inbox.stop()
    desk.inbox.run()
    assert desk.writer.durable() == kit.v3(1, b"before")


def test_a_cancelled_append_is_written_all_the_same(desk: Desk) -> None:
    desk.put()
    desk.put()
    desk.futures[0].result = -1
    desk.inbox.stop()
    desk.inbox.run()
    desk.outbox.resolve()
    assert desk.results() == [-1, 2]
    assert desk.writer.lsns() == [1, 2]


def test_each_loop_finds_its_own_results(desk: Desk) -> None:
    first, second = (desk.bell, desk.outbox), desk.end()
    for number in range(6):
        desk.bell, desk.outbox = (first, second)[number % 2]
        desk.put()
    desk.inbox.stop()
    desk.inbox.run()
    assert rings(first[0]) >= 1
    first[1].resolve()
    assert desk.results() == [1, None, 3, None, 5, None]
    assert rings(second[0]) >= 1
    second[1].resolve()
    assert desk.results() == [1, 2, 3, 4, 5, 6]


def test_a_full_file_ends_the_run_and_keeps_the_rest(core: ModuleType, tmp_path: Path) -> None:
    desk = Desk(core, tmp_path, segment_bytes=1)
    desk.put()
    desk.inbox.stop()
    assert desk.inbox.run() is False
    desk = Desk(core, tmp_path, content=kit.v3(1), segment_bytes=1)
    desk.put()
    desk.put()
    assert desk.inbox.run() is True
    desk.outbox.resolve()
    assert desk.results() == [None, None]
    desk.writer.appender.seal()
    desk.writer.path = tmp_path / "next"
    fresh = kit.open_file(core, desk.writer.path)
    desk.writer.appender.swap(fresh, desk.writer.path, core.scan_file(fresh, desk.writer.path, base_lsn=1))
    desk.inbox.stop()
    assert desk.inbox.run() is False
    desk.outbox.resolve()
    assert desk.results() == [2, 3]
    assert desk.writer.durable() == kit.v3(2) + kit.v3(3)


def test_what_waits_can_be_failed(desk: Desk) -> None:
    desk.put()
    desk.put()
    error = OSError(28, "no room")
    desk.inbox.fail(error)
    assert rings(desk.bell) >= 1
    desk.outbox.resolve()
    assert [each.result for each in desk.futures] == [error, error]
    desk.inbox.stop()
    assert desk.inbox.run() is False
    assert desk.writer.lsns() == []


def test_a_closed_appender_fails_what_waits(desk: Desk) -> None:
    desk.put()
    desk.writer.appender.close()
    desk.inbox.stop()
    assert desk.inbox.run() is False
    desk.outbox.resolve()
    assert desk.results() == [SpoolClosed]


def test_a_stopped_inbox_takes_no_more(desk: Desk) -> None:
    desk.inbox.stop()
    assert desk.put() is False
    assert desk.inbox.run() is False
    assert desk.writer.lsns() == []


def test_results_behind_an_interrupt_are_not_lost(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        desk.put()
    desk.inbox.stop()
    desk.inbox.run()

    def interrupted(_result: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(desk.futures[1], "set_result", interrupted, raising=False)
    rings(desk.bell)
    with pytest.raises(KeyboardInterrupt):
        desk.outbox.resolve()
    assert rings(desk.bell) == 1
    desk.outbox.resolve()
    assert desk.results() == [1, None, 3]


@pytest.fixture
def serving(desk: Desk) -> Iterator[Desk]:
    """The same with a thread in ``run``."""
    thread = threading.Thread(target=desk.inbox.run)
    thread.start()
    yield desk
    desk.inbox.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def wait_for(condition: Callable[[], bool]) -> None:
    """Look again and again, without letting go of the interpreter."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline


def test_a_waiting_thread_is_woken(serving: Desk) -> None:
    for lsn in (1, 2, 3):
        serving.put()
        wait_for(lambda lsn=lsn: bool(serving.writer.appender.durable_lsn == lsn))


def test_a_flush_of_the_rust_core_needs_no_interpreter(core: ModuleType, serving: Desk) -> None:
    serving.put()
    wait_for(lambda: bool(serving.writer.appender.durable_lsn == 1))  # from here on it is in its loop
    interval = sys.getswitchinterval()
    if core.name == "rust":
        sys.setswitchinterval(1e6)  # the loop's thread does not let go by itself
    try:
        serving.put()
        wait_for(lambda: bool(serving.writer.appender.durable_lsn == 2))
    finally:
        sys.setswitchinterval(interval)
