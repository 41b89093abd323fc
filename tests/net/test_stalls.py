"""A receiver is dropped for taking nothing, never for taking slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.types import Message

from tests.net.kit import PATIENCE_S, Served
from tests.net.test_running import dial
from walspool.net import transfer
from walspool.net.protocol import CHUNK_BYTES
from walspool.net.running import Limits, _Connection
from walspool.net.transfer import PIECE_BYTES, Stream


class Loop:
    """A loop whose timers the test lets run out."""

    def __init__(self) -> None:
        self.timer: Callable[[], object] | None = None
        self.seconds = 0.0

    def call_later(self, seconds: float, call: Callable[..., object], *given: Any) -> Loop:
        """One timer at a time."""
        assert self.timer is None
        self.timer, self.seconds = lambda: call(*given), seconds
        return self

    def cancel(self) -> None:
        """It does not run out any more."""
        self.timer = None

    def run_out(self) -> None:
        """The time is up."""
        call, self.timer = self.timer, None
        assert call is not None
        call()


class Transport:
    """What has yet to be taken."""

    left = 0
    aborted = False

    def get_write_buffer_size(self) -> int:
        """Bytes."""
        return self.left

    def abort(self) -> None:
        """Cut off."""
        self.aborted = True


class Flow:
    """What uvicorn notes."""

    def pause_writing(self) -> None:
        """Nothing."""

    def resume_writing(self) -> None:
        """Nothing."""


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A connection of which only the stall is under test."""
    found: Any = object.__new__(_Connection)
    found.loop, found.transport, found.flow = Loop(), Transport(), Flow()
    found._limits, found._stall_timer = Limits(stall_s=7.0), None
    return found


def test_taking_slowly_is_no_stall(connection: Any) -> None:
    connection.transport.left = 1_000
    connection.pause_writing()
    assert connection.loop.seconds == 7.0
    for left in (999, 500, 1):
        connection.transport.left = left
        connection.loop.run_out()
        assert not connection.transport.aborted
    connection.loop.run_out()
    assert connection.transport.aborted
    assert connection.loop.timer is None


def test_a_receiver_that_is_back_is_watched_no_more(connection: Any) -> None:
    connection.transport.left = 1_000
    connection.pause_writing()
    connection.transport.left = 500
    connection.loop.run_out()
    connection.resume_writing()
    assert connection.loop.timer is None
    connection.pause_writing()
    assert connection.loop.timer is not None


@pytest.mark.parametrize(("watched", "most"), [(False, PIECE_BYTES), (True, CHUNK_BYTES)])
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, CHUNK_BYTES + 1, 5 * CHUNK_BYTES - 1])
def test_a_large_part_goes_out_in_pieces(size: int, watched: bool, most: int) -> None:
    part = bytes(range(256)) * (size // 256 + 1)
    sent: list[bytes] = []

    async def parts() -> AsyncIterator[bytes]:
        yield part[:size]
        yield b"end"

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Message:
        raise AssertionError

    asyncio.run(Stream(parts(), {}, lambda: None, watched)({}, receive, send))
    assert b"".join(sent) == part[:size] + b"end"
    assert max(map(len, sent)) == min(max(size, 3), most)


def test_a_receiver_that_takes_nothing_is_left_to_a_server_that_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "STALL_S", 0.0)
    taken: list[bool] = []

    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        taken.append(message["type"] == "http.response.body" and not message["more_body"])

    async def receive() -> Message:
        raise AssertionError

    for watched in (False, True):
        taken.clear()
        asyncio.run(Stream(parts(), {}, lambda: None, watched)({}, receive, send))
        assert any(taken) == watched


def test_a_large_frame_reaches_a_receiver_that_takes_little(served: Served) -> None:
    served.primary.commit(bytes(4 << 20))
    with dial(served, 4_096) as connection:
        connection.sendall(
            b"GET /v1/wal?since_lsn=10&wait_ms=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        connection.settimeout(PATIENCE_S)
        size = 0
        while part := connection.recv(1 << 16):
            size += len(part)
    assert size > 4 << 20
