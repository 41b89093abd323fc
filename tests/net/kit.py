"""The application under uvicorn on loopback, spoken to with ``http.client``."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from walspool import PrimaryReplication, ReplicationConfig
from walspool.net import create_app, running
from walspool.net.auth import TokenAuth
from walspool.net.protocol import CHECKSUM, Problem, checksum
from walspool.net.running import Limits, Server

__all__ = ["ADMIN", "APPEND", "ONE", "PATIENCE_S", "READ", "SCOPES", "TWO", "Served", "nobody_accepts", "serving"]

READ, ONE, TWO, APPEND, ADMIN = (name * 16 for name in "rotpa")
SCOPES = {READ: "read", ONE: "replica:a", TWO: "replica:b", APPEND: "append", ADMIN: "admin"}
PATIENCE_S = 60


class _Server(Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when it listens."""
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.listening.set()


class Served:
    """A primary with ten records, served on loopback."""

    def __init__(
        self,
        folder: Path,
        auth: TokenAuth | None = None,
        limits: Limits | None = None,
        config: ReplicationConfig | None = None,
        **options: Any,
    ) -> None:
        self.folder = folder
        self.primary = PrimaryReplication(folder / "p" / "app.db", config)
        for lsn in range(1, 11):
            self.primary.commit(b"record %d" % lsn)
        self.app = create_app(self.primary, auth=auth, **options)
        self.server = _Server(running.config(self.app, limits=limits))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        assert self.server.listening.wait(PATIENCE_S)
        self.connections: list[http.client.HTTPConnection] = []

    def connect(self) -> http.client.HTTPConnection:
        """A new connection."""
        self.connections.append(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S))
        return self.connections[-1]

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        """Status, body and headers of an answer."""
        connection = self.connect()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read(), response.headers

    def refusal(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Problem:
        """The problem that an answer holds."""
        status, text, given = self.ask(method, path, body, **headers)
        assert given["content-type"] == "application/problem+json"
        return Problem.decode(status, text, given[CHECKSUM])

    def register(self, name: str = "a", **fields: str) -> int:
        """A session."""
        status, text, headers = self.ask("POST", "/v1/replicas", json.dumps({"id": name, **fields}).encode())
        assert status == 200, text
        assert headers[CHECKSUM] == checksum("200", text)
        found: int = json.loads(text)["session"]
        return found

    def pull(self, query: str, session: int | None = None) -> http.client.HTTPResponse:
        """A response that has begun."""
        connection = self.connect()
        headers = {CHECKSUM: checksum(query), **({} if session is None else {"walspool-session": str(session)})}
        connection.request("GET", f"/v1/wal?{query}", headers=headers)
        return connection.getresponse()

    def end_streams(self) -> None:
        """As a shutdown does."""
        assert self.server.loop is not None
        self.server.loop.call_soon_threadsafe(self.app.end_streams)

    def close(self) -> None:
        """End everything."""
        for each in self.connections:
            each.close()
        self.server.should_exit = True
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.socket.close()
        self.primary.close()


@contextlib.contextmanager
def serving(folder: Path, tokens: bool = False, **options: Any) -> Iterator[Served]:
    """A server; ``tokens``: with one for each scope."""
    auth = TokenAuth([(token, [scope]) for token, scope in SCOPES.items()]) if tokens else None
    found = Served(folder, auth, **options)
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def nobody_accepts() -> Iterator[int]:
    """A port whose queue is full: whoever connects is not answered."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]
