"""What the slot file may hold after a crash, and whether the log still has what those slots need."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.lab.checker import ORDINARY, Checker, Expectation, Kind
from tests.lab.notes import make_payload
from tests.lab.record import Note, Said

ABSENT, VALID, INVALID = range(3)
_WORDS = ("absent", "valid", "invalid")
_PROBE = (0xFFFFFFF1 << 32) | 40
_PROBE_ID = "probe"
#: When everything in the laboratory happens, Unix time in ms.
NOW_MS = 1_700_000_000_000


def slot_state(kind: int, restart_lsn: int = 0) -> int:
    """What a slot is, in one number."""
    return restart_lsn << 2 | kind


def state_of(slot: Any) -> int:
    """The same of a slot of the package."""
    return slot_state(VALID if slot.valid else INVALID, slot.restart_lsn)


def replica_name(number: int) -> str:
    """The id of a replica of the laboratory."""
    return f"r{number}"


def _words(state: int) -> str:
    return f"{_WORDS[state & 3]} at {state >> 2}" if state & 3 else "absent"


class SlotExpectation(Expectation):
    """Besides the log's records: for each replica what memory had since the disk had it for sure."""

    def __init__(self, notes: Iterable[Said] = ()) -> None:
        self.possible: dict[int, list[int]] = {}
        super().__init__(notes)

    def add(self, said: Said) -> None:
        """Takes one note."""
        if said.note is Note.SLOT:
            self.possible.setdefault(said.a, [slot_state(ABSENT)]).append(said.b)
        elif said.note is Note.SAVED:
            for number, states in self.possible.items():
                if said.a >> number & 1:
                    del states[:-1]
        else:
            super().add(said)

    def key(self) -> bytes:
        """What is expected, as bytes."""
        return super().key() + repr(sorted(self.possible.items())).encode()

    def slot_problems(self, slots: dict[str, int], records: list[tuple[int, bytes]]) -> list[str]:
        """What is wrong with these slots, by name, beside these records of the log."""
        names = {replica_name(number): number for number in self.possible}
        found = [
            f"slot {name} is {_words(state)}, and nobody made it" for name, state in slots.items() if name not in names
        ]
        for name, number in names.items():
            state = slots.get(name, slot_state(ABSENT))
            if state not in self.possible[number]:
                may = ", ".join(dict.fromkeys(map(_words, self.possible[number])))
                found.append(f"slot {name} is {_words(state)}; it may be {may}")
        held = {lsn for lsn, _ in records}
        for name, state in slots.items():
            gone = [lsn for lsn in self.acked if lsn > state >> 2 and lsn not in held]
            if state & 3 == VALID and gone:
                found.append(f"slot {name} is {_words(state)} and needs LSNs {min(gone)}…{max(gone)}, which are gone")
        return found


class SlotChecker(Checker):
    """Opens a primary on each state, and lives on with it."""

    def __init__(self, folder: Path, options: dict[str, Any], data: str) -> None:
        super().__init__(folder, self._open, data)
        self._options = options | {"slot_retention_max_lag_lsn": 0}  # what is valid stays so

    def _open(self, path: Path, recovery: str) -> Any:
        return open_primary(path, self._options, recovery)

    def _check(self, expect: Expectation, recovery: str) -> list[str]:
        assert isinstance(expect, SlotExpectation)
        with self.opener(self.data, recovery) as primary:
            log = primary.logical_wal_spool
            found = []
            if log.recovery.verdict not in ORDINARY:
                found.append(f"an ordinary crash is called {log.recovery.verdict}: {log.recovery.reason}")
            records = list(log.tuples())
            slots = slots_of(primary)
            found += expect.problems(records) + expect.slot_problems(slots, records)
            if primary.current_logical_lsn < max(expect.floor, records[-1][0] if records else 0):
                found.append(f"current_lsn is {primary.current_logical_lsn}, below what was promised ({expect.floor})")
            found += self._live_on(primary, records, slots)
            last = slots_of(primary), list(log.tuples())
        return found + self._ended(*last)

    def _live_on(self, primary: Any, records: list[tuple[int, bytes]], slots: dict[str, int]) -> list[str]:
        """A new replica, one more record, and a prune through everything."""
        found = []
        start = primary.current_logical_lsn
        if primary.register_replica(_PROBE_ID) != start:
            found.append(f"a new slot does not start at {start}")
        lsn = primary.commit(make_payload(_PROBE)).lsn
        floor = min(state >> 2 for state in [*slots.values(), slot_state(VALID, start)] if state & 3 == VALID)
        if primary.prune_retained_wal_through(lsn) != floor:
            found.append(f"a prune does not stop at {floor}")
        wanted = [each for each in [*records, (lsn, make_payload(_PROBE))] if each[0] > floor]
        if list(primary.logical_wal_spool.tuples()) != wanted:
            found.append(f"a prune through {floor} leaves other records than those above")
        return found

    def _ended(self, slots: dict[str, int], records: list[tuple[int, bytes]]) -> list[str]:
        """What a close leaves in the file, and what the next opening shows."""
        found = []
        path = self.data.with_name(self.data.name + ".logical.slots.json")
        listed = json.loads(path.read_bytes())["slots"]
        if {each["id"]: each["restart_lsn"] for each in listed} != {name: state >> 2 for name, state in slots.items()}:
            found.append(f"a close leaves other slots than there were: {listed}")
        with self.opener(self.data, "truncate") as primary:
            if (slots_of(primary), list(primary.logical_wal_spool.tuples())) != (slots, records):
                found.append(f"the second opening shows {slots_of(primary)}, the first had {slots}")
        return found


def slots_of(primary: Any) -> dict[str, int]:
    """What a primary's slots are, by name."""
    return {slot.id: state_of(slot) for slot in primary.slot_snapshots()}


def open_primary(path: Path, options: dict[str, Any], recovery: str = "truncate") -> Any:
    """A primary at a time that stands still."""
    import walspool

    config = walspool.ReplicationConfig(**options)
    return walspool.PrimaryReplication(path, config, recovery=recovery, clock=lambda: NOW_MS)  # type: ignore[arg-type]


#: A log and the slots of its primary.
SLOTS = Kind(SlotExpectation, SlotChecker)
