"""pytest-benchmark over ``big_cases.py`` in their usual sizes, and over the pure core beside the Rust one."""

from __future__ import annotations

from collections.abc import Callable

from append_cases import PURE
from big_cases import USUAL, bulk, killed, verified

__all__ = ["CASES", "bench_big"]

CASES = [bulk(USUAL), killed(USUAL, 256), killed(USUAL, 4096), verified(USUAL), PURE]


def bench_big(measured: Callable[[], None]) -> None:
    """One contender of one case."""
    measured()
