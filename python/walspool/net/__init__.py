"""A log over the network: what serves it, and what follows it. ``create_app`` needs ``walspool[server]``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from walspool.net.server import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    # loaded when first used: a follower needs none of what a server does
    if name not in __all__:
        raise AttributeError(f"module 'walspool.net' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("walspool.net.server"), name)
