"""What strangers may do: nothing that their token does not say, nothing that another has to pay for."""

from __future__ import annotations

import http.client
import json
import logging
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.net.alone import Alone, serving_alone
from tests.net.interface import operations
from tests.net.kit import ADMIN, APPEND, ONE, PATIENCE_S, READ, SCOPES, TWO, Served
from tests.net.test_running import count, dial, rest
from walspool.net import transfer

#: Connections that do nothing good, of each kind.
STRANGERS = int(os.environ.get("WALSPOOL_CONNECTIONS", "60"))
#: Followers, with a token, that take nothing of what they ask for.
SLOW = 60
#: What the server may need for all of them together, beside what it needs for one request.
BOUND_BYTES = 128 << 20

#: Who may, beside ``admin``; the names are those of the replicas ``a`` and ``b``.
MAY = {
    "GET /v1/wal": {READ},
    "POST /v1/replicas": {ONE},
    "DELETE /v1/replicas/{id}": {ONE},
    "POST /v1/replicas/{id}/ack": {ONE},
    "GET /v1/snapshot": set(),
    "POST /v1/records": {APPEND},
    "GET /v1/records": {READ},
    "GET /v1/status": {READ},
    "GET /v1/slots": {READ},
    "DELETE /v1/slots/{id}": set(),
    "GET /v1/retention": {READ},
    "GET /metrics": {READ},
    "GET /primary": {READ, ONE, TWO, APPEND},
    "GET /replica": {READ, ONE, TWO, APPEND},
    "GET /healthz": {READ, ONE, TWO, APPEND},
}


def test_every_request_by_everybody(guarded: Served) -> None:
    connection = guarded.connect()
    asked = [each for each in operations() if each.needs_token]
    assert {each.name for each in asked} == set(MAY)
    for operation in asked:
        path = operation.path.replace("{id}", "a") + ("?wait_ms=0" if operation.path == "/v1/wal" else "")
        body = {"POST": b'{"id": "a"}'}.get(operation.method)
        for authorization in (None, "", "Bearer", f"Basic {ADMIN}", f"Bearer {READ}x", f"Bearer {'é' * 16}", "x" * 900):
            headers = {} if authorization is None else {"authorization": authorization}
            connection.request(operation.method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert (answer.status, json.loads(text)["type"]) == (401, "urn:walspool:unauthorized"), operation.name
        for token in SCOPES:
            connection.request(operation.method, path, body, {"authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            text = answer.read()
            allowed = token in MAY[operation.name] | {ADMIN}
            assert (answer.status == 403) != allowed, (operation.name, SCOPES[token], text)
            assert answer.status not in (401, 500)
            assert token.encode() not in text


LAST = b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
HUGE = (str(2**64), "9" * 21, "9" * 400, "-1", "+1", "1.0", "1e3", "0x10", "٣", "%00", "1%0a", "", " 1", "NaN", "None")


def test_numbers_that_are_none(served: Served) -> None:
    for path in (
        "/v1/wal?since_lsn=",
        "/v1/wal?wait_ms=",
        "/v1/wal?max_bytes=",
        "/v1/wal?position=",
        "/v1/wal?position=1:",
        "/v1/wal?replica_id=a&term=",
        "/v1/snapshot?replica_id=a&position=",
        "/v1/records?since_lsn=",
        "/v1/records?max_count=",
        "/replica?lag=",
    ):
        connection = served.connect()
        for bad in HUGE:
            connection.request("GET", path + quote(bad, safe="%"))
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["type"]) == (400, "urn:walspool:bad-request"), path + bad


def test_bodies_that_are_none(served: Served) -> None:
    connection = served.connect()
    numbers = ("-1", "1.5", "1e2", str(2**64), "9" * 3_000, '"1"', "null", "true", "[]", "{}", "NaN", "Infinity")
    acks = [f'{{"position":"0:0:00000000","applied_lsn":0,"durable_lsn":{each}}}' for each in numbers]
    odd = ["", "null", "[]", '"a"', "{", '{"a":1,"a":1}', "\ufeff{}", '{"\\ud800":1}', "[" * 4_000, '{"x":' * 600]
    ids = ['{"id":1}', '{"id":"../x"}', '{"id":"é"}', f'{{"id":"{"a" * 65}"}}', '{"id":"a","region":"\\n"}']
    for path, bodies in (("/v1/replicas/a/ack", acks + odd), ("/v1/replicas", odd + ids)):
        for each in bodies:
            connection.request("POST", path, each.encode("utf-8", "surrogatepass"))
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["type"]) == (400, "urn:walspool:bad-request"), each
    assert not served.primary.replica_snapshots() + served.primary.slot_snapshots()


@pytest.mark.parametrize("head", [b"content-length: 99999999999999", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("path", [b"/v1/replicas", b"/v1/records"])
def test_a_body_without_an_end_is_given_up(served: Served, path: bytes, head: bytes) -> None:
    part = b"8000\r\n" + bytes(0x8000) + b"\r\n" if head.startswith(b"transfer") else bytes(0x8000)
    with dial(served) as connection:
        connection.sendall(b"POST " + path + LAST + head + b"\r\n\r\n")
        try:
            for _ in range(2_000):
                connection.sendall(part)
        except OSError:
            pass
        else:
            pytest.fail("sixty megabytes were taken")
    assert served.primary.current_logical_lsn == 10


def test_a_body_that_does_not_come_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BODY_S", 0.1)
    with dial(served) as connection:
        connection.sendall(b"POST /v1/replicas" + LAST + b"content-length: 9\r\n\r\n{")
        assert b"urn:walspool:too-slow" in rest(connection)


def test_nothing_is_logged_as_it_came(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="walspool")
    caplog.set_level(logging.INFO, logger="uvicorn")
    paths = (b"/\x1b[31m", b"/%0a%1b[31mfake", b"/v1/wal?since_lsn=%0afake", b"/v1/replicas/%0afake", "/é".encode())
    for path in paths:
        for method in (b"GET", b"DELETE", b"FAKE"):
            with dial(served) as connection:
                headers = b"host: localhost\r\nuser-agent: fake\x1b\r\nconnection: close\r\n\r\n"
                connection.sendall(method + b" " + path + b" HTTP/1.1\r\n" + headers)
                assert b"Traceback" not in rest(connection)
    body = json.dumps({"id": "fake\n", "region": "fake\x1b"}).encode()
    assert served.ask("POST", "/v1/replicas", body)[0] == 400
    assert "fake" not in caplog.text
    assert all(each.getMessage().isprintable() for each in caplog.records)
    assert not any(each.exc_info for each in caplog.records)


def test_an_old_client_and_an_odd_one_are_answered_or_dropped(served: Served) -> None:
    for sent in (
        b"GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n",
        b"GET http://localhost/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nexpect: 100-continue\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with dial(served) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert b" 500 " not in rest(connection)[:20], sent
    assert count(served) == 0


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    with serving_alone(tmp_path) as found:
        yield found


def _dial(alone: Alone) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    found.settimeout(PATIENCE_S)
    found.connect(("127.0.0.1", alone.port))
    return found


def _is_served(alone: Alone) -> None:
    """Somebody appends, and reads it back."""
    connection = http.client.HTTPConnection("127.0.0.1", alone.port, timeout=PATIENCE_S)
    headers = {"authorization": f"Bearer {ADMIN}"}
    connection.request("POST", "/v1/records", b"mine", headers)
    (lsn,) = json.loads(connection.getresponse().read())["lsns"]
    connection.request("GET", f"/v1/wal?since_lsn={lsn - 1}&wait_ms=0", headers=headers)
    assert connection.getresponse().read().count(b"mine") == 1
    connection.close()


def test_others_are_served_and_memory_is_bounded(alone: Alone) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 4 * STRANGERS + SLOW + 200
    assert hard == resource.RLIM_INFINITY or needed <= hard, f"this test needs {needed} open files: raise the limit"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    _is_served(alone)
    before = alone.memory()
    strangers = (
        b"",
        b"GET /v1/status HTTP/1.1\r\nhost: db-1\r\nx: " + b"a" * 8_000,
        b"POST /v1/records HTTP/1.1\r\nhost: db-1\r\ncontent-length: 16000000\r\n\r\n" + bytes(30_000),
        b"GET /status.js HTTP/1.1\r\nhost: db-1\r\n\r\n" * 8,
    )
    slow = b"GET /v1/wal?since_lsn=0 HTTP/1.1\r\nhost: db-1\r\nauthorization: Bearer " + READ.encode() + b"\r\n\r\n"
    try:
        with ExitStack() as held:
            for sent in [slow] * SLOW + [*strangers] * STRANGERS:
                connection = held.enter_context(_dial(alone))
                with suppress(OSError):  # it was dropped already, which is as good
                    connection.sendall(sent)
                if sent == b"":
                    _is_served(alone)
            after = alone.memory()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    _is_served(alone)
    figure = f"{4 * STRANGERS} strangers, {SLOW} that take nothing: {(after - before) / 1e6:.1f} MB more"
    print(figure)
    assert after - before < BOUND_BYTES, figure


def test_records_that_nobody_takes_do_not_fill_the_memory(alone: Alone, request: pytest.FixtureRequest) -> None:
    headers = {"authorization": f"Bearer {ADMIN}"}
    connection = http.client.HTTPConnection("127.0.0.1", alone.port, timeout=PATIENCE_S)
    request.addfinalizer(connection.close)
    connection.request("POST", "/v1/records", b"a" * (12 << 20), headers)
    (lsn,) = json.loads(connection.getresponse().read())["lsns"]

    def asked() -> http.client.HTTPResponse:
        connection.request("GET", f"/v1/records?since_lsn={lsn - 1}", headers=headers)
        return connection.getresponse()

    assert len(json.loads(asked().read())["records"][0]["payload"]) == 12 << 20
    before = alone.memory()
    head = f"GET /v1/records?since_lsn={lsn - 1} HTTP/1.1\r\nhost: db-1\r\nauthorization: Bearer {READ}\r\n\r\n"
    with ExitStack() as held:
        asked_at_once = []
        for _ in range(40):
            asked_at_once.append(held.enter_context(_dial(alone)))
            asked_at_once[-1].sendall(head.encode())
        for slow in asked_at_once:
            with suppress(OSError):  # it may have been dropped by now, taking nothing
                assert slow.recv(12) in (b"", b"HTTP/1.1 200", b"HTTP/1.1 503")
        _is_served(alone)
        more = alone.memory() - before
        assert more < BOUND_BYTES + (64 << 20), f"{more / 1e6:.1f} MB more"
    # there is room again once those are gone
    deadline = time.monotonic() + PATIENCE_S
    while (answer := asked()).status == 503:
        assert time.monotonic() < deadline
        assert json.loads(answer.read())["type"].endswith("busy")
    assert len(json.loads(answer.read())["records"][0]["payload"]) == 12 << 20
