"""What an open finds, and what goes wrong behind a call, goes to the logger ``walspool``, loaded only then."""

from __future__ import annotations

import sys

__all__ = ["log_error", "log_warning"]


def log_warning(words: str, *values: object) -> None:
    """Log a warning in the caller's name."""
    _log("warning", words, values)


def log_error(words: str, *values: object) -> None:
    """Log an error in the caller's name."""
    _log("error", words, values)


def _log(level: str, words: str, values: tuple[object, ...]) -> None:
    try:
        import logging
    except (ImportError, OSError):
        # out of descriptors, or in another root: no reason to fail where a warning would have done
        print(words % values, file=sys.stderr)
        return
    getattr(logging.getLogger("walspool"), level)(words, *values, stacklevel=3)
