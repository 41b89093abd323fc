"""Many at once: threads, tasks, readers, a follower in another process, a pruner. Everything is checked by content."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.spool.kit import PATIENCE_S, Program, payload

Spool = walspool.LogicalWalSpool
THREADS = 64
#: Calls of each thread; the readers of the pure core share the interpreter with its writers, so those get on slowly.
APPENDS = {"rust": 40, "python": 15}
KEPT = 100


def _data(thread: int, number: int) -> bytes:
    seed = b"%d:%d:" % (thread, number)
    return seed + hashlib.sha256(seed).digest() * (1 + (thread * 7 + number) % 9)


def _check(data: bytes) -> tuple[int, int]:
    """Who appended this; an error if it is not what they appended."""
    thread, number, _ = data.split(b":", 2)
    assert data == _data(int(thread), int(number))
    return int(thread), int(number)


class _Crew:
    """Threads that end with an error reported."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[..., object], *args: Any) -> None:
        """Run ``work`` in a thread."""

        def run() -> None:
            try:
                work(*args)
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        """All are done, without an error."""
        for each in self._threads:
            each.join(PATIENCE_S)
            assert not each.is_alive()
        self._threads.clear()
        assert self.errors == []


def _append(log: Spool, thread: int, calls: int, given: dict[int, bytes]) -> None:
    for number in range(calls):
        data = _data(thread, number)
        if thread % 8 == 1:
            (lsn,) = log.append_next_many([data])
        elif thread % 8 == 2:
            lsns = log.append_next_many([data, data])
            given[lsns[0]] = data
            lsn = lsns[1]
            assert lsns == range(lsn - 1, lsn + 1)
        else:
            lsn = log.append_next(data)
        assert log.durable_lsn >= lsn
        given[lsn] = data


def _read(log: Spool, done: threading.Event) -> None:
    while not done.is_set():
        last = max(log.pruned_through, log.current_lsn - 200)
        for entry in log.entries(last):
            if entry.lsn != last + 1:  # a prune came between the two lines above
                assert entry.lsn <= log.pruned_through + 1
            assert entry.payload == b"end" or _check(entry.payload)
            last = entry.lsn
        for lsn, data in log.read_since(last, 50):
            assert lsn == last + 1 or lsn <= log.pruned_through + 1
            assert data == b"end" or _check(data)
            last = lsn
        log.wait_for_lsn_after(last, 0.05)


def _prune(log: Spool, progress: list[int], done: threading.Event) -> None:
    """Remove what the follower has seen, but for the last hundred records; once more at the end."""
    ending = False
    while not ending:
        ending = done.is_set()
        through = min(progress[0], log.current_lsn) - KEPT
        if through > 0:
            log.prune_through(through)
        log.wait_for_lsn_after(log.current_lsn, 0.0 if ending else 0.05)


FOLLOWER = """
import sys, walspool
from tests.spool.test_concurrency import _check
last, seen = 0, set()
with walspool.open(sys.argv[1], read_only=True) as log:
    print(0, flush=True)
    for entry in log.follow(0):
        assert entry.lsn == last + 1, (last, entry.lsn)
        last = entry.lsn
        if entry.payload == b"end":
            break
        seen.add(_check(entry.payload))
        if last % 50 == 0:
            print(last, flush=True)
print("end", last, len(seen), flush=True)
"""


def _watch(follower: Program, progress: list[int], end: list[str]) -> None:
    while not (line := follower.line()).startswith("end"):
        assert line, "the follower is gone"
        progress[0] = int(line)
    end.append(line)


def test_everybody_at_once(core: ModuleType, tmp_path: Path) -> None:
    given: list[dict[int, bytes]] = [{} for _ in range(THREADS)]
    progress, done = [0], threading.Event()
    end: list[str] = []
    writers, others, watch, calls = _Crew(), _Crew(), _Crew(), APPENDS[core.name]
    with (
        walspool.open(tmp_path / "app.db", segment_bytes=10_000) as log,
        Program(core.name, FOLLOWER, tmp_path / "app.db", cwd=Path(__file__).parents[2]) as follower,
    ):
        assert follower.line() == "0"
        watch.start(_watch, follower, progress, end)
        for _ in range(3):
            others.start(_read, log, done)
        others.start(_prune, log, progress, done)
        for thread, mine in enumerate(given):
            writers.start(_append, log, thread, calls, mine)
        writers.join()
        last = log.append_next(b"end")
        watch.join()
        assert follower.process.wait(PATIENCE_S) == 0
        done.set()
        others.join()
        assert end == [f"end {last} {THREADS * calls}"]
        everything = {lsn: data for mine in given for lsn, data in mine.items()}
        assert sorted(everything) == list(range(1, last))
        assert len(everything) == (THREADS + THREADS // 8) * calls
        kept = list(log.tuples(log.pruned_through))
        assert kept == [(lsn, everything[lsn]) for lsn in range(log.pruned_through + 1, last)] + [(last, b"end")]
        for mine in given:
            assert list(mine) == sorted(mine)  # LSNs in the order of each thread's calls
        stats = log.stats()
        assert stats.flushes < stats.appends or core.name == "python"
        assert stats.prunes > 0
        assert stats.rotations > 5
        assert log.verify().ok
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.recovery.verdict == "clean"
        assert list(log.tuples()) == kept


def test_one_file_that_is_pruned_all_the_time(core: ModuleType, tmp_path: Path) -> None:
    """Its rewriting under its own name loses nothing that is appended meanwhile, and readers do not notice."""
    done = threading.Event()
    given: list[int] = []

    def append() -> None:
        given.extend(log.append_next(b"record") for _ in range(60))

    def follow() -> None:
        last = 0
        with walspool.open(tmp_path / "app.db", read_only=True) as reader:
            while last < 8 * 60:
                for lsn, data in reader.tuples(last):
                    assert (lsn, data) == (last + 1, b"record") or lsn <= reader.pruned_through + 1
                    last = lsn
                reader.wait_for_lsn_after(last, PATIENCE_S if last < 8 * 60 else 0)

    with walspool.open(tmp_path / "app.db", segment_bytes=None) as log:
        writers, others = _Crew(), _Crew()
        others.start(follow)
        for _ in range(8):
            writers.start(append)
        others.start(_prune, log, [1 << 60], done)
        writers.join()
        done.set()
        others.join()
        assert sorted(given) == list(range(1, 481))
        assert [lsn for lsn, _ in log.tuples()] == list(range(log.pruned_through + 1, 481))
        assert log.stats().prunes > 0
        assert log.verify().ok
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.record_count == 480 - log.pruned_through


def test_lists_stay_together(core: ModuleType, tmp_path: Path) -> None:
    """A call of several batches gives LSNs in a row, whoever else appends meanwhile."""
    ranges: list[range] = []
    with walspool.open(tmp_path / "app.db", segment_bytes=3 << 20) as log:
        crew = _Crew()
        for thread in range(4):
            crew.start(lambda thread=thread: ranges.append(log.append_next_many([bytes([thread]) * (1 << 20)] * 9)))
            crew.start(lambda: [log.append_next(b"between") for _ in range(20)])
        crew.join()
        assert log.record_count == 4 * 9 + 4 * 20
        for each in ranges:
            assert len(each) == 9
            datas = {data for _, data in log.read_since(each[0] - 1, 9)}
            assert len(datas) == 1
            assert len(datas.pop()) == 1 << 20


def test_racing_for_one_lsn(core: ModuleType, tmp_path: Path) -> None:
    won: list[int] = []
    lost: list[walspool.LsnOrderError] = []

    def race(log: Spool, barrier: threading.Barrier, thread: int) -> None:
        for lsn in range(10, 200, 10):
            barrier.wait(PATIENCE_S)
            try:
                log.append(lsn, b"%d" % thread)
                won.append(lsn)
            except walspool.LsnOrderError as error:
                lost.append(error)

    with walspool.open(tmp_path / "app.db", segment_bytes=200) as log:
        crew, barrier = _Crew(), threading.Barrier(6)
        for thread in range(6):
            crew.start(race, log, barrier, thread)
        crew.join()
        assert won == list(range(10, 200, 10))
        assert len(lost) == 5 * 19
        assert all(error.lsn == error.last_lsn for error in lost)
        assert [each.lsn for each in log] == won


def test_a_thousand_tasks(core: ModuleType, tmp_path: Path) -> None:
    async def run(log: Spool) -> list[int]:
        return await asyncio.gather(*(log.aappend_next(payload(number)) for number in range(1000)))

    with walspool.open(tmp_path / "app.db", segment_bytes=20_000) as log:
        for first in (1, 1001):
            assert asyncio.run(run(log)) == list(range(first, first + 1000))
        assert [data for _, data in log.tuples()] == [payload(number) for number in range(1000)] * 2
        assert log.stats().flushes < 200
        assert log.stats().rotations > 0


def test_tasks_with_and_without_errors(core: ModuleType, tmp_path: Path) -> None:
    async def run(log: Spool) -> list[Any]:
        calls: list[Any] = []
        for number in range(100):
            calls.append(log.aappend_next(b"good %d" % number))
            if number % 10 == 0:
                calls += [log.aappend(1, b"old"), log.aappend_next("text"), log.aappend_next(b"x", term=0)]
        return await asyncio.gather(*calls, return_exceptions=True)

    with walspool.open(tmp_path / "app.db", segment_bytes=700) as log:
        log.append(1, b"first")
        outcomes = asyncio.run(run(log))
        assert [each for each in outcomes if isinstance(each, int)] == list(range(2, 102))
        wrong = [type(each) for each in outcomes if not isinstance(each, int)]
        assert wrong == [walspool.LsnOrderError, TypeError, walspool.StaleTermError] * 10
        assert [data for _, data in log.tuples(1)] == [b"good %d" % number for number in range(100)]


def test_cancelled_awaits(core: ModuleType, tmp_path: Path) -> None:
    async def run(log: Spool) -> set[bytes]:
        tasks = {number: asyncio.ensure_future(log.aappend_next(b"%d" % number)) for number in range(300)}
        await asyncio.sleep(0)
        for number in range(0, 300, 3):
            tasks[number].cancel()
        outcomes = await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert all(isinstance(outcomes[number], int) for number in range(300) if number % 3)
        assert await log.aappend_next(b"last") == log.current_lsn
        return {b"%d" % number for number in range(300)} | {b"last"}

    with walspool.open(tmp_path / "app.db") as log:
        wanted = asyncio.run(run(log))
        assert {data for _, data in log.tuples()} == wanted  # cancelling an await does not cancel its write


def test_closed_loops(core: ModuleType, tmp_path: Path) -> None:
    """A loop that ends while its appends are under way harms nobody else."""

    async def abandon(log: Spool) -> None:
        tasks = [asyncio.ensure_future(log.aappend_next(b"abandoned")) for _ in range(50)]
        await asyncio.sleep(0)
        assert not all(each.done() for each in tasks)

    with walspool.open(tmp_path / "app.db") as log:
        for round_ in range(5):
            asyncio.run(abandon(log))
            gc.collect()
            assert asyncio.run(log.aappend_next(b"%d" % round_)) == log.current_lsn
        crew = _Crew()
        for _ in range(4):
            crew.start(lambda: asyncio.run(log.aappend_next(b"of a thread")))
        crew.join()
        kept = [data for _, data in log.tuples()]
        assert kept.count(b"abandoned") == 250
        assert kept.count(b"of a thread") == 4
        assert [each for each in kept if len(each) == 1] == [b"0", b"1", b"2", b"3", b"4"]


def test_loops_that_ended_keep_no_descriptor(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        before = len(os.listdir("/dev/fd"))
        for _ in range(3):
            asyncio.run(log.aappend_next(b"x"))
        gc.collect()
        deadline = time.monotonic() + PATIENCE_S
        while len(os.listdir("/dev/fd")) > before:
            assert time.monotonic() < deadline
            log.append_next(b"y")  # the flusher's thread lets go of a bell soon after it rang


def test_results_that_nobody_came_for_keep_nothing(core: ModuleType, tmp_path: Path) -> None:
    async def abandon(log: Spool) -> None:
        task = asyncio.ensure_future(log.aappend_next(b"abandoned"))
        await asyncio.sleep(0)
        assert not task.done()

    def once() -> int:
        with walspool.open(tmp_path / "app.db") as log:
            asyncio.run(abandon(log))
        del log
        gc.collect()
        return len(os.listdir("/dev/fd"))

    before = once()
    assert max(once() for _ in range(5)) <= before


def test_a_forgotten_spool_lets_go_behind_its_last_flush(core: ModuleType, tmp_path: Path) -> None:
    """Sooner, another writer could come while its thread still writes."""
    ended: list[str] = []
    with walspool.open(tmp_path / "app.db") as log:
        flusher = log._flusher
        asyncio.run(log.aappend_next(b"x"))
        thread = flusher._thread
        assert thread is not None
        flusher.forget(lambda: ended.append(threading.current_thread().name))
        thread.join(PATIENCE_S)
        assert ended == [thread.name]
        flusher.forget(lambda: ended.append(threading.current_thread().name))
        assert ended == [thread.name, threading.current_thread().name]


def test_a_forgotten_spool_writes_nothing_more(core: ModuleType, tmp_path: Path) -> None:
    for number in range(5):
        forgotten = [walspool.open(tmp_path / "app.db")]
        forgotten[0].append_next_many([b"x" * (1 << 20)] * 6)  # zeros may be on their way
        with pytest.warns(ResourceWarning, match="unclosed spool"):
            forgotten.clear()
        with walspool.open(tmp_path / "app.db") as log:
            assert log.append_next(b"y" * (4 << 20)) == 7 * number + 7
            assert log.verify().ok
        with walspool.open(tmp_path / "app.db", recovery="strict") as log:
            assert log.record_count == 7 * number + 7


def test_tasks_at_close(core: ModuleType, tmp_path: Path) -> None:
    async def run(log: Spool) -> list[Any]:
        tasks = [asyncio.ensure_future(log.aappend_next(b"%d" % number)) for number in range(200)]
        await asyncio.sleep(0)
        await asyncio.to_thread(log.close)
        with pytest.raises(walspool.SpoolClosed):
            await log.aappend_next(b"late")
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE_S)

    log = walspool.open(tmp_path / "app.db")
    outcomes = asyncio.run(run(log))
    assert {type(each) for each in outcomes} <= {int, walspool.SpoolClosed}
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert [lsn for lsn, _ in log.tuples()] == sorted(each for each in outcomes if isinstance(each, int))


WAITER = """
import sys, walspool
from walspool.spool.tail import MarkWatch
calls = 0

def counting(watch, timeout):
    global calls
    calls += 1
    print("asleep", timeout, flush=True)
    real(watch, timeout)

real, MarkWatch.wait = MarkWatch.wait, counting
with walspool.open(sys.argv[1], read_only=True) as log:
    for lsn in range(1, 6):
        assert log.wait_for_lsn_after(lsn, None)
        print("awake", log.durable_lsn, calls, flush=True)
"""


def test_a_waiter_in_another_process_does_not_poll(core: ModuleType, tmp_path: Path) -> None:
    """It sleeps without a limit and is woken by the very append: one sleep for each."""
    with walspool.open(tmp_path / "app.db") as log:
        log.append_next(b"1")
        with Program(core.name, WAITER, tmp_path / "app.db") as waiter:
            for lsn in range(2, 7):
                assert waiter.line() == "asleep None"
                assert log.append_next(b"x") == lsn
                assert waiter.line() == f"awake {lsn} {lsn - 1}"
            waiter.finish()
