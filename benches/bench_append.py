"""pytest-benchmark over ``append_cases.py``."""

from __future__ import annotations

from collections.abc import Callable

from append_cases import APPEND_CASES as CASES

__all__ = ["CASES", "bench_append"]


def bench_append(measured: Callable[[], None]) -> None:
    """One contender of one case."""
    measured()
