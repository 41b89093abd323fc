"""A writer with eight threads, killed again and again: `python -m tests.lab.kills FOLDER ROUNDS SEED`.

Each round forks a writer that reports each acknowledgement through a pipe, kills it at a random moment, and opens
the log. Prints one JSON object: rounds, acknowledged records checked, verdicts, findings.
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
import threading
import traceback
from pathlib import Path
from typing import Any

from tests.lab.checker import DATA, ORDINARY
from tests.lab.notes import make_payload, payload_id

THREADS = 8
OPTIONS: dict[str, Any] = {"segment_bytes": 24_000}
_ACK = struct.Struct("<QQ")
_PRUNING = 0  # instead of an id: everything up to the LSN may be gone
_SIZES = (8, 30, 100, 400, 900, 3000)


def _write(folder: Path, pipe: int, round_number: int) -> None:
    """The writer: never returns."""
    import walspool

    spool = walspool.open(folder / DATA, **OPTIONS)

    def work(index: int) -> None:
        rng = random.Random(round_number * THREADS + index)
        for count in range(1 << 15):
            number = (round_number << 18 | index << 15 | count) << 32 | rng.choice(_SIZES)
            lsn = spool.append_next(make_payload(number))
            os.write(pipe, _ACK.pack(lsn, number))
            if index == 0 and count % 100 == 60:
                os.write(pipe, _ACK.pack(lsn - 200 if lsn > 200 else 0, _PRUNING))
                spool.prune_through(max(lsn - 200, 0))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Killer:
    """What is known of the log through all rounds."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.acked: dict[int, int] = {}
        self.pruning = 0
        self.checked = 0
        self.verdicts: dict[str, int] = {}
        self.findings: list[str] = []

    def round(self, number: int) -> None:
        """One writer's life and death, and a look at what it left."""
        faulthandler.dump_traceback_later(120, exit=True)  # a hang becomes an error that shows where
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            try:
                _write(self.folder, write_end, number)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        os.close(write_end)
        data = self._until(read_end, self.rng.choice((0, 1, 10, 50, 300)), self.rng.uniform(0.001, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while part := os.read(read_end, 1 << 16):
            data += part
        os.close(read_end)
        for lsn, ident in _ACK.iter_unpack(data[: len(data) // _ACK.size * _ACK.size]):
            if ident == _PRUNING:
                self.pruning = max(self.pruning, lsn)
            elif self.acked.setdefault(lsn, ident) != ident:
                self.findings.append(f"round {number}: LSN {lsn} was given twice")
        self._look(number)

    def _until(self, pipe: int, acks: int, seconds: float) -> bytes:
        """Waits for that many acknowledgements, or for an instant, whichever comes first."""
        data = b""
        poller = select.poll()
        poller.register(pipe, select.POLLIN)
        while len(data) < acks * _ACK.size and poller.poll(seconds * 1000):
            part = os.read(pipe, 1 << 16)
            if not part:
                self.findings.append("the writer ended by itself")
                break
            data += part
        return data

    def _look(self, number: int) -> None:
        import walspool

        with walspool.open(self.folder / DATA, **OPTIONS) as spool:
            verdict = spool.recovery.verdict
            self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
            if verdict not in ORDINARY:
                self.findings.append(f"round {number}: {verdict}: {spool.recovery.reason}")
            seen = {}
            last = 0
            for lsn, payload in spool.tuples():
                ident = payload_id(payload)
                if ident is None or ident >> 50 > number or (last and lsn != last + 1):
                    self.findings.append(f"round {number}: LSN {lsn} after {last} holds {ident}")
                seen[lsn] = ident
                last = lsn
            for lsn, ident in self.acked.items():
                if seen.get(lsn, ident if lsn <= self.pruning else None) != ident:
                    self.findings.append(f"round {number}: acknowledged LSN {lsn} is lost")
            if self.acked and spool.current_lsn < max(self.acked):
                self.findings.append(f"round {number}: current_lsn {spool.current_lsn} is below {max(self.acked)}")
            self.checked += len(self.acked)
            # What this opening showed must stay; what it did not show is gone.
            self.acked = {lsn: ident for lsn, ident in seen.items() if ident is not None and lsn > self.pruning}


def main(folder: Path, rounds: int, seed: int) -> None:
    """All rounds."""
    importlib.import_module("walspool.spool.log")  # before the first fork, so that each writer starts at once
    logging.disable(logging.CRITICAL)
    killer = Killer(folder, seed)
    for number in range(1, rounds + 1):
        killer.round(number)
        if len(killer.findings) > 20:
            break
    result = {
        "rounds": rounds,
        "checked": killer.checked,
        "verdicts": killer.verdicts,
        "last_lsn": max(killer.acked, default=0),
        "findings": killer.findings,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
