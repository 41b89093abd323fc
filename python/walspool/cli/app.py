"""The Typer application and the arguments that several verbs share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

import walspool
from walspool.cli import output

__all__ = ["LSN_MAX", "AsHex", "AsJson", "DataPath", "app", "data_path", "example", "given_by_hand"]

LSN_MAX = 2**64 - 1
SUFFIX = ".logical.wal"

app = typer.Typer(
    name="walspool",
    help="Look into, check, mend and feed a walspool log. DATA_PATH is the data file that the log belongs to, "
    "or its .logical.wal file. Exit codes: 0 done, 1 damage found or a negative answer, 2 bad usage, 3 an error.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def example(*lines: str) -> str:
    """The text below a verb's help: command lines that work as they stand."""
    return "\b\nExample" + ("s" if len(lines) > 1 else "") + ":\n" + "\n".join("  " + line for line in lines)


def data_path(text: str | os.PathLike[str]) -> Path:
    """The data path that an argument means: as given, or a spool file's name without ``.logical.wal``."""
    path = Path(text)
    name = path.name
    if name.endswith(SUFFIX) and name != SUFFIX:
        return path.with_name(name[: -len(SUFFIX)])
    return path


@contextmanager
def given_by_hand() -> Iterator[None]:
    """A ``ValueError`` within is about an argument, so it is bad usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _version(wanted: bool) -> None:
    if wanted:
        output.line(f"walspool {walspool.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that stand before the verb."""


DataPath = Annotated[
    Path,
    typer.Argument(metavar="DATA_PATH", parser=data_path, help="The log's data file, or its .logical.wal file."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
AsHex = Annotated[bool, typer.Option("--hex", help="Show payloads in hexadecimal.")]
