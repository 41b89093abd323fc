"""Whole processes: what a program pays for the import, for its first open, and for the help of the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model import Case, Contender, Run

import walspool
from walspool import core

__all__ = ["HELP", "IMPORT", "OPEN", "PROCESS_CASES"]

#: Processes of one run.
PROCESSES = 8

_HELP = "import sys; sys.argv[:] = ['walspool', '--help']; from walspool.cli import main; main()"
_ARGPARSE = """
import argparse
parser = argparse.ArgumentParser(prog="walspool", description="A durable, replicated log")
verbs = parser.add_subparsers(metavar="VERB")
for verb in "append dump tail info verify diff repair prune slots bench demo".split():
    verbs.add_parser(verb, help=f"what {verb} does, in a line").add_argument("data_path")
parser.parse_args(["--help"])
"""


def _processes(code: Callable[[Path], str]) -> Contender:
    """Processes of this Python that run some code, one after the other."""

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        # compiled modules are kept, as they are of anything that is installed
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["WALSPOOL_CORE"] = core.name
        command = [sys.executable, "-c", code(folder)]

        def run() -> None:
            for _ in range(PROCESSES):
                subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)

        yield Run(PROCESSES, run)

    return ready


def _opens(folder: Path) -> str:
    """Opens a log that was closed and holds one record."""
    with walspool.open(folder / "log") as spool:
        spool.append_next(b"one")
    return f"import walspool; walspool.open({str(folder / 'log')!r})"


_BARE = {"python -c pass": _processes(lambda _: "pass")}

IMPORT = Case("import walspool", "processes", _processes(lambda _: "import walspool"), _BARE)
OPEN = Case("walspool.open(p)", "processes", _processes(_opens), _BARE)
HELP = Case(
    "walspool --help",
    "processes",
    _processes(lambda _: _HELP),
    {"argparse alone": _processes(lambda _: _ARGPARSE), **_BARE},
)

#: In the order of the table.
PROCESS_CASES = [IMPORT, OPEN, HELP]
