"""What frames can't say: ``.state``, synced before anything relies on it, and ``.mark``, never synced."""

# No annotations as texts here: those of a NamedTuple would be compiled, one by one, at each start of a program.

import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from walspool import core
from walspool.errors import SpoolCorrupt
from walspool.records import Position
from walspool.spool import files as fs
from walspool.spool.files import SpoolFiles

__all__ = [
    "MARK_BYTES",
    "Mark",
    "State",
    "create_mark",
    "keep_spare",
    "load_mark",
    "load_state",
    "new_spool_id",
    "save_state",
]

MARK_BYTES = 512
_MARK_MAGIC = b"WSPM"
_MARK_VERSION = 1
#: magic, version, padding, spool id, reserved, LSN; the sector ends with the CRC-32 of all before it.
_MARK_HEAD = struct.Struct("<4sB3x16s8xQ")
_CRC = struct.Struct("<I")

_STATE_VERSION = 1
_STATE_HEAD = re.compile(rb"walspool-state (\d+) crc32=([0-9a-f]{8})\n")
#: A state file is padded to a multiple of this, so that its replacement fits into the spare kept for a full disk.
_STATE_BLOCK = 4096
_MAX_STATE_BYTES = 64 << 20
_U64 = 2**64 - 1


def new_spool_id() -> bytes:
    """16 random bytes that tell the files of one spool from those of another."""
    return os.urandom(16)


class State(NamedTuple):
    """The durable facts of a spool that its frames don't hold."""

    spool_id: bytes
    #: No new LSN at or below it is accepted.
    lsn_floor: int = 0
    #: The highest term known.
    term: int = 1
    #: Records at or below it are pruned, whether their bytes are gone or not.
    pruned_through: int = 0
    #: The last record that was pruned.
    boundary: Position | None = None
    #: The highest term in which another primary was met, 0 for none; own records need a higher one.
    fence: int = 0
    #: The highest LSN that was ever moved to a sealed segment.
    sealed_through: int = 0
    #: LSN ranges (first, last) that were acknowledged and are lost.
    holes: tuple[tuple[int, int], ...] = ()
    #: Set while ``restart_at`` is under way: the position that the log is to start behind.
    restart: Position | None = None
    #: Fields of a later release, kept as they are.
    extra: Mapping[str, Any] = MappingProxyType({})

    def with_hole(self, first: int, last: int) -> "State":
        """This state with one more lost range; new LSNs start above it."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted((*self.holes, (first, last))):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        return self._replace(holes=tuple(merged), lsn_floor=max(self.lsn_floor, last))

    def is_lost(self, first: int, last: int) -> bool:
        """Whether the whole range is known to be lost."""
        return any(low <= first and last <= high for low, high in self.holes)

    def restarted(self) -> "State":
        """This state once the restart that is under way is done; the same where there is none."""
        position = self.restart
        if position is None:
            return self
        return State(
            self.spool_id,
            lsn_floor=position.lsn,
            term=max(position.term, 1),
            pruned_through=position.lsn,
            boundary=position if position.lsn else None,
            sealed_through=position.lsn,
            fence=self.fence,
            extra=self.extra,
        )

    def encode(self) -> bytes:
        """The file's content, laid out in docs/format.md."""
        body = dict(self.extra)
        body.update(
            spool_id=self.spool_id.hex(),
            lsn_floor=self.lsn_floor,
            term=self.term,
            fence=self.fence,
            pruned_through=self.pruned_through,
            boundary=_position_out(self.boundary),
            sealed_through=self.sealed_through,
            holes=[list(each) for each in self.holes],
            restart=_position_out(self.restart),
        )
        text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        head_bytes = len(b"walspool-state 1 crc32=00000000\n")
        padding = -(head_bytes + len(text) + 1) % _STATE_BLOCK
        text += b" " * padding + b"\n"
        return b"walspool-state %d crc32=%08x\n" % (_STATE_VERSION, core.crc32(text)) + text

    @classmethod
    def decode(cls, data: bytes) -> "State":
        """The state in a file's content; ``ValueError`` says what is wrong with it."""
        head = _STATE_HEAD.match(data)
        if head is None:
            raise ValueError("it does not begin as a state file does" if data else "it is empty")
        if int(head[1]) != _STATE_VERSION:
            raise ValueError(f"it has format version {int(head[1])}, this release reads {_STATE_VERSION}")
        text = data[head.end() :]
        if core.crc32(text) != int(head[2], 16):
            raise ValueError("its checksum does not match")
        body = json.loads(text)
        holes = tuple((_u64(low), _u64(high)) for low, high in body.pop("holes"))
        return cls(
            spool_id=bytes.fromhex(body.pop("spool_id")),
            boundary=_position_in(body.pop("boundary")),
            restart=_position_in(body.pop("restart")),
            holes=holes,
            lsn_floor=_u64(body.pop("lsn_floor")),
            term=_u64(body.pop("term")),
            fence=_u64(body.pop("fence", 0)),
            pruned_through=_u64(body.pop("pruned_through")),
            sealed_through=_u64(body.pop("sealed_through")),
            extra=body,
        )


def _u64(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _U64:
        raise ValueError(f"it holds {value!r} where an unsigned 64-bit number belongs")
    return value


def _position_out(position: Position | None) -> list[int] | None:
    return None if position is None else [position.term, position.lsn, position.crc]


def _position_in(value: Any) -> Position | None:
    if value is None:
        return None
    term, lsn, crc = value
    return Position(_u64(term), _u64(lsn), _u64(crc))


def load_state(files: SpoolFiles) -> State | None:
    """The state of a spool, ``None`` where there is no file. Unreadable: ``SpoolCorrupt``."""
    try:
        fd = fs.open_regular(files.state)
    except FileNotFoundError:
        return None
    try:
        data = fs.pread_exactly(fd, _MAX_STATE_BYTES, 0, files.state)
    finally:
        os.close(fd)
    try:
        return State.decode(data)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise SpoolCorrupt(path=files.state, reason=reason) from error


def save_state(files: SpoolFiles, state: State) -> None:
    """Replace the state file atomically and durably.

    The new content goes into a spare file whose blocks are there already, so that this works on a full disk,
    where a prune must be able to say what it removes.
    """
    data = state.encode()
    fd = fs.create(files.state_spare, exclusive=False)
    try:
        fs.pwrite_all(fd, data, 0, files.state_spare)
        if os.fstat(fd).st_size != len(data):
            with fs.names_path(files.state_spare):
                os.ftruncate(fd, len(data))
        fs.sync_file(fd, files.state_spare)
    finally:
        os.close(fd)
    fs.rename(files.state_spare, files.state)
    keep_spare(files, len(data))


def keep_spare(files: SpoolFiles, length: int) -> None:
    """Keep blocks for the next state; where there is no room, the next change of state makes its own."""
    try:
        fd = fs.create(files.state_spare, exclusive=False)
        try:
            missing = length - os.fstat(fd).st_size
            if missing > 0:
                fs.pwrite_all(fd, bytes(missing), length - missing, files.state_spare)
        finally:
            os.close(fd)
    except OSError as error:
        if not fs.no_room(error):
            raise


class Mark(NamedTuple):
    """The durable mark: the highest LSN known durable when it was written."""

    lsn: int
    spool_id: bytes
    #: The sector as it was read, so that fields of a later release survive.
    sector: bytes = bytes(MARK_BYTES)

    @classmethod
    def new(cls, spool_id: bytes, lsn: int, sector: bytes = bytes(MARK_BYTES)) -> "Mark":
        """A mark with its sector made anew on top of ``sector``."""
        head = _MARK_HEAD.pack(_MARK_MAGIC, _MARK_VERSION, spool_id, lsn)
        body = head[:24] + sector[24:32] + head[32:] + sector[40 : MARK_BYTES - 4]
        return cls(lsn, spool_id, body + _CRC.pack(core.crc32(body)))

    @classmethod
    def decode(cls, sector: bytes) -> "Mark | None":
        """The mark in a sector, ``None`` where it can't be read."""
        if len(sector) != MARK_BYTES:
            return None
        magic, version, spool_id, lsn = _MARK_HEAD.unpack_from(sector)
        (crc,) = _CRC.unpack_from(sector, MARK_BYTES - 4)
        if magic != _MARK_MAGIC or version != _MARK_VERSION or crc != core.crc32(sector[:-4]):
            return None
        return cls(lsn, spool_id, sector)


def load_mark(path: Path, *, tries: int = 1) -> tuple[Mark | None, bool]:
    """The mark in a file, ``None`` where there is none to be read, and whether the file is there.

    A reader beside a live writer tries again: it may have read while the sector was being rewritten.
    """
    try:
        fd = fs.open_regular(path)
    except FileNotFoundError:
        return None, False
    try:
        found = (Mark.decode(fs.pread_exactly(fd, MARK_BYTES + 1, 0, path)) for _ in range(tries))
        return next((mark for mark in found if mark is not None), None), True
    finally:
        os.close(fd)


def create_mark(path: Path, mark: Mark) -> None:
    """Write a mark where none could be read; its creation is durable on return."""
    fd = fs.create(path, exclusive=False)
    try:
        fs.pwrite_all(fd, mark.sector, 0, path)
        if os.fstat(fd).st_size != MARK_BYTES:
            with fs.names_path(path):
                os.ftruncate(fd, MARK_BYTES)
        fs.sync_file(fd, path)
    finally:
        os.close(fd)
    fs.sync_directory(path.parent)
