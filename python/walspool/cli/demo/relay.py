"""The network of the demo: passes connections on to the primary, and can cut all of them."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

__all__ = ["Relay"]

_PIECE_BYTES = 1 << 18


class Relay:
    """Listens on loopback and passes on to ``target``, a port there. It is closed with the block."""

    def __init__(self) -> None:
        #: Where connections go; nobody is there at first.
        self.target: int | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._closed = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="walspool-demo-relay", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        _cut(self._listener)
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """End every connection now, in the middle of what passes; how many there were."""
        with self._lock:
            for each in self._ends:
                _cut(each)
            return len(self._ends) // 2

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):  # nobody is there
            if self.target is None:
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                self._join(client, server)

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        ends = {client, server}
        with self._lock:
            if self._closed:
                return
            self._ends |= ends
        back = threading.Thread(target=_pass, args=(server, client), daemon=True)
        back.start()
        _pass(client, server)
        back.join()
        with self._lock:
            self._ends -= ends


def _pass(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until either end is gone; then both are."""
    buffer = bytearray(_PIECE_BYTES)
    with contextlib.suppress(OSError):
        for end in (source, target):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while size := source.recv_into(buffer):
            target.sendall(memoryview(buffer)[:size])
    _cut(source)
    _cut(target)


def _cut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
