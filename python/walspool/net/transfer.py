"""What comes and goes in parts: bodies that are bounded in bytes and time, responses whose receiver takes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from walspool.errors import SpoolClosed
from walspool.net.protocol import CHUNK_BYTES, MAX_JSON_BYTES, Refused, printable

__all__ = ["BODY_S", "PIECE_BYTES", "STALL_S", "TAKING_S", "CutOff", "Stream", "body_of", "client_gone", "tell"]

log = logging.getLogger("walspool")

#: A client that takes nothing, or gives nothing, for so long is dropped.
STALL_S: Final = 30.0
BODY_S: Final = 10.0
#: An answer that costs memory until it is taken is cut off behind so long.
TAKING_S: Final = 600.0
#: A part goes out so many bytes at a time, so that who takes a large frame slowly is seen to take it.
PIECE_BYTES: Final = 64 << 10


class CutOff(Exception):
    """The response must not look as if it were whole."""


class Stream:
    """A response whose receiver is dropped when it takes nothing, and whose end is seen for what it is.

    ``watched``: by the server, which knows better what is taken.
    """

    def __init__(
        self, parts: AsyncIterator[bytes], headers: dict[str, str], close: Callable[[], object], watched: bool
    ) -> None:
        self._parts = parts
        self._piece_bytes = CHUNK_BYTES if watched else PIECE_BYTES
        self._stall_s = None if watched else STALL_S
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all. Returning before the last part ends the connection."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            async for part in self._parts:
                for at in range(0, len(part), self._piece_bytes):
                    piece = part[at : at + self._piece_bytes]
                    async with asyncio.timeout(self._stall_s):
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, CutOff, OSError, SpoolClosed):
            return  # one end is gone, or takes nothing: what the replica lacks it will ask for again
        except Exception as error:
            tell(printable(scope["path"]), error)
        finally:
            self._close()


async def body_of(
    request: Request,
    maximum: int = MAX_JSON_BYTES,
    seconds: float | None = None,
    come: Callable[[int], None] = lambda count: None,
) -> bytes:
    """The body, if it is small and comes in time. ``come`` hears of the bytes as they come, and may refuse them."""
    found = bytearray()
    seconds = BODY_S if seconds is None else seconds
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                come(len(part))
                found += part
                if len(found) > maximum:
                    raise Refused(413, "too-large", f"the body is above {maximum} bytes")
    except TimeoutError:
        raise Refused(408, "too-slow", f"the body did not come within {seconds:.0f} s") from None
    return bytes(found)


def tell(path: str, error: Exception) -> None:
    """What failed, in the log: in the line itself, for who shows no traceback."""
    log.error("a request to %s failed: %s", path, printable(f"{type(error).__name__}: {error}"), exc_info=error)


async def client_gone(receive: Receive) -> None:
    """Returns once the client is gone; a server goes on taking what nobody gets."""
    while (await receive())["type"] != "http.disconnect":
        pass
