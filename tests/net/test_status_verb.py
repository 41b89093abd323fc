"""``walspool status`` against a real server: what it prints, and what it says where there is nothing to print."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import walspool
from tests.cli.shell import Answer, process
from tests.net.kit import APPEND, READ, Served, serving
from walspool.cli.running import run
from walspool.net import fetch_status


@pytest.fixture
def status(capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Run the verb in this process."""

    def call(*arguments: str | Path) -> Answer:
        capfdbinary.readouterr()
        code = run(["status", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return Answer(code, out.decode(), err.decode())

    return call


@pytest.fixture
def lagging(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as found:
        for id, region in (("eu-1", "eu"), ("us-1", None), ("fresh", None)):
            found.primary.register_replica(id, region)
        for _ in range(2):
            found.primary.commit(b"x" * 300)
        found.primary.ack_replica_lsn("eu-1", 12, 12)
        found.primary.ack_replica_lsn("us-1", 9, 11, 3)
        yield found


def url(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}"


def cells(answer: Answer, first: str) -> list[str]:
    """The cells of a row of a table, which two blanks part."""
    line = next(each for each in answer.lines if each.startswith(first + " "))
    return [each.strip() for each in line.split("  ") if each]


def test_it_says_what_an_operator_asks(status: Any, lagging: Served) -> None:
    answer = status(url(lagging))
    assert (answer.code, answer.err) == (0, "")
    assert answer.lines[0] == "primary, term 1"
    assert [each.split()[-1] for each in answer.lines[1:6]] == ["12", "12", "1", "0", "10"]
    known = cells(answer, "us-1")
    assert [known[each] for each in (1, 2, 3, 4, 6, 8)] == ["none", "following", "1", "337 bytes", "11", "3"]
    assert known[5].endswith(" s")
    assert cells(answer, "eu-1")[:7] == ["eu-1", "eu", "following", "0", "0 bytes", "0.0 s", "12"]
    assert cells(answer, "fresh")[2:7] == ["registered", *["unknown"] * 4]
    slots = answer.lines[next(at for at, each in enumerate(answer.lines) if each.startswith("slot ")) :]
    assert [each.split()[:3] for each in slots[1:4]] == [
        ["eu-1", "reserved", "no"],
        ["fresh", "reserved", "yes"],
        ["us-1", "reserved", "no"],
    ]
    assert "not enough history yet" in answer.out
    assert "last recovery: clean, 0 records" in answer.out


def test_json_is_what_the_server_answers(status: Any, lagging: Served) -> None:
    answer = status(url(lagging), "--json")
    there = json.loads(lagging.ask("GET", "/v1/status")[1])
    assert set(answer.document) == set(there)
    assert answer.document["slots"] == there["slots"]
    assert [each["lag_seconds"] is None for each in answer.document["replicas"]] == [False, True, False]
    assert fetch_status(url(lagging) + "/")["current_lsn"] == 12


def test_one_that_appends_nothing_is_a_negative_answer(status: Any, served: Served) -> None:
    served.primary.fence(7)
    answer = status(url(served))
    assert answer.code == 1
    assert answer.lines[:2] == ["fenced, term 1", "replaced by a primary of term 7: it appends nothing any more"]
    assert "no replica is registered" in answer.lines
    assert "there is no slot" in answer.lines


def test_a_token(status: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    with serving(tmp_path, tokens=True) as guarded:
        assert status(url(guarded)).says("Authorization", "known token")
        for token, code in ((APPEND, 3), (READ, 0)):
            file.write_text(token + "\n")
            file.chmod(0o600)
            answer = status(url(guarded), "--token-file", file)
            assert answer.code == code
            assert token not in answer.out + answer.err
        file.write_text("short")
        assert status(url(guarded), "--token-file", file).says("token", str(file))


def test_what_is_no_server(status: Any, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    answer = status(f"http://127.0.0.1:{port}")
    assert answer.code == 3
    assert answer.says("Connection refused")
    for bad in ("127.0.0.1:4646", "ftp://x", "http://a:b@c", "http://[::1", "http://x/?token=1"):
        answer = status(bad)
        assert (answer.code, answer.says("URL")) == (2, True)
    (tmp_path / "token").write_text("t" * 16)
    (tmp_path / "token").chmod(0o600)
    assert status("http://db-1.example", "--token-file", tmp_path / "token").says("plain text", "https")


def test_what_a_server_says_reaches_no_terminal_as_it_is(status: Any, served: Served, monkeypatch: Any) -> None:
    told = json.loads(served.ask("GET", "/v1/status")[1])
    told["recovery"]["reason"] = "\x1b[31mred\nline"
    monkeypatch.setattr("walspool.net.client.Connection.call", lambda *_, **__: told)
    assert "\\x1b[31mred line" in status(url(served)).out


def test_watching_goes_on_until_ctrl_c(served: Served) -> None:
    line = [sys.executable, "-m", "walspool.cli", "status", url(served), "--watch", "0.1", "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["current_lsn"] == 10
        served.primary.commit(b"more")
        while json.loads(watching.stdout.readline())["current_lsn"] != 11:
            pass
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
        assert watching.stderr is not None
        assert watching.stderr.read() == b""
        assert watching.wait() == 130


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"220 mail\r\n", b""])
def test_a_server_that_answers_something_else(answer: bytes) -> None:
    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4_096)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises((walspool.ProtocolError, OSError)) as found:
            fetch_status(f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread.join()
    assert "127.0.0.1" in str(found.value)


def test_a_process_of_its_own(served: Served) -> None:
    answer = process("status", url(served))
    assert (answer.code, answer.err) == (0, "")
