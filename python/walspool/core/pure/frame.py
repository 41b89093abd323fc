"""Bytes to frames and back, all layouts; no I/O.

Little-endian, CRC-32 (zlib's) over everything between the magic and the checksum::

    version 3    RDLW 03 term:8           lsn:8 timestamp_ms:8 length:4 payload crc32:4
    version 3w   RDLW 03 term:8 epoch:8   lsn:8 timestamp_ms:8 length:4 payload crc32:4   (read only)
    version 2    RDLW 02                  lsn:8 timestamp_ms:8 length:4 payload crc32:4   (read only)
    version 1    RDLW 01                  lsn:8                length:8 payload           (read only)
"""

# No annotations as texts here: those of a NamedTuple would be compiled, one by one, at each start of a program.

import struct
import zlib
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from walspool.core.pure.change import change_term
from walspool.core.pure.entry import Entry
from walspool.errors import FrameCorrupt, PayloadTooLarge
from walspool.records import check_u64

__all__ = [
    "CRC",
    "LEGACY",
    "MAGIC",
    "MAX_PAYLOAD",
    "OVERHEAD",
    "TORN",
    "V1",
    "V2",
    "V3",
    "WIDE",
    "Bad",
    "Frame",
    "Memory",
    "Read",
    "Source",
    "check_payload",
    "copy_buffer",
    "copy_payload",
    "crc32",
    "crc_mismatch",
    "decode_frame",
    "encode_frame",
    "entry_of",
    "fact",
    "frame_parts",
    "legacy_term",
    "read_frame",
]

MAGIC: Final = b"RDLW"
MAX_PAYLOAD: Final = 256 << 20
_MAX_U32: Final = 2**32 - 1

V3: Final = struct.Struct("<4sBQQQI")
WIDE: Final = struct.Struct("<4sBQQQQI")
V2: Final = struct.Struct("<4sBQQI")
V1: Final = struct.Struct("<4sBQQ")
CRC: Final = struct.Struct("<I")
#: What a written frame has besides its payload.
OVERHEAD: Final = V3.size + CRC.size


class Frame(NamedTuple):
    """A frame that was found whole and, from version 2 on, with a matching checksum."""

    end: int
    lsn: int
    term: int | None
    timestamp_ms: int
    epoch: int
    version: int
    wide: bool
    body: int
    body_end: int
    #: The last four bytes of the frame; its checksum from version 2 on.
    tail: int

    @property
    def plain(self) -> bool:
        """Whether the frame has the layout that is written today."""
        return self.version == 3 and not self.wide


class Bad(NamedTuple):
    """Why there is no frame at a place: the class of the reason, and the same in words."""

    stop: str
    reason: str


TORN: Final = Bad("torn", "torn frame")
LEGACY: Final = Bad("legacy", "version 1 frame that can't be trusted")


class Source(Protocol):
    """Bytes that frames are read from: a file, or a buffer."""

    end: int
    #: Frames up to this many bytes are held in one piece; larger ones are checked piece by piece.
    hold: int

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes there; fewer only where ``end`` comes first."""

    def data_end(self) -> int:
        """Where the last byte that is not zero ends."""


Read: TypeAlias = Frame | Bad


def crc32(data: Any, value: int = 0) -> int:
    """CRC-32 (ISO-HDLC, zlib's) of ``data``, going on from ``value``."""
    if not 0 <= value <= _MAX_U32:
        raise OverflowError(f"value must be between 0 and 2**32-1, not {value}")
    return zlib.crc32(_contiguous(data, ""), value)


def copy_payload(data: Any, index: int | None = None) -> bytes:
    """An immutable copy of a payload that may be written; bytes are their own copy."""
    if type(data) is bytes:
        _check_size(len(data), index)
        return data
    view = _contiguous(data, "" if index is None else f"records[{index}]: ")
    _check_size(view.nbytes, index)
    return view.tobytes()


def check_payload(data: Any, index: int | None = None) -> None:
    """Refuse what ``copy_payload`` would refuse, without the copy."""
    _check_size(_contiguous(data, "" if index is None else f"records[{index}]: ").nbytes, index)


def copy_buffer(data: Any) -> bytes:
    """An immutable copy of any bytes-like object."""
    return data if type(data) is bytes else _contiguous(data, "").tobytes()


def _contiguous(data: Any, where: str) -> memoryview:
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"{where}data must be a bytes-like object, not {type(data).__name__}") from None
    if not view.c_contiguous:
        raise ValueError(f"{where}data must be a contiguous buffer")
    # A view with a zero in its shape can't be cast to bytes.
    return view if view.nbytes else memoryview(b"")


def _check_size(size: int, index: int | None) -> None:
    if size > MAX_PAYLOAD:
        raise PayloadTooLarge(size=size, limit=MAX_PAYLOAD, **fact(index))


def fact(index: int | None) -> dict[str, Any]:
    """The fact of an error that names an item of a list, where there is one."""
    return {} if index is None else {"index": index}


def encode_frame(lsn: int, data: Any, *, term: int = 1, timestamp_ms: int = 0) -> bytes:
    """One version 3 frame."""
    check_u64("lsn", lsn)
    check_u64("term", term)
    check_u64("timestamp_ms", timestamp_ms)
    return b"".join(frame_parts(lsn, copy_payload(data), term, timestamp_ms))


def frame_parts(lsn: int, payload: bytes, term: int, timestamp_ms: int) -> tuple[bytes, bytes, bytes]:
    """Header, payload and checksum of a version 3 frame, from arguments that were checked."""
    header = V3.pack(MAGIC, 3, term, lsn, timestamp_ms, len(payload))
    return header, payload, CRC.pack(zlib.crc32(payload, zlib.crc32(header[4:])))


def decode_frame(buffer: Any, offset: int = 0) -> tuple[Entry, int]:
    """The entry of the frame at ``offset``, of any layout, and where the next begins; ``FrameCorrupt`` else."""
    check_u64("offset", offset)
    source = Memory(buffer)
    if offset > source.end:
        raise ValueError(f"offset {offset} is past the end of {source.end} bytes")
    head = source.view(offset, WIDE.size).tobytes()
    if head[:4] == MAGIC and head[4:5] == b"\x01":
        # What could speak against a version 1 frame is not in a buffer.
        frame = _read_v1(source, offset, head)
    else:
        frame = read_frame(source, offset, wide=False, last_lsn=-1, legacy=False)
    if isinstance(frame, Bad):
        raise FrameCorrupt(reason=frame.reason, offset=offset)
    return entry_of(source, frame), frame.end


class Memory:
    """A buffer as a source of frames."""

    def __init__(self, buffer: Any) -> None:
        self._view = _contiguous(buffer, "").cast("B")
        self.end = self.hold = len(self._view)

    def view(self, offset: int, length: int) -> memoryview:
        """The bytes there."""
        return self._view[offset : offset + length]

    def data_end(self) -> int:
        """Where the last byte that is not zero ends."""
        return len(self._view.tobytes().rstrip(b"\0"))


def entry_of(source: Source, frame: Frame) -> Entry:
    """The record in ``frame``."""
    payload = source.view(frame.body, frame.body_end - frame.body).tobytes()
    term = legacy_term(payload) if frame.term is None else frame.term
    return Entry(frame.lsn, term, frame.timestamp_ms, payload, frame.version, frame.epoch or None)


def legacy_term(payload: Any) -> int:
    """The term of a record whose frame has none."""
    change = change_term(payload)
    return 1 if change is None else change[0]


def read_frame(source: Source, offset: int, wide: bool, last_lsn: int, legacy: bool) -> Read:
    """The frame at ``offset``. ``wide`` and ``last_lsn`` are those of the frame before, ``legacy`` allows version 1."""
    head = source.view(offset, WIDE.size).tobytes()
    if head[:4] != MAGIC:
        return TORN if len(head) < 4 and MAGIC.startswith(head) else Bad("magic", "wrong magic")
    if len(head) == 4:
        return TORN
    version = head[4]
    if version == 3:
        first = _read_v3(source, offset, head, wide)
        if isinstance(first, Frame) and first.lsn > last_lsn:
            return first
        other = _read_v3(source, offset, head, not wide)
        if isinstance(other, Frame) and (isinstance(first, Bad) or other.lsn > last_lsn):
            return other
        return first
    if version == 2:
        return _read_v2(source, offset, head)
    if version == 1:
        frame = _read_v1(source, offset, head)
        return frame if isinstance(frame, Bad) or (legacy and _believed(source, offset, head, frame)) else LEGACY
    return Bad("version", f"unknown version {version}")


def _read_v3(source: Source, offset: int, head: bytes, wide: bool) -> Read:
    layout = WIDE if wide else V3
    if len(head) < layout.size:
        return TORN
    fields = layout.unpack_from(head)
    term, lsn, timestamp_ms, length = fields[2], fields[-3], fields[-2], fields[-1]
    tail = _checked(source, offset, layout.size, length)
    if isinstance(tail, Bad):
        return tail
    body = offset + layout.size
    end = body + length
    return Frame(end + 4, lsn, term, timestamp_ms, fields[3] if wide else 0, 3, wide, body, end, tail)


def _read_v2(source: Source, offset: int, head: bytes) -> Read:
    if len(head) < V2.size:
        return TORN
    _, _, lsn, timestamp_ms, length = V2.unpack_from(head)
    tail = _checked(source, offset, V2.size, length)
    if isinstance(tail, Bad):
        return tail
    body = offset + V2.size
    return Frame(body + length + 4, lsn, None, timestamp_ms, 0, 2, False, body, body + length, tail)


def _read_v1(source: Source, offset: int, head: bytes) -> Read:
    if len(head) < V1.size:
        return TORN
    _, _, lsn, length = V1.unpack_from(head)
    body = offset + V1.size
    end = body + length
    if length > MAX_PAYLOAD:
        return _implausible(length)
    if end > source.end:
        return TORN
    (tail,) = CRC.unpack(source.view(end - 4, 4))
    return Frame(end, lsn, None, 0, 0, 1, False, body, end, tail)


def _believed(source: Source, offset: int, head: bytes, frame: Frame) -> bool:
    """Without a checksum a frame counts only where it stands to reason: one flipped bit makes a 1 of a 3."""
    follows = source.view(frame.end, 4).tobytes()
    if len(follows) == 4 and follows != MAGIC and source.data_end() > frame.end:
        return False
    for version, layout in ((2, V2), (3, V3), (3, WIDE)):
        if len(head) >= layout.size:
            length = layout.unpack_from(head)[-1]
            if isinstance(_checked(source, offset, layout.size, length, version), int):
                return False
    return True


def _checked(source: Source, offset: int, header: int, length: int, version: int | None = None) -> int | Bad:
    """The checksum of a frame if it is whole and matches, read as another ``version`` if one is given."""
    if length > MAX_PAYLOAD:
        return _implausible(length)
    total = header + length + 4
    end = offset + total
    if end > source.end:
        return TORN
    if total <= source.hold:
        frame = source.view(offset, total)
        if version is None:
            computed = zlib.crc32(frame[4:-4])
        else:
            computed = zlib.crc32(frame[5:-4], zlib.crc32(bytes((version,))))
        (stored,) = CRC.unpack(frame[-4:])
    else:
        computed = _crc_in_pieces(source, offset, end - 4, version)
        (stored,) = CRC.unpack(source.view(end - 4, 4))
    if computed != stored:
        return crc_mismatch(stored, computed)
    return int(stored)


def _crc_in_pieces(source: Source, offset: int, end: int, version: int | None) -> int:
    value = zlib.crc32(source.view(offset + 4, 1) if version is None else bytes((version,)))
    offset += 5
    while offset < end:
        piece = source.view(offset, min(source.hold, end - offset))
        value = zlib.crc32(piece, value)
        offset += len(piece)
    return value


def crc_mismatch(stored: int, computed: int) -> Bad:
    """A frame's bytes are not those that its checksum was made of."""
    return Bad("crc mismatch", f"crc mismatch (stored {stored:08x}, computed {computed:08x})")


def _implausible(length: int) -> Bad:
    return Bad("implausible", f"implausible payload length {length}")
