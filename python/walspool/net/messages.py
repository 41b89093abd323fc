"""The messages themselves, read from what came in and written as they go out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlencode

from walspool.errors import ProtocolError
from walspool.net.protocol import (
    CHECKSUM,
    COMPARABLE,
    CURRENT_LSN,
    MAX_HEADER_CHARS,
    MAX_RESPONSE_BYTES,
    MAX_TERM,
    MAX_WAIT_MS,
    OLDEST_LSN,
    PREVIOUS_POSITION,
    SNAPSHOT_POSITION,
    SNAPSHOT_REACH,
    TERM,
    Refused,
    checksum,
    number,
    parse_json,
    parse_position,
    parse_query,
    position_text,
    shown,
)
from walspool.records import MAX_U64, Position, check_region, check_replica_id

__all__ = ["Ack", "Registration", "SnapshotHead", "StreamHead", "WalRequest", "replica_id", "split_payloads"]

_WAL_PARAMETERS: Final = frozenset(("replica_id", "since_lsn", "position", "term", "wait_ms", "max_bytes"))


def replica_id(name: str, value: object) -> str:
    """The id that a request gives; ``Refused`` where it is none."""
    try:
        return check_replica_id(value)  # type: ignore[arg-type]  # which is what it checks
    except (TypeError, ValueError):
        raise Refused(400, "bad-request", f"{name} must be 1 to 64 of A-Z a-z 0-9 . _ -, not {shown(value)}") from None


def _intact(given: str | None, expected: str) -> bool:
    """Whether a message says that it is whole; ``Refused`` where it says so and is not."""
    if given is not None and given != expected:
        raise Refused(400, "bad-checksum", "the request was changed on its way: its checksum does not match; repeat it")
    return given is not None


@dataclass(frozen=True)
class WalRequest:
    """``GET /v1/wal``."""

    replica_id: str | None = None
    #: Left out: from the slot; 0: the follower has nothing.
    since_lsn: int | None = None
    #: Of the follower's last record.
    position: Position | None = None
    #: The highest term that the follower has met.
    term: int | None = None
    wait_ms: int = MAX_WAIT_MS
    max_bytes: int = MAX_RESPONSE_BYTES

    @classmethod
    def parse(cls, query: bytes, check: str | None = None) -> Self:
        """The request in a query; ``check`` is its checksum header. ``Refused`` says what is wrong."""
        given = parse_query(query, _WAL_PARAMETERS)
        intact = _intact(check, checksum(query))
        since = number("since_lsn", given["since_lsn"]) if "since_lsn" in given else None
        position = parse_position("position", given["position"]) if "position" in given else None
        term = number("term", given["term"], MAX_TERM) if "term" in given else None
        if term is not None and not intact:
            raise Refused(400, "bad-request", f"a term needs the header {CHECKSUM}: it may fence the primary")
        if position is not None and since not in (None, position.lsn):
            raise Refused(400, "bad-request", f"since_lsn {since} is not the LSN of position {position.lsn}")
        return cls(
            replica_id("replica_id", given["replica_id"]) if "replica_id" in given else None,
            since if position is None else position.lsn,
            position,
            term,
            number("wait_ms", given["wait_ms"], MAX_WAIT_MS) if "wait_ms" in given else MAX_WAIT_MS,
            number("max_bytes", given["max_bytes"], MAX_RESPONSE_BYTES) if "max_bytes" in given else MAX_RESPONSE_BYTES,
        )

    def query(self) -> str:
        """The query that ``parse`` reads; its checksum is ``checksum(query)``."""
        fields = {
            "replica_id": self.replica_id,
            "since_lsn": self.since_lsn,
            "position": None if self.position is None else position_text(self.position),
            "term": self.term,
            "wait_ms": self.wait_ms,
            "max_bytes": self.max_bytes,
        }
        return urlencode({name: value for name, value in fields.items() if value is not None}, safe=":")


@dataclass(frozen=True)
class StreamHead:
    """What the headers of a stream say: where the primary is, and behind which record the frames come."""

    term: int
    current_lsn: int
    #: ``None`` when the log holds no record.
    oldest_lsn: int | None
    previous: Position

    def headers(self) -> dict[str, str]:
        """The headers, with their checksum."""
        fields = {TERM: str(self.term), CURRENT_LSN: str(self.current_lsn)}
        if self.oldest_lsn is not None:
            fields[OLDEST_LSN] = str(self.oldest_lsn)
        fields[PREVIOUS_POSITION] = position_text(self.previous)
        return {**fields, CHECKSUM: checksum(*fields.values())}

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> Self:
        """What these headers say, their names in lower case; ``ProtocolError`` where one is missing or was changed."""
        with _whole_headers(headers, (TERM, CURRENT_LSN, OLDEST_LSN, PREVIOUS_POSITION)):
            return cls(
                number(TERM, headers[TERM], MAX_TERM),
                number(CURRENT_LSN, headers[CURRENT_LSN]),
                number(OLDEST_LSN, headers[OLDEST_LSN]) if OLDEST_LSN in headers else None,
                parse_position(PREVIOUS_POSITION, headers[PREVIOUS_POSITION]),
            )


@dataclass(frozen=True)
class SnapshotHead:
    """What the headers of a snapshot say: what its bytes stand for, and what loading it may cost."""

    term: int
    #: Of the last record that is in the snapshot.
    position: Position
    #: Where the primary's log was when the snapshot was asked for.
    reach_lsn: int
    #: Whether the log that is given up for it is known to be a part of the primary's.
    comparable: bool

    def headers(self) -> dict[str, str]:
        """The headers, with their checksum."""
        fields = {
            TERM: str(self.term),
            SNAPSHOT_POSITION: position_text(self.position),
            SNAPSHOT_REACH: str(self.reach_lsn),
            COMPARABLE: "yes" if self.comparable else "no",
        }
        return {**fields, CHECKSUM: checksum(*fields.values())}

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> Self:
        """As ``StreamHead.parse``."""
        with _whole_headers(headers, (TERM, SNAPSHOT_POSITION, SNAPSHOT_REACH, COMPARABLE)):
            return cls(
                number(TERM, headers[TERM], MAX_TERM),
                parse_position(SNAPSHOT_POSITION, headers[SNAPSHOT_POSITION]),
                number(SNAPSHOT_REACH, headers[SNAPSHOT_REACH]),
                headers[COMPARABLE] == "yes",
            )


@contextmanager
def _whole_headers(headers: Mapping[str, str], known: tuple[str, ...]) -> Iterator[None]:
    """Whatever is wrong with these headers is a ``ProtocolError``."""
    try:
        values = [headers[name] for name in known if name in headers]
        if max(map(len, values), default=0) > MAX_HEADER_CHARS:
            raise ProtocolError(reason="a header is too long")
        if headers[CHECKSUM] != checksum(*values):
            raise ProtocolError(reason="its headers were changed on their way")
        yield
    except KeyError as error:
        raise ProtocolError(reason=f"the header {error.args[0]} is missing") from None
    except Refused as error:
        raise ProtocolError(reason=str(error)) from None


@dataclass(frozen=True)
class Registration:
    """``POST /v1/replicas``."""

    replica_id: str
    region: str | None = None
    #: Tells two programs apart that use one replica id.
    instance: str | None = None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """The registration in a body."""
        given = _fields(parse_json(body), {"id", "region", "instance"})
        region, instance = given.get("region"), given.get("instance")
        try:
            check_region(region)
        except (TypeError, ValueError) as error:
            raise Refused(400, "bad-request", str(error)) from None
        named = None if instance is None else replica_id("instance", instance)
        return cls(replica_id("id", given.get("id")), region, named)

    def fields(self) -> dict[str, Any]:
        """The JSON object that ``parse`` reads."""
        given = {"id": self.replica_id, "region": self.region, "instance": self.instance}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Ack:
    """``POST /v1/replicas/{id}/ack``."""

    #: Of the last record that is durable at the replica.
    position: Position
    applied_lsn: int
    durable_lsn: int
    apply_error_count: int = 0
    divergence_count: int = 0

    @classmethod
    def parse(cls, body: bytes, check: str | None = None) -> Self:
        """The acknowledgement in a body; ``check`` is its checksum header."""
        _intact(check, checksum(body))
        counts = ("applied_lsn", "durable_lsn", "apply_error_count", "divergence_count")
        given = _fields(parse_json(body), {"position", *counts})
        values = [_whole(name, given.get(name, 0 if name.endswith("count") else None)) for name in counts]
        found = cls(parse_position("position", given.get("position")), *values)
        if found.durable_lsn != found.position.lsn:
            raise Refused(400, "bad-request", "durable_lsn must be the LSN of position, the last durable record")
        if found.applied_lsn > found.durable_lsn:
            raise Refused(400, "bad-request", "applied_lsn is above durable_lsn: apply comes after durable")
        return found

    def fields(self) -> dict[str, Any]:
        """The JSON object that ``parse`` reads."""
        return {
            "position": position_text(self.position),
            "applied_lsn": self.applied_lsn,
            "durable_lsn": self.durable_lsn,
            "apply_error_count": self.apply_error_count,
            "divergence_count": self.divergence_count,
        }


def split_payloads(body: bytes) -> Iterator[memoryview]:
    """The payloads of ``application/vnd.walspool.payloads``: before each its length, u32 little-endian."""
    view, at = memoryview(body), 0
    while at < len(view):
        end = at + 4 + int.from_bytes(view[at : at + 4], "little")
        if at + 4 > len(view) or end > len(view):
            raise Refused(400, "bad-request", f"the payload at byte {at} is cut off")
        yield view[at + 4 : end]
        at = end


def _fields(given: dict[str, Any], known: set[str]) -> dict[str, Any]:
    for name in given:
        if name not in known:
            names = ", ".join(sorted(known))
            raise Refused(400, "bad-request", f"no key is named {shown(name)} here; known are: {names}")
    return given


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_U64:
        raise Refused(400, "bad-request", f"{name} must be a whole number from 0 to 2**64-1, not {shown(value)}")
    return value
