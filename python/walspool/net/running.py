"""How the application is run: uvicorn, with limits on what a stranger may hold.

uvicorn bounds neither the head of a request nor the time that it takes, nor how many connections wait for one, nor how
long a closed connection waits for a receiver that takes nothing. Here each of them has an end.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from walspool.net.protocol import CHECKSUM, PROBLEM_TYPE, Problem
from walspool.net.server import ReplicationApp
from walspool.net.transfer import STALL_S

__all__ = ["Limits", "Server", "config"]

_MAX_CONNECTIONS: Final = 1_000
#: Requests that may come before the one ahead of them is answered.
_MAX_PIPELINED: Final = 8


@dataclass(frozen=True)
class Limits:
    """What a connection may take. Seconds."""

    #: Bytes of the address and the headers of a request, or of what else is no body, and the time until all of them
    #: have come.
    head_bytes: int = 16 << 10
    head_s: float = 10.0
    #: Bytes of a body that still come once it was refused: they are taken, so that the client gets to read why. They
    #: have ``head_s``, too.
    rest_bytes: int = 32 << 20
    #: How long a connection waits for its next request.
    keep_alive_s: int = 60
    #: A receiver that takes nothing for so long is dropped.
    stall_s: float = STALL_S
    #: How long a shutdown waits for what is under way.
    shutdown_s: int = 10
    #: How long it waits for a receiver that is behind: what it lacks, it asks for again.
    behind_s: float = 0.25
    #: Connections at a time: the one that has waited longest for a request makes room for the next. ``None``: a third
    #: of the files that the process may open (a stream takes two), so that the log always has some left; at most 1000.
    connections: int | None = None

    def __post_init__(self) -> None:
        if self.connections is None:
            files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            room = _MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(files // 3, _MAX_CONNECTIONS)
            object.__setattr__(self, "connections", max(room, 1))


class _Config(uvicorn.Config):
    limits: Limits
    replication: ReplicationApp


def config(
    app: Callable[..., Any],
    host: str = "127.0.0.1",
    port: int = 4646,
    *,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    mounted: ReplicationApp | None = None,
) -> uvicorn.Config:
    """How uvicorn runs ``app``, for ``Server``: one worker, no access log, nothing told of itself.

    ``tls_cert``, ``tls_key``: PEM files of the certificate, with its chain, and of its key; ``limits``: other ones;
    ``mounted``: the ``create_app`` that is a part of ``app``, where that is another service. ``TypeError`` without.
    """
    limits = Limits() if limits is None else limits
    replication = app if isinstance(app, ReplicationApp) else mounted
    if replication is None:
        raise TypeError("mounted must be the application of create_app where app is another one")
    found = _Config(
        app,
        host,
        port,
        http=_Connection,
        ws="none",
        lifespan="off" if replication is app else "auto",  # the other service may need its own
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=limits.shutdown_s,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
    )
    found.limits = limits
    replication.watched = True  # by _Connection
    found.replication = replication
    return found


class Server(uvicorn.Server):
    """``uvicorn.Server`` for a ``config`` of this module. A shutdown ends open streams at once."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, end the responses under way, then everything else."""
        assert isinstance(self.config, _Config)
        self.config.replication.end_streams()
        cutting = asyncio.ensure_future(self._cut_off(self.config.replication, self.config.limits.behind_s))
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()
        self.config.replication.end_threads()

    async def _cut_off(self, app: ReplicationApp, behind_s: float) -> None:
        """Let nobody wait for those who do not take what is left. Answers of a service around ``app`` are its own."""
        while True:
            await asyncio.sleep(behind_s)
            for each in list(self.server_state.connections):
                if isinstance(each, _Connection) and each.flow.write_paused and each.is_for(app):
                    each.transport.abort()


class _Connection(HttpToolsProtocol):
    """One connection.

    | state | begins | timer |
    |---|---|---|
    | waits for a head | when it is made, or with the first byte behind an answer | ``head_s``, then closed |
    | answers | with a whole head | of the application |
    | takes what is left of a body | with the end of an answer that came before it | ``head_s``, then cut off |
    | waits for a request | with the end of the answer | ``keep_alive_s`` of uvicorn, then closed |
    | its receiver is behind | in any state, while the buffer is full | ``stall_s``, then cut off |
    """

    config: _Config

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = self.config.limits
        #: Bytes since the last of a body or the end of a head: another head, or trailers.
        self._other_bytes = 0
        self._rest_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._waits_since = 0.0

    @property
    def _waits(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def is_for(self, app: ReplicationApp) -> bool:
        """Whether it is ``app`` that answers, or has answered last."""
        return self.cycle is not None and self.cycle.scope.get("app") is app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        assert self._limits.connections is not None
        if len(self.connections) >= self._limits.connections:
            waiting = [each for each in self.connections if isinstance(each, _Connection) and each._waits]
            longest = min(waiting, key=lambda each: each._waits_since, default=None)
            (transport if longest is None else longest.transport).abort()
        super().connection_made(transport)
        self._wait()
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._end_stall()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._waits:
            self._begin_head()
        self._other_bytes += len(data)
        super().data_received(data)
        if self._other_bytes > self._limits.head_bytes and not self.transport.is_closing():
            self.send_400_response("")

    def on_body(self, body: bytes) -> None:
        self._other_bytes = 0
        if self._waits:  # it was answered before it was read
            self._rest_bytes += len(body)
            if self._rest_bytes > self._limits.rest_bytes:
                self.transport.abort()
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._waits:  # the next head has a time of its own
            self._end_head()
            self._begin_head()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._limits.head_bytes or len(self.pipeline) >= _MAX_PIPELINED:
            raise ValueError  # the parser ends, and data_received answers
        self._end_head()
        self._other_bytes = self._rest_bytes = 0
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, in the form of every other refusal, and close."""
        detail = f"this is no HTTP/1.1 request, or its head is above {self._limits.head_bytes} bytes"
        problem = Problem(400, "bad-request", detail)
        body = problem.encode()
        head = (
            "HTTP/1.1 400 Bad Request",
            f"content-type: {PROBLEM_TYPE}",
            f"content-length: {len(body)}",
            f"{CHECKSUM}: {problem.check()}",
            "connection: close",
        )
        self.transport.write("\r\n".join((*head, "", "")).encode() + body)
        self.transport.close()

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()

    def pause_writing(self) -> None:
        if self._stall_timer is None:
            self._watch()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def _watch(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self._limits.stall_s, self._stalled, left)

    def _stalled(self, left: int) -> None:
        """The time is up; ``left``: the bytes that the receiver had yet to take when it began."""
        self._stall_timer = None
        if self.transport.get_write_buffer_size() < left:  # slow, but it takes them
            self._watch()
        else:
            self.transport.abort()

    def _wait(self) -> None:
        self._waits_since = self.loop.time()

    def _begin_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self.transport.abort)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
