"""What a stranger may send: everything is bounded, named and refused, or read exactly."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import walspool
from walspool import Position
from walspool.net.messages import Ack, Registration, StreamHead, WalRequest, split_payloads
from walspool.net.protocol import (
    CHECKSUM,
    CURRENT_LSN,
    MAX_JSON_BYTES,
    MAX_QUERY_BYTES,
    MAX_RESPONSE_BYTES,
    MAX_TERM,
    OLDEST_LSN,
    ORIGIN,
    PREVIOUS_POSITION,
    TERM,
    Problem,
    Refused,
    checksum,
    parse_json,
    parse_position,
    position_text,
    shown,
)

U64 = st.integers(0, 2**64 - 1)
TERMS = st.integers(0, MAX_TERM)
POSITIONS = st.builds(Position, U64, U64, st.integers(0, 2**32 - 1))
IDS = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
MAX = 2**64 - 1


def refusal(kind: str, *words: str, status: int = 400) -> Any:
    """Expects a refusal of this kind whose words hold these."""
    return pytest.raises(Refused, check=lambda error: _is(error, kind, status, words))


def _is(error: Refused, kind: str, status: int, words: tuple[str, ...]) -> bool:
    assert (error.problem.kind, error.problem.status) == (kind, status)
    assert error.problem.detail.isascii()
    assert len(error.problem.detail) < 400
    for each in words:
        assert each in error.problem.detail
    return True


@given(POSITIONS)
def test_positions_go_there_and_back(position: Position) -> None:
    assert parse_position("p", position_text(position)) == position


def test_how_a_position_is_spelled() -> None:
    assert position_text(Position(3, 1042, 0x9F86)) == "3:1042:00009f86"
    assert position_text(ORIGIN) == "0:0:00000000"


WRONG_POSITIONS = [
    "",
    "1:2",
    "1:2:3",
    "1:2:0000000G",
    "1:2:00000000 ",
    "-1:2:00000000",
    f"{MAX + 1}:2:00000000",
    f"1:{MAX + 1}:00000000",
    "1:2:000000000",
    "\u0661:2:00000000",
    "1" * 10_000 + ":2:00000000",
    "1:2:00000000\n",
    None,
    7,
]


@pytest.mark.parametrize("text", WRONG_POSITIONS)
def test_what_is_no_position(text: object) -> None:
    with refusal("bad-request", "there must be term:lsn:crc"):
        parse_position("there", text)


WAL_REQUESTS = st.builds(
    lambda replica_id, position, since, term, wait_ms, max_bytes: WalRequest(
        replica_id, since if position is None else position.lsn, position, term, wait_ms, max_bytes
    ),
    st.none() | IDS,
    st.none() | POSITIONS,
    st.none() | U64,
    st.none() | TERMS,
    st.integers(0, 30_000),
    st.integers(0, MAX_RESPONSE_BYTES),
)


@given(WAL_REQUESTS)
def test_wal_requests_go_there_and_back(request: WalRequest) -> None:
    query = request.query()
    assert WalRequest.parse(query.encode(), checksum(query)) == request
    if request.term is None:
        assert WalRequest.parse(query.encode()) == request
    else:
        with refusal("bad-request", "a term needs the header walspool-checksum"):
            WalRequest.parse(query.encode())


def test_what_is_left_out_of_a_wal_request() -> None:
    assert WalRequest.parse(b"") == WalRequest(None, None, None, None, 30_000, 64 << 20)
    assert WalRequest.parse(b"position=1:5:00000000").since_lsn == 5


@given(WAL_REQUESTS, st.integers(0, 10_000))
def test_a_flipped_bit_in_a_request_is_noticed(request: WalRequest, at: int) -> None:
    query = request.query().encode()
    at %= len(query) * 8
    changed = bytearray(query)
    changed[at // 8] ^= 1 << at % 8
    with pytest.raises(Refused):
        WalRequest.parse(bytes(changed), checksum(query))


WRONG_QUERIES = [
    (b"since_lsn=-1", "since_lsn must be a whole number in decimal digits, not '-1'"),
    (b"since_lsn=", "since_lsn must be"),
    (b"since_lsn=1.5", "since_lsn must be"),
    (b"since_lsn=%31%30_", "since_lsn must be"),
    (b"since_lsn=" + b"9" * 500, "since_lsn must be"),
    (b"since_lsn=%s" % str(MAX + 1).encode(), f"at most {MAX}"),
    (b"since_lsn=%D9%A1", "since_lsn must be"),
    (b"since_lsn=%FF%FE", "since_lsn must be"),
    (b"since_lsn=1&since_lsn=1", "since_lsn is given twice"),
    (b"since=1", "no parameter is named 'since' here; known are: max_bytes, position,"),
    (b"%0d%0aX=1", r"'\r\nX'"),
    (b"since_lsn", "not name=value"),
    (b"\xff=1", "not name=value"),
    (b"&" * 100, "not name=value"),
    (b"replica_id=", "replica_id must be 1 to 64"),
    (b"replica_id=../../etc/passwd", "replica_id must be"),
    (b"replica_id=" + b"a" * 65, "replica_id must be"),
    (b"replica_id=%C3%A4", "replica_id must be"),
    (b"wait_ms=30001", "wait_ms must be at most 30000"),
    (b"max_bytes=%d" % (MAX_RESPONSE_BYTES + 1), "max_bytes must be at most"),
    (b"position=x", "position must be term:lsn:crc"),
    (b"position=1:5:00000000&since_lsn=4", "since_lsn 4 is not the LSN of position 5"),
    (b"term=3", "a term needs the header"),
    (b"a" * (MAX_QUERY_BYTES + 1), f"at most {MAX_QUERY_BYTES} are read"),
]


@pytest.mark.parametrize(("query", "words"), WRONG_QUERIES)
def test_a_bad_wal_request(query: bytes, words: str) -> None:
    with refusal("bad-request", words):
        WalRequest.parse(query)


@given(st.binary(max_size=300))
def test_any_query_is_read_or_refused(query: bytes) -> None:
    with contextlib.suppress(Refused):
        found = WalRequest.parse(query)
        assert WalRequest.parse(found.query().encode()) == found


@given(TERMS, U64, st.none() | U64, POSITIONS)
def test_stream_headers_go_there_and_back(term: int, current: int, oldest: int | None, previous: Position) -> None:
    head = StreamHead(term, current, oldest, previous)
    headers = head.headers()
    assert StreamHead.parse(headers) == head
    for name in headers:
        with pytest.raises(walspool.ProtocolError):
            StreamHead.parse({key: value for key, value in headers.items() if key != name})
        with pytest.raises(walspool.ProtocolError):
            StreamHead.parse({**headers, name: headers[name] + "0"})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (TERM, "x", "walspool-term must be a whole number"),
        (CURRENT_LSN, "-1", "walspool-current-lsn must be"),
        (OLDEST_LSN, "", "walspool-oldest-lsn must be"),
        (PREVIOUS_POSITION, "1:1", "must be term:lsn:crc"),
        (PREVIOUS_POSITION, "1" * 300, "too long"),
    ],
)
def test_bad_stream_headers(name: str, value: str, words: str) -> None:
    headers = {**StreamHead(1, 2, 3, ORIGIN).headers(), name: value}
    headers[CHECKSUM] = checksum(*(headers[each] for each in (TERM, CURRENT_LSN, OLDEST_LSN, PREVIOUS_POSITION)))
    with pytest.raises(walspool.ProtocolError, match=words):
        StreamHead.parse(headers)


def test_an_empty_log_has_no_oldest_lsn() -> None:
    headers = StreamHead(1, 0, None, ORIGIN).headers()
    assert OLDEST_LSN not in headers
    # one that was cut out on the way is missed all the same
    full = StreamHead(1, 0, 5, ORIGIN).headers()
    del full[OLDEST_LSN]
    with pytest.raises(walspool.ProtocolError, match="changed on their way"):
        StreamHead.parse(full)


def test_registrations() -> None:
    for registration in (Registration("a"), Registration("a.B-9_", "Köln 1", "i-1")):
        assert Registration.parse(json.dumps(registration.fields()).encode()) == registration


def test_acknowledgements() -> None:
    ack = Ack(Position(3, 9, 0xAB), 8, 9, 1, 2)
    body = json.dumps(ack.fields()).encode()
    assert Ack.parse(body, checksum(body)) == Ack.parse(body) == ack
    assert Ack.parse(b'{"position":"0:0:00000000","applied_lsn":0,"durable_lsn":0}') == Ack(ORIGIN, 0, 0)
    with refusal("bad-checksum", "changed on its way"):
        Ack.parse(body, "00000000")


GOOD_ACK = {"position": "1:5:00000000", "applied_lsn": 5, "durable_lsn": 5}
WRONG_BODIES = [
    (b"", "not one JSON object"),
    (b"[]", "no object"),
    (b"{", "not one JSON object"),
    (b'{"id":"a","id":"b"}', "not one JSON object with each key once"),
    (b'{"applied_lsn":NaN}', "not one JSON object"),
    (b"[" * MAX_JSON_BYTES, "not one JSON object"),
    (b"\xff\xfe", "not one JSON object"),
    (b'{"\\u001b[31m":1}', "no key is named '\\x1b[31m' here"),
]


@pytest.mark.parametrize(("body", "words"), WRONG_BODIES)
@pytest.mark.parametrize("message", [Ack, Registration])
def test_a_bad_body(message: Any, body: bytes, words: str) -> None:
    with refusal("bad-request", words):
        message.parse(body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position": None}, "position must be"),
        ({"applied_lsn": -1}, "applied_lsn must be a whole number from 0"),
        ({"applied_lsn": 2**64}, "applied_lsn must be"),
        ({"applied_lsn": 1.0}, "applied_lsn must be"),
        ({"applied_lsn": True}, "applied_lsn must be"),
        ({"applied_lsn": None}, "applied_lsn must be"),
        ({"durable_lsn": "5"}, "durable_lsn must be"),
        ({"apply_error_count": -1}, "apply_error_count must be"),
        ({"durable_lsn": 4, "applied_lsn": 4}, "durable_lsn must be the LSN of position"),
        ({"applied_lsn": 6}, "applied_lsn is above durable_lsn"),
        ({"more": 1}, "no key is named 'more' here"),
    ],
)
def test_a_bad_acknowledgement(change: dict[str, Any], words: str) -> None:
    with refusal("bad-request", words):
        Ack.parse(json.dumps({**GOOD_ACK, **change}).encode())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": 7},
        {"id": "a/b"},
        {"id": "a", "region": ""},
        {"id": "a", "region": "\x1b"},
        {"id": "a", "region": 1},
        {"id": "a", "region": "x" * 65},
        {"id": "a", "instance": ""},
        {"id": "a", "instance": 5},
    ],
)
def test_a_bad_registration(fields: dict[str, Any]) -> None:
    with refusal("bad-request", "must be 1 to 64"):
        Registration.parse(json.dumps(fields).encode())


def test_a_body_that_is_too_large() -> None:
    assert parse_json(b'{"a":"%s"}' % (b"x" * (MAX_JSON_BYTES - 8))) == {"a": "x" * (MAX_JSON_BYTES - 8)}
    with refusal("too-large", f"at most {MAX_JSON_BYTES}", status=413):
        parse_json(b'{"a":"%s"}' % (b"x" * (MAX_JSON_BYTES - 7)))


def test_problems_go_there_and_back() -> None:
    problem = Problem(409, "diverged", "they differ", {"ours": "1:5:00000001", "theirs": "2:5:00000002"})
    assert json.loads(problem.encode())["type"] == "urn:walspool:diverged"
    assert Problem.decode(409, problem.encode(), problem.check()) == problem
    error = problem.as_error()
    assert isinstance(error, walspool.Diverged)
    assert (error.theirs, error.ours) == (Position(1, 5, 1), Position(2, 5, 2))
    stale = Problem(409, "newer-term", "x", {"term": 3, "newer": 5}).as_error()
    assert isinstance(stale, walspool.StaleTermError)
    assert (stale.term, stale.current_term) == (3, 5)
    gone = Problem(410, "rebootstrap-required", "x", {"cause": "horizon"}).as_error()
    assert isinstance(gone, walspool.RebootstrapRequired)
    assert gone.cause == "horizon"
    for kind in ("diverged", "newer-term", "anything"):
        assert isinstance(Problem(409, kind, "x").as_error(), walspool.ProtocolError)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"type":"urn:walspool:x","detail":"x"}',
        b'{"type":7,"detail":"x","status":409}',
        b'{"type":"urn:walspool:A B","detail":"x","status":409}',
        b'{"type":"x","detail":7,"status":409}',
        b"x" * 20_000,
    ],
)
def test_what_is_no_problem(body: bytes) -> None:
    with pytest.raises(walspool.ProtocolError, match="no problem"):
        Problem.decode(409, body, checksum("409", body))


def test_a_problem_that_was_changed_counts_for_nothing() -> None:
    problem = Problem(410, "rebootstrap-required", "x")
    for status, check in ((409, problem.check()), (410, None), (410, "00000000")):
        with pytest.raises(walspool.ProtocolError, match="without a matching checksum"):
            Problem.decode(status, problem.encode(), check)


@given(st.text(max_size=200))
def test_what_is_shown_can_stand_in_a_log_line(text: str) -> None:
    found = shown(text)
    assert found.isascii()
    assert found.isprintable()
    assert len(found) <= 80


def test_payloads() -> None:
    body = b"".join(len(each).to_bytes(4, "little") + each for each in (b"a", b"", b"ccc"))
    assert [bytes(each) for each in split_payloads(body)] == [b"a", b"", b"ccc"]
    for cut in (body[:-1], body + b"\x01", body + b"\xff\xff\xff\xff"):
        with refusal("bad-request", "is cut off"):
            list(split_payloads(cut))


def test_a_checksum_knows_where_its_parts_end() -> None:
    assert checksum("ab", "c") != checksum("a", "bc") != checksum("abc")
    assert checksum("a", b"b") == checksum(b"a", "b")
