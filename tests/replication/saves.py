"""Writes of the slot file that fail, early or late, or stand still."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import walspool
from tests.replication.model import Slot, plain
from tests.spool.kit import PATIENCE_S
from walspool.replication import slots as slot_store
from walspool.replication.slot_file import save_slots


class Gate:
    """A place where threads stand still until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def stand(self) -> None:
        """Stand still here."""
        self._reached.set()
        assert self._opened.wait(PATIENCE_S)

    def reached(self) -> None:
        """Wait until somebody stands here."""
        assert self._reached.wait(PATIENCE_S)

    def open(self) -> None:
        """Let everybody through from now on."""
        self._opened.set()


@contextlib.contextmanager
def failing_saves(error: int, late: bool) -> Iterator[list[dict[str, Slot]]]:
    """Saves fail, late ones when the file is replaced already; gives the slots that were to be written."""
    attempts: list[dict[str, Slot]] = []

    def fail(path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        attempts.append({slot.id: plain(slot) for slot in slots})
        if late:
            save_slots(path, slots)
        raise OSError(error, os.strerror(error), str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot_store, "save_slots", fail)
        yield attempts
