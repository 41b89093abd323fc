"""Opening and reading a large log needs little memory. ``WALSPOOL_MEMORY_MIB`` sets how large."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import walspool
from tests.spool.kit import Program

LOG_MIB = int(os.environ.get("WALSPOOL_MEMORY_MIB", "96"))
#: What the whole process may need above what it needs with an empty log.
LIMIT_MIB = {"rust": 64, "python": 256}
RECORD_BYTES = 4000

MEASURED = """
import sys, walspool

def peak_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024

with walspool.open(sys.argv[1]) as log:  # all code is loaded once this is done
    log.append_next(b"x")
    assert len(list(log)) == len(list(log.tuples())) == len(log.read_since(0)) == log.read_frames(0).records == 1
before = peak_mib()
for read_only in (True, False):
    log = walspool.open(sys.argv[2], read_only=read_only, segment_bytes=None)
    assert sum(1 for _ in log.tuples()) == log.record_count == int(sys.argv[3])
    assert sum(1 for _ in log.entries()) == log.record_count
    frames, since = 0, 0
    while (batch := log.read_frames(since, 1 << 20)).records:
        frames, since = frames + batch.records, batch.last_lsn
    assert frames == log.record_count
    assert log.read_since(since - 10, 10)[0][0] == since - 9
    assert log.verify().ok
    log.close()
print(peak_mib() - before)
"""

KEPT = """
import sys, walspool

def mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) / 1024

with walspool.open(sys.argv[1], read_only=True) as log:
    before = mib()
    kept = [log.read_frames(61, 1) for _ in range(20)]
    assert {(each.records, each.first_lsn) for each in kept} == {(1, 62)}
    print(mib() - before)
"""


def test_reading_a_large_log(core: ModuleType, tmp_path: Path) -> None:
    assert sys.platform.startswith("linux")
    count = (LOG_MIB << 20) // (RECORD_BYTES + 37)
    data = os.urandom(RECORD_BYTES)
    with walspool.open(tmp_path / "app.db", segment_bytes=None) as log:
        while (missing := count - log.current_lsn) > 0:
            log.append_next_many([data] * min(missing, 4000))
        assert log.size_bytes > (LOG_MIB - 1) << 20
    with Program(core.name, MEASURED, tmp_path / "small.db", tmp_path / "app.db", count) as program:
        used = float(program.finish())
    for each in tmp_path.iterdir():
        each.unlink()
    assert used < LIMIT_MIB[core.name], f"{used:.0f} MiB for a log of {LOG_MIB} MiB"


def test_frames_that_are_kept_keep_nothing_else(core: ModuleType, tmp_path: Path) -> None:
    """The way to record 62 begins at the last checkpoint, the first record."""
    with walspool.open(tmp_path / "app.db") as log:
        log.append_next_many([os.urandom(100_000)] * 63)
    with Program(core.name, KEPT, tmp_path / "app.db") as program:
        assert float(program.finish()) < 64  # 20 times the way would be 116
