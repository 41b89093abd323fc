"""Every public name is listed in ``__all__`` and says what it is."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

import pytest

import walspool
import walspool.core
from tests.package.sources import modules

#: What API.md promises at the top level.
SURFACE = {
    "ABSENT",
    "ArrowStream",
    "ChangeOperation",
    "ChangeRecord",
    "CommitCounters",
    "CommitPolicy",
    "CommitResult",
    "CommitWaiter",
    "Entry",
    "FlowControl",
    "FrameBatch",
    "FramesAppended",
    "FullRebootstrap",
    "Granted",
    "LogicalWalSpool",
    "NotRequired",
    "PartialResync",
    "Position",
    "PrimaryReplication",
    "Problem",
    "PruneReport",
    "QuorumConfig",
    "QuorumCoordinator",
    "Reached",
    "RecoveryReport",
    "Regions",
    "RepairReport",
    "ReplicaLag",
    "ReplicaState",
    "ReplicationConfig",
    "ReplicationProgress",
    "ReplicationSlot",
    "ResumePlan",
    "RetentionReport",
    "SegmentInfo",
    "SlotInvalidationCause",
    "SlotRetention",
    "SpoolStats",
    "Throttled",
    "TimedOut",
    "VerifyReport",
    "WalBuffer",
    "WalStatus",
    "__version__",
    "open",
}
#: Running them is their purpose, so they are not imported here.
PROGRAMS = {"walspool.cli.__main__"}


def _public(owner: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(owner).items() if not name.startswith("_")}


def _documented(value: Any) -> bool:
    return bool((inspect.getdoc(value) or "").strip())


def _undocumented_members(kind: type) -> list[str]:
    missing = []
    for name, value in _public(kind).items():
        described = (
            inspect.isroutine(value)
            or (inspect.isdatadescriptor(value) and not inspect.ismemberdescriptor(value))
            or isinstance(value, property | classmethod | staticmethod)
        )
        if described and not _documented(getattr(kind, name)):
            missing.append(f"{kind.__name__}.{name}")
    return missing


@pytest.mark.parametrize("name", sorted(set(modules()) - PROGRAMS))
def test_public_names_are_listed_and_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert _documented(module), f"{name} has no docstring"
    listed = getattr(module, "__all__", [])
    assert len(listed) == len(set(listed))
    for each in listed:
        assert hasattr(module, each), f"{name}.__all__ names {each}, which is not there"
    for each, value in _public(module).items():
        if getattr(value, "__module__", None) != name or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        assert each in listed, f"{name}.{each} is public and not in __all__"
        assert _documented(value), f"{name}.{each} has no docstring"
        if inspect.isclass(value):
            assert _undocumented_members(value) == []


def test_a_core_offers_every_name_documented(core: ModuleType) -> None:
    for name in walspool.core.__all__:
        value = getattr(core, name)
        assert getattr(walspool.core, name) is value
        if name == "name":
            assert value in ("rust", "python")
            continue
        assert _documented(value), f"{core.__name__}.{name} has no docstring"
        if inspect.isclass(value):
            assert _undocumented_members(value) == []


def test_the_top_level_has_the_whole_surface() -> None:
    errors = set(importlib.import_module("walspool.errors").__all__)
    assert set(walspool.__all__) == SURFACE | errors
    assert set(walspool.__all__) <= set(dir(walspool))
    for name in walspool.__all__:
        assert getattr(walspool, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = walspool.nothing


def test_every_error_has_its_own_words() -> None:
    for name in importlib.import_module("walspool.errors").__all__:
        kind = getattr(walspool, name)
        assert issubclass(kind, walspool.WalspoolError)
        if name not in ("WalspoolError", "SpoolError"):
            assert "summary" in vars(kind), name
            assert "Facts:" in (kind.__doc__ or ""), name
