"""One scenario, again and again, with the Nth call of a class failing each time.

`python -m tests.lab.sweep FOLDER SAMPLE SEED` runs under the preloaded library, all in one process. SAMPLE is how many
N are taken of each class and kind of failure; 0 takes all. Prints one JSON object: runs, how often the
fault was met, counts of a clean run, findings.
"""

import contextlib
import errno
import faulthandler
import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.checker import DATA
from tests.lab.frames import decode_log
from tests.lab.notes import Author, payload_id
from tests.lab.record import Call
from tests.lab.states import clear

FAIL, SHORT, SHORT_THEN_FAIL = range(3)
MODES = {FAIL: "fails", SHORT: "comes short", SHORT_THEN_FAIL: "comes short, then fails"}

#: What each class is made to do. Interrupted and short calls are retried or continued, so nothing may be seen of them.
KINDS: dict[Call, tuple[tuple[int, int], ...]] = {
    Call.OPEN: ((errno.EIO, FAIL), (errno.ENOSPC, FAIL), (errno.EINTR, FAIL)),
    Call.READ: ((errno.EIO, FAIL), (errno.EINTR, FAIL), (0, SHORT)),
    Call.WRITE: (
        (errno.EIO, FAIL),
        (errno.ENOSPC, FAIL),
        (errno.EINTR, FAIL),
        (0, SHORT),
        (errno.ENOSPC, SHORT_THEN_FAIL),
    ),
    Call.SYNC: ((errno.EIO, FAIL), (errno.ENOSPC, FAIL), (errno.EINTR, FAIL)),
    Call.TRUNCATE: ((errno.EIO, FAIL), (errno.ENOSPC, FAIL), (errno.EINTR, FAIL)),
    Call.ALLOCATE: ((errno.EIO, FAIL), (errno.ENOSPC, FAIL), (errno.EINTR, FAIL)),
    Call.RENAME: ((errno.EIO, FAIL), (errno.ENOSPC, FAIL)),
    Call.UNLINK: ((errno.EIO, FAIL), (errno.ENOSPC, FAIL)),
}


#: A second call that fails behind the first: on the way back from a failed write, or after a failed sync.
SECOND: dict[tuple[Call, int], tuple[Call, ...]] = {
    (Call.WRITE, errno.EIO): (Call.TRUNCATE, Call.SYNC, Call.WRITE),
    (Call.SYNC, errno.EIO): (Call.TRUNCATE, Call.SYNC, Call.WRITE, Call.UNLINK),
    (Call.RENAME, errno.EIO): (Call.UNLINK, Call.SYNC),
}


@dataclass(frozen=True)
class Fault:
    """One call that fails, and perhaps another behind it."""

    call: Call
    nth: int
    error: int
    mode: int
    second: Call | None = None

    @property
    def mild(self) -> bool:
        """The caller need not hear of it."""
        return self.mode == SHORT or self.error == errno.EINTR

    def may_be_silent(self, name: str, step: str) -> bool:
        """Nothing relies on this call, or its failure is answered by leaving something out."""
        if self.mild or ".idx" in name or name.endswith(".spare"):
            return True
        if step.startswith("prune"):
            return self.error == errno.ENOSPC  # the rewrite is left out
        zeros = self.call is Call.WRITE and name.endswith(".logical.wal")
        return zeros and step.startswith("append")

    def __str__(self) -> str:
        name = errno.errorcode.get(self.error, "")
        behind = f", then the next {self.second.name.lower()}" if self.second else ""
        return f"{self.call.name.lower()} {self.nth} {MODES[self.mode]} {name}".rstrip() + behind


class Scenario:
    """A short life of a log: two openings, rotations, batches, prunes, reads."""

    def __init__(self, folder: Path, author: Author) -> None:
        self.folder = folder
        self.author = author
        self.spool: Any = None
        self.acked: dict[int, int] = {}
        self.submitted: set[int] = set()
        self.pruning = 0

    def open(self) -> None:
        """Opens it."""
        import walspool

        self.spool = walspool.open(self.folder / DATA, segment_bytes=900)

    def close(self) -> None:
        """Closes it."""
        spool, self.spool = self.spool, None
        spool.close()

    def append(self) -> None:
        """One record."""
        number, data = self.author.submit(150)
        self.submitted.add(number)
        self.acked[self.spool.append_next(data)] = number

    def append_many(self, count: int = 4, size: int = 100) -> None:
        """Some at once."""
        made = [self.author.submit(size) for _ in range(count)]
        self.submitted.update(number for number, _ in made)
        lsns = self.spool.append_next_many([data for _, data in made])
        self.acked.update((lsn, number) for lsn, (number, _) in zip(lsns, made, strict=True))

    def append_large(self) -> None:
        """More than is written in one piece."""
        self.append_many(3, 300_000)

    def read(self) -> None:
        """All that is there, compared."""
        problems = self.compare([(entry.lsn, entry.payload) for entry in self.spool.read_entries()])
        if problems:
            raise AssertionError("; ".join(problems))

    def peek(self) -> None:
        """Another reader, which needs no lock and writes nothing."""
        import walspool

        with walspool.open(self.folder / DATA, read_only=True) as spool:
            problems = self.compare([(entry.lsn, entry.payload) for entry in spool])
        if problems:
            raise AssertionError("; ".join(problems))

    def verify(self) -> None:
        """Every byte, read again. A sidecar that could not be written may be stale; the next opening writes it."""
        problems = [each for each in self.spool.verify().problems if each.path.suffix != ".idx"]
        if problems:
            raise AssertionError(f"verify found {problems}")

    def prune(self) -> None:
        """Drops some, in the middle of a segment as often as not."""
        self.pruning = self.spool.current_lsn - 3
        self.spool.prune_through(self.pruning)

    def prune_all(self) -> None:
        """Drops everything."""
        self.pruning = self.spool.current_lsn
        self.spool.prune_through(self.pruning)

    def tear(self) -> None:
        """Half a frame behind the last record, as a crash leaves it. Not through the library."""
        self.author.library.pause(True)
        path = self.folder / f"{DATA}.logical.wal"
        path.write_bytes(path.read_bytes() + b"RDLW\x03half a frame")
        self.author.library.pause(False)

    def steps(self) -> list[Callable[[], None]]:
        """All of it, in order."""
        s = self
        first = [
            s.open,
            s.append,
            s.append,
            s.append_many,
            s.append,
            s.append,
            s.append,
            s.append,
            s.read,
            s.append,
            s.peek,
        ]
        middle = [s.prune, s.append, s.append_many, s.append_large, s.read, s.verify, s.close, s.open, s.read, s.append]
        last = [
            s.prune,
            s.append,
            s.peek,
            s.append_many,
            s.prune_all,
            s.append,
            s.close,
            s.tear,
            s.open,
            s.append,
            s.read,
            s.close,
        ]
        return first + middle + last

    def compare(self, records: list[tuple[int, bytes]]) -> list[str]:
        """What is wrong with this as the content."""
        found, seen = [], dict(records)
        if [lsn for lsn, _ in records] != sorted(seen):
            found.append("LSNs do not ascend")
        for lsn, payload in records:
            if payload_id(payload) not in self.submitted:
                found.append(f"invented: LSN {lsn}")
        for lsn, number in self.acked.items():
            if lsn in seen and payload_id(seen[lsn]) != number:
                found.append(f"lost: LSN {lsn} holds another record")
            if lsn not in seen and lsn > self.pruning:
                found.append(f"lost: acknowledged LSN {lsn}")
        return found


class Sweep:
    """Runs the scenario under one fault after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.author = Author()
        self.library = self.author.library
        self.findings: list[str] = []
        self.left_out: Counter[str] = Counter()
        self.runs = self.met = 0
        self.heard = 0

    def clean_counts(self) -> dict[Call, int]:
        """How many calls of each class a run without a fault makes."""
        clear(self.folder)
        self.library.reset()
        for step in Scenario(self.folder, self.author).steps():
            step()
        return {call: self.library.count(call) for call in KINDS}

    def run(self, fault: Fault) -> None:
        """One run."""
        self.runs += 1
        self.heard = 0
        clear(self.folder)
        scenario = Scenario(self.folder, self.author)
        self.library.arm(fault.call, fault.nth, fault.error, fault.mode)
        if fault.second is not None:
            self.library.then(fault.second, 1, fault.error)
        for step in scenario.steps():
            outside = step.__name__ in ("open", "tear")
            if scenario.spool is None and not outside:
                self.restart(scenario)
            elif scenario.spool is not None and outside:
                self.restart(scenario)
                continue
            try:
                step()
                error = None
            except Exception as caught:
                error = caught
            if self.met_one():
                self.judge(scenario, fault, step.__name__, error)
            elif error is not None:
                self.find(fault, f"{step.__name__} raised without a cause: {error!r}")
                self.restart(scenario)
        self.met += self.heard > 0
        self.library.reset()
        self.last_look(scenario, fault)

    def run_safely(self, fault: Fault) -> None:
        """One run; whatever goes wrong in it is a finding."""
        faulthandler.dump_traceback_later(120, exit=True)  # a hang becomes an error that shows where
        try:
            self.run(fault)
        except Exception as failure:
            self.find(fault, f"the scenario could not go on: {failure!r}")
        self.library.reset()

    def met_one(self) -> bool:
        """A fault was met since the last look."""
        before, self.heard = self.heard, self.library.fired_count()
        return self.heard > before

    def find(self, fault: Fault, text: str) -> None:
        """Notes a finding."""
        self.findings.append(f"{fault}: {text}")

    def restart(self, scenario: Scenario) -> None:
        """Lets go of a log whose close may fail, and opens it again; a second fault may be met on the way."""
        if scenario.spool is not None:
            with contextlib.suppress(OSError):
                scenario.close()
        try:
            scenario.open()
        except OSError:
            if not self.met_one():
                raise
            scenario.open()

    def judge(self, scenario: Scenario, fault: Fault, step: str, error: Exception | None) -> None:
        """The call in which the fault was met has ended: was that right, and does life go on?"""
        import walspool

        name = Path(self.library.fired() or "").name
        if error is None:
            self.left_out[f"{fault.call.name.lower()} of {name.removeprefix(DATA)} in {step}"] += not fault.mild
            if not fault.may_be_silent(name, step) and fault.second is None:
                self.find(fault, f"{step} said nothing ({name})")
            return
        if fault.mild:
            self.find(fault, f"{step} did not go on after it ({name}): {error!r}")
        elif not isinstance(error, OSError | walspool.SpoolError):
            self.find(fault, f"{step} raised {error!r} ({name})")
        elif isinstance(error, OSError) and (error.errno != fault.error or not error.filename):
            self.find(fault, f"{step} raised another errno, or without a file name ({name}): {error!r}")
        if scenario.spool is None:
            if step == "open":
                self.restart(scenario)
            return
        self.go_on(scenario, fault, step, name)

    def go_on(self, scenario: Scenario, fault: Fault, step: str, name: str) -> None:
        """After an error: the next append works, unless a sync has failed."""
        import walspool

        of_log = name == f"{DATA}.logical.wal" and step.startswith("append")
        log_sync = of_log and fault.call is Call.SYNC and self.heard == 1
        try:
            scenario.append()
            if log_sync:
                self.find(fault, f"an append after the failed sync in {step} was accepted")
        except walspool.SpoolPoisoned:
            if fault.call is not Call.SYNC and fault.second is None:
                self.find(fault, f"poisoned by something else than a sync in {step} ({name})")
            scenario.read()
            self.restart(scenario)
        except Exception as again:
            if self.met_one():  # the second fault
                self.restart(scenario)
                return
            self.find(fault, f"the append after the failed {step} ({name}) raised {again!r}")
            self.restart(scenario)

    def last_look(self, scenario: Scenario, fault: Fault) -> None:
        """What another opening, and the checker's own decoder, find in the end."""
        if scenario.spool is not None:
            scenario.close()
        scenario.open()
        verdict = scenario.spool.recovery.verdict
        if verdict != "clean":
            self.find(fault, f"the last opening is {verdict}: {scenario.spool.recovery.reason}")
        scenario.read()
        scenario.close()
        frames, problems = decode_log(self.folder / DATA)
        seen = {frame.lsn for frame in frames}
        missing = [lsn for lsn in scenario.acked if lsn > scenario.pruning and lsn not in seen]
        for problem in problems + [f"the files lack acknowledged LSNs {missing}"] * bool(missing):
            self.find(fault, problem)


def main(folder: Path, sample: int, seed: int) -> None:
    """The whole sweep."""
    import walspool.spool.log as log

    log.FILL_AFTER_FLUSHES = 1  # so that zeros are written ahead, and trimmed
    logging.disable(logging.CRITICAL)
    rng = random.Random(seed)
    sweep = Sweep(folder)
    counts = sweep.clean_counts()
    for call, kinds in KINDS.items():
        for error, mode in kinds:
            for second in (None, *SECOND.get((call, error), ())):
                numbers = list(range(1, counts[call] + 1))
                if sample and len(numbers) > sample:
                    numbers = rng.sample(numbers, sample)
                for nth in numbers:
                    sweep.run_safely(Fault(call, nth, error, mode, second))
    result = {
        "runs": sweep.runs,
        "met": sweep.met,
        "counts": {call.name.lower(): count for call, count in counts.items()},
        "left_out": dict(sweep.left_out),
        "findings": sweep.findings,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
