"""Is a payload a ChangeRecord, and of which term; no more."""

from __future__ import annotations

from typing import Any

from walspool.changes import decode_change
from walspool.errors import RecordDecodeError

__all__ = ["change_term"]

_SPACE = b" \t\n\r"
_PEEK = 64


def change_term(data: Any) -> tuple[int, bool] | None:
    """The term of the ChangeRecord in ``data`` and whether it says one itself; ``None`` when it is no ChangeRecord."""
    view = memoryview(data)
    if not view.nbytes:
        return None
    # Only an object can be one, so most other payloads need no parser.
    start = view.cast("B")[:_PEEK].tobytes().lstrip(_SPACE)
    if start[:1] != b"{" and (start or view.nbytes <= _PEEK):
        return None
    try:
        record, present = decode_change(view)
    except RecordDecodeError:
        return None
    return record.term, present
