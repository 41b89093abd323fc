"""The primary's end on loopback: each request, and each refusal."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.net.feed import feed
from tests.net.kit import ADMIN, APPEND, ONE, PATIENCE_S, READ, TWO, Served, serving
from walspool import PrimaryReplication
from walspool.net.messages import StreamHead, WalRequest
from walspool.net.protocol import CHECKSUM, Problem, checksum, parse_position
from walspool.net.sink import Sink


@pytest.fixture
def served(core: ModuleType, tmp_path: Path) -> Iterator[Served]:
    """On both cores."""
    with serving(tmp_path) as found:
        yield found


def head_of(response: http.client.HTTPResponse) -> StreamHead:
    """What the headers say."""
    return StreamHead.parse({name.lower(): value for name, value in response.getheaders()})


def frames(primary: PrimaryReplication, since_lsn: int = 0) -> bytes:
    """What the log holds."""
    assert primary.logical_wal_spool is not None
    return bytes(primary.logical_wal_spool.read_frames(since_lsn, 1 << 26).data)


def test_the_body_is_the_frames_as_they_lie_on_disk(served: Served) -> None:
    response = served.pull("since_lsn=0&wait_ms=0")
    head = head_of(response)
    assert (response.status, head.term, head.current_lsn, head.oldest_lsn, head.previous.lsn) == (200, 1, 10, 1, 0)
    data = response.read()
    assert data == frames(served.primary)
    assert served.primary.logical_wal_spool is not None
    assert served.primary.logical_wal_spool.path.read_bytes().startswith(data)
    response = served.pull("since_lsn=7&wait_ms=0&max_bytes=1")
    assert head_of(response).previous == served.primary.logical_wal_spool.position(7)
    assert response.read() == frames(served.primary, 7)[: len(response.read()) or 45]


def test_a_replica_follows_acknowledges_and_is_followed_up(served: Served) -> None:
    sink = Sink(served.folder / "f" / "app.db", "a", "i-1", random=lambda: 1.0)
    sink.following.registered(served.register(instance="i-1", region="eu"))
    response = served.pull(WalRequest("a", 0, None, sink.own.term, 20_000).query(), sink.following.session)
    assert sink.begin(head_of(response), 0.0)
    done: list[walspool.CommitResult] = []
    writer = threading.Thread(target=lambda: done.append(served.primary.commit(b"live", ack=1, timeout=PATIENCE_S)))
    # what is appended while the response is open comes on it
    while sink.own.last.lsn < 11:
        assert feed(sink, response.read1(1 << 16), 0.0)
        if sink.own.last.lsn == 10 and not writer.is_alive() and not done:
            writer.start()
    ack = sink.following.next_ack()
    assert ack is not None
    body = json.dumps(ack.fields()).encode()
    status, text, _ = served.ask(
        "POST",
        "/v1/replicas/a/ack",
        body,
        walspool_session=str(sink.following.session),
        walspool_checksum=checksum(body),
    )
    assert (status, json.loads(text)) == (200, {"term": 1, "current_lsn": 11})
    writer.join(PATIENCE_S)
    assert done == [walspool.CommitResult(11, 1)]
    assert sink.spool is not None
    assert bytes(sink.spool.read_frames(0, 1 << 26).data) == frames(served.primary)
    assert served.primary.replica_snapshots()[0].region == "eu"
    sink.close()


def test_an_idle_response_ends_empty_and_the_connection_goes_on(served: Served) -> None:
    connection = served.connect()
    for _ in range(3):
        connection.request("GET", "/v1/wal?since_lsn=10&wait_ms=20")
        response = connection.getresponse()
        assert head_of(response).previous.lsn == 10
        assert response.read() == b""
        assert not response.will_close


def test_a_newer_term_fences(served: Served) -> None:
    query = "since_lsn=0&term=7&wait_ms=0"
    assert served.refusal("GET", f"/v1/wal?{query}").kind == "bad-request"
    assert served.primary.fenced_by is None
    problem = served.refusal("GET", f"/v1/wal?{query}", walspool_checksum=checksum(query))
    assert (problem.status, problem.kind, problem.facts) == (409, "newer-term", {"term": 1, "newer": 7})
    with pytest.raises(walspool.StaleTermError):
        served.primary.commit(b"x")
    assert served.pull("since_lsn=0&wait_ms=0").read() == frames(served.primary)


def test_what_has_diverged_or_is_gone(served: Served) -> None:
    problem = served.refusal("GET", "/v1/wal?position=1:5:00000000")
    error = problem.as_error()
    assert isinstance(error, walspool.Diverged)
    assert served.primary.logical_wal_spool is not None
    assert (error.ours.lsn, error.theirs) == (5, served.primary.logical_wal_spool.position(5))
    served.primary.prune_retained_wal_through(8)
    problem = served.refusal("GET", "/v1/wal?since_lsn=0")
    assert (problem.status, problem.kind, problem.facts["cause"]) == (410, "rebootstrap-required", "wal-removed")


def test_records_are_appended_and_read(served: Served) -> None:
    assert served.ask("POST", "/v1/records", b"\xff\x00one")[:2] == (200, b'{"lsns": [11], "acks": 0}')
    many = b"".join(len(each).to_bytes(4, "little") + each for each in (b"two", b"", b"three"))
    kind = {"content_type": "application/vnd.walspool.payloads"}
    status, text, _ = served.ask("POST", "/v1/records?ack=local", many, **kind)
    assert (status, json.loads(text)) == (200, {"lsns": [12, 13, 14], "acks": 0})
    found = json.loads(served.ask("GET", "/v1/records?since_lsn=10")[1])
    assert found["current_lsn"] == 14
    held = [(each["lsn"], each.get("payload", each.get("payload_base64"))) for each in found["records"]]
    assert held == [(11, "/wBvbmU="), (12, "two"), (13, ""), (14, "three")]
    found = json.loads(served.ask("GET", "/v1/records?since_lsn=3&max_count=2")[1])
    assert [(each["lsn"], each["term"], each["payload"]) for each in found["records"]] == [
        (4, 1, "record 4"),
        (5, 1, "record 5"),
    ]
    served.primary.prune_retained_wal_through(8)
    assert served.refusal("GET", "/v1/records?since_lsn=7").status == 410
    assert served.ask("GET", "/v1/records?since_lsn=8")[0] == 200


def test_records_that_are_not_appended(served: Served) -> None:
    kind = {"content_type": "application/vnd.walspool.payloads"}
    for query, body, headers, status in (
        ("?ack=most", b"x", {}, 400),
        ("?ack=-1", b"x", {}, 400),
        ("?lsn=5", b"x", {}, 400),
        ("", b"\x05\x00\x00\x00x", kind, 400),
        ("", bytes(4 * 10_001), kind, 413),
        ("", bytes((16 << 20) + 1), {}, 413),
    ):
        assert served.refusal("POST", f"/v1/records{query}", body, **headers).status == status
    assert served.primary.current_logical_lsn == 10
    problem = served.refusal("POST", "/v1/records?ack=1", b"x")
    assert (problem.status, problem.kind, problem.facts) == (503, "copies-missing", {"lsns": [11]})
    assert served.primary.current_logical_lsn == 11
    served.primary.fence(3)
    problem = served.refusal("POST", "/v1/records", b"x")
    assert (problem.kind, problem.facts) == ("newer-term", {"term": 1, "newer": 3, "lsns": []})


def test_what_it_says_of_itself(served: Served) -> None:
    served.register(region="eu")
    served.primary.commit(b"eleven")
    served.primary.ack_replica_lsn("a", 10, 10)
    status = json.loads(served.ask("GET", "/v1/status")[1])
    named = ("role", "term", "fenced_by", "current_lsn", "oldest_lsn", "pruned_through")
    assert [status[each] for each in named] == ["primary", 1, None, 11, 1, 0]
    assert status["size_bytes"] == len(frames(served.primary))
    (replica,) = status["replicas"]
    size = len(frames(served.primary, 10))
    assert [replica[each] for each in ("id", "region", "lag_records", "lag_bytes")] == ["a", "eu", 1, size]
    assert status["recovery"]["verdict"] == "clean"
    slots = json.loads(served.ask("GET", "/v1/slots")[1])["slots"]
    assert status["slots"] == slots
    assert [slots[0][each] for each in ("id", "restart_lsn", "wal_status", "retained_bytes")] == [
        "a",
        10,
        "reserved",
        size,
    ]
    retention = json.loads(served.ask("GET", "/v1/retention")[1])
    assert (retention["pinned_by"], retention["prunable_records"]) == (["a"], 10)
    assert served.ask("DELETE", "/v1/slots/a")[:2] == (200, b'{"dropped": "a"}')
    assert served.refusal("DELETE", "/v1/slots/a").kind == "unknown-replica"
    assert served.primary.find_slot("a") is None


def test_its_role_by_status_code(served: Served) -> None:
    assert served.ask("GET", "/primary")[:2] == (200, b'{"term": 1}')
    assert served.refusal("GET", "/replica").status == 503
    served.primary.fence(4)
    problem = served.refusal("GET", "/primary")
    assert (problem.status, problem.facts) == (503, {"term": 1, "newer": 4})
    assert json.loads(served.ask("GET", "/v1/status")[1])["role"] == "fenced"


def test_no_replica_gets_a_slot_beyond_the_last(served: Served) -> None:
    for number in range(64):
        served.primary.register_replica(f"r{number}")
    for method, path, body in (("POST", "/v1/replicas", b'{"id":"a"}'), ("GET", "/v1/snapshot?replica_id=a", None)):
        problem = served.refusal(method, path, body)
        assert (problem.status, problem.kind) == (409, "slot-limit")


def test_sessions_and_instances(served: Served) -> None:
    session = served.register(instance="one")
    body = b'{"id":"a","instance":"two"}'
    assert served.refusal("POST", "/v1/replicas", body).kind == "second-instance"
    assert served.refusal("GET", "/v1/wal?replica_id=a&since_lsn=0").kind == "old-session"
    assert served.pull("replica_id=a&since_lsn=0&wait_ms=0", session).read()
    assert served.ask("DELETE", "/v1/replicas/a")[:2] == (200, b'{"known": true}')
    assert served.ask("DELETE", "/v1/replicas/a")[:2] == (200, b'{"known": false}')
    ack = b'{"position":"0:0:00000000","applied_lsn":0,"durable_lsn":0}'
    assert served.refusal("POST", "/v1/replicas/nobody/ack", ack).kind == "unknown-replica"


def test_a_snapshot(core: ModuleType, tmp_path: Path) -> None:
    served = Served(tmp_path, snapshot=lambda: (9, iter([b"all ", b"of it"])))
    try:
        session = str(served.register())
        status, body, headers = served.ask("GET", "/v1/snapshot?replica_id=a", walspool_session=session)
        assert (status, body) == (200, b"all of it")
        position = parse_position("it", headers["walspool-snapshot-position"])
        assert served.primary.logical_wal_spool is not None
        assert position == served.primary.logical_wal_spool.position(9)
        assert (headers["walspool-term"], headers["walspool-snapshot-reach-lsn"]) == ("1", "10")
        assert headers["walspool-comparable"] == "yes"
        fields = ("walspool-term", "walspool-snapshot-position", "walspool-snapshot-reach-lsn", "walspool-comparable")
        assert headers[CHECKSUM] == checksum(*(headers[each] for each in fields))
        assert served.primary.replica_snapshots()[0].rebootstrapping
        assert served.refusal("GET", "/v1/snapshot").kind == "bad-request"
        assert served.refusal("GET", "/v1/snapshot?replica_id=a").kind == "old-session"
    finally:
        served.close()


def test_a_snapshot_that_fails_does_not_look_whole(core: ModuleType, tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a part"
        raise OSError(5, "the disk")

    served = Served(tmp_path, snapshot=lambda: (10, chunks()))
    try:
        with pytest.raises(http.client.IncompleteRead):
            served.ask("GET", "/v1/snapshot?replica_id=a", walspool_session=str(served.register()))
    finally:
        served.close()


def test_a_snapshot_that_has_ended_holds_no_session(tmp_path: Path) -> None:
    served = Served(tmp_path, snapshot=lambda: (10, [b"all"]))
    try:
        session = served.register(instance="one")
        assert served.ask("GET", "/v1/snapshot?replica_id=a", walspool_session=str(session))[1] == b"all"
        assert served.app._source._sessions._of["a"].streams == 0
    finally:
        served.close()


REQUESTS = [
    ("GET", "/v1/wal?since_lsn=0&wait_ms=0", None, "r a"),
    ("GET", "/v1/wal?replica_id=a&since_lsn=0&wait_ms=0", None, "o a"),
    ("GET", "/v1/wal?since_lsn=0&term=1&wait_ms=0", None, "a"),
    ("POST", "/v1/replicas", b'{"id":"a"}', "o a"),
    ("DELETE", "/v1/replicas/a", None, "o a"),
    ("POST", "/v1/replicas/a/ack", b'{"position":"0:0:00000000","applied_lsn":0,"durable_lsn":0}', "o a"),
    ("GET", "/v1/snapshot?replica_id=a", None, "o a"),
    ("POST", "/v1/records", b"x", "p a"),
    ("GET", "/v1/records", None, "r a"),
    ("GET", "/v1/status", None, "r a"),
    ("GET", "/v1/slots", None, "r a"),
    ("GET", "/v1/retention", None, "r a"),
    ("DELETE", "/v1/slots/a", None, "a"),
    ("GET", "/healthz", None, "r o t p a"),
]


@pytest.mark.parametrize(("method", "path", "body", "allowed"), REQUESTS)
def test_who_may(guarded: Served, method: str, path: str, body: bytes | None, allowed: str) -> None:
    check = {"walspool_checksum": checksum(path.partition("?")[2])} if "term" in path else {}
    for wrong in (None, "Bearer " + "x" * 16, f"Basic {ADMIN}"):
        headers = check if wrong is None else {**check, "authorization": wrong}
        status, text, given = guarded.ask(method, path, body, **headers)
        assert Problem.decode(status, text, given[CHECKSUM]).status == 401
        assert given["www-authenticate"] == "Bearer"
    for token in (READ, ONE, TWO, APPEND, ADMIN):
        status, text, _ = guarded.ask(method, path, body, authorization=f"Bearer {token}", **check)
        assert (status != 403) == (token[0] in allowed.split()), (token, status, text)
        assert status not in (401, 500)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/v1/wal?since_lsn=-1", None, 400, "since_lsn must be a whole number"),
        ("GET", "/v1/wal?since_lsn=18446744073709551616", None, 400, "at most"),
        ("GET", "/v1/wal?position=%00", None, 400, r"not '\x00'"),
        ("GET", "/v1/wal?replica_id=..%2F..%2Fetc", None, 400, "replica_id must be 1 to 64"),
        ("GET", "/v1/wal?" + "a" * 3_000, None, 400, "at most 2048 are read"),
        ("POST", "/v1/replicas", b"", 400, "not one JSON object"),
        ("POST", "/v1/replicas", b"[" * 4_000, 400, "not one JSON object"),
        ("POST", "/v1/replicas", b"x" * 5_000, 413, "above 4096 bytes"),
        ("POST", "/v1/replicas", b'{"id":"\xff"}', 400, "not one JSON object"),
        ("DELETE", "/v1/replicas/%0d%0a", None, 400, r"not '\r\n'"),
        ("POST", "/v1/replicas/a/ack", b"{}", 400, "applied_lsn must be a whole number"),
        ("GET", "/v1/nothing", None, 404, "nothing at this address"),
        ("PUT", "/v1/wal", None, 405, "nothing at this address"),
        ("PUT", "/v1/records", None, 405, "nothing at this address"),
        ("OPTIONS", "/v1/wal", None, 405, "nothing at this address"),
        ("GET", "/../../etc/passwd", None, 404, "nothing at this address"),
    ],
)
def test_bad_requests(served: Served, method: str, path: str, body: bytes | None, status: int, words: str) -> None:
    problem = served.refusal(method, path, body)
    assert problem.status == status
    assert words in problem.detail
    assert served.ask("GET", "/healthz")[0] == 200


def test_looking_only_changes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, snapshot=lambda: (10, [b"all"])) as served:
        session = str(served.register())
        for path in ("/v1/snapshot?replica_id=a", "/v1/wal?replica_id=a&since_lsn=0&wait_ms=0"):
            assert served.ask("HEAD", path, walspool_session=session)[0] == 405
        assert served.ask("HEAD", "/healthz")[0] == 200
        assert not served.primary.replica_snapshots()[0].rebootstrapping
        assert served.primary.slot_snapshots()[0].restart_lsn == 10


def test_bad_headers(served: Served) -> None:
    for session in ("x", "-1", "9" * 40):
        assert served.refusal("GET", "/v1/wal?since_lsn=0", walspool_session=session).status == 400
    assert served.refusal("GET", "/v1/wal?since_lsn=0", walspool_checksum="00000000").kind == "bad-checksum"


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "http://evil.example"}])
def test_without_tokens_a_foreign_name_is_refused(served: Served, headers: dict[str, Any]) -> None:
    for path in ("/healthz", "/v1/wal?since_lsn=0"):
        assert served.refusal("GET", path, **headers).status == 403


def test_what_goes_wrong_inside_stays_inside(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("walspool.net.source.Source.register", broken)
    problem = served.refusal("POST", "/v1/replicas", b'{"id":"a"}')
    assert (problem.status, problem.detail) == (500, "the server failed; its log says why")
    # in the line itself: the command shows no traceback
    assert "/v1/replicas failed: RuntimeError: a secret" in next(each.getMessage() for each in caplog.records)


def test_a_shutdown_ends_open_responses_at_once(served: Served) -> None:
    waiting = served.connect()
    waiting.request("GET", "/v1/wal?since_lsn=10")
    flowing = served.pull("since_lsn=0")
    assert flowing.read1(1 << 20)
    served.end_streams()
    assert waiting.getresponse().read() == b""
    assert flowing.read() == b""
    assert served.refusal("GET", "/v1/wal?since_lsn=0").kind == "ending"


def test_a_shutdown_waits_for_no_snapshot(tmp_path: Path) -> None:
    over = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"a part"
        over.wait(PATIENCE_S)

    def provider() -> tuple[int, Iterator[bytes]]:
        if len(served.app._loads) > 1:
            making.set()
            over.wait(PATIENCE_S)
        return 10, chunks()

    making = threading.Event()
    served = Served(tmp_path, snapshot=provider)
    try:
        begun, asked = served.connect(), served.connect()
        for connection, name in ((begun, "a"), (asked, "b")):
            session = str(served.register(name))
            connection.request("GET", f"/v1/snapshot?replica_id={name}", headers={"walspool-session": session})
            if connection is begun:
                flowing = begun.getresponse()
                assert flowing.read1(6) == b"a part"
        assert making.wait(PATIENCE_S)
        served.end_streams()
        with pytest.raises(http.client.IncompleteRead):
            flowing.read()
        refused = asked.getresponse()
        assert (refused.status, json.loads(refused.read())["type"]) == (503, "urn:walspool:ending")
    finally:
        over.set()
        served.close()


def test_a_stream_that_fails_is_cut_off_and_told_in_one_line(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise walspool.SpoolCorrupt(path=None, reason="a sector\nis gone")

    monkeypatch.setattr("walspool.net.source.Source.read", broken)
    with pytest.raises(http.client.IncompleteRead):
        served.pull("since_lsn=0").read()
    (told,) = [each for each in caplog.records if each.name == "walspool"]
    assert "/v1/wal failed: SpoolCorrupt" in told.getMessage()
    assert "a sector\\nis gone" in told.getMessage()
    assert not [each for each in caplog.records if each.exc_info and each.name != "walspool"]


def test_a_closed_log_is_no_failure_of_the_server(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.primary.close()
    assert served.refusal("GET", "/v1/wal?since_lsn=0").kind == "ending"
    assert caplog.text == ""


def test_a_bootstrap_without_a_slot_is_told_to_register(served: Served) -> None:
    session = str(served.register())
    served.primary.drop_slot("a")
    refused = served.refusal("GET", "/v1/snapshot?replica_id=a", walspool_session=session)
    assert (refused.status, refused.kind) == (404, "unknown-replica")
    assert served.pull("replica_id=a&since_lsn=0&wait_ms=0", served.register()).read() == frames(served.primary)


def test_a_client_that_goes_away_is_forgotten(served: Served) -> None:
    session = served.register(instance="one")
    response = served.pull("replica_id=a&since_lsn=0", session)
    assert response.read1(1 << 20)
    for each in served.connections:
        each.close()
    again = served.register(instance="one")
    assert served.pull("replica_id=a&since_lsn=0&wait_ms=0", again).read() == frames(served.primary)
