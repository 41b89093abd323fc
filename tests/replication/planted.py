"""Plants changes in a copy of the package, one at a time, and shows that the tests of replication catch each.

``python -m tests.replication.planted [--jobs 2] [--only NAME]``; exit 1 when one is not caught or has lost its place.

The table is ``planted_changes.txt``. A change is a line of the contract, a name and a file below the package; the text
that must be there exactly once, its lines behind ``-``; and what stands there instead, behind ``+``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import walspool

__all__ = ["CHANGES", "Change", "main"]

CLONE = Path(__file__).parents[2]
PACKAGE = Path(walspool.__file__).parent
#: A run that a change has made wait for ever is ended after so many seconds.
PATIENCE_S = 180
#: What is no test of a line: the table's own tests, and those that look for what nobody thought of.
LEFT_OUT = (
    "test_lines.py",
    "test_stateful.py",
    "test_concurrency.py",
    "test_feeding.py",
    "test_lifetimes.py",
    "test_failed_saves.py",
    "__pycache__",
    ".mypy_cache",
)
#: Asserts that the copy is what is tested, then tests it.
PROGRAM = """
import pathlib, sys
import walspool
home = pathlib.Path.cwd().resolve()
assert home in pathlib.Path(walspool.__file__).resolve().parents, walspool.__file__
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(home / "tmp"), "tests/replication"]))
"""


class Change(NamedTuple):
    """A planted change, and the line of the contract whose behaviour it alters."""

    line: str
    name: str
    file: str
    old: str
    new: str


def _read(block: str) -> Change:
    head, *lines = block.splitlines()
    old, new = ("\n".join(each[1:] for each in lines if each.startswith(sign)) for sign in "-+")
    line, name, file = head.split(" ")
    return Change(line, name, file, old, new)


CHANGES = [_read(each) for each in (Path(__file__).parent / "planted_changes.txt").read_text().strip().split("\n\n")]


def copy(folder: Path) -> None:
    """Everything that the tests of replication need, in ``folder``."""
    ignore = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(PACKAGE, folder / "python" / "walspool", ignore=ignore)
    shutil.copyfile(CLONE / "pyproject.toml", folder / "pyproject.toml")
    tests = folder / "tests"
    for each in ("replication", "spool", "data"):
        shutil.copytree(CLONE / "tests" / each, tests / each, ignore=ignore)
    for each in ("__init__.py", "conftest.py"):
        shutil.copyfile(CLONE / "tests" / each, tests / each)


def tests_pass(folder: Path) -> tuple[bool, str]:
    """Whether the tests of the copy pass, and the end of what they said."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "python"), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        return False, "it did not end"
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode not in (0, 1, 2):  # failed, or could not even be imported
        raise RuntimeError("\n".join(said[-20:]))
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, (failed or said or ["no output"])[-1]


def plant(change: Change, folder: Path) -> str | None:
    """Make the change in the copy; words where its old text is not there exactly once."""
    path = folder / "python" / "walspool" / change.file
    text = path.read_text(encoding="utf-8")
    count = text.count(change.old)
    if count != 1:
        return f"its old text is {count} times in {change.file}"
    path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    return None


def try_change(change: Change | None) -> tuple[bool, str]:
    """Whether the tests fail with the change (without one: pass), and what was said."""
    with tempfile.TemporaryDirectory(prefix="walspool-planted-", dir=_memory()) as name:
        folder = Path(name)
        copy(folder)
        misplaced = plant(change, folder) if change is not None else None
        if misplaced is not None:
            return False, misplaced
        passed, said = tests_pass(folder)
        return passed is (change is None), said


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main(arguments: list[str] | None = None) -> int:
    """Try every change, or those whose name holds ``--only``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="")
    options = parser.parse_args(arguments)
    chosen = [change for change in CHANGES if options.only in change.name]
    if not chosen:
        print(f"no planted change is named {options.only!r}")
        return 1
    sound, said = try_change(None)
    if not sound:
        print(f"the tests fail without any change, so they show nothing: {said}")
        return 1
    started, missed = time.monotonic(), 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for change, (caught, said) in zip(chosen, pool.map(try_change, chosen), strict=True):
            missed += not caught
            word = "caught" if caught else "NOT CAUGHT"
            print(f"{word:10} {change.line:6} {change.name}: {said[:160]}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught in {time.monotonic() - started:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
