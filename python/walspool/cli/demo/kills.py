"""Kills the demo's writer at random instants and looks at what each reopen finds."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import walspool
from walspool.cli import progress
from walspool.cli.demo.processes import python_environment, python_line
from walspool.cli.demo.tree import DemoFailed, Tree
from walspool.cli.demo.writer import GROUP, SEGMENT_BYTES

__all__ = ["KILLS", "Kill", "record_with_kills"]

KILLS = 5
HALF_FRAME_AFTER = 2


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: what had been acknowledged, and what the reopen found."""

    number: int
    acknowledged_lsn: int
    current_lsn: int
    half_frame_bytes: int
    recovery: walspool.RecoveryReport

    def sentence(self) -> str:
        """The kill in words."""
        found = self.recovery.verdict
        if self.recovery.cut_bytes:
            kind = "zeros filled ahead" if found == "clean" else "bytes"
            found += f", {self.recovery.cut_bytes:,} {kind} cut"
        if self.recovery.reason:
            found += f" ({self.recovery.reason})"
        added = f", half a frame ({self.half_frame_bytes} bytes) put behind" if self.half_frame_bytes else ""
        return f"LSN {self.acknowledged_lsn} acknowledged{added}; reopened at LSN {self.current_lsn}: {found}"


def record_with_kills(tree: Tree, data_path: Path, tell: Callable[[Kill], None]) -> list[Kill]:
    """Record the whole tree, killing the writer ``KILLS`` times on the way."""
    manifest = data_path.with_name("files.json")
    tree.save(manifest)
    kills: list[Kill] = []
    current = half_frame_bytes = 0
    for number in range(1, KILLS + 1):
        groups = (len(tree.names) - current) // GROUP
        acks = random.randint(1, max(1, groups // (KILLS - number + 3)))
        acknowledged = _write_until(data_path, manifest, current, len(tree.names), acks)
        put = 0
        if not half_frame_bytes and number >= HALF_FRAME_AFTER:
            put = half_frame_bytes = _put_half_frame(data_path)
        kill = _reopen(data_path, number, acknowledged, put)
        kills.append(kill)
        tell(kill)
        current = kill.current_lsn
    _write_until(data_path, manifest, current, len(tree.names), None)
    return kills


def _write_until(data_path: Path, manifest: Path, done: int, total: int, acks: int | None) -> int:
    """Run a writer, kill it after so many acknowledgements or never; the last LSN that it acknowledged."""
    command = python_line("walspool.cli.demo.writer", data_path, manifest)
    acknowledged, writer = done, None
    # an interrupt must not come between the start of the writer and the place where it is known
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        writer = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=python_environment(),
            process_group=0,  # Ctrl-C is for the parent, which ends its writer
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert writer.stdout is not None
        with writer.stdout, progress.Bar("recording", total) as bar:
            bar.step(done)
            for number, line in enumerate(writer.stdout, 1):
                if not line.endswith(b"\n"):
                    break  # the kill cut this line short: it says nothing
                bar.step(int(line) - acknowledged)
                acknowledged = int(line)
                if number == acks:
                    writer.kill()  # and go on reading: what it acknowledged before it died counts too
        code = writer.wait()
    finally:
        if writer is not None:
            writer.kill()
            writer.wait()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if acks is not None and code == 0:
        raise DemoFailed("the writer had recorded everything before the kill reached it")
    if acks is None and (code != 0 or acknowledged != total):
        raise DemoFailed(f"the writer ended with exit code {code} at LSN {acknowledged} of {total}")
    return acknowledged


def _put_half_frame(data_path: Path) -> int:
    """What a crash in the middle of a write leaves: the first half of a frame behind the last record."""
    from walspool import core

    active = walspool.LogicalWalSpool.path_for(data_path)
    if not active.exists():
        return 0  # killed between sealing one segment and starting the next; after the next kill, then
    with walspool.open(data_path, read_only=True) as spool:
        next_lsn = spool.current_lsn + 1_000_000
    frame = core.encode_frame(next_lsn, os.urandom(2000))
    half = frame[: len(frame) // 2]
    end = core.scan(active).valid_bytes
    file = os.open(active, os.O_WRONLY)
    try:
        os.pwrite(file, half, end)
    finally:
        os.close(file)
    return len(half)


def _reopen(data_path: Path, number: int, acknowledged: int, half_frame_bytes: int) -> Kill:
    """Let recovery do its work, in the mode that would refuse damage, and hold it to its promises."""
    logger = logging.getLogger("walspool")
    logger.setLevel(logging.ERROR)  # what recovery warns of, the demo tells itself
    try:
        spool = walspool.open(data_path, segment_bytes=SEGMENT_BYTES, recovery="strict")
    finally:
        logger.setLevel(logging.NOTSET)
    with spool:
        current, records, recovery = spool.current_lsn, spool.record_count, spool.recovery
    if current < acknowledged:
        raise DemoFailed(f"LSN {acknowledged} was acknowledged, but after kill {number} the log ends at LSN {current}")
    if records != current:
        raise DemoFailed(f"after kill {number} the log holds {records} records up to LSN {current}")
    if half_frame_bytes and (recovery.verdict == "clean" or not recovery.cut_bytes):
        raise DemoFailed(f"half a frame behind the last record was not noticed: {recovery}")
    return Kill(number, acknowledged, current, half_frame_bytes, recovery)
