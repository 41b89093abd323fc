"""Appends of every kind, each durable when it returns."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from limits import sync_growing, sync_zeroed
from logs import FRAME_BYTES, FRAME_OVERHEAD, PAYLOAD_BYTES
from model import Case, Run

import walspool
from walspool import core

__all__ = ["APPEND_CASES"]

#: Syncs of one run of a limit, and about as many of one run of walspool: short, so that rounds lie close together.
SYNCS = 80
#: Zeros ahead are written once a log has seen some flushes, so that much is appended before the first run.
WARM_UP = 80


@contextmanager
def _opened(folder: Path) -> Iterator[walspool.LogicalWalSpool]:
    with walspool.open(folder / "log", segment_bytes=None) as spool:
        for _ in range(WARM_UP):
            spool.append_next(bytes(PAYLOAD_BYTES))
        yield spool


def _flushed(spool: walspool.LogicalWalSpool) -> Callable[[], tuple[int, int]]:
    def figures() -> tuple[int, int]:
        now = spool.stats()
        return now.appends, now.flushes

    return figures


def _alone(size: int) -> Case:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(size)
        with _opened(folder) as spool:

            def run() -> None:
                for _ in range(SYNCS):
                    spool.append_next(payload)

            yield Run(SYNCS, run)

    bytes_each = size + FRAME_OVERHEAD
    limits = {"sync zeroed": sync_zeroed(bytes_each, SYNCS), "sync growing": sync_growing(bytes_each, SYNCS)}
    return Case(f"append {size} B, 1 thread", "records", ready, limits)


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

    return Case(
        f"append_many {count:,}", "records", ready, {"sync growing": sync_growing(count * FRAME_BYTES, calls, count)}
    )


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

    limits = {"sync growing": sync_growing(count * FRAME_BYTES, calls, count)}
    return Case(f"append_frames {count:,}", "records", ready, limits)


def _threads(threads: int) -> Case:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(PAYLOAD_BYTES)
        # The pure core syncs every record by itself, so its runs must be shorter.
        total = SYNCS * threads if core.name == "rust" else max(SYNCS, 2 * threads)
        each = total // threads
        workers: list[threading.Thread] = []
        with _opened(folder) as spool:

            def work(barrier: threading.Barrier) -> None:
                barrier.wait()
                for _ in range(each):
                    spool.append_next(payload)

            gate: threading.Barrier

            def prepare() -> None:
                nonlocal gate
                gate = threading.Barrier(threads + 1)
                workers[:] = [threading.Thread(target=work, args=(gate,)) for _ in range(threads)]
                for worker in workers:
                    worker.start()

            def run() -> None:
                before = spool.current_lsn
                gate.wait()
                for worker in workers:
                    worker.join()
                assert spool.current_lsn - before == each * threads

            yield Run(each * threads, run, prepare, _flushed(spool))

    limits = {"sync zeroed": sync_zeroed(FRAME_BYTES, SYNCS)}
    if threads > 1:
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

            async def together() -> None:
                await asyncio.gather(*(task() for _ in range(tasks)))

            yield Run(tasks * rounds, lambda: runner.run(together()), flushed=_flushed(spool))

    whole = FRAME_BYTES * tasks
    batch = sync_zeroed(whole, rounds, tasks) if whole <= 64 << 10 else sync_growing(whole, rounds, tasks)
    name = "zeroed batch" if whole <= 64 << 10 else "growing batch"
    limits = {"sync zeroed": sync_zeroed(FRAME_BYTES, SYNCS), name: batch}
    return Case(f"aappend, {tasks:,} tasks", "records", ready, limits)


#: In the order of the table.
APPEND_CASES = [
    _alone(PAYLOAD_BYTES),
    _alone(4096),
    _many(1_000, 20),
    _many(10_000, 3),
    _frames(3_500, 8),
    _threads(1),
    _threads(8),
    _threads(64),
    _tasks(100, 40),
    _tasks(1_000, 10),
]
