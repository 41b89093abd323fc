"""What the replication tests share: a clock that stands still, what a primary holds, folders by the byte."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import walspool
import walspool.replication.slots as slots_module
from tests.spool.kit import contents
from walspool.replication.slot_file import save_slots

#: When the tests happen, in milliseconds since 1970.
START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
#: A flush interval within which nothing happens.
FOREVER_MS = 10**9


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def calls(*given: Callable[[], object]) -> tuple[Callable[[], object], ...]:
    """Several calls, to be made one after the other."""
    return given


def config(**changes: Any) -> walspool.ReplicationConfig:
    """The default configuration with some fields changed."""
    return walspool.ReplicationConfig.primary().replace(**changes)


def fill(primary: walspool.PrimaryReplication, first: int, last: int) -> None:
    """Append the records ``first`` to ``last``."""
    for lsn in range(first, last + 1):
        primary.append_logical_record(lsn, b"record %d" % lsn)


def logged(primary: walspool.PrimaryReplication) -> list[int]:
    """The LSNs that the log under a primary holds; buffer and spool must agree."""
    held = [lsn for lsn, _ in primary.wal_buffer.read_since(0)]
    if primary.logical_wal_spool is not None:
        assert [lsn for lsn, _ in primary.logical_wal_spool.read_since(0)] == held
    return held


def slot(primary: walspool.PrimaryReplication, replica_id: str) -> walspool.ReplicationSlot:
    """The slot of this id."""
    return next(each for each in primary.slot_snapshots() if each.id == replica_id)


def replica(primary: walspool.PrimaryReplication, replica_id: str) -> walspool.ReplicaState:
    """What is known of a registered replica."""
    return next(each for each in primary.replica_snapshots() if each.id == replica_id)


def slots_file(data_path: Path) -> Path:
    """Where a primary keeps its slots."""
    return walspool.PrimaryReplication.slot_path_for(data_path)


def stored(data_path: Path) -> dict[str, dict[str, Any]]:
    """The slots in the file, by id."""
    return {each["id"]: each for each in json.loads(slots_file(data_path).read_text())["slots"]}


def store(data_path: Path, *slots: dict[str, Any]) -> None:
    """Write a slot file as some other program would."""
    slots_file(data_path).write_text(json.dumps({"slots": slots}))


def state_of(primary: walspool.PrimaryReplication) -> dict[str, Any]:
    """Everything that a refused call must leave alone."""
    return {
        "slots": primary.slot_snapshots(),
        "replicas": primary.replica_snapshots(),
        "acks": primary.commit_waiter.snapshot(),
        "log": logged(primary),
        "lsn": primary.current_logical_lsn,
        "epoch": primary.topology_epoch,
        "resyncs": primary.partial_resync_count,
    }


@contextlib.contextmanager
def refused(
    primary: walspool.PrimaryReplication, folder: Path, kind: type[BaseException], *words: str, **facts: Any
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """The block raises this very error with these words and facts; no byte on disk and nothing in memory changed."""
    before = state_of(primary), contents(folder)
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.type is kind, caught.type
    for each in words:
        assert each in str(caught.value)
    for name, value in facts.items():
        assert getattr(caught.value, name) == value, name
    assert (state_of(primary), contents(folder)) == before


class Saves:
    """Stands before the writing of the slot file: counts, holds up, fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._save = save_slots
        self.count = 0
        self.error: OSError | None = None
        self.began, self.done, self.go = threading.Event(), threading.Event(), threading.Event()
        self.go.set()
        monkeypatch.setattr(slots_module, "save_slots", self._instead)

    def _instead(self, path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        self.count += 1
        self.began.set()
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error
        self._save(path, slots)
        self.done.set()


def full_disk() -> OSError:
    """What a full disk says."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "slots")
