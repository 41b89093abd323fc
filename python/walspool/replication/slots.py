"""``SlotStore``: the slots in memory, and the file that may lag them but never leads."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from walspool.errors import SlotLimitReached, SpoolClosed, UnknownReplica
from walspool.records import check_replica_id
from walspool.replication.slot import ReplicationSlot, SlotInvalidationCause
from walspool.replication.slot_file import load_slots, save_slots
from walspool.spool.interrupt import uninterrupted

__all__ = ["SlotStore"]

log = logging.getLogger("walspool")

_Slots = dict[str, ReplicationSlot]
#: Id, the slot before, the slot now, from when its idle time counted; ``None`` where there is none.
_Change = tuple[str, ReplicationSlot | None, ReplicationSlot | None, int | None]
_stores: weakref.WeakSet[SlotStore] = weakref.WeakSet()


class SlotStore:
    """The slots of one primary. Safe to use from any number of threads.

    ``path``: the slot file, ``None`` to keep them in memory only. ``now_ms``: Unix time in ms, for what the file leaves
    out. Progress is in memory at once and in the file within ``flush_interval_ms``; a slot that is made, dropped, reset
    or invalidated is in the file when the call returns. The memory's lock is never held while the disk is waited for.
    """

    def __init__(self, path: Path | None, now_ms: int, max_slots: int = 64, flush_interval_ms: int = 100) -> None:
        self._path = path
        self._max_slots = max_slots
        self._interval = flush_interval_ms / 1000
        self._slots: _Slots = load_slots(path, now_ms) if path is not None else {}
        #: The slots in the file: what a prune may rely on.
        self._saved: _Slots = dict(self._slots)
        #: What writes that failed may have put there all the same: it holds the log from here on.
        self._doubtful_floor: int | None = None
        #: From when idle time counts for slots whose replica was not seen since this opening.
        self._unseen = dict.fromkeys(self._slots, now_ms)
        self._lock = threading.Lock()
        self._changes = 0
        self._saved_changes = 0
        #: Per slot made since the opening which change that was.
        self._made: dict[str, int] = {}
        #: Per slot whose drop failed, so that the file may lack it, which change brought it back.
        self._restored: dict[str, int] = {}
        #: Per slot that is being made how many calls wait for it.
        self._registering: Counter[str] = Counter()
        self._prunes: list[int] = []
        self._writing = False
        self._waiting: list[threading.Event] = []
        self._dirty = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        #: Changes are refused; then, once the last write is done, writes as well.
        self._closing = False
        self._closed = False
        _stores.add(self)

    # -- looking -------------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The slot file."""
        return self._path

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called, or this is a forked child's copy."""
        return self._closing

    def get(self, replica_id: str) -> ReplicationSlot | None:
        """The slot of a replica as it is now."""
        return self._slots.get(replica_id)

    def snapshots(self) -> list[ReplicationSlot]:
        """All slots, sorted by id."""
        with self._lock:
            return sorted(self._slots.values(), key=lambda slot: slot.id)

    def seen_at(self) -> dict[str, int]:
        """Per slot when its replica was last seen, or for a loaded one not seen since, when the slots were opened."""
        with self._lock:
            return {name: self._unseen.get(name, slot.last_seen_at_unix_ms) for name, slot in self._slots.items()}

    @property
    def pruning_through(self) -> int:
        """The highest LSN that a prune under way removes; 0 without one."""
        return max(self._prunes, default=0)

    # -- progress, in the file within the flush interval ---------------------------------------------------------------

    def touch(self, replica_id: str, now_ms: int) -> None:
        """The replica was heard of; invalid and unknown slots stay as they are."""
        with self._lock:
            self._open()
            slot = self._slots.get(replica_id)
            if slot is None or not slot.valid:
                return
            self._put(replica_id, replace(slot, last_seen_at_unix_ms=now_ms))
        self._flush_later()

    def advance(self, replica_id: str, applied_lsn: int, durable_lsn: int, now_ms: int) -> None:
        """The replica acknowledged; invalid and unknown slots stay as they are."""
        with self._lock:
            self._open()
            slot = self._slots.get(replica_id)
            if slot is None or not slot.valid:
                return
            advanced = ReplicationSlot(
                replica_id,
                max(slot.restart_lsn, durable_lsn),
                max(slot.confirmed_lsn, applied_lsn, durable_lsn),
                now_ms,
                None,
                slot.invalidated_at_unix_ms,
            )
            self._put(replica_id, advanced)
        self._flush_later()

    # -- changes that are in the file on return ------------------------------------------------------------------------

    def register(self, replica_id: str, current_lsn: Callable[[], int], now_ms: int) -> int:
        """The restart LSN of a known slot, which counts as seen, or of a new one.

        A new one starts at ``current_lsn()``, or above what a prune under way removes. ``ReplicaIdInvalid``,
        ``SlotLimitReached``, ``OSError``: there is no new slot.
        """
        with self._lock:
            self._open()
            slot = self._slots.get(replica_id)
            if slot is not None:
                now = replace(slot, last_seen_at_unix_ms=now_ms)
            else:
                check_replica_id(replica_id)
                if len(self._slots) >= self._max_slots:
                    raise SlotLimitReached(replica_id=replica_id, max_slots=self._max_slots)
                start = max(current_lsn(), self.pruning_through)
                now = ReplicationSlot(replica_id, start, start, now_ms)
            self._put(replica_id, now)
            if slot is None:
                self._made[replica_id] = self._changes
            made = self._made.get(replica_id, 0)
            number = max(made, self._restored.get(replica_id, 0))
            durable = number <= self._saved_changes
            if not durable:
                self._registering[replica_id] += 1
        if durable:
            self._flush_later()
            return now.restart_lsn

        waiting = True

        def undo() -> None:
            nonlocal waiting
            waiting = False  # within the same lock, so that of several failures the last one undoes
            self._registering[replica_id] -= 1
            # not where it was only restored, nor where another call is waiting for the same new slot
            if made > self._saved_changes and self._registering[replica_id] == 0:
                self._put(replica_id, None)

        try:
            self._flush_or_undo(number, undo)
        finally:
            if waiting:
                with self._lock:
                    self._registering[replica_id] -= 1
        return now.restart_lsn

    def drop(self, replica_id: str) -> None:
        """Forget a slot. ``UnknownReplica``, or ``OSError``: it is there as before."""
        with self._lock:
            self._open()
            self._known(replica_id)
            change = self._change(replica_id, None)
            number = self._changes
        self._flush_or_undo(number, lambda: self._undo([change]))

    def reset(self, replica_id: str, lsn: int, check: Callable[[int], None], now_ms: int) -> None:
        """Make a slot valid at ``lsn``. ``check`` gets what a prune under way removes through, and may refuse."""
        with self._lock:
            self._open()
            self._known(replica_id)
            check(self.pruning_through)
            change = self._change(replica_id, ReplicationSlot(replica_id, lsn, lsn, now_ms))
            number = self._changes
        self._flush_or_undo(number, lambda: self._undo([change]))

    def invalidate(
        self, judge: Callable[[ReplicationSlot, int], SlotInvalidationCause | None], now_ms: int
    ) -> list[tuple[str, SlotInvalidationCause]]:
        """Invalidate the valid slots for which ``judge`` gives a cause; those and their causes, sorted by id.

        ``judge`` gets a slot and the time from which its idleness counts.
        """
        found, invalid = [], []
        with self._lock:
            self._open()
            for name, slot in sorted(self._slots.items()):
                cause = judge(slot, self._unseen.get(name, slot.last_seen_at_unix_ms)) if slot.valid else None
                if cause is not None:
                    found.append((name, cause))
                    invalid.append(replace(slot, invalidation_reason=cause, invalidated_at_unix_ms=now_ms))
            changes = [self._change(slot.id, slot, seen=False) for slot in invalid]
            number = self._changes
        if found:
            self._flush_or_undo(number, lambda: self._undo(changes))
        return found

    # -- pruning -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def pruning(self, through: Callable[[int | None], int]) -> Iterator[int]:
        """A prune, through an LSN that no slot needs, neither on disk nor in memory.

        ``through`` gets the floor, ``None`` without valid slots, and says how far to prune. A slot that is made while
        the prune runs starts above that.
        """
        with self._lock:
            self._open()
            target = through(_floor((*self._saved.values(), *self._slots.values()), self._doubtful_floor))
            self._prunes.append(target)
        try:
            yield target
        finally:
            with self._lock:
                self._prunes.remove(target)

    # -- the file ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write the file unless it holds all that was changed before the call. ``OSError``: it holds what it held.

        Calls of several threads at a time share one write.
        """
        wanted = self._changes
        # Ctrl-C in the middle would leave the others waiting for a write that nobody does
        while (done := uninterrupted(lambda: self._write_or_wait(wanted))) is not None:
            done.wait()

    def _write_or_wait(self, wanted: int) -> threading.Event | None:
        with self._lock:
            if self._closed:
                raise SpoolClosed(path=self._path)
            if self._path is None or self._saved_changes >= wanted:
                return None
            if self._writing:
                done = threading.Event()
                self._waiting.append(done)
                return done
            self._writing = True
            slots, changes = dict(self._slots), self._changes
        written = False
        try:
            save_slots(self._path, list(slots.values()))
            written = True
        finally:
            with self._lock:
                self._writing = False
                if written:
                    self._saved, self._saved_changes, self._doubtful_floor = slots, changes, None
                else:
                    self._doubtful_floor = _floor(slots.values(), self._doubtful_floor)
                waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.set()
        return None

    def _flush_or_undo(self, number: int, undo: Callable[[], None]) -> None:
        """Make change ``number`` durable; where that fails, ``undo`` it within the lock."""
        try:
            self.flush()
        except BaseException as error:
            with self._lock:
                durable = self._saved_changes >= number
                if not durable:
                    undo()
            self._flush_later()  # a write that failed late may be in the file all the same
            if not (durable and isinstance(error, OSError)):
                raise

    def _undo(self, changes: list[_Change]) -> None:
        for name, before, now, unseen_since in changes:
            if _holds(self._slots.get(name)) != _holds(now):
                continue  # somebody else has changed it since
            self._put(name, before, seen=False)
            if unseen_since is not None:
                self._unseen[name] = unseen_since
            if now is None:
                self._restored[name] = self._changes

    def _flush_later(self) -> None:
        if self._path is None:
            return
        if not self._dirty.is_set():
            self._dirty.set()
        if self._thread is None:
            with self._lock:
                if self._thread is not None or self._closing:
                    return
                thread = threading.Thread(target=self._flush_when_dirty, name="walspool-slots", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # what was acknowledged stands; the next change tries again
                    log.error("no thread can be started to write %s, so it lags: %s", self._path, error)
                    return
                self._thread = thread

    def _flush_when_dirty(self) -> None:
        failing = False
        while True:
            self._dirty.wait()
            self._stop.wait(self._interval)
            self._dirty.clear()
            try:
                self.flush()
                failing = False
            except SpoolClosed:
                return
            except OSError as error:
                if not failing:
                    log.error("the slot file %s can't be written, so it lags: %s", self._path, error)
                failing = True
                self._dirty.set()

    def close(self) -> None:
        """Write what the file does not hold yet, and end. May be called twice; any later change is refused.

        No write is under way on return: the next primary may have the file.
        """
        with self._lock:
            if self._closing:
                return
            self._closing = True
        try:
            self.flush()
        finally:
            while (done := self._end()) is not None:
                done.wait()
            self._stop.set()
            self._dirty.set()

    def _end(self) -> threading.Event | None:
        with self._lock:
            if not self._writing:
                self._closed = True
                return None
            done = threading.Event()
            self._waiting.append(done)
            return done

    def abandon(self) -> None:
        """In a forked child: refuse every call, write nothing. A lock that another thread held is held for ever."""
        self._closing = self._closed = True
        self._lock = threading.Lock()

    # -- within the lock -----------------------------------------------------------------------------------------------

    def _change(self, replica_id: str, slot: ReplicationSlot | None, *, seen: bool = True) -> _Change:
        change = (replica_id, self._slots.get(replica_id), slot, self._unseen.get(replica_id))
        self._put(replica_id, slot, seen=seen)
        return change

    def _put(self, replica_id: str, slot: ReplicationSlot | None, *, seen: bool = True) -> None:
        self._changes += 1  # first: a Ctrl-C just behind it costs a write, the other way round it would cost the change
        if slot is None:
            self._slots.pop(replica_id, None)
            self._made.pop(replica_id, None)
            self._restored.pop(replica_id, None)
        else:
            self._slots[replica_id] = slot
        if seen:
            self._unseen.pop(replica_id, None)

    def _known(self, replica_id: str) -> ReplicationSlot:
        slot = self._slots.get(replica_id)
        if slot is None:
            raise UnknownReplica(replica_id=replica_id)
        return slot

    def _open(self) -> None:
        if self._closing:
            raise SpoolClosed(path=self._path)


def _holds(slot: ReplicationSlot | None) -> bool | None:
    return None if slot is None else slot.valid


def _floor(slots: Iterable[ReplicationSlot], lower: int | None) -> int | None:
    held = [slot.restart_lsn for slot in slots if slot.valid]
    return min(held if lower is None else [*held, lower], default=None)


def _forget_in_child() -> None:
    for store in list(_stores):
        store.abandon()


os.register_at_fork(after_in_child=_forget_in_child)
