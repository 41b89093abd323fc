"""What a case is: walspool and its raw limits, each something that can be made ready, run, and counted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import walspool.core

__all__ = ["Case", "Contender", "Run", "absence", "available_cores", "use_core"]

_MODULES = {"rust": "walspool._native", "python": "walspool.core.pure"}


def _nothing() -> None:
    """What there is to prepare where there is nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """A contender, ready. ``run`` is timed and does ``amount`` of the case's unit; ``prepare``, before it, is not."""

    amount: int
    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing
    #: Records made durable and flushes so far, where that is of interest.
    flushed: Callable[[], tuple[int, int]] | None = None
    #: What the last run counts for, in seconds, where that is not the time from its begin to its end.
    seconds: Callable[[], float] | None = None


#: Given a folder of its own, makes itself ready there, and cleans up after its last run.
Contender = Callable[[Path], AbstractContextManager[Run]]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is measured, and what it is measured against."""

    name: str
    #: What ``amount`` counts.
    unit: str
    walspool: Contender
    limits: Mapping[str, Contender]
    #: Limits that can't be measured here, and why.
    missing: Mapping[str, str] = field(default_factory=dict)

    def beside(self, more: Mapping[str, Contender], needs: Mapping[str, str] | None = None) -> Case:
        """This case with more limits; ``needs`` says which module a limit needs, and one without it is missing."""
        missing = {label: why for label, module in (needs or {}).items() if (why := absence(module))}
        found = {label: contender for label, contender in more.items() if label not in missing}
        return replace(self, limits={**self.limits, **found}, missing={**self.missing, **missing})


def absence(module: str) -> str:
    """Why what needs a module can't be measured; empty where it is there, or none is needed."""
    return "" if not module or importlib.util.find_spec(module) else f"{module} is not installed (pip install {module})"


def available_cores() -> list[str]:
    """The cores that this installation has, the Rust one first."""
    return [name for name, module in _MODULES.items() if importlib.util.find_spec(module) is not None]


def use_core(name: str) -> None:
    """Make walspool use a core in this process from now on; open spools must be used with their own core again."""
    if walspool.core.name != name:
        walspool.core._use(importlib.import_module(_MODULES[name]))
