"""A TCP proxy that cuts, delays, doubles, holds back and flips what passes through it; a seed decides what it wants."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

__all__ = ["Faults", "Proxy"]

_PIECE_BYTES = 1 << 16
#: How long what was doubled waits for an answer that nobody reads.
_DOUBLE_S = 1.0


@dataclass(frozen=True)
class Faults:
    """How often things go wrong, 0 to 1; seconds are the most there may be."""

    #: A piece: its connection ends in the middle of it.
    cut: float = 0.0
    #: A piece comes so much later.
    delay_s: float = 0.0
    #: A piece of what the client sends is sent again, up to so much later, on a connection of its own.
    double: float = 0.0
    double_s: float = 0.5
    #: A connection begins so much later, behind younger ones.
    hold_s: float = 0.0
    #: A piece has a bit flipped.
    flip: float = 0.0


class Proxy:
    """Listens on loopback and passes on to ``target``, a port there, or to nobody where that is ``None``."""

    def __init__(self, target: int | None, seed: int, faults: Faults | None = None) -> None:
        self.target = target
        self.faults = Faults() if faults is None else faults
        #: How often each thing was done.
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ending = threading.Event()
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def cut_all(self) -> None:
        """End every connection now."""
        with self._lock:
            for each in self._sockets:
                _end(each)

    def close(self) -> None:
        """End everything."""
        self._ending.set()
        _end(self._listener)
        self._listener.close()
        self.cut_all()
        while self._threads:
            self._threads.pop().join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            with contextlib.suppress(OSError):  # either end may go at any time
                work(*arguments)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self._threads.append(thread)  # once it can be joined: another thread may be closing

    def _held(self, found: socket.socket) -> socket.socket:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._sockets.add(found)
        if self._ending.is_set():
            _end(found)
        return found

    def _let_go(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets.difference_update(sockets)
        for each in sockets:
            each.close()

    def _accept(self) -> None:
        while not self._ending.is_set():
            client = self._held(self._listener.accept()[0])
            self.counts["connections"] += 1
            self._spawn(self._pass_on, client, random.Random(f"{self._seed} {self.counts['connections']}"))

    def _pass_on(self, client: socket.socket, rng: random.Random) -> None:
        try:
            self._ending.wait(rng.random() * self.faults.hold_s)
            if self.target is None:
                return
            server = self._held(socket.create_connection(("127.0.0.1", self.target)))
            answers = threading.Thread(target=self._pump, args=(server, client, random.Random(rng.random()), False))
            try:
                answers.start()
                self._pump(client, server, rng, True)
                answers.join()
            finally:
                self._let_go(server)
        finally:
            self._let_go(client)

    def _pump(self, source: socket.socket, sink: socket.socket, rng: random.Random, up: bool) -> None:
        try:
            while piece := source.recv(_PIECE_BYTES):
                faults = self.faults
                if up and rng.random() < faults.double:
                    self.counts["double"] += 1
                    self._spawn(self._send_again, piece, rng.random() * faults.double_s)
                self._ending.wait(rng.random() * faults.delay_s)
                if rng.random() < faults.flip:
                    self.counts["flip"] += 1
                    piece = _flipped(piece, rng)
                if rng.random() < faults.cut:
                    self.counts["cut"] += 1
                    sink.sendall(piece[: rng.randrange(len(piece))])
                    break
                sink.sendall(piece)
        except OSError:
            pass
        _end(source)
        _end(sink)

    def _send_again(self, piece: bytes, delay_s: float) -> None:
        self._ending.wait(delay_s)
        if self.target is None:
            return
        again = self._held(socket.create_connection(("127.0.0.1", self.target)))
        try:
            again.settimeout(_DOUBLE_S)
            again.sendall(piece)
            while again.recv(_PIECE_BYTES):
                pass
        finally:
            self._let_go(again)


def _end(found: socket.socket) -> None:
    with contextlib.suppress(OSError):
        found.shutdown(socket.SHUT_RDWR)


def _flipped(piece: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(piece) * 8)
    changed = bytearray(piece)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)
