"""From arguments to an exit code: every error becomes one line on standard error, never a traceback."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence

import typer

import walspool
from walspool.cli import follow_verb, inspect_verbs, output, serve_verbs, slots_verbs, status_verb, write_verbs
from walspool.cli.app import app
from walspool.cli.bench import verb as bench_verb
from walspool.cli.demo import verb as demo_verb

__all__ = ["DAMAGE", "DONE", "FAILED", "INTERRUPTED", "USAGE", "end", "run"]

DONE, DAMAGE, USAGE, FAILED = 0, 1, 2, 3
INTERRUPTED, NO_READER = 128 + 2, 128 + 13  # as a shell reports SIGINT and SIGPIPE

VERBS = (
    inspect_verbs,
    write_verbs,
    slots_verbs,
    bench_verb,
    demo_verb,
    serve_verbs,
    follow_verb,
    status_verb,
)  # importing them registered their verbs


def run(arguments: Sequence[str]) -> int:
    """Run the command in this process and return its exit code."""
    try:
        with _warnings_on_one_line():
            code = app(args=list(arguments), prog_name="walspool", standalone_mode=False)
        output.flush()
        return int(code or DONE)
    except typer.TyperException as error:
        output.complain(f"{error.format_message().rstrip('.')} (see walspool --help)")
        return USAGE
    except output.OutputClosed:
        return NO_READER
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except (walspool.SpoolCorrupt, walspool.SlotStoreCorrupt) as error:
        output.complain(_words(error))
        return DAMAGE
    except Exception as error:
        output.complain(_words(error))
        return FAILED


def end(code: int) -> None:
    """End the process; what could not be printed must not raise once more on the way out."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes | os.PathLike) else ""
        return f"{error.strerror}{where}{_durable(error)}"
    if isinstance(error, walspool.WalspoolError | OSError | ValueError | ImportError):
        return f"{error}{_durable(error)}"
    if isinstance(error, MemoryError):
        return "not enough memory"
    return f"unexpected {type(error).__name__}: {error}"


def _durable(error: Exception) -> str:
    through = getattr(error, "appended_through", None)
    return "" if through is None else f"; the records through LSN {through} are durable"


class _Warnings(logging.Handler):
    """Prints what the library logs, such as what a recovery found."""

    def emit(self, record: logging.LogRecord) -> None:
        output.complain(f"{record.levelname.lower()}: {record.getMessage()}")


@contextlib.contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    logger = logging.getLogger("walspool")
    handler = _Warnings(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
