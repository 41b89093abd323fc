"""The primary's end as an ASGI application: reads requests, calls ``Source``, streams what it gives.

Whatever touches the disk runs in a thread; waiting for new records costs none. A response costs one chunk of memory, or
one frame where that is larger; records as JSON cost all of theirs, and all such answers together have a bound.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from walspool.errors import SpoolClosed, UnknownReplica
from walspool.metrics import CONTENT_TYPE, Collector, page
from walspool.net.auth import EVERYTHING, NOTHING, Grant, TokenAuth, refuse_foreign
from walspool.net.lanes import MAX_LOADS, Lane, Lanes
from walspool.net.messages import Ack, Registration, SnapshotHead, WalRequest, replica_id
from walspool.net.page import FILES, HEADERS, content
from walspool.net.protocol import (
    CHECKSUM,
    CHUNK_BYTES,
    MAX_RESPONSE_S,
    PROBLEM_TYPE,
    SESSION,
    Problem,
    Refused,
    checksum,
    number,
    parse_query,
)
from walspool.net.records import MAX_RECORDS_BYTES, Room, append, parse_ack, read
from walspool.net.serving import Counters, Wait
from walspool.net.source import Pull, SnapshotProvider, Source
from walspool.net.state import retention_of, slots_of, status_of
from walspool.net.transfer import STALL_S, TAKING_S, CutOff, Stream, body_of, client_gone, tell
from walspool.replication.primary import PrimaryReplication
from walspool.spool.follow import LoopWaiter

__all__ = ["ReplicationApp", "create_app"]

#: A browser takes no answer for something else, and keeps none.
_PLAIN: Final = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
_BYTES: Final = {"content-type": "application/octet-stream", "cache-control": "no-store"}

_STREAMS: Final = ("/v1/wal", "/v1/snapshot")

T = TypeVar("T")
_Handler = Callable[[Request, Grant], Awaitable[Any]]


def create_app(
    primary: PrimaryReplication, *, auth: TokenAuth | None = None, snapshot: SnapshotProvider | None = None
) -> ReplicationApp:
    """The ASGI application that serves ``primary`` to its replicas.

    ``auth``: who may do what; without it only requests that name this machine's loopback are served, and those may do
    everything. ``snapshot``: gives the LSN that a snapshot stands for, and its bytes.
    """
    return ReplicationApp(primary, auth=auth, snapshot=snapshot)


class ReplicationApp(Starlette):
    """See ``create_app``. ``end_streams`` ends every response under way, before a shutdown waits for them."""

    def __init__(
        self, primary: PrimaryReplication, *, auth: TokenAuth | None = None, snapshot: SnapshotProvider | None = None
    ) -> None:
        self._source = Source(primary, first_session=secrets.randbits(62), snapshot=snapshot)
        self._primary = primary
        self._auth = auth
        self._page = page(Collector(primary, self.counters))
        self._ending = False
        #: Whether what runs it drops a receiver that takes nothing: then parts go out in larger pieces.
        self.watched = False
        #: Of the streams.
        self._waiters: set[LoopWaiter] = set()
        self._lanes = Lanes()
        #: For records to append, and for records as JSON.
        self._coming, self._going = Room(), Room()
        #: Held while an answer is made, so that no more than one is not counted yet.
        self._making = asyncio.Lock()
        #: The replicas that a snapshot is made for, or sent to.
        self._loads: set[str | None] = set()
        #: Rung for each of those when the server ends: its provider may give nothing for long.
        self._ends: set[asyncio.Future[None]] = set()
        self._known = [
            self._route("GET", "/v1/wal", self._wal),
            self._route("POST", "/v1/replicas", self._register),
            self._route("DELETE", "/v1/replicas/{id}", self._unregister),
            self._route("POST", "/v1/replicas/{id}/ack", self._acknowledge),
            self._route("GET", "/v1/snapshot", self._load),
            self._route("POST", "/v1/records", self._append),
            self._route("GET", "/v1/records", self._read),
            self._route("GET", "/v1/status", self._state(status_of)),
            self._route("GET", "/v1/slots", self._state(slots_of)),
            self._route("DELETE", "/v1/slots/{id}", self._drop_slot),
            self._route("GET", "/v1/retention", self._state(retention_of)),
            self._route("GET", "/primary", self._is_primary),
            self._route("GET", "/replica", self._is_replica),
            self._route("GET", "/healthz", self._alive),
            self._route("GET", "/metrics", self._metrics),
            *(self._route("GET", each, partial(_file, each), tokens=False) for each in FILES),
        ]
        super().__init__(routes=self._known, exception_handlers={HTTPException: self._no_such_route})
        self.router.redirect_slashes = False

    def counters(self) -> Counters:
        """What replicas did since the start, for ``walspool.metrics.Collector``."""
        return self._source.counters()

    def end_streams(self) -> None:
        """End open responses at once, and refuse new ones. For the event loop's own thread."""
        self._ending = True
        for each in self._waiters:
            each.ring()
        for end in self._ends:
            if not end.done():
                end.set_result(None)

    def end_threads(self) -> None:
        """Let the threads go, once no request is under way any more."""
        self._lanes.close()

    # -- every request -------------------------------------------------------------------------------------------------

    def _route(self, method: str, path: str, handler: _Handler, tokens: bool = True) -> Route:
        """An endpoint; ``tokens``: whether it asks for one where there are any."""

        async def endpoint(request: Request) -> Any:
            try:
                if self._ending:
                    raise Refused(503, "ending", "this server is shutting down")
                return await handler(request, self._grant(request, tokens))
            except Refused as error:
                return _problem(error.problem)
            except ClientDisconnect:
                return Response(status_code=400)
            except SpoolClosed:
                return _problem(Problem(503, "ending", "the log of this server is closed"))
            except Exception as error:
                # what went wrong here is nobody's business there
                tell(path, error)
                return _problem(Problem(500, "internal", "the server failed; its log says why"))

        found = Route(path, endpoint, methods=[method])
        if path in _STREAMS and found.methods:
            found.methods.discard("HEAD")  # which is to change nothing: these move slots, and begin a bootstrap
        return found

    async def _no_such_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = "there is nothing at this address for this method"
        answer = _problem(Problem(error.status_code, "no-such-route", words))
        answer.headers.update(error.headers or {})
        if error.status_code == 405:  # starlette names the methods of one route, where an address has several
            here = [each for each in self._known if each.matches(request.scope)[0] is not Match.NONE]
            answer.headers["allow"] = ", ".join(sorted({method for each in here for method in each.methods or ()}))
        return answer

    def _grant(self, request: Request, tokens: bool) -> Grant:
        if self._auth is not None:
            return self._auth.grant(request.headers.get("authorization")) if tokens else NOTHING
        refuse_foreign(request.headers.get("host"), request.headers.get("origin"))
        return EVERYTHING

    # -- the requests --------------------------------------------------------------------------------------------------

    async def _alive(self, request: Request, grant: Grant) -> Response:
        return _json({"alive": True})

    async def _is_primary(self, request: Request, grant: Grant) -> Response:
        newer = self._primary.fenced_by
        if newer is not None:
            raise Refused(503, "newer-term", "this primary was replaced", term=self._primary.term, newer=newer)
        return _json({"term": self._primary.term})

    async def _is_replica(self, request: Request, grant: Grant) -> Response:
        given = parse_query(request.scope["query_string"], frozenset({"lag"}))
        number("lag", given.get("lag", "0"))
        raise Refused(503, "not-a-replica", "this is a primary, replaced or not")

    def _state(self, state: Callable[[PrimaryReplication], dict[str, Any]]) -> _Handler:
        async def handler(request: Request, grant: Grant) -> Response:
            grant.require("read")
            return _json(await self._lanes.run(Lane.LOOK, state, self._primary))

        return handler

    async def _metrics(self, request: Request, grant: Grant) -> Response:
        grant.require("read")
        text = await self._lanes.run(Lane.LOOK, self._page)
        return Response(text, headers={**_PLAIN, "content-type": CONTENT_TYPE})

    async def _drop_slot(self, request: Request, grant: Grant) -> Response:
        grant.require("admin")
        name = replica_id("id", request.path_params["id"])
        try:
            await self._lanes.run(Lane.PROMPT, self._primary.drop_slot, name)
        except UnknownReplica as error:
            raise Refused(404, "unknown-replica", str(error)) from None
        return _json({"dropped": name})

    async def _append(self, request: Request, grant: Grant) -> Response:
        grant.require("append")
        ack = parse_ack(request.scope["query_string"])
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        with self._coming.one() as come:
            body = await body_of(request, MAX_RECORDS_BYTES, STALL_S, come)
            return _json(await append(self._primary, body, media_type, ack))

    async def _read(self, request: Request, grant: Grant) -> Any:
        grant.require("read")
        with ExitStack() as held:
            come = held.enter_context(self._going.one())
            async with self._making:
                query = request.scope["query_string"]
                found = await self._lanes.run(Lane.LOOK, lambda: _json(read(self._primary, query)))
                come(len(found.body))
            return Stream(self._whole(bytes(found.body)), dict(found.headers), held.pop_all().close, self.watched)

    async def _whole(self, body: bytes) -> AsyncIterator[bytes]:
        """An answer that is held until it is taken, which has an end: others may wait for the room."""
        until = time.monotonic() + TAKING_S
        for at in range(0, len(body), CHUNK_BYTES):
            if self._ending or time.monotonic() > until:
                raise CutOff
            yield body[at : at + CHUNK_BYTES]

    async def _register(self, request: Request, grant: Grant) -> Response:
        registration = Registration.parse(await body_of(request))
        grant.require(f"replica:{registration.replica_id}")
        return _json(await self._lanes.run(Lane.PROMPT, self._source.register, registration, time.monotonic()))

    async def _unregister(self, request: Request, grant: Grant) -> Response:
        name = replica_id("id", request.path_params["id"])
        grant.require(f"replica:{name}")
        return _json({"known": await self._lanes.run(Lane.PROMPT, self._source.unregister, name)})

    async def _acknowledge(self, request: Request, grant: Grant) -> Response:
        name = replica_id("id", request.path_params["id"])
        grant.require(f"replica:{name}")
        ack = Ack.parse(await body_of(request), request.headers.get(CHECKSUM))
        # commits wait for what was sent just now: a thread would cost more than to compare it
        known = self._source.remembered(ack.durable_lsn)
        call = partial(self._source.acknowledge, name, _session(request), ack, time.monotonic(), known)
        return _json(call() if known is not None else await self._lanes.run(Lane.PROMPT, call))

    async def _wal(self, request: Request, grant: Grant) -> Any:
        wanted = WalRequest.parse(request.scope["query_string"], request.headers.get(CHECKSUM))
        if wanted.replica_id is not None:
            grant.require(f"replica:{wanted.replica_id}")
        else:  # whoever only reads must not be able to fence
            grant.require("read" if wanted.term is None else "admin")
        session = _session(request)
        waiter = self._source.waiter()  # first: what is pulled has to be closed
        try:
            pull = await self._lanes.run(Lane.STREAM, self._source.pull, wanted, session, time.monotonic())
        except BaseException:
            waiter.close()
            raise
        gone = asyncio.ensure_future(client_gone(request.receive))
        self._waiters.add(waiter)
        gone.add_done_callback(lambda _: waiter.ring())

        def close() -> None:
            gone.cancel()
            self._waiters.discard(waiter)
            waiter.close()
            pull.close(time.monotonic())

        # at once, before there is a record: what the replica holds is acknowledged behind it
        return Stream(self._frames(pull, waiter, gone), _BYTES | pull.head.headers(), close, self.watched)

    async def _frames(self, pull: Pull, waiter: LoopWaiter, gone: asyncio.Future[None]) -> AsyncIterator[bytes]:
        """The frames of a response, until its end, the client's or the server's."""
        while not self._ending and not gone.done():
            waiter.clear()
            if pull.is_at_hand:
                step = pull.step(time.monotonic())
            else:
                step = await self._lanes.run(Lane.STREAM, pull.step, time.monotonic())
            if step is None:
                return
            if not isinstance(step, Wait):
                yield step
            elif not self._ending:  # while that thread ran
                await waiter.wait(min(step.seconds, MAX_RESPONSE_S))

    async def _load(self, request: Request, grant: Grant) -> Any:
        wanted = WalRequest.parse(request.scope["query_string"], request.headers.get(CHECKSUM))
        grant.require("admin" if wanted.replica_id is None else f"replica:{wanted.replica_id}")
        session = _session(request)
        name = wanted.replica_id
        if name in self._loads or len(self._loads) >= MAX_LOADS:
            what = "one is under way for this replica" if name in self._loads else f"{MAX_LOADS} are under way"
            raise Refused(503, "busy", f"no further snapshot is made now: {what}; ask again later")
        self._loads.add(name)
        end = asyncio.get_running_loop().create_future()
        self._ends.add(end)
        try:
            found = await self._unless(end, self._source.load, wanted, session, time.monotonic())
            chunks = iter(found.chunks)
        except BaseException as error:
            self._loads.discard(name)
            self._ends.discard(end)
            if isinstance(error, CutOff):
                raise Refused(503, "ending", "this server is shutting down") from None
            raise
        head = SnapshotHead(found.term, found.position, found.reach_lsn, found.comparable)
        gone = asyncio.ensure_future(client_gone(request.receive))

        def close() -> None:
            gone.cancel()
            self._loads.discard(name)
            self._ends.discard(end)
            assert name is not None  # which load has seen to
            self._source.closed(name, session, time.monotonic())

        parts = self._snapshot(chunks, gone, end)
        return Stream(parts, _BYTES | head.headers(), close, self.watched)

    async def _snapshot(
        self, chunks: Iterator[bytes], gone: asyncio.Future[None], end: asyncio.Future[None]
    ) -> AsyncIterator[bytes]:
        while (chunk := await self._unless(end, next, chunks, None)) is not None:
            if gone.done():
                raise CutOff
            yield chunk

    async def _unless(self, end: asyncio.Future[None], call: Callable[..., T], *args: Any) -> T:
        """What ``call`` returns, from a thread of its own; ``CutOff`` as soon as the server ends."""
        done = asyncio.ensure_future(self._lanes.run(Lane.LOAD, call, *args))
        try:
            await asyncio.wait((done, end), return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                raise CutOff
            return done.result()
        finally:
            done.cancel()


async def _file(address: str, request: Request, grant: Grant) -> Response:
    """A file of the package, which tells nothing of the log."""
    return Response(content(address), headers=HEADERS, media_type=FILES[address][1])


def _session(request: Request) -> int | None:
    text = request.headers.get(SESSION)
    return None if text is None else number(SESSION, text)


def _json(value: dict[str, Any]) -> Response:
    body = json.dumps(value).encode()
    return Response(body, media_type="application/json", headers={**_PLAIN, CHECKSUM: checksum("200", body)})


def _problem(problem: Problem) -> Response:
    asked = {"www-authenticate": "Bearer"} if problem.status == 401 else {}
    return Response(problem.encode(), problem.status, {**_PLAIN, **asked, CHECKSUM: problem.check()}, PROBLEM_TYPE)
