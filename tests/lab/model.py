"""What the disk may hold at each moment of a record.

A file is durable content plus versions written since: for each 512-byte sector and for the size, whatever was
written after the last sync that covers it. A sync covers what had ended before it started. A directory is durable
entries plus operations since; only a sync of the directory covers those. A failed sync covers nothing, and what was
dirty then is never made durable by a later one (the kernel marks such pages clean); it has to be written again.
An fdatasync is not trusted with the size.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from tests.lab.record import NEVER, Call, Event, Op, Said, Start

SECTOR = 512
DIRECTORY = -1
T = TypeVar("T")


@dataclass(slots=True)
class Version(Generic[T]):
    """One sector's content, or the file's size, as one call left it."""

    value: T
    op: Op
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class FileChoices:
    """What one file may look like: the durable image, the sizes, and the sectors that can differ (durable first)."""

    image: bytes
    sizes: tuple[int, ...]
    sectors: tuple[tuple[int, tuple[bytes, ...]], ...]


@dataclass(slots=True)
class DirOp:
    """A change of directory entries: each name and what it becomes (None: gone). It happens whole or not at all."""

    effects: tuple[tuple[str, int | None], ...]
    op: Op
    waits_for: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that can be chosen at one moment, and how many notes had been made by then."""

    names: dict[str, int]
    pending: tuple[DirOp, ...]
    files: dict[int, FileChoices]
    notes: int


class File:
    """One inode."""

    def __init__(self, content: bytes = b"") -> None:
        self.live = bytearray(content)
        self.image = bytearray(content)
        self.size = len(content)
        self.sectors: dict[int, list[Version[bytes]]] = {}
        self.sizes: list[Version[int]] = []
        self._choices: FileChoices | None = None

    def _sector(self, number: int) -> bytes:
        return bytes(self.live[number * SECTOR : (number + 1) * SECTOR]).ljust(SECTOR, b"\0")

    def _durable(self, number: int) -> bytes:
        return bytes(self.image[number * SECTOR : (number + 1) * SECTOR]).ljust(SECTOR, b"\0")

    def _touch(self, first: int, last: int, op: Op) -> None:
        for number in range(first, last + 1):
            content = self._sector(number)
            versions = self.sectors.get(number)
            if versions is None:
                if content == self._durable(number):
                    continue
                versions = self.sectors[number] = []
            versions.append(Version(content, op))

    def write(self, op: Op) -> None:
        """A write, as far as it got."""
        data = op.data if op.end == NEVER else op.data[: max(op.result, 0)]
        if not data:
            return
        stop = op.a + len(data)
        if stop > len(self.live):
            self.live.extend(bytes(stop - len(self.live)))
            self.sizes.append(Version(stop, op))
        self.live[op.a : stop] = data
        self._touch(op.a // SECTOR, (stop - 1) // SECTOR, op)
        self._choices = None

    def resize(self, size: int, op: Op) -> None:
        """A truncation, or an extension by zeros."""
        old = len(self.live)
        if size == old:
            return
        if size < old:
            del self.live[size:]
            self._touch(size // SECTOR, (old - 1) // SECTOR, op)
        else:
            self.live.extend(bytes(size - old))
        self.sizes.append(Version(size, op))
        self._choices = None

    def synced(self, sync: Op) -> None:
        """A sync that did its work."""
        for number, versions in list(self.sectors.items()):
            covered = _covered(versions, sync)
            if covered is None:
                continue
            start = number * SECTOR
            if len(self.image) < start + SECTOR:
                self.image.extend(bytes(start + SECTOR - len(self.image)))
            self.image[start : start + SECTOR] = versions[covered].value
            del versions[: covered + 1]
            if not versions:
                del self.sectors[number]
        covered = None if sync.data_only else _covered(self.sizes, sync)
        if covered is not None:
            self.size = self.sizes[covered].value
            del self.sizes[: covered + 1]
        self._choices = None

    def sync_failed(self) -> None:
        """The dirty pages are clean now, and not on the disk."""
        for versions in self.sectors.values():
            for version in versions:
                version.dropped = True

    def choices(self) -> FileChoices:
        """The present choices; the same object until something changes."""
        if self._choices is None:
            sectors = []
            for number, versions in sorted(self.sectors.items()):
                options = tuple(dict.fromkeys([self._durable(number), *(v.value for v in versions)]))
                if len(options) > 1:
                    sectors.append((number, options))
            sizes = tuple(dict.fromkeys([self.size, *(v.value for v in self.sizes)]))
            self._choices = FileChoices(bytes(self.image).rstrip(b"\0"), sizes, tuple(sectors))
        return self._choices


def _covered(versions: Sequence[Version[bytes] | Version[int]], sync: Op) -> int | None:
    for index in range(len(versions) - 1, -1, -1):
        if versions[index].op.end < sync.begin and not versions[index].dropped:
            return index
    return None


class Model:
    """Follows a record, event by event."""

    def __init__(self, folder: Path, base: str = "") -> None:
        """`folder` as it is now, all of it durable. `base` is its name in the record."""
        self.base = base
        self.files: dict[int, File] = {}
        self.names: dict[str, int] = {}
        self.pending: list[DirOp] = []
        self.by_inode: dict[int, int] = {}
        self.notes: list[Said] = []
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_dir():
                self.names[name] = DIRECTORY
                continue
            self.by_inode[path.stat().st_ino] = self.names[name] = len(self.files)
            self.files[len(self.files)] = File(path.read_bytes())
        self.live = dict(self.names)

    def _local(self, name: str) -> str | None:
        if not self.base:
            return name
        if name == self.base:
            return ""
        return name.removeprefix(self.base + "/") if name.startswith(self.base + "/") else None

    def _file(self, op: Op) -> File | None:
        number = self.by_inode.get(op.ino)
        return None if number is None else self.files[number]

    def apply(self, event: Event) -> bool:
        """Takes one event; True if it may have changed what a crash leaves."""
        if isinstance(event, Said):
            self.notes.append(event)
            return True
        op = event.op
        name = self._local(op.name)
        if name is None:
            return False
        return self._start(op, name) if isinstance(event, Start) else self._finish(op, name)

    def _start(self, op: Op, name: str) -> bool:
        if not op.ok or op.call in (Call.SYNC, Call.READ, Call.OPEN):
            return False
        file = self._file(op)
        if op.call is Call.WRITE and file:
            file.write(op)
        elif op.call is Call.TRUNCATE and file:
            file.resize(op.a, op)
        elif op.call is Call.ALLOCATE and file:
            if op.flags == 0 and op.a + op.b > len(file.live):
                file.resize(op.a + op.b, op)
        elif op.call is Call.RENAME:
            new = self._local(op.name2)
            assert name in self.live, f"rename of {op.name!r}, which nobody created"
            assert new is not None, f"rename of {op.name!r} to elsewhere"
            self._change(op, ((name, None), (new, self.live[name])))
        elif op.call is Call.LINK:
            new = self._local(op.name2)
            assert name in self.live, f"link of {op.name!r}, which nobody created"
            assert new is not None, f"link of {op.name!r} to elsewhere"
            self._change(op, ((new, self.live[name]),))
        elif op.call is Call.UNLINK:
            self._change(op, ((name, None),))
        elif op.call is Call.MKDIR:
            self._change(op, ((name, DIRECTORY),))
        return True

    def _change(self, op: Op, effects: tuple[tuple[str, int | None], ...]) -> None:
        _take_effect(self.live, effects)
        self.pending.append(DirOp(effects, op, {os.path.dirname(name) for name, _ in effects}))

    def _finish(self, op: Op, name: str) -> bool:
        if op.call is Call.OPEN and op.result >= 0:
            return self._opened(op, name)
        if op.call is not Call.SYNC or op.lied:
            return False
        if op.is_dir:
            if op.result == 0:
                self._dir_synced(op, name)
        elif file := self._file(op):
            if op.result == 0:
                file.synced(op)
            else:
                file.sync_failed()
        return True

    def _opened(self, op: Op, name: str) -> bool:
        if name in self.live:
            if op.a & os.O_TRUNC and self.live[name] != DIRECTORY:
                self.files[self.live[name]].resize(0, op)
                return True
            return False
        if not op.a & os.O_CREAT or name == "":
            return False
        number = self.by_inode[op.result_ino] = len(self.files)
        self.files[number] = File()
        self._change(op, ((name, number),))
        return True

    def _dir_synced(self, sync: Op, folder: str) -> None:
        kept = []
        for change in self.pending:
            if change.op.end < sync.begin:
                change.waits_for.discard(folder)
            if change.waits_for:
                kept.append(change)
            else:
                _take_effect(self.names, change.effects)
        self.pending = kept

    def frontier(self) -> Frontier:
        """What can be chosen now."""
        reachable = {number for number in self.names.values() if number != DIRECTORY}
        for change in self.pending:
            reachable.update(n for _, n in change.effects if n is not None and n != DIRECTORY)
        files = {number: self.files[number].choices() for number in sorted(reachable)}
        return Frontier(dict(self.names), tuple(self.pending), files, len(self.notes))

    def live_tree(self) -> dict[str, bytes]:
        """The files as the running system sees them."""
        return {name: bytes(self.files[n].live) for name, n in self.live.items() if n != DIRECTORY}


def _take_effect(names: dict[str, int], effects: tuple[tuple[str, int | None], ...]) -> None:
    for name, number in effects:
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


def frontiers(model: Model, events: list[Event]) -> Iterator[Frontier]:
    """One for each moment at which a crash can leave something new."""
    yield model.frontier()
    for event in events:
        if model.apply(event):
            yield model.frontier()
