"""What a stranger may hold of the server: every connection has an end, and the others are served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.kit import PATIENCE_S, Served, serving
from walspool.net.running import Limits

ALIVE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Served]:
    """Little patience, few connections."""
    with serving(tmp_path, limits=Limits(head_s=0.2, stall_s=0.2, connections=20)) as found:
        yield found


def dial(served: Served, buffer: int | None = None) -> socket.socket:
    """A connection; ``buffer``: bytes that the system takes for it."""
    found = socket.socket()
    if buffer is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    found.settimeout(PATIENCE_S)
    found.connect(("127.0.0.1", served.port))
    return found


def rest(connection: socket.socket) -> bytes:
    """Everything until the connection ends, in whatever way."""
    found = b""
    try:
        while part := connection.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found


def count(served: Served) -> int:
    """Connections and requests under way, as the server has them."""

    async def look() -> int:
        state = served.server.server_state
        return max(len(state.connections), len(state.tasks))

    assert served.server.loop is not None
    return asyncio.run_coroutine_threadsafe(look(), served.server.loop).result(PATIENCE_S)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc", b"\r\n"], ids=("none", "part", "line"))
def test_a_head_that_does_not_come_ends_the_connection(strict: Served, sent: bytes) -> None:
    with dial(strict) as connection:
        connection.sendall(sent)
        assert rest(connection) == b""
    with dial(strict) as connection:
        connection.sendall(ALIVE)
        assert b"200 OK" in connection.recv(4_096)
        connection.sendall(sent or b"G")
        assert rest(connection) in (b"", b'{"alive": true}')
    assert strict.ask("GET", "/healthz")[0] == 200


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=("open", "whole"))
@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "], ids=("address", "header"))
def test_a_head_that_is_too_large_is_refused(strict: Served, start: bytes, end: bytes) -> None:
    with dial(strict) as connection:
        connection.sendall(start + b"a" * 17_000 + end)
        head, _, body = rest(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert "above 16384 bytes" in json.loads(body)["detail"]


def test_what_is_no_request_is_refused(strict: Served) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01", b"\xff\xfe\r\n\r\n", b"GET \xff HTTP/1.1\r\n\r\n", b"G" * 100_000):
        with dial(strict) as connection:
            connection.sendall(sent)
            assert rest(connection)[:13] in (b"HTTP/1.1 400 ", b"")  # b"": what it sent behind that, nobody read


def test_requests_that_come_before_they_are_answered_are_few(strict: Served) -> None:
    with dial(strict) as connection:
        connection.sendall(ALIVE * 3_000)
        assert rest(connection).count(b"alive") < 20
    assert strict.ask("GET", "/healthz")[0] == 200


def test_who_waits_longest_makes_room(strict: Served) -> None:
    waiting = [dial(strict) for _ in range(40)]
    assert strict.ask("GET", "/healthz")[0] == 200
    assert rest(waiting[0]) == b""
    assert count(strict) <= 20
    for each in waiting:
        each.close()


def test_nobody_under_way_makes_room(tmp_path: Path) -> None:
    with serving(tmp_path, limits=Limits(connections=2)) as served:
        streams = [served.connect() for _ in range(2)]
        for each in streams:
            each.request("GET", "/v1/wal?since_lsn=0")
            assert each.getresponse().status == 200
        with dial(served) as late:
            assert rest(late) == b""
        assert count(served) == 2


def test_a_receiver_that_takes_nothing_is_dropped(strict: Served) -> None:
    for _ in range(100):
        strict.primary.commit(bytes(200_000))
    with dial(strict, 4_096) as connection:
        connection.sendall(b"GET /v1/wal?since_lsn=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.recv(1, socket.MSG_PEEK)
        while count(strict):
            pass
        assert len(rest(connection)) < 20_000_000


@pytest.mark.parametrize("path", ["/v1/records", "/v1/replicas"])
def test_an_endless_body_ends_the_connection(strict: Served, path: str) -> None:
    with dial(strict) as connection:
        connection.sendall(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), 1 << 40)
        )
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 1 << 30:
                sent += connection.send(bytes(1 << 20))
        assert sent < 1 << 30
    assert strict.ask("GET", "/healthz")[0] == 200


@pytest.mark.parametrize("endless", [b"a: b\r\n", b"b"], ids=("lines", "line"))
@pytest.mark.parametrize(
    "start",
    [
        b"GET /v1/wal?since_lsn=10 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: ",
        b"POST /v1/records HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\na: ",
        b"GET /v1/wal?since_lsn=10 HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\na: ",
    ],
    ids=("trailers", "trailers-of-a-body", "a-head-that-comes-ahead"),
)
def test_headers_elsewhere_have_an_end_too(served: Served, start: bytes, endless: bytes) -> None:
    with dial(served) as connection:
        connection.sendall(start)
        sent, part = 0, endless * ((64 << 10) // len(endless))
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20:
                connection.sendall(part)
                sent += len(part)
        assert sent < 64 << 20
    assert served.ask("GET", "/healthz")[0] == 200


def test_a_body_in_small_pieces_is_taken(served: Served) -> None:
    with dial(served) as connection:
        connection.sendall(b"POST /v1/records HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            connection.sendall(b"1\r\nx\r\n" * 8_000)
        connection.sendall(b"0\r\n\r\n")
        assert b'{"lsns": [11]' in connection.recv(4_096)


@pytest.mark.parametrize("size", [300_000, 5_000_000, 20_000_000])
@pytest.mark.parametrize("path", ["/v1/records?ack=x", "/v1/replicas", "/v1/nothing"])
def test_what_is_refused_before_it_has_come_learns_why(served: Served, path: str, size: int) -> None:
    connection = served.connect()
    for _ in range(3):
        connection.request("POST", path, bytes(size))
        response = connection.getresponse()
        assert response.status in (400, 404, 413)
        assert "detail" in json.loads(response.read())
        # the connection is as it was
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b'{"alive": true}')


def test_a_client_that_is_gone_is_waited_for_no_longer(served: Served) -> None:
    with dial(served) as connection:
        connection.sendall(b"GET /v1/wal?since_lsn=10 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not count(served):
            pass
    while count(served):
        pass


def test_a_shutdown_ends_what_is_under_way(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        stream = served.pull("since_lsn=0")
        assert stream.read1(1 << 20)
        served.server.should_exit = True
        assert stream.read() == b""
        served.thread.join(PATIENCE_S)
        assert not served.thread.is_alive()


@pytest.mark.parametrize("path", ["/v1/wal?since_lsn=10", "/v1/records?since_lsn=10"])
def test_a_shutdown_waits_for_nobody_who_takes_nothing(tmp_path: Path, path: str) -> None:
    ages = 10 * PATIENCE_S
    with (
        serving(tmp_path, limits=Limits(shutdown_s=ages, stall_s=ages)) as served,
        socket.socket() as slow,
    ):
        assert served.primary.commit(b"a" * (12 << 20)).lsn == 11
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.settimeout(PATIENCE_S)
        slow.connect(("127.0.0.1", served.port))
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert slow.recv(12) == b"HTTP/1.1 200"
        served.server.should_exit = True
        served.thread.join(PATIENCE_S)
        assert not served.thread.is_alive()


def test_the_log_always_has_files_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, connections in ((1_024, 341), (1 << 20, 1_000), (resource.RLIM_INFINITY, 1_000), (1, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert Limits().connections == connections
    assert Limits(connections=7).connections == 7
