"""The verb itself: where it measures, and what it prints."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from walspool.cli import output
from walspool.cli.app import AsJson, app, example
from walspool.cli.scratch import scratch

__all__ = ["bench"]


@app.command(
    short_help="Measure the log on your disk.",
    epilog=example("walspool bench .", "walspool bench /var/lib/app --seconds 60 --json"),
)
def bench(
    directory: Annotated[
        Path, typer.Argument(metavar="DATA_DIR", help="A folder on the disk to measure.", show_default=False)
    ],
    seconds: Annotated[float, typer.Option(min=0.01, max=3600, help="About how long it may take in all.")] = 15,
    as_json: AsJson = False,
) -> None:
    """Measure durable appends, batches and replay on the disk below a folder, beside that disk by itself.

    Writes up to 1.5 GB into a temporary folder in DATA_DIR, which is removed again. Nothing else there is touched.
    A folder in memory (tmpfs) is refused: a sync costs nothing there, so its figures would say nothing.
    """
    # Loaded here, as no other verb needs it, and the help neither.
    from walspool.cli.bench.place import NotADisk, place_of
    from walspool.cli.bench.report import print_table, sentence
    from walspool.cli.bench.rounds import measure

    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    try:
        place = place_of(directory)
    except NotADisk as error:
        raise typer.BadParameter(str(error)) from error
    with scratch("bench", directory) as folder:
        if not as_json:
            output.line(output.on_one_line(str(place)))
            output.flush()
        started = time.monotonic()
        figures = measure(folder, seconds)
        took = time.monotonic() - started
    words = sentence(figures.work)
    if as_json:
        facts = {**output.plain(figures), "place": output.plain(place), "seconds": took, "sentence": words}
        output.document(facts)
        return
    output.line(
        f"walspool {figures.walspool}, {figures.core} core, records of {figures.payload_bytes} bytes, "
        f"medians of {figures.rounds} rounds in {took:.1f} s"
    )
    output.line()
    print_table(figures)
    output.line()
    output.line(words)
