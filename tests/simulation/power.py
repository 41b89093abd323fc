"""What a loss of power leaves of the files: what was synced, and of the rest what chance will.

It sees the syncs of the plain core alone, which makes them through ``os``; nothing of ours is cut off in the middle of
a call here, so that one directory or one file is either as it was synced last or as it is now.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Disk"]


class Disk:
    """The files below the folders of the machines, as each was synced last."""

    def __init__(self) -> None:
        #: Per inode the content.
        self._contents: dict[int, bytes] = {}
        #: Per directory, by its inode, the inode of each name.
        self._names: dict[int, dict[str, int]] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile every sync of this process is noted."""
        syncs = os.fsync, os.fdatasync
        os.fsync, os.fdatasync = map(self._noting, syncs)  # type: ignore[assignment]
        try:
            yield
        finally:
            os.fsync, os.fdatasync = syncs

    def _noting(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def noted(fd: int) -> None:
            sync(fd)
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                self._names[status.st_ino] = _inodes(fd)
            else:
                with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:  # it may be open for writing alone
                    self._contents[status.st_ino] = file.read()

        return noted

    def cut(self, folder: Path, rng: random.Random) -> None:
        """The power of the machine whose files lie in ``folder`` goes. Nobody has them open."""
        if not folder.exists():
            return
        current = _inodes(folder)
        contents = {inode: (folder / name).read_bytes() for name, inode in current.items()}
        names = current
        if rng.random() < 0.5:
            names = self._names.get(folder.stat().st_ino, {})
        for inode in sorted({*current.values(), *names.values()}):
            if inode not in contents or rng.random() < 0.5:
                contents[inode] = self._contents.get(inode, b"")
        for name in current:
            (folder / name).unlink()
        written: dict[int, Path] = {}
        for name, inode in names.items():
            if inode in written:  # a second name of one file
                os.link(written[inode], folder / name)
            else:
                (folder / name).write_bytes(contents[inode])
                written[inode] = folder / name
        self._forget(folder, contents)

    def _forget(self, folder: Path, contents: dict[int, bytes]) -> None:
        """What is there now is all durable."""
        for inode in contents:
            self._contents.pop(inode, None)
        found = _inodes(folder)
        self._names[folder.stat().st_ino] = found
        for name, inode in found.items():
            self._contents[inode] = (folder / name).read_bytes()


def _inodes(folder: Path | int) -> dict[str, int]:
    with os.scandir(folder) as found:
        return dict(sorted((each.name, each.inode()) for each in found))
