"""pytest-benchmark over ``read_cases.py``."""

from __future__ import annotations

from collections.abc import Callable

from read_cases import READ_CASES as CASES

__all__ = ["CASES", "bench_read"]


def bench_read(measured: Callable[[], None]) -> None:
    """One contender of one case."""
    measured()
