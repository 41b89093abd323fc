"""A primary with slots, killed again and again: `python -m tests.lab.slot_kills FOLDER ROUNDS SEED`.

Each round forks a primary that says through a pipe what it is about to do and what is done, kills it at a random
moment, and opens what is left. Prints one JSON object: rounds, what was looked at, findings.
"""

import faulthandler
import importlib
import json
import logging
import os
import random
import select
import signal
import struct
import sys
import traceback
from pathlib import Path

from tests.lab import slots
from tests.lab.checker import DATA, ORDINARY
from tests.lab.notes import Author, Library
from tests.lab.record import Note, Said
from tests.lab.slot_checker import SlotExpectation, open_primary, slots_of
from tests.lab.workloads import Run

OPTIONS = (
    {"segment_bytes": 2000, "slot_retention_max_lag_lsn": 0, "slot_flush_interval_ms": 1},
    {"segment_bytes": 2000, "slot_retention_max_lag_lsn": 9, "slot_flush_interval_ms": 3_600_000},
)
_NOTE = struct.Struct("<QQQ")


class PipeLibrary(Library):
    """Notes go to who started this process."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self._pipe = pipe

    def note(self, note: Note, a: int, b: int = 0) -> None:
        """Says it; a write this small is whole or not there."""
        os.write(self._pipe, _NOTE.pack(note, a, b))


def _work(folder: Path, pipe: int, seed: int, number: int) -> None:
    """The primary: never returns."""
    run = Run(folder / DATA, seed * 10_000 + number, 0, OPTIONS[number % 2])
    run.author = Author(1 + number * 1_000_000)
    run.author.library = PipeLibrary(pipe)
    primary = slots.Slots(run)
    while True:
        primary.work(8)
        if number % 2 == 0:
            slots.acks_at_once(primary)
        if run.rng.random() < 0.1:
            primary.close()
            primary.open()


class Killer:
    """What is known of the log and its slots through all rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.rng = random.Random(seed)
        self.expect = SlotExpectation()
        self.records = self.slots = self.lagging = 0
        self.findings: list[str] = []

    def round(self, number: int) -> None:
        """One primary's life and death, and a look at what it left."""
        faulthandler.dump_traceback_later(120, exit=True)  # a hang becomes an error that shows where
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            try:
                _work(self.folder, write_end, self.seed, number)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(write_end)
        data = self._until(read_end, self.rng.choice((0, 20, 100, 400)), self.rng.uniform(0.001, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while part := os.read(read_end, 1 << 16):
            data += part
        os.close(read_end)
        for note, a, b in _NOTE.iter_unpack(data[: len(data) // _NOTE.size * _NOTE.size]):
            self.expect.add(Said(Note(note), a, b))
        self._look(number)

    def _until(self, pipe: int, notes: int, seconds: float) -> bytes:
        """Waits for that many notes, and then for an instant more."""
        data = b""
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        while len(data) < notes * _NOTE.size or poller.poll(seconds * 1000):
            part = os.read(pipe, 1 << 16)
            if not part:
                self.findings.append("the primary ended by itself")
                break
            data += part
            seconds *= 0.9
        return data

    def _look(self, number: int) -> None:
        with open_primary(self.folder / DATA, OPTIONS[0]) as primary:
            log = primary.logical_wal_spool
            found = []
            if log.recovery.verdict not in ORDINARY:
                found.append(f"{log.recovery.verdict}: {log.recovery.reason}")
            records, shown = list(log.tuples()), slots_of(primary)
            found += self.expect.problems(records) + self.expect.slot_problems(shown, records)
            self.records += len(records)
            self.slots += len(shown)
            self.lagging += sum(len(states) > 1 for states in self.expect.possible.values())
        self.findings += [f"round {number}: {text}" for text in found]


def main(folder: Path, rounds: int, seed: int) -> None:
    """All rounds."""
    importlib.import_module("walspool.replication.primary")  # before the first fork, so that each starts at once
    logging.disable(logging.CRITICAL)
    killer = Killer(folder, seed)
    for number in range(1, rounds + 1):
        killer.round(number)
        if len(killer.findings) > 20:
            break
    result = {
        "rounds": rounds,
        "records": killer.records,
        "slots": killer.slots,
        "lagging": killer.lagging,
        "findings": killer.findings,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
