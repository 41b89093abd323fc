"""A figure over the rounds of a run, and the goal that is set for it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

__all__ = ["Figure", "figure", "short"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over the rounds, and what it should be."""

    words: str
    median: float
    low: float
    high: float
    #: ``None`` where no goal is set.
    goal: str | None
    met: bool | None

    def __str__(self) -> str:
        spread = f"[{short(self.low)}-{short(self.high)}]"
        verdict = "" if self.goal is None else f"  goal {self.goal}: {'met' if self.met else 'SHORT'}"
        return f"{self.words:58} {short(self.median):>7} {spread:15}{verdict}".rstrip()


def figure(words: str, values: list[float], at_least: float | None = None, at_most: float | None = None) -> Figure:
    """The figure of these values, one for each round."""
    middle, goal, met = median(values), None, None
    if at_least is not None:
        goal, met = f">= {at_least:g}", middle >= at_least
    if at_most is not None:
        goal, met = f"<= {at_most:g}", middle <= at_most
    return Figure(words, middle, min(values), max(values), goal, met)


def short(value: float) -> str:
    """A figure in three digits or so."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
