"""Where it is measured: a folder on a real disk, and the words for it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["DEFAULT_FOLDER", "NotADisk", "Place", "own_folder", "place_of", "scratch"]

#: The POSIX folder for temporary files that survive a restart, so on a disk nearly everywhere.
DEFAULT_FOLDER = Path("/var/tmp")
IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"}


class NotADisk(Exception):
    """The folder lies in memory, where a sync costs nothing and a figure says nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder's file system and the machine, as far as the system tells."""

    folder: str
    file_system: str
    device: str
    mount_point: str
    options: str
    #: What else decides the price of a sync: the device's write cache, a missing journal.
    details: str
    system: str
    processors: int
    python: str

    def __str__(self) -> str:
        return (
            f"{self.folder}: {self.file_system} on {self.device} ({self.options}){self.details}\n"
            f"{self.system}, {self.processors} processors, CPython {self.python}"
        )

    def facts(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def place_of(folder: Path) -> Place:
    """The file system of a folder; ``NotADisk`` where it is in memory."""
    kind, device, point, options = _mount(folder.resolve())
    if kind in IN_MEMORY:
        raise NotADisk(f"{folder} is on {kind}, where a sync costs nothing; give a folder on a disk with --dir")
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    processors = os.cpu_count() or 0
    details = _details(kind, Path(device).name)
    return Place(str(folder), kind, device, point, options, details, system, processors, platform.python_version())


def _details(kind: str, device: str) -> str:
    found = ""
    cache = _first_line(Path("/sys/class/block", device, "queue", "write_cache"))
    if cache:
        found += f", write cache: {cache}"
    if _first_line(Path("/sys/fs", kind, device, "journal_task")) == "<none>":
        found += ", no journal"
    return found


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _mount(folder: Path) -> tuple[str, str, str, str]:
    """Type, device, mount point and options, from /proc; four question marks where there is none."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return "?", "?", "?", "?"
    found, best = ("?", "?", "?", "?"), -1
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])
        # Of two mounts on one point the later covers the earlier.
        if folder.is_relative_to(point) and len(point) >= best:
            kind, device, super_options = [*rest.split(), "", "", ""][:3]
            options = ",".join(dict.fromkeys([*fields.split()[5].split(","), *super_options.split(",")]))
            found, best = (kind, device, point, options), len(point)
    return found


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
