"""pytest-benchmark over ``waking.py``."""

from __future__ import annotations

from collections.abc import Callable

from waking import FOLLOW_CASES as CASES

__all__ = ["CASES", "bench_waking"]


def bench_waking(measured: Callable[[], None]) -> None:
    """One contender of one case."""
    measured()
