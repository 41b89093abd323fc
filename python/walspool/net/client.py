"""What a server says of itself, for programs and for ``walspool status``. Needs the standard library only."""

from __future__ import annotations

import http.client
import ssl
from typing import Any, Final

from walspool.errors import ProtocolError
from walspool.net.connection import Address, Connection, Refusal

__all__ = ["fetch_status"]

#: Of an answer: 64 slots and replicas with the longest names need far less.
_MAX_BYTES: Final = 1 << 20


def fetch_status(
    url: str, *, token: str | None = None, ssl_context: ssl.SSLContext | None = None, insecure: bool = False
) -> dict[str, Any]:
    """What ``GET /v1/status`` of the server at ``url`` answers, as in docs/operating.md.

    ``token``: one with the scope ``read``, where the server has tokens; it goes over https and to this machine only,
    unless ``insecure``. ``ssl_context``: what to trust with https. ``ValueError`` for what is no such URL or token;
    ``ProtocolError`` where the server refuses, or is none; ``OSError`` where none can be reached.
    """
    address = Address.parse(url)
    address.check_may_have(token, insecure)
    connection = Connection(address, token, ssl_context)
    try:
        return connection.call("GET", "/v1/status", max_bytes=_MAX_BYTES)
    except Refusal as refusal:
        raise ProtocolError(f"{url} refuses: {refusal.problem.detail}", reason=refusal.problem.kind) from None
    except ProtocolError as error:
        raise ProtocolError(f"{url} is no walspool server: {error.reason}", reason=error.reason) from None
    except http.client.HTTPException as error:
        raise ProtocolError(f"{url} gives no answer: {error}", reason=type(error).__name__) from None
    finally:
        connection.drop()
