"""What both ends agree on: names, limits, and the reading of everything that a stranger may send.

Whatever comes in is bounded before it is looked at, and refused with words that say what is wrong. Nothing here does
I/O. A position is spelled ``term:lsn:crc``, the checksum in eight hex digits; ``0:0:00000000`` is the place before the
first record there ever was.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from walspool.errors import Diverged, ProtocolError, RebootstrapRequired, StaleTermError, WalspoolError
from walspool.records import MAX_U64, Position

__all__ = [
    "CHECKSUM",
    "CHUNK_BYTES",
    "COMPARABLE",
    "CURRENT_LSN",
    "MAX_HEADER_CHARS",
    "MAX_JSON_BYTES",
    "MAX_PROBLEM_BYTES",
    "MAX_QUERY_BYTES",
    "MAX_RESPONSE_BYTES",
    "MAX_RESPONSE_S",
    "MAX_TERM",
    "MAX_WAIT_MS",
    "OLDEST_LSN",
    "ORIGIN",
    "PREVIOUS_POSITION",
    "PROBLEM_TYPE",
    "SESSION",
    "SNAPSHOT_POSITION",
    "SNAPSHOT_REACH",
    "TERM",
    "TERM_STEP",
    "Problem",
    "Refused",
    "checksum",
    "number",
    "parse_json",
    "parse_position",
    "parse_query",
    "position_text",
    "printable",
    "shown",
]

#: The position before the first record there ever was.
ORIGIN: Final = Position(0, 0, 0)

TERM: Final = "walspool-term"
CURRENT_LSN: Final = "walspool-current-lsn"
OLDEST_LSN: Final = "walspool-oldest-lsn"
PREVIOUS_POSITION: Final = "walspool-previous-position"
SNAPSHOT_POSITION: Final = "walspool-snapshot-position"
#: Where the log was when the snapshot was asked for.
SNAPSHOT_REACH: Final = "walspool-snapshot-reach-lsn"
#: Whether what the replica gives up for a snapshot is known to be a part of the primary's log: ``yes`` or ``no``.
COMPARABLE: Final = "walspool-comparable"
#: The number that a registration was answered with.
SESSION: Final = "walspool-session"
#: CRC-32 of what else a message says of terms and positions: a flipped bit must neither fence nor re-bootstrap anybody.
CHECKSUM: Final = "walspool-checksum"
PROBLEM_TYPE: Final = "application/problem+json"

#: Bytes of log that a follower costs the primary in memory.
CHUNK_BYTES: Final = 256 << 10
#: A response ends after so many bytes of frames, or so many seconds.
MAX_RESPONSE_BYTES: Final = 64 << 20
MAX_RESPONSE_S: Final = 30.0
MAX_WAIT_MS: Final = 30_000
MAX_QUERY_BYTES: Final = 2_048
MAX_HEADER_CHARS: Final = 256
MAX_JSON_BYTES: Final = 4_096
MAX_PROBLEM_BYTES: Final = 16_384
#: The highest term that a message may name.
MAX_TERM: Final = (1 << 63) - 1
#: A term that is further above a primary's own is no other primary's: each promotion adds one. Taken for one, the
#: highest would leave no term to be promoted to.
TERM_STEP: Final = 1 << 32

_POSITION = re.compile(r"([0-9]{1,20}):([0-9]{1,20}):([0-9a-f]{8})", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_KIND = re.compile(r"[a-z-]{1,40}", re.ASCII)
_PROBLEM_PREFIX = "urn:walspool:"


class Refused(WalspoolError):
    """A request that is answered with a problem. Facts: ``problem``."""

    summary = "the request is refused"
    problem: Problem

    def __init__(self, status: int, kind: str, detail: str, **facts: Any) -> None:
        super().__init__(detail, problem=Problem(status, kind, detail, facts))


@dataclass(frozen=True)
class Problem:
    """Why a request was not done: what goes out as problem+json (RFC 9457)."""

    status: int
    #: Which of the cases it is, for programs: ``diverged``, ``newer-term``, ``rebootstrap-required`` …
    kind: str
    #: The same for people, with what to do.
    detail: str
    #: Numbers and positions, positions spelled as on the wire.
    facts: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The body of the response."""
        body = {"type": _PROBLEM_PREFIX + self.kind, "status": self.status, "detail": self.detail, **self.facts}
        return json.dumps(body, sort_keys=True).encode()

    def check(self) -> str:
        """The checksum header that goes with it: nobody starts anew because of a flipped bit."""
        return checksum(str(self.status), self.encode())

    @classmethod
    def decode(cls, status: int, body: bytes, check: str | None) -> Problem:
        """The problem in a response; one that can't be read, or was changed on its way, is a ``ProtocolError``."""
        if check != checksum(str(status), body):
            raise ProtocolError(reason=f"status {status} came without a matching checksum")
        try:
            given = parse_json(body, MAX_PROBLEM_BYTES)
        except Refused as error:
            raise ProtocolError(reason=f"status {status} came with a body that is no problem: {error}") from None
        kind, detail = given.pop("type", ""), given.pop("detail", "")
        words = isinstance(kind, str) and isinstance(detail, str) and given.pop("status", None) == status
        if not words or not _KIND.fullmatch(kind.removeprefix(_PROBLEM_PREFIX)):
            raise ProtocolError(reason=f"status {status} came with a body that is no problem")
        return cls(status, kind.removeprefix(_PROBLEM_PREFIX), printable(detail), given)

    def as_error(self) -> WalspoolError:
        """The exception that says the same in a program."""
        try:
            if self.kind == "diverged":
                there, here = (parse_position(name, self.facts.get(name)) for name in ("ours", "theirs"))
                return Diverged(ours=here, theirs=there)
            if self.kind == "rebootstrap-required":
                return RebootstrapRequired(self.detail, cause=str(self.facts.get("cause", "")))
            if self.kind == "newer-term":
                term, newer = (number(name, str(self.facts.get(name))) for name in ("term", "newer"))
                return StaleTermError(self.detail, term=term, current_term=newer)
        except Refused as error:
            return ProtocolError(reason=f"a problem of the kind {self.kind} without its facts: {error}")
        return ProtocolError(self.detail, reason=self.kind)


def shown(value: object) -> str:
    """A stranger's words as they may stand in an answer or a log line: printable ASCII, not too long."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:76] + " ..."


def printable(text: str) -> str:
    """A text with everything escaped that a terminal or a log file would not simply show."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def checksum(*parts: str | bytes) -> str:
    """CRC-32 of the parts, each by its length and itself, in eight hex digits."""
    crc = 0
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        crc = zlib.crc32(data, zlib.crc32(len(data).to_bytes(8, "little"), crc))
    return f"{crc:08x}"


def number(name: str, text: object, maximum: int = MAX_U64) -> int:
    """The whole number that ``text`` spells, at most ``maximum``; ``Refused`` names it otherwise."""
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise Refused(400, "bad-request", f"{name} must be a whole number in decimal digits, not {shown(text)}")
    value = int(text)
    if value > maximum:
        raise Refused(400, "bad-request", f"{name} must be at most {maximum}, not {value}")
    return value


def position_text(position: Position) -> str:
    """How a position is spelled on the wire."""
    return f"{position.term}:{position.lsn}:{position.crc:08x}"


def parse_position(name: str, text: object) -> Position:
    """The position that ``text`` spells; ``Refused`` names it otherwise."""
    found = _POSITION.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[1]) > MAX_U64 or int(found[2]) > MAX_U64:
        raise Refused(400, "bad-request", f"{name} must be term:lsn:crc, as in 3:1042:9f86d081, not {shown(text)}")
    return Position(int(found[1]), int(found[2]), int(found[3], 16))


def parse_query(query: bytes, allowed: frozenset[str]) -> dict[str, str]:
    """The parameters of a request, each at most once; an unknown one is refused rather than overlooked."""
    if len(query) > MAX_QUERY_BYTES:
        raise Refused(400, "bad-request", f"the query has {len(query)} bytes, at most {MAX_QUERY_BYTES} are read")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), max_num_fields=32)
    except ValueError:
        raise Refused(400, "bad-request", "the query is not name=value, joined with &, in ASCII") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise Refused(400, "bad-request", f"no parameter is named {shown(name)} here; known are: {known}")
        if name in found:
            raise Refused(400, "bad-request", f"{name} is given twice")
        found[name] = value
    return found


def parse_json(body: bytes, maximum: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a body."""
    if len(body) > maximum:
        raise Refused(413, "too-large", f"the body has {len(body)} bytes, at most {maximum} are read")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is given twice")
        return found

    try:
        found = json.loads(body.decode(), object_pairs_hook=once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "bad-request", "the body is not one JSON object with each key once") from None
    if not isinstance(found, dict):
        raise Refused(400, "bad-request", "the body is JSON, but no object")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(word)
