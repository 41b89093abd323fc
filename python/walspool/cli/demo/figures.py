"""The demo's measurements: how fast this log is on this machine, with small records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import walspool
from walspool.cli.bench.work import BATCH, PAYLOAD_BYTES, append_batch, append_one, replay, together, work

__all__ = ["PAYLOAD_BYTES", "Figures", "measure"]

THREADS = 32
SECONDS = 1.0
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
    """Append for a while, alone, with threads and in batches, then read everything back once."""
    payload = bytes(range(256)) * (PAYLOAD_BYTES // 256)
    with walspool.open(folder / "figures") as spool:
        one = append_one(spool, payload)
        alone = work(one, SECONDS)
        threads = together(one, SECONDS, THREADS)
        batches = work(append_batch(spool, payload), SECONDS, MOST_BATCHES * BATCH)
        again = work(replay(spool), 0)
    return Figures(alone.per_s, threads.per_s, batches.per_s, again.per_s, again.per_s * PAYLOAD_BYTES / 1e6)
