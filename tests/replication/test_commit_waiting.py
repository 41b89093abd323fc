"""Waiting for acknowledgements: who is woken, by what, at which cost, and how a wait ends before its time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, ClassVar

import pytest

from tests.replication.threads import InThread, until
from tests.spool.kit import PATIENCE_S
from walspool.replication.commit import CommitCounters, CommitWaiter, NotRequired, Reached, Regions, TimedOut


async def settle() -> None:
    """Let every task of the loop run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_thread_is_woken() -> None:
    waiter = CommitWaiter()
    waiting = InThread(partial(waiter.await_acks, 5, 2, PATIENCE_S))
    until(lambda: waiter.waiting == 1)
    waiter.record_replica_ack("a", 5)
    waiter.record_replica_ack("b", 4)
    waiter.record_replica_ack("a", 9)
    assert waiter.waiting == 1
    waiter.record_replica_ack("b", 5)
    assert waiting.result() == Reached(2)
    assert waiter.waiting == 0
    assert waiter.counters() == CommitCounters(1, 0, 0, waiter.counters().last_wait_us)


def test_a_thread_waits_for_ever() -> None:
    waiter = CommitWaiter()
    waiting = InThread(partial(waiter.await_acks, 5, 1, None))
    until(lambda: waiter.waiting == 1)
    waiter.record_replica_ack("a", 5)
    assert waiting.result() == Reached(1)


def test_only_those_are_woken_who_have_what_they_wait_for() -> None:
    async def main() -> None:
        waiter = CommitWaiter()
        needs: list[tuple[int, Any]] = [(5, 1), (9, 1), (9, 2), (4, 3), (7, Regions("eu")), (6, Regions("eu", "us"))]
        tasks = [asyncio.ensure_future(waiter.await_acks_async(lsn, required, PATIENCE_S)) for lsn, required in needs]

        async def done() -> list[tuple[int, Any]]:
            await settle()
            assert waiter.waiting == sum(not each.done() for each in tasks)
            return [need for need, task in zip(needs, tasks, strict=True) if task.done()]

        assert await done() == []
        waiter.record_replica_ack("a", 8)
        assert await done() == needs[:1]
        waiter.note_region("a", "eu")
        assert await done() == [(5, 1), (7, Regions("eu"))]
        waiter.note_region("b", "us")
        assert await done() == [(5, 1), (7, Regions("eu"))]
        waiter.record_replica_ack("b", 9)
        assert await done() == [(5, 1), (9, 1), (7, Regions("eu")), (6, Regions("eu", "us"))]
        waiter.record_replica_ack("c", 9)
        assert await done() == needs
        assert [each.result() for each in tasks] == [Reached(1), Reached(1), *[Reached(n) for n in (2, 3, 1, 2)]]

    asyncio.run(main())


def test_a_dropped_replica_wakes_nobody() -> None:
    async def main() -> None:
        waiter = CommitWaiter()
        task = asyncio.ensure_future(waiter.await_acks_async(5, 2, PATIENCE_S))
        await settle()
        waiter.record_replica_ack("a", 5)
        waiter.drop_replica("a")
        waiter.record_replica_ack("b", 5)
        await settle()
        assert not task.done()
        waiter.record_replica_ack("a", 5)
        assert await task == Reached(2)

    asyncio.run(main())


def test_what_was_reached_stays_reached() -> None:
    """The count is that of the moment at which it was reached, whatever is dropped before the waiter runs."""

    async def main() -> None:
        waiter = CommitWaiter()
        task = asyncio.ensure_future(waiter.await_acks_async(5, 1, PATIENCE_S))
        await settle()
        waiter.record_replica_ack("a", 5)
        waiter.drop_replica("a")
        assert await task == Reached(1)

    asyncio.run(main())


def test_an_ack_at_the_end_of_the_time_counts() -> None:
    async def main() -> None:
        waiter = CommitWaiter()
        task = asyncio.ensure_future(waiter.await_acks_async(5, 1, 0))
        await asyncio.sleep(0)  # it waits now, and its time is up when the loop runs next
        assert waiter.waiting == 1
        waiter.record_replica_ack("a", 5)
        assert await task == Reached(1)
        assert waiter.counters().timed_out == 0

    asyncio.run(main())


def test_waits_from_threads_and_loops_together() -> None:
    waiter = CommitWaiter()
    in_threads = [InThread(partial(waiter.await_acks, lsn, 1, PATIENCE_S)) for lsn in range(1, 9)]

    async def many() -> list[Any]:
        return await asyncio.gather(*[waiter.await_acks_async(lsn, 1, PATIENCE_S) for lsn in range(1, 101)])

    in_loops = [InThread(lambda: asyncio.run(many())) for _ in range(2)]
    until(lambda: waiter.waiting == 208)
    for lsn in range(1, 101):
        waiter.record_replica_ack("a", lsn)
    assert [each.result() for each in in_threads] == [Reached(1)] * 8
    assert [each.result() for each in in_loops] == [[Reached(1)] * 100] * 2
    assert (waiter.waiting, waiter.counters().reached) == (0, 208)


def test_nobody_is_woken_under_the_lock() -> None:
    """Nothing under a lock wakes a waiter: while it is woken, another thread can use the waiter."""

    async def main() -> None:
        waiter = CommitWaiter()
        loop = asyncio.get_running_loop()
        seen: list[Any] = []
        schedule = loop.call_soon_threadsafe

        def look_first(*args: Any, **kwargs: Any) -> asyncio.Handle:
            seen.append(InThread(waiter.snapshot).result())
            seen.append(InThread(lambda: waiter.record_replica_ack("b", 1)).result())
            return schedule(*args, **kwargs)

        task = asyncio.ensure_future(waiter.await_acks_async(5, 1, PATIENCE_S))
        in_region = asyncio.ensure_future(waiter.await_acks_async(5, Regions("eu"), PATIENCE_S))
        await settle()
        loop.call_soon_threadsafe = look_first  # type: ignore[method-assign,assignment]
        waiter.record_replica_ack("a", 5)
        assert seen == [[("a", 5)], None]
        waiter.note_region("a", "eu")
        assert seen[2:] == [[("a", 5), ("b", 1)], None]
        del loop.call_soon_threadsafe
        assert (await task, await in_region) == (Reached(1), Reached(1))

    asyncio.run(main())


class Counted(int):
    """An LSN that counts how often it is compared."""

    compared: ClassVar[int] = 0

    def __lt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) < other

    def __le__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) <= other

    def __gt__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) > other

    def __ge__(self, other: int) -> bool:
        Counted.compared += 1
        return int(self) >= other

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_ten_thousand_waiters_cost_an_ack_nothing() -> None:
    """An ack looks at one waiter of each requirement, and then only at those whom it wakes."""

    async def main() -> None:
        waiter = CommitWaiter()
        waiter.note_region("a", "eu")
        needs: list[int | Regions] = [1, 2, Regions("eu"), Regions("eu", "us")]
        tasks = [
            asyncio.ensure_future(waiter.await_acks_async(Counted(lsn), required, PATIENCE_S))
            for lsn in range(1001, 3501)
            for required in needs
        ]
        await settle()
        assert waiter.waiting == 10_000
        Counted.compared = 0
        for lsn in range(1, 1001):
            waiter.record_replica_ack("a", lsn)
        assert Counted.compared <= 1000 * len(needs)
        assert waiter.waiting == 10_000
        Counted.compared = 0
        waiter.record_replica_ack("a", 1010)
        assert waiter.waiting == 10_000 - 20
        # Each that is taken out of a heap of 2500 is compared some dozen levels deep.
        assert Counted.compared <= 20 * 100
        waiter.note_region("b", "us")
        waiter.record_replica_ack("a", 9999)
        waiter.record_replica_ack("b", 9999)
        outcomes = await asyncio.gather(*tasks)
        assert {type(each) for each in outcomes} == {Reached}
        assert (waiter.waiting, waiter.counters().reached) == (0, 10_000)

    asyncio.run(main())


def test_those_who_gave_up_are_not_kept() -> None:
    async def main() -> None:
        waiter = CommitWaiter()
        task = asyncio.ensure_future(waiter.await_acks_async(1, 1, PATIENCE_S))
        await settle()
        for lsn in range(1, 3001):
            assert waiter.await_acks(lsn, 1, 0) == TimedOut(0, 1)
            waiter.await_acks(lsn, lsn, 0)
        assert list(waiter._queues) == [1]
        assert len(waiter._queues[1]._heap) < 5
        many = [asyncio.ensure_future(waiter.await_acks_async(lsn, 1, PATIENCE_S)) for lsn in range(2, 3001)]
        await settle()
        for each in many:
            each.cancel()
        await settle()
        assert waiter.waiting == 1
        assert len(waiter._queues[1]._heap) < 5
        waiter.record_replica_ack("a", 1)
        assert await task == Reached(1)
        assert waiter._queues == {}

    asyncio.run(main())


def test_a_wait_that_is_cancelled() -> None:
    async def main() -> None:
        waiter = CommitWaiter()
        tasks = [asyncio.ensure_future(waiter.await_acks_async(5, 1, PATIENCE_S)) for _ in range(3)]
        await settle()
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert waiter.waiting == 2
        # Reached and cancelled before it ran: the caller wanted it cancelled.
        waiter.record_replica_ack("a", 5)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert await tasks[2] == Reached(1)
        assert waiter.waiting == 0
        assert waiter.counters() == CommitCounters(1, 0, 0, waiter.counters().last_wait_us)

    asyncio.run(main())


def test_a_wait_within_a_time_out_of_asyncio() -> None:
    async def main() -> None:
        waiter = CommitWaiter()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiter.await_acks_async(5, 1, None), 0.001)
        assert waiter.waiting == 0

    asyncio.run(main())


def test_a_closed_loop_breaks_no_ack() -> None:
    waiter = CommitWaiter()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it would log that a task was left pending
    task = loop.create_task(waiter.await_acks_async(5, 1, PATIENCE_S))
    loop.run_until_complete(settle())
    loop.close()
    waiting = InThread(partial(waiter.await_acks, 5, 1, PATIENCE_S))
    until(lambda: waiter.waiting == 2)
    waiter.record_replica_ack("a", 5)
    assert waiting.result() == Reached(1)
    assert waiter.waiting == 0
    assert not task.done()
    del task
    gc.collect()
    assert waiter.counters().reached == 1


def interrupt(waiter: CommitWaiter, handled: list[int]) -> None:
    """Press Ctrl-C once somebody waits, until it is handled.

    Python loses sight of a signal that comes just before a lock is waited for, until the next one.
    """
    until(lambda: waiter.waiting == 1)

    def press() -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return bool(handled)

    until(press)


@contextlib.contextmanager
def on_ctrl_c(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have another handler in the block."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("timeout", [None, PATIENCE_S])
def test_ctrl_c_ends_a_wait(timeout: float | None) -> None:
    waiter = CommitWaiter()
    handled: list[int] = []

    def raise_once(number: int, frame: FrameType | None) -> None:
        handled.append(number)
        if len(handled) == 1:
            signal.default_int_handler(number, frame)

    with on_ctrl_c(raise_once):
        pressing = InThread(partial(interrupt, waiter, handled))
        with pytest.raises(KeyboardInterrupt):
            waiter.await_acks(5, 1, timeout)
        pressing.result()
    assert waiter.waiting == 0
    assert waiter.counters() == CommitCounters(0, 0, 0, 0)
    waiter.record_replica_ack("a", 5)
    assert waiter.await_acks(5, 1, None) == Reached(1)


def test_a_signal_that_is_handled_ends_no_wait() -> None:
    waiter = CommitWaiter()
    handled: list[int] = []

    def interrupt_then_ack() -> None:
        interrupt(waiter, handled)
        waiter.record_replica_ack("a", 5)

    with on_ctrl_c(lambda number, _: handled.append(number)):
        acking = InThread(interrupt_then_ack)
        assert waiter.await_acks(5, 1, PATIENCE_S) == Reached(1)
        acking.result()
    assert set(handled) == {signal.SIGINT}


def test_nothing_to_wait_for_needs_no_turn_of_the_loop() -> None:
    waiter = CommitWaiter()
    waiter.record_replica_ack("a", 5)

    async def main() -> None:
        for given, outcome in (((5, 1, None), Reached(1)), ((5, 0, None), NotRequired()), ((0, 9, 0), Reached(1))):
            with contextlib.closing(waiter.await_acks_async(*given)) as waits, pytest.raises(StopIteration) as ended:
                waits.send(None)
            assert ended.value.value == outcome

    asyncio.run(main())
