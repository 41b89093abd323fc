"""What a log holds: ``Entry`` and ``Position``, and the JSON payload ``ChangeRecord``."""

from __future__ import annotations

import binascii
import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from walspool.errors import RecordDecodeError, ReplicaIdInvalid

__all__ = [
    "ABSENT",
    "MAX_NESTING",
    "MAX_U64",
    "Absent",
    "ChangeOperation",
    "ChangeRecord",
    "Entry",
    "Position",
    "check_replica_id",
    "check_u64",
    "decode_change",
    "stable_bytes",
]

MAX_U64: Final = 2**64 - 1
_REPLICA_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
#: Objects and lists within each other, in one change record.
MAX_NESTING: Final = 128


class Absent(enum.Enum):
    """Type of ``ABSENT``, which says that a key is not there, where ``None`` is JSON's null."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Position:
    """Names a record and its content: term, LSN, and the CRC of its v3 frame with the timestamp taken as 0."""

    term: int
    lsn: int
    crc: int


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


class ChangeOperation(enum.StrEnum):
    """What a change record did."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    REFRESH = "refresh"


_OPERATIONS: Final = {operation.value: operation for operation in ChangeOperation}
_KNOWN: Final = frozenset(
    (
        "collection",
        "entity_bytes_hex",
        "entity_id",
        "entity_kind",
        "kind",
        "lsn",
        "metadata",
        "operation",
        "ownership_epoch",
        "range_id",
        "refresh_records_hex",
        "rid",
        "term",
        "timestamp",
    )
)
_PUBLIC_KIND: Final = {
    "table": "row",
    "entity": "row",
    "row": "row",
    "graph_node": "node",
    "node": "node",
    "graph_edge": "edge",
    "edge": "edge",
}


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """One change of a database, as RedDB writes it: the JSON payload of a record."""

    term: int
    lsn: int
    timestamp: int
    operation: ChangeOperation
    collection: str
    entity_id: int
    entity_kind: str
    entity_bytes: bytes | None = None
    metadata: Any = field(default=ABSENT, hash=False)
    refresh_records: Sequence[bytes] | None = None
    range_id: int | None = None
    ownership_epoch: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("term", "lsn", "timestamp", "entity_id"):
            check_u64(name, getattr(self, name))
        for name in ("range_id", "ownership_epoch"):
            if getattr(self, name) is not None:
                check_u64(name, getattr(self, name))
        for name in ("collection", "entity_kind"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a str, not {type(getattr(self, name)).__name__}")
        object.__setattr__(self, "operation", ChangeOperation(self.operation))
        if self.entity_bytes is not None:
            object.__setattr__(self, "entity_bytes", bytes(memoryview(self.entity_bytes)))
        if self.refresh_records is not None:
            object.__setattr__(self, "refresh_records", tuple(bytes(memoryview(r)) for r in self.refresh_records))
        clash = _KNOWN.intersection(self.extra)
        if clash:
            raise ValueError(f"extra must not hold the record's own key {min(clash)!r}")

    def encode(self) -> bytes:
        """The record as compact JSON with its keys in alphabetical order."""
        fields: dict[str, Any] = {
            **self.extra,
            "collection": self.collection,
            "kind": _public_kind(self.entity_kind),
            "lsn": self.lsn,
            "operation": self.operation.value,
            "rid": self.entity_id,
            "term": self.term,
            "timestamp": self.timestamp,
        }
        if self.entity_bytes is not None:
            fields["entity_bytes_hex"] = self.entity_bytes.hex()
        if self.metadata is not ABSENT:
            fields["metadata"] = self.metadata
        if self.refresh_records is not None:
            fields["refresh_records_hex"] = [record.hex() for record in self.refresh_records]
        if self.range_id is not None:
            fields["range_id"] = self.range_id
        if self.ownership_epoch is not None:
            fields["ownership_epoch"] = self.ownership_epoch
        too_deep = f"metadata or extra is nested over {MAX_NESTING} levels"
        try:
            text = json.dumps(fields, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        except RecursionError:
            raise ValueError(too_deep) from None
        if _too_deep(text):
            raise ValueError(too_deep)
        return text.encode()

    def with_term(self, term: int) -> ChangeRecord:
        """The same record under another term."""
        return replace(self, term=term)

    @classmethod
    def decode(cls, data: Any) -> ChangeRecord:
        """The record in ``data`` (bytes-like); ``RecordDecodeError`` when it is none."""
        return decode_change(data)[0]


def decode_change(data: Any) -> tuple[ChangeRecord, bool]:
    """The record in ``data``, and whether it says its own term."""
    fields = _parse(bytes(memoryview(data)))
    operation = fields.get("operation")
    if not isinstance(operation, str) or operation not in _OPERATIONS:
        raise RecordDecodeError(reason="no known operation")
    term = _u64(fields.get("term"))
    record = ChangeRecord(
        term=1 if term is None else term,
        lsn=_u64(fields.get("lsn")) or 0,
        timestamp=_u64(fields.get("timestamp")) or 0,
        operation=_OPERATIONS[operation],
        collection=_text(fields.get("collection"), ""),
        # A key of the present name hides the legacy one, whatever its value.
        entity_id=_u64(fields["rid"] if "rid" in fields else fields.get("entity_id")) or 0,
        entity_kind=_text(fields["kind"] if "kind" in fields else fields.get("entity_kind"), "entity"),
        entity_bytes=_entity_bytes(fields.get("entity_bytes_hex")),
        metadata=fields.get("metadata", ABSENT),
        refresh_records=_refresh_records(fields.get("refresh_records_hex")),
        range_id=_u64(fields.get("range_id")),
        ownership_epoch=_u64(fields.get("ownership_epoch")),
        extra={key: value for key, value in fields.items() if key not in _KNOWN},
    )
    return record, term is not None


def check_u64(name: str, value: Any, where: str = "") -> int:
    """Return an LSN, term or timestamp; refuse what can't be one. ``where`` goes before the words."""
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


def _public_kind(kind: str) -> str:
    if kind in _PUBLIC_KIND:
        return _PUBLIC_KIND[kind]
    return next((word for word in ("kv", "document", "vector") if word in kind), "item")


def _u64(value: Any) -> int | None:
    """A JSON number as an unsigned integer, a fraction cut; ``None`` for all that does not fit."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_U64:
        return None
    return int(value)


def _text(value: Any, default: str) -> str:
    return value if isinstance(value, str) else default


def _entity_bytes(value: Any) -> bytes | None:
    return _unhex("entity_bytes_hex", value) if isinstance(value, str) else None


def _refresh_records(value: Any) -> tuple[bytes, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise RecordDecodeError(reason="refresh_records_hex is not a list")
    return tuple(_unhex("refresh_records_hex", item) for item in value)


def _unhex(key: str, value: Any) -> bytes:
    try:
        # Not bytes.fromhex, which lets spaces pass.
        return binascii.unhexlify(value if isinstance(value, str) else "?")
    except ValueError as error:
        raise RecordDecodeError(reason=f"{key} is not hexadecimal") from error


# JSON, read as strictly as the Rust core's parser reads it.

_SURROGATES: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
# A string (or what is left of one) is one token, so that the brackets in it do not count; linear on any text.
_STRUCTURE: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        text = data.decode()
        if "\\ud" in text or "\\uD" in text:
            _refuse_lone_surrogates(text)
        if _too_deep(text):
            raise ValueError(f"nested over {MAX_NESTING} levels")
        fields = json.loads(text, parse_int=_integer, parse_float=_real, parse_constant=_no_constant)
    except ValueError as error:
        raise RecordDecodeError(reason=f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RecordDecodeError(reason="not a JSON object")
    return fields


def _refuse_lone_surrogates(text: str) -> None:
    for match in _SURROGATES.finditer(text):
        if match["lone"]:
            raise ValueError("lone surrogate in a string")


def _too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return False
    depth = 0
    for match in _STRUCTURE.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            if depth > MAX_NESTING:
                return True
        elif token in "]}":
            depth -= 1
    return False


def _integer(text: str) -> int:
    # An integer past what a float can hold is out of range to the other core; this also keeps int's own limit away.
    if len(text) > 300:
        _real(text)
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("number out of range")
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
