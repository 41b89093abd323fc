"""A temporary folder for a verb that writes files of its own, gone however the verb ends."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from walspool.cli import output

__all__ = ["scratch"]


@contextlib.contextmanager
def scratch(verb: str, within: Path | None = None, *, keep: bool = False) -> Iterator[Path]:
    """A new folder in ``within``, or where temporary files go; removed at the end, or kept and named."""
    import tempfile  # only here: no help needs it

    previous = signal.signal(signal.SIGTERM, _leave)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"walspool-{verb}-", dir=within))
        try:
            yield folder
        finally:
            if keep:
                output.complain(f"the {verb}'s files are in {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
                if folder.exists():
                    output.complain(f"{folder} could not be removed")
    finally:
        signal.signal(signal.SIGTERM, previous)


def _leave(number: int, _frame: FrameType | None) -> None:
    """End by the ordinary way out, so that the files are removed."""
    sys.exit(128 + number)
