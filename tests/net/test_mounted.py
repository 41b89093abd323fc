"""A log that is served by a part of another service."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from tests.net.kit import PATIENCE_S, _Server
from walspool import PrimaryReplication
from walspool.net import Follower, create_app
from walspool.net.running import Limits, config


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def test_it_is_followed_there_and_ends_at_once(tmp_path: Path) -> None:
    with (
        PrimaryReplication(tmp_path / "p" / "app.db") as primary,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        log = create_app(primary)
        service = Starlette(routes=[Route("/hello", _hello), Mount("/log", log)])
        # longer than anybody waits: nothing but the end of the stream ends it
        server = _Server(config(service, mounted=log, limits=Limits(shutdown_s=10 * PATIENCE_S)))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        assert server.listening.wait(PATIENCE_S)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/log"
        with Follower(url, "a", tmp_path / "f" / "app.db", wait_ms=30_000) as follower:
            assert primary.commit(b"x", ack=0).lsn == 1
            assert follower.wait_for(1, PATIENCE_S)
            assert primary.commit(b"live", ack=1, timeout=PATIENCE_S).acks == 1
            server.should_exit = True
            thread.join(20)  # its stream would last 30 s
            assert not thread.is_alive()


async def _large(request: Request) -> PlainTextResponse:
    return PlainTextResponse("a" * (12 << 20))


def test_a_shutdown_cuts_off_nobody_whom_the_service_answers(tmp_path: Path) -> None:
    with (
        PrimaryReplication(tmp_path / "app.db") as primary,
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket() as slow,
    ):
        log = create_app(primary)
        service = Starlette(routes=[Route("/large", _large), Mount("/log", log)])
        ages = 10 * PATIENCE_S
        server = _Server(config(service, mounted=log, limits=Limits(shutdown_s=ages, stall_s=ages, behind_s=0.0)))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        assert server.listening.wait(PATIENCE_S)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.settimeout(PATIENCE_S)
        slow.connect(("127.0.0.1", listening.getsockname()[1]))
        slow.sendall(b"GET /large HTTP/1.0\r\nHost: localhost\r\n\r\n")
        taken = slow.recv(12)
        server.should_exit = True
        with suppress(OSError):  # refused, or reset: the shutdown has begun
            while True:
                socket.create_connection(slow.getpeername(), PATIENCE_S).close()
        while part := slow.recv(1 << 20):
            taken += part
        assert taken.startswith(b"HTTP/1.1 200")
        assert taken.endswith(b"a" * (12 << 20))
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_the_service_has_a_life_of_its_own(tmp_path: Path) -> None:
    lived: list[str] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        lived.append("begun")
        yield
        lived.append("ended")

    with (
        PrimaryReplication(tmp_path / "app.db") as primary,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        log = create_app(primary)
        server = _Server(config(Starlette(routes=[Mount("/log", log)], lifespan=lifespan), mounted=log))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        assert server.listening.wait(PATIENCE_S)
        assert lived == ["begun"]
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert lived == ["begun", "ended"]


def test_a_service_without_a_log_is_refused() -> None:
    with pytest.raises(TypeError, match="mounted"):
        config(Starlette())
