"""The programs of the demo's replicas: ``apply`` and ``load`` keep a tree of files, ``give`` streams one."""

from __future__ import annotations

import base64
import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

import walspool
from walspool.cli.demo.tree import DemoFailed, Tree, put

__all__ = ["apply", "give", "held", "load"]


def apply(target: Path) -> None:
    """Write each record's file, and answer its LSN. Nothing is synced: the demo kills processes, and cuts no power."""
    for line in sys.stdin.buffer:
        lsn, _, _, payload = line.split(b"\t")
        put(int(lsn), walspool.ChangeRecord.decode(base64.b64decode(payload)), target)
        sys.stdout.buffer.write(lsn + b"\n")
        sys.stdout.buffer.flush()


def held(tree: Tree, folder: Path) -> int:
    """The LSN through which a folder has the files."""
    return next((lsn for lsn, name in enumerate(tree.names) if not (folder / name).exists()), len(tree.names))


def give(manifest: Path, folder: Path) -> None:
    """The LSN that the files in ``folder`` stand for, on a line; then each as its record, its length before it."""
    tree = Tree.load(manifest)
    with walspool.open(os.environ["WALSPOOL_DATA_PATH"], read_only=True) as log:
        lsn = min(held(tree, folder), log.current_lsn)
    out = sys.stdout.buffer
    out.write(b"%d\n" % lsn)
    for index in range(lsn):
        payload = tree.change(index).encode()
        out.write(len(payload).to_bytes(4, "little") + payload)
    out.flush()


def load(target: Path) -> None:
    """Replace the tree by a snapshot, once all of that is there."""
    lsn, fresh = int(os.environ["WALSPOOL_LSN"]), target.with_name(f"{target.name}.loading")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    files = 0
    while length := _read(sys.stdin.buffer, 4):
        payload = _read(sys.stdin.buffer, int.from_bytes(length, "little"))
        files += 1
        put(files, walspool.ChangeRecord.decode(payload), fresh)
    if files != lsn:
        raise DemoFailed(f"the snapshot of LSN {lsn} has {files} files")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def _read(source: BinaryIO, size: int) -> bytes:
    """So many bytes; none at the end."""
    data = source.read(size)
    if 0 < len(data) < size:
        raise DemoFailed("the snapshot breaks off")
    return data


if __name__ == "__main__":
    work, *paths = sys.argv[1:]
    folder = Path(paths[-1])
    if work == "give":
        give(Path(paths[0]), folder)
    elif work == "load":
        load(folder)
    else:
        apply(folder)
