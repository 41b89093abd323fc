"""pytest-benchmark over ``peers.py``."""

from __future__ import annotations

from collections.abc import Callable

from peers import PEER_CASES as CASES

__all__ = ["CASES", "bench_peers"]


def bench_peers(measured: Callable[[], None]) -> None:
    """One contender of one case."""
    measured()
