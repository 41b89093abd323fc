"""Where two logs first differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import walspool
from walspool.cli import output, progress

__all__ = ["Difference", "compare"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What a comparison found; without a difference ``what`` is empty and ``lsn`` is ``None``."""

    compared: int
    #: Records that only one log still has because the other was pruned, by the name of the log that has them.
    skipped: dict[str, int]
    lsn: int | None
    what: str
    a: walspool.Entry | None
    b: walspool.Entry | None

    @property
    def same(self) -> bool:
        """Whether no difference was found."""
        return self.lsn is None

    def facts(self, as_hex: bool) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "same": self.same,
            "compared": self.compared,
            "skipped": self.skipped,
            "lsn": self.lsn,
            "difference": self.what or None,
            "a": None if self.a is None else output.entry_facts(self.a, as_hex),
            "b": None if self.b is None else output.entry_facts(self.b, as_hex),
        }

    def sentences(self, as_hex: bool) -> Iterator[str]:
        """The result for people."""
        for name, number in self.skipped.items():
            if number:
                yield f"{output.count(number, 'record')} only in {name} left out, because the other log was pruned"
        if self.same:
            yield f"same: {output.count(self.compared, 'record')} compared"
            return
        before = output.count(self.compared, "record")
        yield f"first difference at LSN {self.lsn}: {self.what}; {before} before it agree"
        for name, entry in (("A", self.a), ("B", self.b)):
            yield f"{name}: {'no such record' if entry is None else output.entry_line(entry, as_hex)}"


def compare(a: walspool.LogicalWalSpool, b: walspool.LogicalWalSpool) -> Difference:
    """Walk both logs side by side up to the first record that is not the same."""
    since_a, only_a = _pruned_elsewhere(a, b)
    since_b, only_b = _pruned_elsewhere(b, a)
    skipped = {"A": only_a, "B": only_b}
    records_a = progress.tracked(a.entries(since_a), a.record_count - only_a, "comparing")
    compared = 0
    for entry_a, entry_b in zip_longest(records_a, b.entries(since_b)):
        if entry_b is None or (entry_a is not None and entry_a.lsn < entry_b.lsn):
            return Difference(compared, skipped, entry_a.lsn, "only in A", entry_a, None)
        if entry_a is None or entry_b.lsn < entry_a.lsn:
            return Difference(compared, skipped, entry_b.lsn, "only in B", None, entry_b)
        differing = [name for name in ("term", "payload") if getattr(entry_a, name) != getattr(entry_b, name)]
        if differing:
            what = "different " + " and ".join(differing)
            return Difference(compared, skipped, entry_a.lsn, what, entry_a, entry_b)
        compared += 1
    return Difference(compared, skipped, None, "", None, None)


def _pruned_elsewhere(log: walspool.LogicalWalSpool, other: walspool.LogicalWalSpool) -> tuple[int, int]:
    """Through which LSN, and how many, records of ``log`` are missing in ``other`` only because it was pruned.

    That is so when the other's prune boundary names the very record that this log has there.
    """
    start = other.current_lsn + 1 if other.oldest_lsn is None else other.oldest_lsn
    if log.oldest_lsn is None or log.oldest_lsn >= start:
        return 0, 0
    boundary = number = 0
    for lsn, _ in log.tuples():
        if lsn >= start:
            break
        boundary = lsn
        number += 1
    position = other.position(boundary)
    if position is None or position != log.position(boundary):
        return 0, 0
    return boundary, number
