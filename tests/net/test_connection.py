"""What a response gives as it comes, and which end of it counts."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import walspool
from tests.net.kit import nobody_accepts
from walspool.net import connection
from walspool.net.connection import Address, Connection, Refusal
from walspool.net.protocol import CHECKSUM, Problem, checksum

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@contextmanager
def answering(*answers: bytes) -> Iterator[Connection]:
    """A server that gives each request, whatever it is, the next answer, and closes where that says so."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        left = list(answers)

        def serve() -> None:
            while left:
                try:
                    made, _ = listening.accept()
                except OSError:
                    return
                with made:
                    while left and made.recv(65_536):
                        answer = left.pop(0)
                        made.sendall(answer.removesuffix(b"CLOSE"))
                        if answer.endswith(b"CLOSE"):
                            break

        thread = threading.Thread(target=serve)
        thread.start()
        connection = Connection(Address.parse(f"http://127.0.0.1:{listening.getsockname()[1]}"), None, None)
        try:
            yield connection
        finally:
            connection.drop()
            left.clear()
            with socket.socket() as last:
                last.connect_ex(listening.getsockname())
            thread.join()


def read(connection: Connection) -> tuple[bytes, bool]:
    """A whole body, and whether it was marked to be whole."""
    body = connection.stream("/x", {}, 30.0)
    found = b"".join(body.chunks(7))
    return found, body.whole


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"5\r\nfirst\r\n6;x=y\r\nsecond\r\n0\r\n\r\n",
        CHUNKED + b"B\r\nfirstsecond\r\n0\r\ntrailer: x\r\n\r\n",
        OK + b"content-length: 11\r\n\r\nfirstsecond",
    ],
)
def test_a_whole_body_and_the_connection_goes_on(answer: bytes) -> None:
    with answering(answer, answer) as connection:
        assert read(connection) == (b"firstsecond", True)
        assert read(connection) == (b"firstsecond", True)
        assert connection.made == 1


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"5\r\nfirst\r\nCLOSE",
        CHUNKED + b"9\r\nfirst\r\nCLOSE",
        CHUNKED + b"5\r\nfirst\r\n0\r\nCLOSE",
        CHUNKED + b"5\r\nfirst\r\nmore\r\n\r\n",
        CHUNKED + b"5\r\nfirst\r\n123456789\r\n",
        CHUNKED + b"5\r\nfirst\r\n" + b"1" * 300 + b"\r\n",
        OK + b"content-length: 6\r\n\r\nfirstCLOSE",
        OK + b"\r\nfirstCLOSE",  # without a length nobody can tell
    ],
)
def test_an_end_that_is_none(answer: bytes) -> None:
    with answering(answer) as connection:
        body = connection.stream("/x", {}, 30.0)
        buffer = memoryview(bytearray(100))
        count = body.readinto(buffer)
        assert bytes(buffer[:count])[:5] == b"first"
        with pytest.raises((OSError, http.client.HTTPException)):
            body.readinto(buffer)
        assert not body.whole


def test_one_that_lay_idle_and_was_closed_is_made_again() -> None:
    fine = OK + b"content-length: 5\r\n\r\nfirst"
    with answering(fine + b"CLOSE", fine) as connection:
        assert read(connection) == (b"first", True)
        assert read(connection) == (b"first", True)
        assert connection.made == 2


def test_what_is_cut_begins_nothing_until_it_is_mended() -> None:
    fine = OK + b"content-length: 5\r\n\r\nfirst"
    with answering(fine, fine) as connection:
        assert read(connection) == (b"first", True)
        connection.cut()
        with pytest.raises(OSError, match="cut"):
            connection.stream("/x", {}, 30.0)
        connection.mend()
        assert read(connection) == (b"first", True)


def test_what_is_cut_just_before_it_connects_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody accepts, and the socket has no address yet, so that the cut itself does nothing to it."""
    with nobody_accepts() as port:
        one = Connection(Address.parse(f"http://127.0.0.1:{port}"), None, None)
        monkeypatch.setattr(connection, "_notice_the_dead", lambda sock: one.cut())
        with pytest.raises(ConnectionAbortedError, match="was cut"):
            one.call("GET", "/")


def answer(status: int, body: bytes, check: str) -> bytes:
    """A small answer."""
    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{CHECKSUM}: {check}\r\n\r\n"
    return head.encode() + body


def test_an_answer_counts_only_with_its_checksum() -> None:
    problem = Problem(409, "diverged", "x", {"ours": "1:1:00000001", "theirs": "1:1:00000002", "kind": 5})
    answers = (
        answer(200, b'{"a": 1}', checksum("200", b'{"a": 1}')),
        answer(200, b'{"a": 1}', "00000000"),
        answer(200, b"[1]", checksum("200", b"[1]")),
        answer(409, problem.encode(), problem.check()),
        answer(409, problem.encode(), "00000000"),
        answer(200, b"x" * 20_000, checksum("200", b"x" * 20_000)),
    )
    with answering(*answers) as connection:
        assert connection.call("GET", "/x") == {"a": 1}
        for words in ("checksum", "no object"):
            with pytest.raises(walspool.ProtocolError, match=words):
                connection.call("GET", "/x")
        with pytest.raises(Refusal) as refusal:
            connection.call("GET", "/x")
        assert refusal.value.problem == problem
        for words in ("checksum", "more than 16384 bytes"):
            with pytest.raises(walspool.ProtocolError, match=words):
                connection.call("GET", "/x")


def test_head_and_body_go_out_in_one_piece() -> None:
    """In two, they would wake the other end twice."""
    pieces: list[bytes] = []

    class Counted(socket.socket):
        def sendall(self, data: Any, *flags: int) -> None:
            pieces.append(bytes(data))
            super().sendall(data, *flags)

    answer = b'{"a": 1}'
    told = b"content-length: 8\r\n%b: %b\r\n\r\n" % (CHECKSUM.encode(), checksum("200", answer).encode())
    with answering(OK + told + answer, OK + told + answer) as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Counted)
        for _ in range(2):
            assert connection.call("POST", "/x", b"body") == {"a": 1}
    asked = [each for each in pieces if not each.startswith(b"HTTP")]
    assert [each[:4] + each[-4:] for each in asked] == [b"POSTbody"] * 2


@pytest.mark.parametrize("more_ms", [0, 2])
def test_what_comes_within_the_time_is_taken_with_what_came(more_ms: int) -> None:
    with answering(OK + b"content-length: 4\r\n\r\nab") as connection:
        body = connection.stream("/x", {}, 30.0)
        asked: list[int] = []
        halves = [b"ab", b"cd"]

        class Poll:
            """The other half comes while it waits, if it does wait."""

            def poll(self, within_ms: int) -> list[int]:
                asked.append(within_ms)
                return [1] if within_ms and len(asked) == 1 else []

        class Halves:
            def readinto1(self, buffer: memoryview) -> int:
                buffer[:2] = halves.pop(0)
                return 2

        vars(body)["_poll"], vars(body._response)["fp"] = Poll(), Halves()
        buffer = memoryview(bytearray(8))
        assert body.readinto(buffer, more_ms) == (4 if more_ms else 2)
        assert set(asked) == {more_ms}
        vars(body._response)["fp"] = None


def test_what_comes_evenly_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(OK + b"content-length: 1000\r\n\r\n") as connection:
        body = connection.stream("/x", {}, 30.0)
        clock = [0.0]

        class Even:
            """A byte each 2 ms."""

            def poll(self, within_ms: int) -> list[int]:
                clock[0] += within_ms / 1000
                return [1]

            def readinto1(self, buffer: memoryview) -> int:
                buffer[0] = 1
                return 1

        monkeypatch.setattr("walspool.net.connection.time.monotonic", lambda: clock[0])
        vars(body)["_poll"], vars(body._response)["fp"] = Even(), Even()
        assert body.readinto(memoryview(bytearray(1_000)), 2) == 26
        vars(body._response)["fp"] = None
