"""The demo's measurements: how fast this log is on this machine, with small records."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import walspool
from walspool.cli.demo.tree import DemoFailed

__all__ = ["PAYLOAD_BYTES", "Figures", "measure"]

PAYLOAD_BYTES = 256
THREADS = 32
SECONDS = 1.0
BATCH = 1000
MOST_BATCHES = 400


@dataclass(frozen=True, slots=True)
class Figures:
    """Rates per second, for records of ``PAYLOAD_BYTES``."""

    appends_per_s_1_thread: float
    appends_per_s_32_threads: float
    batch_records_per_s: float
    replay_records_per_s: float
    replay_mb_per_s: float


def measure(folder: Path) -> Figures:
    """Append for a while, alone, with threads and in batches, then read everything back."""
    payload = bytes(range(256)) * (PAYLOAD_BYTES // 256)
    with walspool.open(folder / "figures") as spool:
        alone = _append_for(spool, payload, 1)
        together = _append_for(spool, payload, THREADS)
        batched = _append_batches(spool, payload)
        records, total, started = 0, 0, time.perf_counter()
        for _, each in spool.tuples():
            records += 1
            total += len(each)
        took = time.perf_counter() - started
        if records != spool.record_count or total != records * PAYLOAD_BYTES:
            raise DemoFailed(f"{records} of {spool.record_count} records were read back")
    return Figures(alone, together, batched, records / took, total / took / 1e6)


def _append_for(spool: walspool.LogicalWalSpool, payload: bytes, threads: int) -> float:
    counts = [0] * threads
    failures: list[Exception] = []
    started = time.perf_counter()
    until = started + SECONDS

    def work(number: int) -> None:
        try:
            while time.perf_counter() < until:
                spool.append_next(payload)
                counts[number] += 1
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.perf_counter() - started)


def _append_batches(spool: walspool.LogicalWalSpool, payload: bytes) -> float:
    batch = [payload] * BATCH
    records, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS and records < MOST_BATCHES * BATCH:
        spool.append_next_many(batch)
        records += BATCH
    return records / (time.perf_counter() - started)
