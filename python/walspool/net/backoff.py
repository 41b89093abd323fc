"""How long to wait before trying again: twice as long each time, up to 5 s, and never two alike at one moment."""

from __future__ import annotations

from typing import Final

__all__ = ["pause_s"]

_FIRST_S: Final = 0.1
_LAST_S: Final = 5.0


def pause_s(failures: int, random: float) -> float:
    """The pause in seconds behind so many failures before this one; ``random``: from 0 to 1."""
    return min(_FIRST_S * 2.0 ** min(failures, 16), _LAST_S) * (0.5 + random / 2)
