"""Nothing that takes long holds up what has to be quick: acknowledgements and registrations."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.net.kit import PATIENCE_S, Served, serving
from walspool.net import records, server
from walspool.net.lanes import MAX_LOADS


class Gate:
    """A call that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def wait(self) -> None:
        """What waits."""
        self.entered.release()
        assert self.go.wait(PATIENCE_S)

    def held(self, count: int) -> None:
        """Return once so many wait."""
        for _ in range(count):
            assert self.entered.acquire(timeout=PATIENCE_S)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Opened at the end."""
    found = Gate()
    yield found
    found.go.set()


@pytest.fixture
def loading(gate: Gate, tmp_path: Path) -> Iterator[Served]:
    """A server whose snapshots take until the gate opens."""

    def snapshot() -> tuple[int, list[bytes]]:
        gate.wait()
        return 10, [b"x"]

    with serving(tmp_path, snapshot=snapshot) as found:
        yield found
        gate.go.set()


def load(served: Served, name: str) -> Any:
    """A snapshot is asked for."""
    session = served.register(name)
    connection = served.connect()
    connection.request("GET", f"/v1/snapshot?replica_id={name}", headers={"walspool-session": str(session)})
    return connection


def prompt(served: Served) -> None:
    """What must be answered whatever else goes on."""
    session = served.register("quick")
    position = served.primary.logical_wal_spool.position(10)  # type: ignore[union-attr]
    body = {"position": f"{position.term}:10:{position.crc:08x}", "applied_lsn": 10, "durable_lsn": 10}
    text = json.dumps(body).encode()
    assert served.ask("POST", "/v1/replicas/quick/ack", text, walspool_session=str(session))[0] == 200
    assert served.ask("DELETE", "/v1/replicas/quick")[0] == 200


def test_snapshots_that_take_long_hold_up_nobody(loading: Served, gate: Gate) -> None:
    waiting = [load(loading, f"r{number}") for number in range(MAX_LOADS)]
    gate.held(MAX_LOADS)
    prompt(loading)
    assert loading.pull("since_lsn=0&wait_ms=0").read()
    assert loading.ask("GET", "/v1/records")[0] == 200
    late = loading.register("late")
    problem = loading.refusal("GET", "/v1/snapshot?replica_id=late", walspool_session=str(late))
    assert (problem.status, problem.kind) == (503, "busy")
    gate.go.set()
    assert [each.getresponse().read() for each in waiting] == [b"x"] * MAX_LOADS
    assert loading.ask("GET", "/v1/snapshot?replica_id=late", walspool_session=str(late))[:2] == (200, b"x")


def test_a_replica_loads_one_snapshot_at_a_time(loading: Served, gate: Gate) -> None:
    first = load(loading, "a")
    gate.held(1)
    session = loading.register("a")  # it has come back, and what it asked for before is being made still
    problem = loading.refusal("GET", "/v1/snapshot?replica_id=a", walspool_session=str(session))
    assert (problem.status, problem.kind) == (503, "busy")
    gate.go.set()
    assert first.getresponse().read() == b"x"
    assert loading.ask("GET", "/v1/snapshot?replica_id=a", walspool_session=str(session))[:2] == (200, b"x")


def test_a_refused_load_leaves_room(loading: Served) -> None:
    for _ in range(MAX_LOADS + 1):
        problem = loading.refusal("GET", "/v1/snapshot?replica_id=a", walspool_session="7")
        assert (problem.status, problem.kind) == (409, "old-session")


@pytest.mark.parametrize("path", ["/v1/records", "/v1/status", "/metrics"])
def test_reading_holds_up_no_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, path: str) -> None:
    def slow(*given: object) -> dict[str, Any]:
        gate.wait()
        return {}

    monkeypatch.setattr(server, "read", slow)
    monkeypatch.setattr(server, "status_of", slow)
    monkeypatch.setattr(server, "page", lambda collector: lambda: str(slow()))
    assert records.read is not slow
    with serving(tmp_path) as served:
        asked = [served.connect() for _ in range(100)]
        for each in asked:
            each.request("GET", path)
        gate.held(1)
        prompt(served)
        assert served.pull("since_lsn=0&wait_ms=0").read()
        gate.go.set()
        assert {each.getresponse().status for each in asked} == {200}


def test_a_server_that_has_ended_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with serving(tmp_path) as served:
        prompt(served)
        assert served.ask("GET", "/v1/records")[0] == 200
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), thread


def test_bodies_on_their_way_have_a_bound(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_HELD_BYTES", 1_000)
    for _ in range(2):  # what has ended counts no more, however it ended
        with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as slow:
            slow.sendall(b"POST /v1/records HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n" + bytes(800))
            while served.app._coming._held < 800:
                assert served.ask("GET", "/healthz")[0] == 200
            problem = served.refusal("POST", "/v1/records", bytes(201))
            assert (problem.status, problem.kind) == (503, "busy")
            assert served.ask("POST", "/v1/records", bytes(200))[0] == 200
            slow.sendall(bytes(100))
            assert slow.recv(12) == b"HTTP/1.1 200"
        assert served.ask("POST", "/v1/records", bytes(1_000))[0] == 200


def test_records_that_are_not_taken_yet_have_a_bound(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_HELD_BYTES", 1_000)
    (lsn,) = json.loads(served.ask("POST", "/v1/records", b"a" * (12 << 20))[1])["lsns"]
    path = f"/v1/records?since_lsn={lsn - 1}"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.settimeout(PATIENCE_S)
        slow.connect(("127.0.0.1", served.port))
        slow.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert slow.recv(12) == b"HTTP/1.1 200"
        problem = served.refusal("GET", path)
        assert (problem.status, problem.kind) == (503, "busy")
        assert served.ask("GET", "/healthz")[0] == 200
    deadline = time.monotonic() + PATIENCE_S
    while (answer := served.ask("GET", path))[0] == 503:  # until it is seen that nobody takes the other one
        assert time.monotonic() < deadline
    assert len(json.loads(answer[1])["records"][0]["payload"]) == 12 << 20


def test_records_are_taken_within_a_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.ask("POST", "/v1/records", b"a")[0] == 200
    monkeypatch.setattr(server, "TAKING_S", -1.0)
    with pytest.raises(http.client.IncompleteRead):
        served.ask("GET", "/v1/records")
    monkeypatch.undo()
    assert served.ask("GET", "/v1/records")[0] == 200
