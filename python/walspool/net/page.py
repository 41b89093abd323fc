"""The status page and the declared interface: files of this package, as they are served."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

__all__ = ["FILES", "HEADERS", "content"]

#: What is served at which address, and its media type.
FILES: Final = {
    "/": ("status.html", "text/html; charset=utf-8"),
    "/status.css": ("status.css", "text/css; charset=utf-8"),
    "/status.js": ("status.js", "text/javascript; charset=utf-8"),
    "/openapi.json": ("openapi.json", "application/json"),
}
#: Nothing comes from elsewhere, nothing is embedded elsewhere.
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


@cache
def content(address: str) -> bytes:
    """The file at an address of ``FILES``."""
    return files("walspool.net").joinpath("static", FILES[address][0]).read_bytes()
