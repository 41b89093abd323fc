"""Counts a program's instructions by valgrind: the same on a noisy machine. Waiting for the disk counts nothing."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence

__all__ = ["instructions"]

_COLLECTED = re.compile(r"Collected : (\d+)")


def instructions(command: Sequence[str]) -> int:
    """What all of ``command`` takes. Its temporary files go into a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        counted = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", *command]
        # the order of sets and so the number of collisions would differ from run to run
        environment = {**os.environ, "TMPDIR": folder, "PYTHONHASHSEED": "0"}
        run = subprocess.run(counted, check=True, capture_output=True, text=True, env=environment)
    found = _COLLECTED.search(run.stderr)
    if found is None:
        raise RuntimeError(f"valgrind counted nothing: {run.stderr.strip()}")
    return int(found[1])
