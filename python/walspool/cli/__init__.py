"""The ``walspool`` command: one module for each group of verbs, over the public facades only."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command with the arguments of the process and end the process with its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # closed by the caller, so a log file would get its number and take what is printed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        print(f"walspool: the command line needs {needed}: pip install 'walspool[cli]'", file=sys.stderr)
        sys.exit(3)
    from walspool.cli.running import end, run

    end(run(sys.argv[1:]))
