"""The verb ``demo`` itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from walspool.cli.app import AsJson, app, example

__all__ = ["demo"]


@app.command(
    short_help="Prove it on a real tree of files.",
    epilog=example("walspool demo", "walspool demo --dir /var/tmp/walspool-demo --json"),
)
def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Work in this new or empty folder, and leave the files there.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the temporary folder, and say where it is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Record the standard library's files, kill the writer on the way, rebuild them from the log, and compare.

    Takes some seconds and a few hundred MB below the temporary folder, which are removed again.
    """
    from walspool.cli.demo import steps  # only here: every other verb starts faster without

    steps.run(directory, keep=keep, as_json=as_json)
