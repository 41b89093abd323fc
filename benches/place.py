"""Where it is measured: a folder on a real disk, and the words for it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from walspool.cli.bench import place as base
from walspool.cli.bench.place import NotADisk

__all__ = ["DEFAULT_FOLDER", "NotADisk", "Place", "own_folder", "place_of", "scratch"]

#: The POSIX folder for temporary files that survive a restart, so on a disk nearly everywhere.
DEFAULT_FOLDER = Path("/var/tmp")


@dataclass(frozen=True, slots=True)
class Place(base.Place):
    """A folder's file system and the machine, as far as the system tells."""

    system: str
    processors: int
    python: str

    def __str__(self) -> str:
        return f"{base.Place.__str__(self)}\n{self.system}, {self.processors} processors, CPython {self.python}"

    def facts(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def place_of(folder: Path) -> Place:
    """The file system of a folder; ``NotADisk`` where it is in memory."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    found = asdict(base.place_of(folder))
    return Place(**found, system=system, processors=os.cpu_count() or 0, python=platform.python_version())


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder of our own in ``folder``, gone afterwards; ``NotADisk`` where it would be in memory."""
    place_of(folder)
    with tempfile.TemporaryDirectory(prefix="walspool-bench-", dir=folder) as name:
        yield Path(name)


@contextmanager
def own_folder(disk: Path) -> Iterator[Path]:
    """A folder of a contender's own in the scratch folder, gone afterwards."""
    name = Path(tempfile.mkdtemp(dir=disk))
    try:
        yield name
    finally:
        shutil.rmtree(name)
