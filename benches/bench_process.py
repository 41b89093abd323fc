"""pytest-benchmark over ``process_cases.py``."""

from __future__ import annotations

from collections.abc import Callable

from process_cases import PROCESS_CASES as CASES

__all__ = ["CASES", "bench_process"]


def bench_process(measured: Callable[[], None]) -> None:
    """One contender of one case."""
    measured()
