"""One reused connection to a primary: ``http.client``, TLS, checksums; another thread can end whatever it waits for."""

from __future__ import annotations

import errno
import http.client
import os
import queue
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from walspool.errors import ProtocolError
from walspool.net.auth import check_token, is_loopback
from walspool.net.protocol import CHECKSUM, MAX_PROBLEM_BYTES, Problem, Refused, checksum, parse_json

__all__ = ["Address", "Body", "Connection", "Refusal"]

#: To connect, and for each answer that is not waited for on purpose.
CONNECT_S: Final = 5.0
_LOOK_MS: Final = 100
ANSWER_S: Final = 10.0
#: The other end is asked for a sign of life behind so many idle seconds, and given up behind so many without one.
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPALIVE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
_USER_TIMEOUT_MS: Final = 15_000
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*/?", re.ASCII)
#: What has come is written and acknowledged behind so long, though more comes.
_FILL_S: Final = 0.05
_MAX_CHUNK_LINE: Final = 256
#: Lines behind the last chunk, which nobody asks for.
_MAX_TRAILERS: Final = 16
_Addresses = queue.SimpleQueue[list[Any] | OSError]
_of_the_parent: Final[list[http.client.HTTPConnection | None]] = []


class Refusal(Exception):
    """The primary has answered with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


@dataclass(frozen=True)
class Address:
    """Where a primary is, from a URL such as ``https://db-1:4646``."""

    url: str
    host: str
    port: int
    path: str
    secure: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address; ``ValueError`` where it is none."""
        if not isinstance(url, str):
            raise TypeError(f"url must be a str, not {type(url).__name__}")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ValueError(f"the URL can't be read: {error}") from None
        if parts.username is not None or parts.password is not None:
            raise ValueError("the URL must not hold a user or a password: a token is given apart from it")
        secure = parts.scheme == "https"
        plain = not parts.query and not parts.fragment and _PATH.fullmatch(parts.path)
        if not host or not host.isprintable() or not plain or not (secure or parts.scheme == "http"):
            raise ValueError(f"a URL of a primary is http://HOST:PORT or https://HOST:PORT, not {url!r}")
        default = 443 if secure else 80
        return cls(url, host, default if port is None else port, parts.path.rstrip("/"), secure)

    @property
    def protected(self) -> bool:
        """Whether nobody between here and there can read a token."""
        return self.secure or is_loopback(self.host)

    def check_may_have(self, token: str | None, insecure: bool) -> None:
        """``ValueError`` where a token would be readable on its way, unless ``insecure``."""
        if token is not None and not (self.protected or insecure):
            raise ValueError(f"a token would go to {self.host} in plain text: use https, or say insecure")


class _Whole(http.client.HTTPConnection):
    """Sends head and body of a request in one piece, which the other end takes in one turn of its loop."""

    _held = b""

    def send(self, data: Any) -> None:
        self._held += data

    def getresponse(self) -> http.client.HTTPResponse:
        held, self._held = self._held, b""
        self.sock.sendall(held)
        return super().getresponse()


class Connection:
    """For one thread at a time; ``cut`` is for any other. ``OSError``, ``http.client.HTTPException``: no answer."""

    def __init__(self, address: Address, token: str | None, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._headers = {} if token is None else {"authorization": f"Bearer {check_token(token)}"}
        self._context = (context or ssl.create_default_context()) if address.secure else None
        # a destructor may come in the middle of anything, of this thread, too
        self._lock = threading.RLock()
        self._addresses: _Addresses | None = None
        self._socket: socket.socket | None = None
        self._is_cut = False
        self._http: http.client.HTTPConnection | None = None
        #: How often it was made.
        self.made = 0

    def __repr__(self) -> str:
        return f"<Connection to {self._address.url}>"  # its headers are nobody's business

    # -- from another thread -------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """End what is under way, and refuse to begin anything until ``mend``."""
        with self._lock:
            self._is_cut = True
            if self._addresses is not None:
                self._addresses.put(ConnectionAbortedError("the connection was cut"))
            if self._socket is not None:
                with suppress(OSError):  # not the TLS socket's own: that takes its state from under a reader
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    @property
    def is_cut(self) -> bool:
        """Whether it was cut, and not mended since."""
        return self._is_cut

    def mend(self) -> None:
        """Undo ``cut``. For the thread that asks."""
        with self._lock:
            was_cut, self._is_cut = self._is_cut, False
        if was_cut:
            self.drop()

    def forget(self) -> None:
        """Close a forked child's copy of the descriptor, and tell nobody."""
        held, self._socket = self._socket, None
        # a thread that is not here may hold the lock of its buffer, so that even its destructor would wait for ever
        _of_the_parent.append(self._http)
        self._http = None
        with suppress(OSError):
            if held is not None and (fd := held.detach()) >= 0:
                os.close(fd)

    # -- asking --------------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_PROBLEM_BYTES,
    ) -> dict[str, Any]:
        """The JSON object that a request is answered with, of at most so many bytes. ``Refusal``, ``ProtocolError``."""
        with self._whole():
            response = self._send(method, path, body, headers or {}, ANSWER_S)
            data = _small(response, max_bytes)
            self._refuse(response, data)
            if response.getheader(CHECKSUM) != checksum("200", data):
                raise ProtocolError(reason="an answer came without a matching checksum")
            try:
                return parse_json(data, max_bytes)
            except Refused as error:
                raise ProtocolError(reason=str(error)) from None

    def stream(self, path: str, headers: Mapping[str, str], timeout_s: float) -> Body:
        """A response that is read as it comes; no wait for any of it is longer than ``timeout_s``."""
        with self._whole():
            response = self._send("GET", path, None, headers, timeout_s)
            if response.status != 200:
                self._refuse(response, _small(response))
            assert self._socket is not None
            return Body(response, self._socket)

    def drop(self) -> None:
        """Close it; the next request makes another."""
        made, self._http = self._http, None
        if made is not None:
            made.close()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """A connection that an answer has not ended as it should is not used again."""
        try:
            yield
        except Refusal:
            raise
        except BaseException:
            self.drop()
            raise

    def _refuse(self, response: http.client.HTTPResponse, data: bytes) -> None:
        if response.status != 200:
            raise Refusal(Problem.decode(response.status, data, response.getheader(CHECKSUM)))

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> http.client.HTTPResponse:
        while True:
            reused = self._http is not None and self._http.sock is not None
            try:
                made = self._open()
                assert made.sock is not None
                made.sock.settimeout(timeout_s)
                made.request(method, self._address.path + path, body, {**self._headers, **headers})
                return made.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self.drop()
                # one that lay idle may have been closed at the other end: every request here may be said twice
                if not reused or self._is_cut or isinstance(error, TimeoutError):
                    raise

    def _open(self) -> http.client.HTTPConnection:
        if self._http is None:
            self._http = _Whole(self._address.host, self._address.port)
        if self._http.sock is None:
            self._http.sock = self._dial()
            self.made += 1
        elif self._is_cut:
            raise ConnectionAbortedError("the connection was cut")
        return self._http

    def _dial(self) -> socket.socket:
        failed: OSError | None = None
        for family, kind, protocol, _, where in self._resolve():
            plain = socket.socket(family, kind, protocol)
            try:
                return self._connect(plain, where)
            except OSError as error:
                plain.close()
                failed = error
        raise failed or OSError(f"{self._address.host} has no address")

    def _resolve(self) -> list[Any]:
        """The addresses of the host, asked for in a thread of its own: nothing else can end that."""
        found: _Addresses = queue.SimpleQueue()
        host, port = self._address.host, self._address.port
        with suppress(OSError, UnicodeError):  # an address is none to be waited for
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)

        def ask() -> None:
            try:
                found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                found.put(OSError(f"{host} can't be resolved: {error}"))

        with self._lock:
            if self._is_cut:
                raise ConnectionAbortedError("the connection was cut")
            self._addresses = found
        threading.Thread(target=ask, name="walspool-resolve", daemon=True).start()
        answer = found.get()
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _connect(self, plain: socket.socket, where: Any) -> socket.socket:
        self._hold(plain)
        _notice_the_dead(plain)
        self._reach(plain, where)
        plain.settimeout(CONNECT_S)
        if self._context is None:
            return plain
        secure = self._context.wrap_socket(plain, server_hostname=self._address.host, do_handshake_on_connect=False)
        try:
            self._hold(secure)
            secure.do_handshake()
        except OSError:
            secure.close()
            raise
        return secure

    def _reach(self, plain: socket.socket, where: Any) -> None:
        """Connect. A ``cut`` just before leaves no trace in the socket, so it is looked for, too."""
        plain.setblocking(False)
        code = plain.connect_ex(where)
        if code == errno.EINPROGRESS:
            waiting = select.poll()
            waiting.register(plain, select.POLLOUT)
            deadline = time.monotonic() + CONNECT_S
            while not self._is_cut and not waiting.poll(_LOOK_MS):
                if time.monotonic() >= deadline:
                    raise TimeoutError("timed out")
            code = plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if self._is_cut:
            raise ConnectionAbortedError("the connection was cut")
        if code:
            raise OSError(code, os.strerror(code))

    def _hold(self, made: socket.socket) -> None:
        """From here on ``cut`` reaches it."""
        with self._lock:
            if self._is_cut:
                raise ConnectionAbortedError("the connection was cut")
            self._socket = made


class Body:
    """The body of a response as it comes. Its end counts only where the sender has marked it."""

    def __init__(self, response: http.client.HTTPResponse, sock: socket.socket) -> None:
        #: Names in lower case.
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        #: Whether it was read to the end that the sender gave it.
        self.whole = False
        self._response = response
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._chunked = bool(response.chunked)
        self._left = 0 if self._chunked else response.length

    def readinto(self, buffer: memoryview, more_ms: int = 0) -> int:
        """Wait for some bytes, then take what else comes, each part of it within ``more_ms``; 0 at the end.

        It takes no longer than 50 ms from the first bytes on, however evenly they come.
        """
        at = self._some(buffer)
        until = time.monotonic() + _FILL_S
        while 0 < at < len(buffer) and time.monotonic() < until and self._more(more_ms):
            try:
                more = self._some(buffer[at:])
            except (OSError, http.client.HTTPException):
                break  # what came before it counts
            if not more:
                break
            at += more
        return at

    def chunks(self, size: int) -> Iterator[bytes]:
        """All of it, in pieces of at most ``size`` bytes."""
        buffer = memoryview(bytearray(size))
        while count := self.readinto(buffer):
            yield bytes(buffer[:count])

    def _more(self, within_ms: int) -> bool:
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return bool(self._poll.poll(within_ms))

    def _some(self, buffer: memoryview) -> int:
        try:
            return self._read(buffer)
        except (OSError, http.client.HTTPException):
            self._response.close()  # what follows must not be taken for the next chunk
            raise

    def _read(self, buffer: memoryview) -> int:
        source = self._response.fp
        if self.whole:
            return 0
        if source is None:
            raise http.client.IncompleteRead(b"")
        if self._chunked and self._left == 0:
            self._left = self._next_chunk()
        if self._left == 0:
            self.whole = True
            self._response.close()
            return 0
        count = source.readinto1(buffer if self._left is None else buffer[: self._left])
        if count == 0:
            self._response.close()
            # without a length nobody can tell this end from a broken connection
            raise http.client.IncompleteRead(b"")
        if self._left is not None:
            self._left -= count
            if self._chunked and self._left == 0 and self._line():
                raise http.client.HTTPException("a chunk does not end where it says")
        return count

    def _next_chunk(self) -> int:
        size = self._line().partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            raise http.client.HTTPException("a chunk begins without its size")
        left = int(size, 16)
        trailers = 0
        while not left and self._line():  # up to the empty line
            trailers += 1
            if trailers > _MAX_TRAILERS:
                raise http.client.HTTPException(f"more than {_MAX_TRAILERS} lines come behind the last chunk")
        return left

    def _line(self) -> bytes:
        line = self._response.fp.readline(_MAX_CHUNK_LINE)
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        return line.rstrip(b"\r\n")


def _small(response: http.client.HTTPResponse, max_bytes: int = MAX_PROBLEM_BYTES) -> bytes:
    data = response.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ProtocolError(reason=f"an answer of status {response.status} has more than {max_bytes} bytes")
    response.read()  # its end, so that the connection can be used again
    return data


def _notice_the_dead(sock: socket.socket) -> None:
    """A partition takes a connection without a word: let the kernel look."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEP_ALIVE, "TCP_USER_TIMEOUT": _USER_TIMEOUT_MS}.items():
        option = getattr(socket, name, None)
        if option is not None:
            with suppress(OSError):  # not every system knows each
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
