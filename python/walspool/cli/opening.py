"""Opening a log that must already be there: a mistyped path is an error, not an empty or a new log."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import typer

import walspool
from walspool.cli import output

__all__ = ["files_of", "judge", "must_exist", "to_read"]


def files_of(data_path: Path) -> list[os.DirEntry[str]]:
    """Every file that belongs to the log."""
    active = walspool.LogicalWalSpool.path_for(data_path)
    with os.scandir(active.parent) as entries:
        return [each for each in entries if each.name.startswith(active.name)]


def must_exist(data_path: Path) -> None:
    """``FileNotFoundError`` where there is no log. The lock alone is none: it stays when nothing else does."""
    if data_path.is_dir() or any(not each.name.endswith(".lock") for each in files_of(data_path)):
        return  # what is wrong with a directory, the open says
    path = walspool.LogicalWalSpool.path_for(data_path)
    raise FileNotFoundError(errno.ENOENT, "there is no such log", str(path))


def to_read(data_path: Path) -> walspool.LogicalWalSpool:
    """The log, opened read-only: no lock, no repair, beside a live writer."""
    must_exist(data_path)
    return walspool.open(data_path, read_only=True)


def judge(spool: walspool.LogicalWalSpool) -> None:
    """End with 1 when the open found damaged records that were acknowledged."""
    if spool.recovery.verdict == "corrupt":
        output.flush()
        output.complain(f"{spool.path} is damaged: {spool.recovery.reason}; mend it with 'walspool repair'")
        raise typer.Exit(1)
