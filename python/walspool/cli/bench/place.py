"""Where it is measured: the file system of a folder and what else decides the price of a sync there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mount", "NotADisk", "Place", "mount_of", "place_of"]

MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"}


class NotADisk(Exception):
    """The folder lies in memory, where a sync costs nothing and a figure says nothing."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system; question marks where the system does not tell."""

    file_system: str
    device: str
    mount_point: str
    options: str


@dataclass(frozen=True, slots=True)
class Place:
    """A folder and its file system."""

    folder: str
    file_system: str
    device: str
    mount_point: str
    options: str
    #: What else decides the price of a sync: the device's write cache, a missing journal.
    details: str

    def __str__(self) -> str:
        details = f", {self.details}" if self.details else ""
        return f"{self.folder}: {self.file_system} on {self.device} ({self.options}){details}"


def place_of(folder: Path) -> Place:
    """The file system of a folder; ``NotADisk`` where it is in memory."""
    number = folder.stat().st_dev
    mount = mount_of(folder.resolve())
    if mount.file_system in IN_MEMORY:
        raise NotADisk(f"{folder} is on {mount.file_system}: memory has no sync rate; name a folder on a disk")
    block = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    details = _details(mount.file_system, block)
    return Place(str(folder), mount.file_system, mount.device, mount.mount_point, mount.options, details)


def mount_of(folder: Path) -> Mount:
    """What is mounted where an absolute path without links leads to, from /proc."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    found, longest = Mount("?", "?", "?", "?"), -1
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point, options = fields.split()[4:6]
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point)
        # Of two mounts on one point the later covers the earlier.
        if folder.is_relative_to(point) and len(point) >= longest:
            kind, device, others = [*rest.split(), "", "", ""][:3]
            every = ",".join(dict.fromkeys([*options.split(","), *others.split(",")]))
            found, longest = Mount(kind, device, point, every), len(point)
    return found


def _details(file_system: str, block: Path) -> str:
    # a partition has no queue of its own
    caches = filter(None, (_first_line(each / "queue" / "write_cache") for each in (block, block.parent)))
    found = [f"write cache: {each}" for each in caches]
    if _first_line(Path("/sys/fs", file_system, block.name, "journal_task")) == "<none>":
        found.append("no journal")
    return ", ".join(found)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
