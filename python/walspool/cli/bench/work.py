"""Work for a while, and how much of it was done: the appends and reads that ``bench`` and ``demo`` time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import walspool

__all__ = [
    "BATCH",
    "PAYLOAD_BYTES",
    "Done",
    "RecordsMissing",
    "Step",
    "append_batch",
    "append_one",
    "replay",
    "together",
    "work",
]

PAYLOAD_BYTES = 256
#: Records of one batch.
BATCH = 1000

#: Does a bit of work, and says for how many records.
Step = Callable[[], int]


class RecordsMissing(Exception):
    """A log gave back another number of records than it holds."""


@dataclass(frozen=True, slots=True)
class Done:
    """How many records in which time."""

    records: int
    seconds: float

    @property
    def per_s(self) -> float:
        """Records per second."""
        return self.records / self.seconds


def work(step: Step, seconds: float, most: float = float("inf")) -> Done:
    """Repeat ``step``, at least once, for so long or until ``most`` records are done."""
    started = time.perf_counter()
    records = _repeat(step, started + seconds, most)
    return Done(records, time.perf_counter() - started)


def _repeat(step: Step, until: float, most: float) -> int:
    records = step()
    while time.perf_counter() < until and records < most:
        records += step()
    return records


def together(step: Step, seconds: float, threads: int) -> Done:
    """``work`` by several threads at once, from when the last of them is there."""
    counts, failures = [0] * threads, list[Exception]()
    started = 0.0

    def begin() -> None:
        nonlocal started
        started = time.perf_counter()

    gate = threading.Barrier(threads, begin)

    def one(number: int) -> None:
        try:
            gate.wait()
            counts[number] = _repeat(step, started + seconds, float("inf"))
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    try:
        for each in workers:
            each.start()
        for each in workers:
            each.join()
    finally:
        # also when interrupted: nobody waits at the gate for ever, or writes where all is removed next
        gate.abort()
        for each in workers:
            if each.ident is not None:
                each.join()
    if failures:
        raise failures[0]
    return Done(sum(counts), time.perf_counter() - started)


def append_one(spool: walspool.LogicalWalSpool, payload: bytes) -> Step:
    """One durable append of one record."""

    def step() -> int:
        spool.append_next(payload)
        return 1

    return step


def append_batch(spool: walspool.LogicalWalSpool, payload: bytes) -> Step:
    """One durable append of a whole batch."""
    batch = [payload] * BATCH

    def step() -> int:
        spool.append_next_many(batch)
        return len(batch)

    return step


def replay(spool: walspool.LogicalWalSpool) -> Step:
    """Read every record of a log."""

    def step() -> int:
        records = 0
        for _lsn, _payload in spool.tuples():
            records += 1
        if records != spool.record_count:
            raise RecordsMissing(f"{records} of {spool.record_count} records were read back")
        return records

    return step
