"""A log over the network: what serves it, and what follows it. ``create_app`` needs ``walspool[server]``."""

from __future__ import annotations

from typing import Final

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from walspool.net.auth import TokenAuth, is_loopback, read_token
    from walspool.net.client import fetch_status
    from walspool.net.follower import Follower, FollowerStatus
    from walspool.net.presenter import present_term
    from walspool.net.promotion import Promotion, promote
    from walspool.net.server import create_app

__all__ = [
    "Follower",
    "FollowerStatus",
    "Promotion",
    "TokenAuth",
    "create_app",
    "fetch_status",
    "is_loopback",
    "present_term",
    "promote",
    "read_token",
]

_HOMES: Final = {
    "Follower": "follower",
    "FollowerStatus": "follower",
    "Promotion": "promotion",
    "TokenAuth": "auth",
    "create_app": "server",
    "fetch_status": "client",
    "is_loopback": "auth",
    "present_term": "presenter",
    "promote": "promotion",
    "read_token": "auth",
}


def __getattr__(name: str) -> Any:
    # loaded when first used: a follower needs none of what a server does
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'walspool.net' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"walspool.net.{home}"), name)
