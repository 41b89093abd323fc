"""The workloads of a primary with slots. Each says what its slots are about to be, and when the disk must have it."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.lab.checker import DATA
from tests.lab.notes import Author
from tests.lab.record import Call, Note, Said
from tests.lab.slot_checker import ABSENT, INVALID, VALID, open_primary, replica_name, slot_state, slots_of

if TYPE_CHECKING:
    from tests.lab.workloads import Run

_EVERYBODY = (1 << 20) - 1
_REPLICAS = range(1, 7)
#: What fails in a save: the call, which one of its class, the error, a part of the path. The last is the directory's.
_FAULTS = (
    (Call.OPEN, 1, errno.EIO, ".slots.json"),
    (Call.WRITE, 1, errno.ENOSPC, ".slots.json"),
    (Call.SYNC, 1, errno.EIO, ".slots.json"),
    (Call.LINK, 1, errno.ENOSPC, ".slots.json"),
    (Call.UNLINK, 1, errno.EIO, ".slots.json"),
    (Call.RENAME, 1, errno.EIO, ".slots.json"),
    (Call.SYNC, 2, errno.EIO, ""),
)


class Slots:
    """A primary at work, and what its memory holds, by number of the replica."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.author: Author = run.author
        self.faults = False
        self.limit: int = run.options["slot_retention_max_lag_lsn"]
        self.open()

    def open(self) -> None:
        """Opens the primary; what it shows from now on holds."""
        self.primary: Any = open_primary(self.run.path, self.run.options)
        self.author.published(self.primary.logical_wal_spool)
        shown = slots_of(self.primary)
        self.memory = {number: shown.get(replica_name(number), slot_state(ABSENT)) for number in _REPLICAS}
        for number in _REPLICAS:
            self._say(number, self.memory[number])
        self._saved()

    def close(self) -> None:
        """An orderly end: the file is up to date."""
        self.primary.close()
        self._saved()

    def _say(self, number: int, state: int) -> None:
        self.author.library.note(Note.SLOT, number, state)
        self.memory[number] = state

    def _saved(self, numbers: int = _EVERYBODY) -> None:
        self.author.library.note(Note.SAVED, numbers)

    @contextmanager
    def durably(self, changes: dict[int, int]) -> Iterator[None]:
        """A change that is on the disk when its call returns; it may fail only if a call was made to."""
        before = {number: self.memory[number] for number in changes}
        for number, state in changes.items():
            self._say(number, state)
        try:
            yield
        except OSError as error:
            if self.author.library.fired() is None:
                raise AssertionError("a failure without a fault") from error
            for number, state in before.items():
                self._say(number, state)
            return
        if self.faults and self.author.library.fired() is not None:
            # it got over the fault, perhaps by leaving the change out
            now = slots_of(self.primary)
            for number in changes:
                self._say(number, now.get(replica_name(number), slot_state(ABSENT)))
        elif changes:
            self._saved()

    # -- what a primary does -------------------------------------------------------------------------------------------

    def append(self, count: int) -> None:
        """Some records."""
        for _ in range(count):
            number, data = self.author.submit(self.run.size())
            self.author.ack(number, self.primary.commit(data).lsn)

    def register(self) -> None:
        """A replica comes, for the first time or again."""
        number = self.run.rng.choice(_REPLICAS)
        made = {number: slot_state(VALID, self.primary.current_logical_lsn)}
        with self.durably(made if self.memory[number] & 3 == ABSENT else {}):
            self.primary.register_replica(replica_name(number))

    def ack(self) -> None:
        """A replica acknowledges something, perhaps less than before."""
        number = self._some(VALID, INVALID)
        if number is not None:
            self._ack(number, self.run.rng.randint(0, self.primary.current_logical_lsn))

    def catch_up(self) -> None:
        """Everybody acknowledges nearly everything, so that much can be pruned."""
        for number, state in self.memory.items():
            if state & 3:
                self._ack(number, max(self.primary.current_logical_lsn - self.run.rng.randint(0, 2), 0))

    def _ack(self, number: int, lsn: int) -> None:
        state = self.memory[number]
        if state & 3 == VALID:
            self._say(number, slot_state(VALID, max(state >> 2, lsn)))
        self.primary.note_replica_pull(replica_name(number), lsn)
        self.primary.ack_replica_lsn(replica_name(number), lsn + self.run.rng.randint(0, 3), lsn)

    def reset(self) -> None:
        """A replica has loaded a snapshot."""
        number = self._some(VALID, INVALID)
        if number is None:
            return
        log = self.primary.logical_wal_spool
        lsn = self.run.rng.randint(log.pruned_through, log.current_lsn)
        with self.durably({number: slot_state(VALID, lsn)}):
            self.primary.reset_slot(replica_name(number), lsn)

    def drop(self) -> None:
        """A replica is given up."""
        number = self._some(VALID, INVALID)
        if number is not None:
            with self.durably({number: slot_state(ABSENT)}):
                self.primary.drop_slot(replica_name(number))

    def _doomed(self) -> dict[int, int]:
        last = self.primary.current_logical_lsn
        return {
            number: slot_state(INVALID, state >> 2)
            for number, state in self.memory.items()
            if self.limit and state & 3 == VALID and last - (state >> 2) > self.limit
        }

    def enforce(self) -> None:
        """Whoever is too far behind loses its slot."""
        doomed = self._doomed()
        with self.durably(doomed):
            found = self.primary.enforce_retention_limits()
            assert {name for name, _ in found} == {replica_name(number) for number in doomed}

    def prune(self) -> None:
        """Everything that no slot holds, or most of it."""
        archived = self.primary.current_logical_lsn - self.run.rng.randint(0, 3)
        doomed = self._doomed()
        held = [state >> 2 for number, state in self.memory.items() if state & 3 == VALID and number not in doomed]
        floor = min([archived, *held])
        self.author.library.note(Note.PRUNE, max(floor, 0))
        with self.durably(doomed):
            self.primary.prune_retained_wal_through(max(archived, 0))
            self.author.library.note(Note.PRUNED, max(floor, 0))

    def _some(self, *kinds: int) -> int | None:
        found = [number for number, state in self.memory.items() if state & 3 in kinds]
        return self.run.rng.choice(found) if found else None

    def work(self, steps: int) -> None:
        """Whatever comes; with faults now and then a save fails."""
        calls: list[Callable[[], None]] = [
            *(self.register, self.register, self.ack, self.ack, self.catch_up, self.prune, self.prune),
            *(self.reset, self.drop, self.enforce),
        ]
        for _ in range(steps):
            self.append(self.run.rng.randint(0, 4))
            if self.faults and self.run.rng.random() < 0.5:
                self.author.library.arm(*_arming(self.run.rng))
            self.run.rng.choice(calls)()
            if self.faults:
                self.author.library.reset()


def _arming(rng: random.Random) -> tuple[Call, int, int, int, str]:
    call, nth, error, part = rng.choice(_FAULTS)
    return call, nth, error, 0, part


def primary_at_work(run: Run) -> None:
    """Slots come, move and go beside appends and prunes; the process ends anywhere."""
    slots = Slots(run)
    slots.faults = run.seed % 4 == 3
    slots.work(5)
    if run.seed % 4 == 2:
        acks_at_once(slots)
    slots.close()
    slots.open()
    slots.work(5)
    if run.seed % 2:
        _die_in_a_save(slots)
    os._exit(0)


def primary_again(run: Run) -> None:
    """What the process before left is opened: prunes first, since that relies on what the file says."""
    slots = Slots(run)
    slots.prune()
    slots.work(4)
    os._exit(0)


def _die_in_a_save(slots: Slots) -> None:
    """The process ends between the rename of the slot file and the sync of its directory."""
    from walspool.spool import files

    for _ in range(3):
        slots.ack()
    with patch.object(files, "sync_directory", lambda directory: os._exit(0)):
        slots.primary._slots.flush()


def acks_at_once(slots: Slots) -> None:
    """Replicas that acknowledge in threads of their own, beside appends and prunes."""
    present = [number for number, state in slots.memory.items() if state & 3 == VALID][:3]

    def acknowledge(number: int) -> None:
        rng = random.Random(slots.run.seed * 100 + number)
        for _ in range(4):
            lsn = rng.randint(0, slots.primary.current_logical_lsn)
            slots._say(number, slot_state(VALID, max(slots.memory[number] >> 2, lsn)))
            slots.primary.ack_replica_lsn(replica_name(number), lsn + 1, lsn)

    # nobody is to lose a slot meanwhile: then what each may be is known without a common order
    threads = [threading.Thread(target=acknowledge, args=(number,)) for number in present]
    for thread in threads:
        thread.start()
    slots.append(3)
    slots.author.library.note(Note.PRUNE, slots.primary.current_logical_lsn)
    slots.primary.prune_retained_wal_through(slots.primary.current_logical_lsn)
    for thread in threads:
        thread.join()


def without_flush(run: Run) -> None:
    """A negative control: a call returns before its slot is in the file."""
    from walspool.replication.slots import SlotStore

    def later(store: Any, *changes: Any) -> None:
        store._flush_later()

    with patch.object(SlotStore, "_flush_or_undo", later):
        primary_at_work(run)


def prune_by_memory(run: Run) -> None:
    """A negative control: a prune relies on positions that the disk does not have."""
    from walspool.replication.retaining import RetainingPrimary

    def prune(primary: Any, archived_lsn: int) -> int:
        primary.enforce_retention_limits()
        floor = primary.retention_floor_lsn()
        through = archived_lsn if floor is None else min(floor, archived_lsn)
        if through:
            primary._backing.prune(through)
        return through

    with patch.object(RetainingPrimary, "prune_retained_wal_through", prune):
        slots = Slots(run)
        slots.append(2)
        slots.register()
        slots.append(5)
        slots.ack()
        slots.prune()
        os._exit(0)


def options(seed: int) -> dict[str, Any]:
    """The configuration: small segments, a short interval or one that never comes."""
    rng = random.Random(seed)
    return {
        "segment_bytes": rng.randint(600, 3000),
        "slot_retention_max_lag_lsn": 0 if seed % 4 == 2 else 9,
        "slot_flush_interval_ms": 3_600_000 if seed % 4 == 3 else rng.choice((1, 3_600_000)),
    }


def leftover(folder: Path, seed: int) -> list[Said]:
    """A half-written replacement that some crash left, and the version before the last of another time."""
    if seed % 3 == 0:
        (folder / f"{DATA}.logical.slots.json.tmp").write_bytes(b'{"slots": [' + b" " * 5000)
        (folder / f"{DATA}.logical.slots.json.previous").write_bytes(b'{"slots": []}')
    return []
