"""pytest-benchmark over ``replication_cases.py``."""

from __future__ import annotations

from collections.abc import Callable

from replication_cases import REPLICATION_CASES as CASES

__all__ = ["CASES", "bench_replication"]


def bench_replication(measured: Callable[[], None]) -> None:
    """One contender of one case."""
    measured()
