"""Opens a state of the disk and says everything that is wrong with what comes out."""

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.frames import decode_log
from tests.lab.notes import make_payload, payload_id
from tests.lab.record import Note, Said
from tests.lab.states import State, materialize

ORDINARY = ("clean", "torn", "unfinished-batch")
DATA = "spool.rdb"
_PROBE = (0xFFFFFFF0 << 32) | 40


class Expectation:
    """What must, and what may, be there after the notes made so far."""

    def __init__(self, notes: Iterable[Said] = ()) -> None:
        self.submitted: set[int] = set()
        self.acked: dict[int, int] = {}
        self.pruning = 0
        self.floor = 0
        self.dead: set[int] = set()
        self.broken: list[str] = []
        for note in notes:
            self.add(note)

    def add(self, said: Said) -> None:
        """Takes one note."""
        a, b = said.a, said.b
        if said.note is Note.SUBMIT:
            self.submitted.add(a)
        elif said.note in (Note.ACK, Note.SHOWN):
            if self.acked.get(b, a) != a:
                self.broken.append(f"LSN {b} was promised to one record and then given to another")
            if a not in self.submitted or a in self.dead:
                self.broken.append(f"LSN {b} showed a record that was never submitted, or was declared lost")
            self.acked[b] = a
            self.floor = max(self.floor, b)
        elif said.note is Note.PRUNE:
            self.pruning = max(self.pruning, a)
        elif said.note is Note.PRUNED:
            self.floor = max(self.floor, a)
        elif said.note is Note.PUBLISHED:
            # What an opening did not show is gone for good; it must not come back later.
            self.dead |= self.submitted - set(self.acked.values())
            self.floor = max(self.floor, a)

    def key(self) -> bytes:
        """The acknowledged set, as bytes."""
        text = repr((sorted(self.acked.items()), self.pruning, self.floor, len(self.submitted), len(self.dead)))
        return text.encode()

    def problems(self, records: list[tuple[int, bytes]]) -> list[str]:
        """What is wrong with these records as the content of the log."""
        found = list(self.broken)
        last = None
        seen: dict[int, int] = {}
        for lsn, payload in records:
            if last is not None and lsn != last + 1:
                found.append(f"LSN {lsn} follows {last}")
            last = lsn
            number = payload_id(payload)
            if number is None or number not in self.submitted:
                found.append(f"invented: LSN {lsn} holds {len(payload)} bytes that nobody had submitted")
            elif number in self.dead:
                found.append(f"resurrected: LSN {lsn} holds a record that an opening had declared lost")
            elif number in seen.values():
                found.append(f"LSN {lsn} repeats a record")
            seen[lsn] = number or 0
        for lsn, number in self.acked.items():
            if lsn in seen:
                if seen[lsn] != number:
                    found.append(f"lost: LSN {lsn} holds another record than the acknowledged one")
            elif lsn > self.pruning:
                found.append(f"lost: acknowledged LSN {lsn} is missing")
        return found


class Checker:
    """Checks states in one folder, with the log at `data` in it. `opener(data_path, recovery)` opens it."""

    def __init__(self, folder: Path, opener: Callable[[Path, str], Any], data: str = DATA) -> None:
        self.folder = folder
        self.opener = opener
        self.data = folder / data
        self._checked = 0

    def check(self, state: State, expect: Expectation) -> list[str]:
        """All findings; none is what should come out.

        Each state is opened strict, which must not call it corrupt, and lived on in. The default differs only where
        strict refuses, so it opens every eighth state, and each in which strict found something.
        """
        self._checked += 1
        found = self._try(state, expect, "strict")
        if found or self._checked % 8 == 0:
            found += self._try(state, expect, "truncate")
        return found

    def _try(self, state: State, expect: Expectation, recovery: str) -> list[str]:
        materialize(state, self.folder)
        try:
            return [f"{recovery}: {text}" for text in self._check(expect, recovery)]
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            return [f"{recovery}: raised {type(error).__name__}: {error} ({place})"]

    def _check(self, expect: Expectation, recovery: str) -> list[str]:
        spool = self.opener(self.data, recovery)
        try:
            found = []
            if spool.recovery.verdict not in ORDINARY:
                found.append(f"an ordinary crash is called {spool.recovery.verdict}: {spool.recovery.reason}")
            records = _content(spool)
            found += expect.problems(records)
            current = spool.current_lsn
            if current < max(expect.floor, records[-1][0] if records else 0):
                found.append(f"current_lsn is {current}, below what was promised ({expect.floor})")
            probe = make_payload(_PROBE)
            lsn = spool.append_next(probe)
            if lsn != current + 1:
                found.append(f"the next append got LSN {lsn} after current_lsn {current}")
        finally:
            spool.close()
        return found + self._after(records, (lsn, probe), expect.pruning)

    def _after(self, records: list[tuple[int, bytes]], probe: tuple[int, bytes], pruned: int) -> list[str]:
        """Life goes on: the files and a second opening hold what the first showed, and the record since."""
        frames, found = decode_log(self.data)
        wanted = [*records, probe]
        on_disk = [(frame.lsn, frame.payload) for frame in frames]
        extra = len(on_disk) - len(wanted)
        if extra < 0 or on_disk[extra:] != wanted or any(lsn > pruned for lsn, _ in on_disk[:extra]):
            found.append(f"the files hold LSNs {_span(on_disk)}, the log had shown {_span(wanted)}")
        spool = self.opener(self.data, "truncate")
        try:
            if spool.recovery.verdict != "clean":
                found.append(f"after recovery and close it is {spool.recovery.verdict}: {spool.recovery.reason}")
            again = _content(spool)
            if again != wanted:
                found.append(f"the second opening shows LSNs {_span(again)}, the first had {_span(wanted)}")
        finally:
            spool.close()
        return found


def _content(spool: Any) -> list[tuple[int, bytes]]:
    return [(entry.lsn, entry.payload) for entry in spool.read_entries()]


def _span(records: list[tuple[int, bytes]]) -> str:
    return f"{records[0][0]}…{records[-1][0]} ({len(records)})" if records else "none"


def open_walspool(**options: Any) -> Callable[[Path, str], Any]:
    """Opens the shipped package."""
    import walspool

    opening: Callable[..., Any] = walspool.open
    return lambda path, recovery: opening(path, recovery=recovery, **options)


@dataclass(frozen=True)
class Kind:
    """What is expected of a recording's states, and how they are checked (folder, options, data path)."""

    expectation: Callable[[Iterable[Said]], Expectation]
    checker: Callable[[Path, dict[str, Any], str], Checker]


#: A log by itself.
LOG = Kind(Expectation, lambda folder, options, data: Checker(folder, open_walspool(**options), data))
