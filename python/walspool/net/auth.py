"""Who may: tokens with scopes, compared in constant time and never shown."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from walspool.net.protocol import Refused
from walspool.records import check_replica_id

__all__ = ["Grant", "TokenAuth", "check_token", "is_loopback", "read_token", "refuse_foreign"]

_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,256}", re.ASCII)
_BEARER: Final = re.compile(r"bearer +([\x21-\x7e]{1,256})", re.ASCII | re.IGNORECASE)
_SCOPES: Final = ("read", "append", "admin")
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_MAX_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Grant:
    """What the bearer of a token may do."""

    scopes: frozenset[str]

    def allows(self, scope: str) -> bool:
        """Whether ``scope`` is granted: ``read``, ``append``, ``admin``, ``replica:<id>``. ``admin`` grants all."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, scope: str) -> None:
        """``Refused`` with 403 unless ``scope`` is granted."""
        if not self.allows(scope):
            raise Refused(403, "forbidden", f"this needs a token with the scope {scope}")


#: Without tokens, on loopback, everybody may do everything.
EVERYTHING: Final = Grant(frozenset({"admin"}))
#: What needs no token tells nothing.
NOTHING: Final = Grant(frozenset())


class TokenAuth:
    """Tokens, each with what its bearer may do. Only digests are kept, so that no trace can show a token."""

    def __init__(self, tokens: Iterable[tuple[str, Iterable[str]]]) -> None:
        self._grants: dict[bytes, Grant] = {}
        for token, scopes in tokens:
            digest = _digest(check_token(token))
            if digest in self._grants:
                raise ValueError("a token is given twice")
            self._grants[digest] = Grant(frozenset(_check_scope(each) for each in scopes))
        if not self._grants:
            raise ValueError("there is no token")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TokenAuth:
        """The tokens of a file: on each line a token and its scopes, separated by blanks; ``#`` begins a comment.

        ``ValueError`` names the line and never shows a token. ``OSError``.
        """
        data = _read_secret(path)
        found: list[tuple[str, list[str]]] = []
        for at, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            try:
                if len(words) == 1:
                    raise ValueError("it has no scope")
                cls([(words[0], words[1:])])
            except ValueError as error:
                raise ValueError(f"line {at} of the token file {os.fspath(path)}: {error}") from None
            found.append((words[0], words[1:]))
        try:
            return cls(found)
        except ValueError as error:
            raise ValueError(f"the token file {os.fspath(path)}: {error}") from None

    def grant(self, authorization: str | None) -> Grant:
        """What an ``Authorization`` header allows; ``Refused`` with 401 for none or a wrong one.

        Every token is compared, so that the time taken tells nothing.
        """
        bearer = _BEARER.fullmatch(authorization) if authorization is not None else None
        asked = _digest(bearer[1] if bearer is not None else "")
        found: Grant | None = None
        for digest, grant in self._grants.items():
            if hmac.compare_digest(digest, asked):
                found = grant
        if bearer is None or found is None:
            raise Refused(401, "unauthorized", "this needs a header 'Authorization: Bearer TOKEN' with a known token")
        return found

    def __repr__(self) -> str:
        return f"<TokenAuth {len(self._grants)} tokens>"


def read_token(path: str | os.PathLike[str]) -> str:
    """The one token of a file, for whoever asks with it. ``ValueError`` never shows it; ``OSError``."""
    try:
        return check_token(_read_secret(path).decode("ascii", "replace").strip())
    except ValueError as error:
        raise ValueError(f"the token file {os.fspath(path)}: {error}") from None


def _read_secret(path: str | os.PathLike[str]) -> bytes:
    """A file that nobody but its owner and its group may read."""
    with Path(path).open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o007:
            raise ValueError(f"everybody may use the token file {os.fspath(path)} (mode {mode:04o}): chmod 600 it")
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ValueError(f"the token file {os.fspath(path)} is above {_MAX_FILE_BYTES} bytes")
    return data


def check_token(token: str) -> str:
    """Return a token; refuse what can't be one, without showing it."""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise ValueError("a token must be 16 to 256 printable ASCII characters without a space")
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _check_scope(scope: str) -> str:
    kind, colon, name = scope.partition(":")
    if kind == "replica" and colon:
        check_replica_id(name)
    elif scope not in _SCOPES:
        raise ValueError("a scope is read, append, admin, or replica:<id>")
    return scope


def is_loopback(host: str) -> bool:
    """Whether a host name, without a port, is this machine's loopback."""
    return host.lower() in _LOOPBACK


def refuse_foreign(host: str | None, origin: str | None) -> None:
    """Where no token is asked for: ``Refused`` unless ``Host``, and ``Origin`` if there is one, name the loopback.

    A page that a browser on this machine shows could otherwise reach the server by a name of its own.
    """
    if host is None or not is_loopback(_host(f"//{host}")):
        raise Refused(403, "forbidden", "without tokens only requests to localhost are served")
    if origin is not None and not is_loopback(_host(origin)):
        raise Refused(403, "forbidden", "without tokens no page from elsewhere is served")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
