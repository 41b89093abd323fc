"""Reads what the preloaded library wrote: calls with their start and end, and the program's notes, in one order."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_HEAD = struct.Struct("<IBBHQQqqqiHH")
_BEGIN, _END, _NOTE = range(3)
NEVER = 1 << 62


class Call(IntEnum):
    """The classes of calls, numbered as in shim.c."""

    OPEN = 1
    READ = 2
    WRITE = 3
    SYNC = 4
    TRUNCATE = 5
    ALLOCATE = 6
    RENAME = 7
    UNLINK = 8
    MKDIR = 9
    LINK = 10


class Note(IntEnum):
    """What a workload says about itself."""

    SUBMIT = 1  # a = id: this payload is about to be appended
    ACK = 2  # a = id, b = lsn: its append returned
    PRUNE = 3  # a = lsn: about to prune
    PRUNED = 4  # a = lsn: the prune returned
    PUBLISHED = 5  # a = lsn: an opening returned with this current_lsn; each record it showed follows as SHOWN
    SHOWN = 6  # a = id, b = lsn: an opening returned this record to a reader
    SECTION = 7  # a = number: from here on another directory is worked on
    SLOT = 8  # a = number of a replica, b = slot_state: memory is about to have this
    SAVED = 9  # a = bits of replicas: what was last said of their slots is on the disk


@dataclass(slots=True)
class Op:
    """One call. `begin` and `end` are places in the order of the record; an end that never came is NEVER."""

    call: Call
    flags: int
    ino: int
    a: int
    b: int
    name: str
    name2: str
    data: bytes
    begin: int
    end: int = NEVER
    result: int = 0
    result_ino: int = 0

    @property
    def lied(self) -> bool:
        """A sync that was reported and not done."""
        return bool(self.flags & 1)

    @property
    def data_only(self) -> bool:
        """An fdatasync."""
        return bool(self.flags & 2)

    @property
    def is_dir(self) -> bool:
        """A sync of a directory."""
        return bool(self.flags & 4)

    @property
    def ok(self) -> bool:
        """It did something; one that never returned may have."""
        return self.end == NEVER or self.result >= 0


@dataclass(frozen=True, slots=True)
class Start:
    """A call starts."""

    op: Op


@dataclass(frozen=True, slots=True)
class Finish:
    """A call has returned."""

    op: Op


@dataclass(frozen=True, slots=True)
class Said:
    """A note."""

    note: Note
    a: int
    b: int


Event = Start | Finish | Said


def read_record(path: Path, root: Path) -> list[Event]:
    """All events, in order. Names come out relative to `root` ("" is the root itself)."""
    data = path.read_bytes()
    prefix = str(root.resolve())
    events: list[Event] = []
    running: dict[int, Op] = {}
    at = 0
    while at + _HEAD.size <= len(data):
        size, phase, call, flags, token, ino, a, b, result, _error, n1, n2 = _HEAD.unpack_from(data, at)
        if at + size > len(data):
            break  # the writer was killed in the middle of it
        body = at + _HEAD.size
        if phase == _NOTE:
            events.append(Said(Note(call), a, b))
        elif phase == _BEGIN:
            name, name2 = (_relative(data[s : s + n], prefix) for s, n in ((body, n1), (body + n1, n2)))
            payload = data[body + n1 + n2 : at + size]
            op = Op(Call(call), flags, ino, a, b, name, name2, payload, begin=len(events))
            running[token] = op
            events.append(Start(op))
        else:
            op = running.pop(token)
            op.end, op.result, op.result_ino = len(events), result, ino
            events.append(Finish(op))
        at += size
    return events


def _relative(name: bytes, prefix: str) -> str:
    text = name.decode("utf-8", "surrogateescape").removesuffix(" (deleted)")
    return text.removeprefix(prefix).strip("/")


def split_sections(events: list[Event]) -> dict[int, list[Event]]:
    """The events of each directory, where one process worked on several after each other."""
    sections: dict[int, list[Event]] = {}
    current: list[Event] = []
    for event in events:
        if isinstance(event, Said) and event.note is Note.SECTION:
            current = sections.setdefault(event.a, [])
        else:
            current.append(event)
    return sections
