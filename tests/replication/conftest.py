"""Primaries on a data path and in memory, with a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.conftest import TESTED, use_core
from tests.replication.kit import Clock, Saves, config

Opener = Callable[..., walspool.PrimaryReplication]


@pytest.fixture
def clock() -> Clock:
    """The time, for everything in the test."""
    return Clock()


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    """Where a primary on disk keeps its log and slots."""
    return tmp_path / "data" / "spool.rdb"


@pytest.fixture
def on_disk(core: ModuleType, data_path: Path, clock: Clock) -> Iterator[Opener]:
    """Opens the primary of ``data_path`` with these changes to the configuration; the one before is closed first."""
    opened: list[walspool.PrimaryReplication] = []

    def open_one(**changes: Any) -> walspool.PrimaryReplication:
        for each in opened:
            each.close()
        opened.append(walspool.PrimaryReplication(data_path, config(**changes), clock=clock))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture(params=[*TESTED, "memory"])
def anywhere(request: pytest.FixtureRequest, data_path: Path, clock: Clock) -> Iterator[Opener]:
    """Opens a primary over either core, or without a data path: what is said of all must hold on all."""
    path = None if request.param == "memory" else data_path
    opened: list[walspool.PrimaryReplication] = []
    before = walspool.core.name
    if path is not None:
        use_core(request.param)

    def open_one(**changes: Any) -> walspool.PrimaryReplication:
        opened.append(walspool.PrimaryReplication(path, config(**changes), clock=clock))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()
    use_core(before)


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> Saves:
    """What happens to the slot file from now on."""
    return Saves(monkeypatch)
