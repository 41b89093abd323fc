"""What names a record, ``Position``, and what the numbers and bytes of one may be."""

# No annotations as texts here: those of a NamedTuple would be compiled, one by one, at each start of a program.

import re
from typing import Any, Final, NamedTuple

from walspool.errors import ReplicaIdInvalid

__all__ = ["MAX_U64", "Position", "check_region", "check_replica_id", "check_u64", "stable_bytes"]

MAX_U64: Final = 2**64 - 1
_MAX_REGION_CHARS: Final = 64
_REPLICA_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Position(NamedTuple):
    """Names a record and its content: term, LSN, and the CRC of its v3 frame with the timestamp taken as 0."""

    term: int
    lsn: int
    crc: int


def check_u64(name: str, value: Any, where: str = "") -> int:
    """Return an LSN, term or timestamp; refuse what can't be one. ``where`` goes before the words."""
    if type(value) is int and 0 <= value <= MAX_U64:
        return value  # nearly always, and often enough to be quick
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{where}{name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= MAX_U64:
        raise ValueError(f"{where}{name} must be between 0 and 2**64-1, not {value}")
    return value


def check_replica_id(replica_id: str) -> str:
    """Return an id for a new replica; refuse what is not 1 to 64 of ``A-Z a-z 0-9 . _ -``."""
    if not isinstance(replica_id, str):
        raise TypeError(f"a replica id must be a str, not {type(replica_id).__name__}")
    if not _REPLICA_ID.fullmatch(replica_id):
        raise ReplicaIdInvalid(replica_id=repr(replica_id[:80]))
    return replica_id


def check_region(region: str | None) -> None:
    """Refuse what can't be the region of a replica that registers over the network."""
    words = f"region must be 1 to {_MAX_REGION_CHARS} printable characters"
    if region is not None and not isinstance(region, str):
        raise TypeError(words)
    if region is not None and not (0 < len(region) <= _MAX_REGION_CHARS and region.isprintable()):
        raise ValueError(words)


def stable_bytes(data: Any) -> bytes:
    """The bytes of a bytes-like object, copied unless they can't change, so that what was checked is what is kept."""
    if isinstance(data, bytes):
        return data
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"data must be a bytes-like object, not {type(data).__name__}") from None
    if not view.c_contiguous:
        raise ValueError("data must be a contiguous buffer")
    return view.tobytes()
