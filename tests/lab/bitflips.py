"""Each bit of each file of a small log, flipped one at a time: `python -m tests.lab.bitflips FOLDER SAMPLE SEED`.

SAMPLE is how many flips are tried; 0 tries all. Prints one JSON object: bits, tried, outcomes, findings.
"""

import faulthandler
import json
import logging
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.lab.checker import DATA
from tests.lab.states import State, materialize

Record = tuple[int, int, int, bytes]
WAYS: tuple[dict[str, Any], ...] = (
    {"recovery": "truncate"},
    {"recovery": "strict"},
    {"recovery": "truncate", "read_only": True},
)


class Listener(logging.Handler):
    """Counts warnings and errors."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = 0

    def emit(self, record: logging.LogRecord) -> None:
        """One more."""
        self.heard += 1


def make_log(folder: Path) -> tuple[State, list[Record]]:
    """A closed log of three segments whose first records were pruned, and what it holds."""
    import walspool

    with walspool.open(folder / DATA, segment_bytes=150) as spool:
        for lsn in range(1, 13):
            data = bytes([65 + lsn]) * (10 + lsn % 3)
            spool.append(lsn, data, term=1 + lsn // 6, timestamp_ms=1000 + lsn)
        spool.prune_through(3)
        assert len(spool.segments) == 3, spool.segments
    content: State = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    with walspool.open(folder / DATA, segment_bytes=150) as spool:
        records = _records(spool)
    assert [record[0] for record in records] == list(range(4, 13))
    return content, records


def _records(spool: Any) -> list[Record]:
    return [(entry.lsn, entry.term, entry.timestamp_ms, entry.payload) for entry in spool.entries()]


class Flipper:
    """Opens the log with one bit changed, in every way there is to open it."""

    def __init__(self, folder: Path, content: State, records: list[Record]) -> None:
        self.folder = folder
        self.content = content
        self.records = records
        self.outcomes: Counter[str] = Counter()
        self.findings: list[str] = []
        self.listener = Listener()
        logger = logging.getLogger("walspool")
        logger.addHandler(self.listener)
        logger.propagate = False

    def flip(self, name: str, bit: int) -> None:
        """One bit."""
        faulthandler.dump_traceback_later(120, exit=True)  # a hang becomes an error that shows where
        data = bytearray(self.content[name] or b"")
        data[bit // 8] ^= 1 << bit % 8
        state = self.content | {name: bytes(data)}
        for way in WAYS:
            materialize(state, self.folder)
            outcome = self._open(way)
            words = "read-only" if "read_only" in way else way["recovery"]
            self.outcomes[f"{words}: {outcome.split(':')[0]}"] += 1
            if outcome.startswith("BAD"):
                self.findings.append(f"{name}, bit {bit % 8} of byte {bit // 8}, {words}: {outcome}")

    def _open(self, way: dict[str, Any]) -> str:
        """What comes of it; "BAD" is what must not."""
        import walspool

        self.listener.heard = 0
        got: list[Record] = []
        try:
            with walspool.open(self.folder / DATA, segment_bytes=150, **way) as spool:
                verdict, current = spool.recovery.verdict, spool.current_lsn
                got.extend((e.lsn, e.term, e.timestamp_ms, e.payload) for e in spool.entries())
        except (walspool.WalspoolError, OSError) as error:
            wrong = [record for record in got if record not in self.records]
            return f"BAD: wrong record {wrong[0]}" if wrong else f"{type(error).__name__}"
        except Exception as error:
            return f"BAD: raised {error!r}"
        wrong = [record for record in got if record not in self.records]
        if wrong:
            return f"BAD: wrong record {wrong[0]}"
        if current < self.records[-1][0] and "read_only" not in way:
            return f"BAD: current_lsn is {current}, so that acknowledged LSNs would be used again"
        if got == self.records:
            return "complete"
        if way["recovery"] == "strict":
            return f"BAD: strict lost {len(self.records) - len(got)} records"
        if verdict != "clean" or self.listener.heard:
            return f"{verdict}, said so"
        return f"BAD: silently lost {len(self.records) - len(got)} records"


def main(folder: Path, sample: int, seed: int) -> None:
    """All bits, or a sample that has some of each file."""
    content, records = make_log(folder)
    flipper = Flipper(folder, content, records)
    rng = random.Random(seed)
    per_file = {name: list(range(len(data or b"") * 8)) for name, data in content.items() if data}
    bits = sum(len(numbers) for numbers in per_file.values())
    tried = 0
    for name, numbers in per_file.items():
        share = sample // len(per_file) if sample else len(numbers)
        for bit in rng.sample(numbers, min(share, len(numbers))):
            flipper.flip(name, bit)
            tried += 1
    result = {
        "files": {name: len(numbers) for name, numbers in per_file.items()},
        "bits": bits,
        "tried": tried,
        "outcomes": dict(flipper.outcomes),
        "findings": flipper.findings[:50],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
