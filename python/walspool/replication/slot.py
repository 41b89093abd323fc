"""A replication slot, and how the slot file spells it (RedDB's format)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from walspool.records import MAX_U64

__all__ = ["ReplicationSlot", "SlotInvalidationCause", "WalStatus", "decode_slots", "encode_slots"]


class SlotInvalidationCause(StrEnum):
    """Why a slot no longer holds the log."""

    #: Records that it needed are gone.
    WAL_REMOVED = "wal-removed"
    #: It fell too far behind, in records or in bytes.
    HORIZON = "horizon"
    #: Its replica was not seen for too long.
    IDLE_TIMEOUT = "idle-timeout"


class WalStatus(StrEnum):
    """What a slot can count on, in PostgreSQL's words."""

    #: The log that it needs is kept.
    RESERVED = "reserved"
    #: It is past a limit: the next enforcement invalidates it.
    UNRESERVED = "unreserved"
    #: It is invalid: its replica must start again from a snapshot.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class ReplicationSlot:
    """What one replica still needs of the log, kept across restarts of both ends."""

    id: str
    #: Records above it are kept for the replica.
    restart_lsn: int
    #: The highest LSN that the replica acknowledged in any way.
    confirmed_lsn: int
    #: When the replica was last heard of, Unix time in ms.
    last_seen_at_unix_ms: int
    #: Why it no longer holds the log; ``None`` while it does.
    invalidation_reason: SlotInvalidationCause | None = None
    #: When it was invalidated, Unix time in ms.
    invalidated_at_unix_ms: int | None = None
    #: In a snapshot by ``slot_snapshots``: whether the log that it needs is kept.
    wal_status: WalStatus = WalStatus.RESERVED
    #: In a snapshot by ``slot_snapshots``: bytes of log above ``restart_lsn``.
    retained_bytes: int = 0

    @property
    def valid(self) -> bool:
        """Whether it holds the log."""
        return self.invalidation_reason is None


def encode_slots(slots: Iterable[ReplicationSlot]) -> bytes:
    """The slot file's text: sorted by id, keys in alphabetical order, indented by two, absent options left out."""
    listed = []
    for slot in sorted(slots, key=lambda each: each.id):
        entry: dict[str, Any] = {
            "confirmed_lsn": slot.confirmed_lsn,
            "id": slot.id,
            "last_seen_at_unix_ms": slot.last_seen_at_unix_ms,
            "restart_lsn": slot.restart_lsn,
        }
        if slot.invalidation_reason is not None:
            entry["invalidation_reason"] = slot.invalidation_reason.value
        if slot.invalidated_at_unix_ms is not None:
            entry["invalidated_at_unix_ms"] = slot.invalidated_at_unix_ms
        listed.append(entry)
    return json.dumps({"slots": listed}, indent=2, sort_keys=True, ensure_ascii=False).encode()


def decode_slots(data: bytes, now_ms: int) -> dict[str, ReplicationSlot]:
    """The slots in a slot file's text; ``ValueError`` says what is wrong with it.

    RedDB's rules: an entry without id, restart_lsn or confirmed_lsn is skipped, a missing last_seen is ``now_ms``, an
    unknown reason is none, fractions are cut, the last of two equal ids wins. Integers are exact.
    """
    if not data:
        raise ValueError("it is empty")
    try:
        body = json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at offset {error.start}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    listed = body.get("slots") if isinstance(body, Mapping) else None
    if not isinstance(listed, list):
        raise ValueError("it has no list of slots")
    found = {}
    for entry in listed:
        slot = _slot_of(entry, now_ms) if isinstance(entry, Mapping) else None
        if slot is not None:
            found[slot.id] = slot
    return found


def _slot_of(entry: Mapping[str, Any], now_ms: int) -> ReplicationSlot | None:
    name, restart, confirmed = entry.get("id"), _number(entry, "restart_lsn"), _number(entry, "confirmed_lsn")
    if not isinstance(name, str) or restart is None or confirmed is None:
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError("an id holds half a surrogate pair") from None
    last_seen = _number(entry, "last_seen_at_unix_ms")
    return ReplicationSlot(
        name,
        restart,
        confirmed,
        now_ms if last_seen is None else last_seen,
        next((each for each in SlotInvalidationCause if each == entry.get("invalidation_reason")), None),
        _number(entry, "invalidated_at_unix_ms"),
    )


def _number(entry: Mapping[str, Any], key: str) -> int | None:
    value = entry.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        return None
    if value > MAX_U64:  # to leave the entry out would give up the log that its replica needs
        raise ValueError(f"{key} {value} is above 2**64-1")
    return int(value)


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"it holds {word}, which is no JSON")
