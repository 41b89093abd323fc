"""From the moment that a record is durable until another thread has it: how it is timed, and the same by hand."""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from limits import opened, sync_all, sync_data, write_all
from logs import FRAME_BYTES, PAYLOAD_BYTES, WARM_UP
from model import Case, Contender, Run

import walspool

__all__ = ["CHANNELS", "FOLLOW", "FOLLOW_CASES", "hand_over", "woken"]

#: How one thread wakes another: what the first calls, and what the other waits in.
Channel = tuple[Callable[[], object], Callable[[], object]]

#: Wake-ups of one run.
SYNCS = 80
MARK_BYTES = 512


def woken(act: Callable[[int], float], wait: Callable[[int], object]) -> Run:
    """``SYNCS`` wake-ups. ``act`` makes the n-th record durable and gives the sync's seconds; ``wait`` waits for it.

    What counts is the time from the begin of ``act`` to the waiter's return, less the sync: to encode, write, mark and
    hand over. The median of a run counts for each of its wake-ups.
    """
    took: list[float] = []

    def run() -> None:
        armed, woken = threading.Semaphore(0), [0.0] * SYNCS
        begun, synced = [0.0] * SYNCS, [0.0] * SYNCS

        def waiter() -> None:
            for number in range(SYNCS):
                armed.release()
                wait(number)
                woken[number] = time.perf_counter()

        thread = threading.Thread(target=waiter)
        thread.start()
        for number in range(SYNCS):
            armed.acquire()
            begun[number] = time.perf_counter()
            synced[number] = act(number)
        thread.join()
        took[:] = [end - begin - sync for end, begin, sync in zip(woken, begun, synced, strict=True)]

    return Run(SYNCS, run, seconds=lambda: median(took) * SYNCS)


def hand_over(
    channel: Callable[[], AbstractContextManager[Channel]], *, mark: bool = True, read: bool = False
) -> Contender:
    """The same by hand: a write into synced zeros, a sync, the write of a mark, and ``channel`` to wake the waiter.

    Without ``mark`` nothing lies between the sync and the waking; with ``read`` the waiter reads and unpacks the frame.
    """
    frame = struct.Struct(f"<4sBQQQI{PAYLOAD_BYTES}sI")

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        data = os.urandom(FRAME_BYTES)
        with (
            channel() as (tell, wait),
            opened(folder / "zeroed", os.O_RDWR | os.O_CREAT) as fd,
            opened(folder / "mark", os.O_RDWR | os.O_CREAT) as mark_fd,
        ):
            offset = read_from = 0

            def prepare() -> None:
                write_all(fd, bytes(FRAME_BYTES * SYNCS), offset)
                write_all(mark_fd, bytes(MARK_BYTES), 0)
                sync_all(fd)

            def act(_: int) -> float:
                nonlocal offset
                write_all(fd, data, offset)
                begun = time.perf_counter()
                sync_data(fd)
                took = time.perf_counter() - begun
                if mark:
                    write_all(mark_fd, bytes(MARK_BYTES), 0)
                tell()
                offset += FRAME_BYTES
                return took

            def wait_for(_: int) -> None:
                nonlocal read_from
                wait()
                if read:
                    frame.unpack(os.pread(fd, FRAME_BYTES, read_from))
                    read_from += FRAME_BYTES

            made = woken(act, wait_for)
            yield Run(made.amount, made.run, prepare, seconds=made.seconds)

    return ready


@contextmanager
def _event() -> Iterator[Channel]:
    event = threading.Event()

    def wait() -> None:
        event.wait()
        event.clear()

    yield event.set, wait


@contextmanager
def _eventfd() -> Iterator[Channel]:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        yield lambda: os.eventfd_write(fd, 1), lambda: os.eventfd_read(fd)
    finally:
        os.close(fd)


CHANNELS = {"event": _event, **({"eventfd": _eventfd} if sys.platform == "linux" else {})}


@contextmanager
def _follower(folder: Path) -> Iterator[Run]:
    """A follower in another thread of the same process that has read everything and waits for the next entry."""
    payload = os.urandom(PAYLOAD_BYTES)
    with walspool.open(folder / "log") as spool:
        for _ in range(WARM_UP):
            spool.append_next(payload)
        entries: Iterator[walspool.Entry]
        before_ns = 0

        def prepare() -> None:
            nonlocal entries, before_ns
            entries, before_ns = spool.follow(spool.current_lsn), spool.stats().sync_ns_total

        def act(_: int) -> float:
            nonlocal before_ns
            spool.append_next(payload)
            earlier_ns, before_ns = before_ns, spool.stats().sync_ns_total
            return (before_ns - earlier_ns) / 1e9

        made = woken(act, lambda _: next(entries))
        yield Run(made.amount, made.run, prepare, seconds=made.seconds)


def _follow() -> Case:
    case = Case("follower, sync left out", "wake-ups", _follower, {"event": hand_over(_event, mark=False)})
    if sys.platform != "linux":
        return replace(case, missing={"eventfd": "this system has no eventfd"})
    return case.beside(
        {"eventfd": hand_over(_eventfd, mark=False), "eventfd, mark, read": hand_over(_eventfd, read=True)}
    )


FOLLOW = _follow()
FOLLOW_CASES = [FOLLOW]
