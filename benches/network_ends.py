"""The processes that ``network.py`` measures: a primary, a follower, and the plain ways to do the same.

Each reads orders from standard input, a line each, and answers with a line of JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from limits import opened, sync_all, sync_data, write_all

import walspool
from walspool.net import Follower, create_app
from walspool.net.running import Server, config

__all__ = ["COPY_S", "PAYLOAD_BYTES"]

PAYLOAD_BYTES = 256
#: How long a commit waits for its copy.
COPY_S = 30.0
_BUFFER = memoryview(bytearray(1 << 20))


def _answer(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def _orders(answers: dict[str, Callable[..., None]]) -> None:
    """Carry out orders until there are no more."""
    for line in sys.stdin:
        name, *arguments = line.split()
        answers[name](*map(float, arguments))


# -- the primary -------------------------------------------------------------------------------------------------------


class _Primary:
    """A primary that is served, and appends and commits when told."""

    def __init__(self, path: Path) -> None:
        settings = walspool.ReplicationConfig(max_slots=100)
        self._primary = walspool.PrimaryReplication(path, settings)
        listening = socket.create_server(("127.0.0.1", 0))
        server = Server(config(create_app(self._primary)))
        threading.Thread(target=server.run, args=([listening],), daemon=True).start()
        self._port = listening.getsockname()[1]
        _answer(port=self._port, lsn=self._primary.current_logical_lsn)

    def commit(self, count: float, ack: float) -> None:
        """Commit so many records, one after the other: the seconds of each."""
        payload, found = os.urandom(PAYLOAD_BYTES), []
        for _ in range(int(count)):
            before = time.perf_counter()
            self._primary.commit(payload, ack=int(ack), timeout=COPY_S)
            found.append(time.perf_counter() - before)
        _answer(seconds=found, lsn=self._primary.current_logical_lsn)

    def commits(self, committers: float, seconds: float, ack: float) -> None:
        """Commit from so many threads for so long: how many a second."""
        payload, counts = os.urandom(PAYLOAD_BYTES), [0] * int(committers)
        end = time.perf_counter() + seconds

        def work(number: int) -> None:
            while time.perf_counter() < end:
                self._primary.commit(payload, ack=int(ack), timeout=COPY_S)
                counts[number] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(counts))]
        before = time.perf_counter()
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        _answer(rate=sum(counts) / (time.perf_counter() - before))

    def replicas(self) -> None:
        """What each replica has acknowledged."""
        _answer(durable={each.id: each.last_durable_lsn for each in self._primary.replica_snapshots()})

    def wait(self, lsn: float) -> None:
        """Until one replica has acknowledged ``lsn``: the time then, of the steady clock."""
        self._primary.commit_waiter.await_acks(int(lsn), 1, COPY_S)
        _answer(at=time.monotonic())


def primary(path: str) -> None:
    """Serve the log at ``path``."""
    made = _Primary(Path(path))
    _orders({name: getattr(made, name) for name in ("commit", "commits", "replicas", "wait")})


# -- the follower ------------------------------------------------------------------------------------------------------


def follower(url: str, name: str, path: str) -> None:
    """Follow; ``until LSN`` answers how long it took from the start."""
    made = Follower(url, name, path)
    _answer(ready=True)

    def until(lsn: float) -> None:
        before = time.perf_counter()
        made.start()
        assert made.wait_for(int(lsn), 80)
        _answer(seconds=time.perf_counter() - before)

    _orders({"until": until})
    made.stop()


# -- the limits --------------------------------------------------------------------------------------------------------


def sender(path: str) -> None:
    """Send the bytes of a file to whoever connects, as plainly as there is."""
    listening = socket.create_server(("127.0.0.1", 0))
    _answer(port=listening.getsockname()[1])
    there, _ = listening.accept()
    with open(path, "rb", buffering=0) as file, there:
        while count := file.readinto(_BUFFER):
            there.sendall(_BUFFER[:count])


def receiver(port: str, path: str) -> None:
    """Receive it into a file that is synced once, at the end: how long that took."""
    before, total = time.perf_counter(), 0
    with socket.create_connection(("127.0.0.1", int(port))) as there, opened(Path(path), os.O_RDWR | os.O_CREAT) as fd:
        while count := there.recv_into(_BUFFER):
            write_all(fd, _BUFFER[:count], total)
            total += count
        sync_all(fd)
    _answer(seconds=time.perf_counter() - before, bytes=total)


def echo(path: str) -> None:
    """Answer each byte."""
    listening = socket.create_server(("127.0.0.1", 0))
    _answer(port=listening.getsockname()[1])
    there, _ = listening.accept()
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with there:
        while data := there.recv(1):
            there.sendall(data)


def two_syncs(port: str, folder: str, count: str) -> None:
    """One synced write, a round trip, and another synced write, so many times: the seconds of each."""
    found, size = [], PAYLOAD_BYTES + 37
    paths = [Path(folder, name) for name in ("one", "two")]
    with (
        socket.create_connection(("127.0.0.1", int(port))) as there,
        opened(paths[0], os.O_RDWR | os.O_CREAT) as one,
        opened(paths[1], os.O_RDWR | os.O_CREAT) as two,
    ):
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for fd in (one, two):
            write_all(fd, bytes(size * int(count)), 0)
            sync_all(fd)
        data = os.urandom(size)
        for number in range(int(count)):
            before = time.perf_counter()
            write_all(one, data, number * size)
            sync_data(one)
            there.sendall(b"x")
            there.recv(1)
            write_all(two, data, number * size)
            sync_data(two)
            found.append(time.perf_counter() - before)
    _answer(seconds=found)


if __name__ == "__main__":
    {each.__name__: each for each in (primary, follower, sender, receiver, echo, two_syncs)}[sys.argv[1]](*sys.argv[2:])
