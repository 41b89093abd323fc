"""What a measurement comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Figure", "Figures", "Ratio"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A rate over that of its limit, formed in each round; the median, and the least and the most of them."""

    beside: str
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Figure:
    """The medians of one kind of work. Its bytes are those in the file; a limit has no ratio."""

    records_per_s: float
    mb_per_s: float
    records_per_flush: float | None
    ratio: Ratio | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that was measured, by name, in the order of the table."""

    walspool: str
    core: str
    payload_bytes: int
    frame_bytes: int
    rounds: int
    work: Mapping[str, Figure]
