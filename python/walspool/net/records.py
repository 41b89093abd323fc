"""Records over HTTP for programs and people that are no replica: appending with copies, reading as JSON."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final

from walspool import core
from walspool.errors import CommitError, PayloadTooLarge, StaleTermError
from walspool.net.messages import split_payloads
from walspool.net.protocol import Refused, number, parse_query
from walspool.replication.commit import CommitPolicy
from walspool.replication.primary import PrimaryReplication

__all__ = ["MAX_HELD_BYTES", "MAX_RECORDS_BYTES", "PAYLOADS_TYPE", "Room", "append", "parse_ack", "read"]

#: Media type of a body that is many payloads, each with its length before it.
PAYLOADS_TYPE: Final = "application/vnd.walspool.payloads"
#: Bytes of a body that is appended.
MAX_RECORDS_BYTES: Final = 16 << 20
#: Bytes of all records together that have come and are not appended yet, or are asked for and not taken yet.
MAX_HELD_BYTES: Final = 128 << 20
_MAX_PAYLOADS: Final = 10_000
_MAX_COUNT: Final = 1_000
_MAX_READ_BYTES: Final = 1 << 20


class Room:
    """The memory that records on their way cost. For one event loop."""

    def __init__(self) -> None:
        self._held = 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """For the time of one request: call it for what comes; ``Refused`` where there is no room for it.

        One that is larger than all the room has it alone.
        """
        taken = 0

        def come(count: int) -> None:
            nonlocal taken
            if self._held > taken and self._held + count > MAX_HELD_BYTES:
                raise Refused(503, "busy", f"{MAX_HELD_BYTES >> 20} MiB of records are on their way; try again later")
            self._held += count
            taken += count

        try:
            yield come
        finally:
            self._held -= taken


def parse_ack(query: bytes) -> int | CommitPolicy:
    """The copies that ``ack=local|N|quorum`` asks for."""
    text = parse_query(query, frozenset({"ack"})).get("ack", "local")
    if text in ("local", "quorum"):
        return CommitPolicy.parse(text)
    return number("ack", text, 1_000)


async def append(primary: PrimaryReplication, body: bytes, media_type: str, ack: int | CommitPolicy) -> dict[str, Any]:
    """Append one record, or many of ``PAYLOADS_TYPE``; their LSNs, and how many copies the worst of them has.

    ``Refused`` where copies are missing names the LSNs, too: those records are in the log.
    """
    parts = split_payloads(body) if media_type == PAYLOADS_TYPE else iter([memoryview(body)])
    payloads = list(islice(parts, _MAX_PAYLOADS + 1))  # no more: each costs memory, however short it is
    if len(payloads) > _MAX_PAYLOADS:
        raise Refused(413, "too-large", f"there are more than {_MAX_PAYLOADS} payloads, which are taken at a time")
    _check_terms(primary, payloads)
    done = await asyncio.gather(*(primary.acommit(each, ack=ack) for each in payloads), return_exceptions=True)
    lsns = [each.lsn for each in done if not isinstance(each, BaseException) or isinstance(each, CommitError)]
    for each in done:
        if isinstance(each, StaleTermError):
            raise _replaced(primary, str(each), lsns)
        if isinstance(each, PayloadTooLarge):
            raise Refused(413, "too-large", str(each), lsns=lsns)
        if isinstance(each, BaseException) and not isinstance(each, CommitError):
            raise each
    missing = next((each for each in done if isinstance(each, CommitError)), None)
    if missing is not None:
        raise Refused(503, "copies-missing", str(missing), lsns=lsns)
    return {"lsns": lsns, "acks": min((each.acks for each in done if not isinstance(each, BaseException)), default=0)}


def _check_terms(primary: PrimaryReplication, payloads: list[memoryview]) -> None:
    """Refuse a change record of another term than the primary's: whoever may append must not be able to raise it."""
    if primary.fenced_by is not None:
        raise _replaced(primary, "this primary was replaced", [])
    for place, each in enumerate(payloads):
        change = core.change_term(each)
        if change is not None and change[1] and change[0] != primary.term:
            words = f"payload {place} is a change record of term {change[0]}, and this primary's is {primary.term}"
            raise Refused(400, "bad-request", f"{words}; nothing was appended; leave its term out")


def _replaced(primary: PrimaryReplication, words: str, lsns: list[int]) -> Refused:
    return Refused(409, "newer-term", words, term=primary.term, newer=primary.fenced_by or primary.term, lsns=lsns)


def read(primary: PrimaryReplication, query: bytes) -> dict[str, Any]:
    """Records as JSON: a payload as text where it is UTF-8, else as base64. Ends early at 1 MiB of payload."""
    given = parse_query(query, frozenset({"since_lsn", "max_count"}))
    since = number("since_lsn", given.get("since_lsn", "0"))
    count = number("max_count", given.get("max_count", "100"), _MAX_COUNT)
    spool = primary.logical_wal_spool
    assert spool is not None
    entries = spool.read_entries(since, count, max_bytes=_MAX_READ_BYTES)
    # looked up behind the read, so that a prune that came in between is noticed
    if since < spool.pruned_through:
        detail = f"records above LSN {since} are pruned, through LSN {spool.pruned_through}"
        raise Refused(410, "rebootstrap-required", detail, cause="wal-removed", gone_through=spool.pruned_through)
    records = []
    for entry in entries:
        try:
            payload = {"payload": entry.payload.decode()}
        except UnicodeDecodeError:
            payload = {"payload_base64": base64.b64encode(entry.payload).decode()}
        records.append({"lsn": entry.lsn, "term": entry.term, "timestamp_ms": entry.timestamp_ms, **payload})
    return {"records": records, "current_lsn": spool.current_lsn}
