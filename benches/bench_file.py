"""pytest-benchmark over ``file_cases.py``."""

from __future__ import annotations

from collections.abc import Callable

from file_cases import FILE_CASES as CASES

__all__ = ["CASES", "bench_file"]


def bench_file(measured: Callable[[], None]) -> None:
    """One contender of one case."""
    measured()
