"""What an open finds, and what goes wrong behind a call, goes to the logger ``walspool``, loaded only then."""

from __future__ import annotations

__all__ = ["log_error", "log_warning"]


def log_warning(words: str, *values: object) -> None:
    """Log a warning in the caller's name."""
    import logging

    logging.getLogger("walspool").warning(words, *values, stacklevel=2)


def log_error(words: str, *values: object) -> None:
    """Log an error in the caller's name."""
    import logging

    logging.getLogger("walspool").error(words, *values, stacklevel=2)
