"""The verb ``demo`` itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from walspool.cli.app import AsJson, app, example
from walspool.cli.serve_verbs import need_the_server

__all__ = ["demo"]


@app.command(
    short_help="Prove it on a real tree of files.",
    epilog=example("walspool demo", "walspool demo --local --dir /var/tmp/walspool-demo --json"),
)
def demo(
    local: Annotated[
        bool, typer.Option("--local", help="One log and its writer, without a network; needs no 'walspool[server]'.")
    ] = False,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Work in this new or empty folder, and leave the files there.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the temporary folder, and say where it is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep the standard library's files on three machines, break each in turn, and compare all logs and files.

    The machines are processes on this one's loopback. With --local: record the files in one log, kill the writer on the
    way, rebuild them from the log, and compare. Takes some seconds and up to 1 GB below the temporary folder, all of
    which is removed again.
    """
    from walspool.cli.demo import network, steps  # only here: every other verb starts faster without

    if not local:
        need_the_server("the demo over the network", "; 'walspool demo --local' needs nothing more")
    steps.run(steps.local if local else network.replicated, directory, keep=keep, as_json=as_json)
