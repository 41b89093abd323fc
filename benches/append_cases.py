"""Appends of every kind, each durable when it returns."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from limits import sync_growing, sync_zeroed
from logs import FRAME_BYTES, FRAME_OVERHEAD, PAYLOAD_BYTES, SEGMENT_BYTES, WARM_UP
from model import Case, Contender, Run, use_core

import walspool
from walspool import core

__all__ = [
    "ALONE",
    "ALONE_4K",
    "ALONE_ROTATING",
    "APPEND_CASES",
    "FRAMES",
    "MANY_1K",
    "MANY_10K",
    "PURE",
    "SYNCS",
    "TASKS_1K",
    "TASKS_100",
    "THREADS_8",
    "THREADS_64",
    "together",
]

#: Syncs of one run of a limit, and about as many of one run of walspool: short, so that rounds lie close together.
SYNCS = 80
#: A rotation takes several syncs of its own, so a run that holds one is longer, though far shorter than in real life.
ROTATING_SYNCS = 1_000
#: Frames of 293 bytes in 1 MiB.
FRAMES_A_MIB = (1 << 20) // FRAME_BYTES


@contextmanager
def _opened(folder: Path) -> Iterator[walspool.LogicalWalSpool]:
    with walspool.open(folder / "log") as spool:
        for _ in range(WARM_UP):
            spool.append_next(bytes(PAYLOAD_BYTES))
        yield spool


def _flushed(spool: walspool.LogicalWalSpool) -> Callable[[], tuple[int, int]]:
    def figures() -> tuple[int, int]:
        now = spool.stats()
        return now.appends, now.flushes

    return figures


def _one_by_one(size: int) -> Contender:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(size)
        with _opened(folder) as spool:

            def run() -> None:
                for _ in range(SYNCS):
                    spool.append_next(payload)

            yield Run(SYNCS, run)

    return ready


def _alone(size: int) -> Case:
    bytes_each = size + FRAME_OVERHEAD
    limits = {"sync zeroed": sync_zeroed(bytes_each, SYNCS), "sync growing": sync_growing(bytes_each, SYNCS)}
    return Case(f"append {size} B, 1 thread", "records", _one_by_one(size), limits)


@contextmanager
def _rotating(folder: Path) -> Iterator[Run]:
    payload, large = os.urandom(PAYLOAD_BYTES), bytes(1 << 20)
    with _opened(folder) as spool:

        def prepare() -> None:
            """Fill the active segment up to where the run's appends pass its end when half of them are done."""
            if len(spool.segments) > 1:
                spool.prune_through(spool.segments[-2].last_lsn or 0)
            room = SEGMENT_BYTES - ROTATING_SYNCS // 2 * FRAME_BYTES - spool.segments[-1].bytes
            while room > FRAME_OVERHEAD:
                size = min(len(large), room - FRAME_OVERHEAD)
                spool.append_next(large[:size])
                room -= size + FRAME_OVERHEAD

        def run() -> None:
            before = spool.stats().rotations
            for _ in range(ROTATING_SYNCS):
                spool.append_next(payload)
            assert spool.stats().rotations == before + 1

        yield Run(ROTATING_SYNCS, run, prepare)


@contextmanager
def _pure(folder: Path) -> Iterator[Run]:
    use_core("python")
    with _one_by_one(PAYLOAD_BYTES)(folder) as run:
        yield run


def _many(count: int, calls: int) -> Case:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(PAYLOAD_BYTES)
        batches: list[list[tuple[int, bytes]]] = []
        with _opened(folder) as spool:

            def prepare() -> None:
                first = spool.current_lsn + 1
                starts = range(first, first + calls * count, count)
                batches[:] = [[(lsn, payload) for lsn in range(start, start + count)] for start in starts]

            def run() -> None:
                for batch in batches:
                    spool.append_many(batch)

            yield Run(calls * count, run, prepare)

    return Case(f"append_many {count:,}", "records", ready, _batches(count, calls))


def _batches(count: int, calls: int) -> dict[str, Contender]:
    """``calls`` times one write of ``count`` framed records and one sync."""
    return {
        "sync zeroed": sync_zeroed(count * FRAME_BYTES, calls, count),
        "sync growing": sync_growing(count * FRAME_BYTES, calls, count),
    }


def _frames(count: int, calls: int) -> Case:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(PAYLOAD_BYTES)
        buffers: list[bytes] = []
        with _opened(folder) as spool:

            def prepare() -> None:
                first = spool.current_lsn + 1
                starts = range(first, first + calls * count, count)
                buffers[:] = [
                    b"".join(core.encode_frame(lsn, payload, timestamp_ms=1) for lsn in range(start, start + count))
                    for start in starts
                ]

            def run() -> None:
                for each in buffers:
                    spool.append_frames(each)

            yield Run(calls * count, run, prepare)

    return Case(f"append_frames {count:,}", "records", ready, _batches(count, calls))


def together(threads: int, each: int, append: Callable[[], object]) -> tuple[Callable[[], None], Callable[[], None]]:
    """What starts ``threads`` that wait, and what lets each call ``append`` ``each`` times until all are done."""
    workers: list[threading.Thread] = []
    gate: threading.Barrier

    def work(barrier: threading.Barrier) -> None:
        barrier.wait()
        for _ in range(each):
            append()

    def prepare() -> None:
        nonlocal gate
        gate = threading.Barrier(threads + 1)
        workers[:] = [threading.Thread(target=work, args=(gate,)) for _ in range(threads)]
        for worker in workers:
            worker.start()

    def run() -> None:
        gate.wait()
        for worker in workers:
            worker.join()

    return prepare, run


def _threads(threads: int) -> Case:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(PAYLOAD_BYTES)
        # The pure core syncs every record by itself, so its runs must be shorter.
        each = SYNCS if core.name == "rust" else max(SYNCS // threads, 2)
        with _opened(folder) as spool:
            prepare, release = together(threads, each, lambda: spool.append_next(payload))

            def run() -> None:
                before = spool.current_lsn
                release()
                assert spool.current_lsn - before == each * threads

            yield Run(each * threads, run, prepare, _flushed(spool))

    limits = {"sync zeroed": sync_zeroed(FRAME_BYTES, SYNCS)}
    if threads > 1:
        limits["own, 1 thread"] = _one_by_one(PAYLOAD_BYTES)
        limits["zeroed batch"] = sync_zeroed(FRAME_BYTES * threads, SYNCS, threads)
    return Case(f"group commit, {threads} thread{'s' * (threads > 1)}", "records", ready, limits)


def _tasks(tasks: int, rounds: int) -> Case:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(PAYLOAD_BYTES)
        with _opened(folder) as spool, asyncio.Runner() as runner:

            async def task() -> None:
                for _ in range(rounds):
                    await spool.aappend_next(payload)

            async def all_tasks() -> None:
                await asyncio.gather(*(task() for _ in range(tasks)))

            yield Run(tasks * rounds, lambda: runner.run(all_tasks()), flushed=_flushed(spool))

    whole = FRAME_BYTES * tasks
    batch = sync_zeroed(whole, rounds, tasks) if whole <= 64 << 10 else sync_growing(whole, rounds, tasks)
    name = "zeroed batch" if whole <= 64 << 10 else "growing batch"
    limits = {
        "one call_soon": _one_call_soon(tasks, rounds, synced=False),
        "call_soon+sync": _one_call_soon(tasks, rounds, synced=True),
        "sync zeroed": sync_zeroed(FRAME_BYTES, SYNCS),
        name: batch,
    }
    return Case(f"aappend, {tasks:,} tasks", "records", ready, limits)


def _one_call_soon(tasks: int, rounds: int, *, synced: bool) -> Contender:
    """The same tasks on a loop where one callback resolves all that wait: what asyncio allows, with no disk at all.

    ``synced``: the callback first writes and syncs their frames into synced zeros.
    """

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        waiting: list[asyncio.Future[int]] = []
        with sync_zeroed(FRAME_BYTES * tasks, 1, runs=rounds)(folder) as disk, asyncio.Runner() as runner:

            def resolve() -> None:
                answered = waiting.copy()
                waiting.clear()
                if synced:
                    disk.run()
                for lsn, future in enumerate(answered):
                    future.set_result(lsn)

            async def task(loop: asyncio.AbstractEventLoop) -> None:
                for _ in range(rounds):
                    future = loop.create_future()
                    if not waiting:
                        loop.call_soon(resolve)
                    waiting.append(future)
                    await future

            async def all_tasks() -> None:
                loop = asyncio.get_running_loop()
                await asyncio.gather(*(task(loop) for _ in range(tasks)))

            yield Run(tasks * rounds, lambda: runner.run(all_tasks()), disk.prepare)

    return ready


ALONE = _alone(PAYLOAD_BYTES)
ALONE_4K = _alone(4096)
ALONE_ROTATING = Case(
    "append with a rotation", "records", _rotating, {"sync zeroed": sync_zeroed(FRAME_BYTES, ROTATING_SYNCS)}
)
PURE = Case("append, pure core beside", "records", _one_by_one(PAYLOAD_BYTES), {"pure core": _pure})
MANY_1K = _many(1_000, 20)
MANY_10K = _many(10_000, 3)
FRAMES = _frames(FRAMES_A_MIB, 8)
THREADS_8 = _threads(8)
THREADS_64 = _threads(64)
TASKS_100 = _tasks(100, 40)
TASKS_1K = _tasks(1_000, 10)

#: In the order of the table.
APPEND_CASES = [
    ALONE,
    ALONE_ROTATING,
    ALONE_4K,
    MANY_1K,
    MANY_10K,
    FRAMES,
    _threads(1),
    THREADS_8,
    THREADS_64,
    TASKS_100,
    TASKS_1K,
]
