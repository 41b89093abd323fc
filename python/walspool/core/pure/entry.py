"""``Entry``: one record as it lies in the log."""

from __future__ import annotations

from dataclasses import dataclass

from walspool.changes import ChangeRecord

__all__ = ["Entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it lies in the log. ``version`` is its frame's; without an ``ownership_epoch`` that is ``None``."""

    lsn: int
    term: int
    timestamp_ms: int
    payload: bytes
    version: int = 3
    ownership_epoch: int | None = None

    def change(self) -> ChangeRecord:
        """The payload as a ``ChangeRecord``; ``RecordDecodeError`` when it is none."""
        return ChangeRecord.decode(self.payload)
