"""What a primary, or whoever says that it is one, may send instead of an answer."""

from __future__ import annotations

import http.client
import logging
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.net.kit import PATIENCE_S
from walspool import PrimaryReplication
from walspool.net import present_term
from walspool.net.connection import Address, Connection
from walspool.net.identity import Identity, Upstream
from walspool.net.protocol import CHECKSUM, Problem

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that answers every request with these bytes and closes; its URL."""

    def run() -> None:
        while True:
            try:
                accepted = server.accept()[0]
            except OSError:
                return
            with accepted:
                accepted.recv(65536)
                accepted.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)


@pytest.mark.parametrize(
    "rest",
    [
        b"3\r\nabcX\r\n5\r\nrest!\r\n0\r\n\r\n",  # a chunk longer than it says
        b"3\r\nabc\r\n?\r\n5\r\nrest!\r\n0\r\n\r\n",  # no size
        b"3\r\nabc\r\n",  # no end
        b"3\r\nabc\r\n0\r\n" + b"and: on\r\n" * 17 + b"\r\n",
    ],
)
def test_behind_a_chunk_that_is_none_nothing_is_read(rest: bytes) -> None:
    with answering(HEAD + rest) as url:
        connection = Connection(Address.parse(url), None, None)
        body = connection.stream("/", {}, PATIENCE_S)
        found = bytearray()
        buffer = memoryview(bytearray(100))
        with pytest.raises((http.client.HTTPException, OSError)):  # noqa: PT012  # how often depends on what has come
            while count := body.readinto(buffer):
                found += buffer[:count]
        assert not body.whole
        assert bytes(found) in (b"", b"abc")
        for _ in range(2):
            with pytest.raises(http.client.IncompleteRead):
                body.readinto(buffer)
        connection.drop()


@pytest.mark.parametrize("words", ["a problem", "no HTTP"])
def test_what_a_former_primary_says_is_logged_in_one_line(tmp_path: Path, words: str) -> None:
    problem = Problem(403, "forbidden", "no\nCRITICAL the log is corrupt \x1b[31m")
    body = problem.encode()
    head = f"HTTP/1.1 403 no\r\n{CHECKSUM}: {problem.check()}\r\ncontent-length: {len(body)}\r\n\r\n"
    seen: queue.Queue[str] = queue.Queue()

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.put(record.getMessage())

    handler = Seen()
    logging.getLogger("walspool").addHandler(handler)
    try:
        with (
            answering(head.encode() + body if words == "a problem" else b"CRITICAL \x1b[31m\r\n\r\n") as url,
            PrimaryReplication(tmp_path / "app.db") as primary,
        ):
            Identity("key", None, (Upstream(url, "a"),)).save(tmp_path / "app.db")
            present_term(primary, tmp_path / "app.db")
            told = seen.get(timeout=PATIENCE_S)
    finally:
        logging.getLogger("walspool").removeHandler(handler)
    assert "CRITICAL" in told
    assert told.isprintable()
