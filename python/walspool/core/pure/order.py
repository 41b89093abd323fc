"""What is checked of a record, and of its place behind another, before it joins a batch."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, TypeAlias

from walspool.core.pure.change import change_term
from walspool.core.pure.frame import check_payload, copy_payload, fact
from walspool.errors import LsnOrderError, StaleTermError
from walspool.records import MAX_U64, check_u64

__all__ = ["Checked", "Item", "check_all", "check_start", "checked", "following"]

Item: TypeAlias = tuple[int | None, Any, int | None, int | None]
Checked: TypeAlias = tuple[int | None, bytes, int | None, int]


def check_start(start: int) -> None:
    """Where a call goes on is no index from the end."""
    if not 0 <= start <= MAX_U64:
        raise OverflowError(f"start must be between 0 and 2**64-1, not {start}")


def checked(item: Item) -> Checked:
    """The arguments of one append: checked, the payload copied, the clock read."""
    lsn, data, term, timestamp_ms = item
    if lsn is not None:
        check_u64("lsn", lsn)
    payload = copy_payload(data)
    if term is not None:
        check_u64("term", term)
    if timestamp_ms is None:
        timestamp_ms = max(time.time_ns() // 1_000_000, 0)
    check_u64("timestamp_ms", timestamp_ms)
    return lsn, payload, term, timestamp_ms


def following(
    last_lsn: int, last_term: int, fence: int, lsn: int | None, term: int | None, payload: Any, index: int | None
) -> tuple[int, int]:
    """LSN and term of a record that follows those in a log whose term is above ``fence``; an error where it may not."""
    if lsn is None:
        lsn = min(last_lsn + 1, MAX_U64)
    if lsn <= last_lsn:
        raise LsnOrderError(lsn=lsn, last_lsn=last_lsn, **fact(index))
    if term is None:
        change = change_term(payload)
        term = change[0] if change is not None and change[1] else last_term
    if term < last_term:
        raise StaleTermError(term=term, current_term=last_term, **fact(index))
    if last_term <= fence:  # no record lifts it, whatever its term: only being promoted does
        raise StaleTermError(term=last_term, current_term=fence, **fact(index))
    return lsn, term


def check_all(
    last_lsn: int, last_term: int, fence: int, items: Iterable[tuple[int | None, Any]], term: int | None
) -> None:
    """Whether all items, one after the other, may follow those; the first bad one decides which error there is."""
    for index, (lsn, data) in enumerate(items):
        check_payload(data, index)
        last_lsn, last_term = following(last_lsn, last_term, fence, lsn, term, data, index)
