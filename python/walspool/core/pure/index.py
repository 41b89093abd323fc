"""What is known of one file: LSN to offset, the valid prefix, the report of a scan, and the sidecar that keeps it."""

from __future__ import annotations

import struct
import zlib
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

__all__ = ["INTERVAL", "Index", "Prefix", "ScanReport", "decode_sidecar", "encode_sidecar"]

#: A checkpoint for each record whose ordinal is a multiple of this.
INTERVAL: Final = 64
_WIDE: Final = 1 << 63


class Index:
    """LSN to offset, one checkpoint for each 64th record. Shared, and only ever appended to."""

    def __init__(self) -> None:
        self._lsns = array("Q")
        # Bit 63 says that the frame there has the wide layout.
        self._places = array("Q")

    def add(self, lsn: int, offset: int, wide: bool) -> None:
        """Note a checkpoint; one whose LSN is not above the last one's is left out."""
        if self._lsns and lsn <= self._lsns[-1]:
            return
        # The place first: who finds an LSN finds its place.
        del self._places[len(self._lsns) :]
        self._places.append(offset | (_WIDE if wide else 0))
        self._lsns.append(lsn)

    def checkpoints(self) -> list[tuple[int, int]]:
        """All checkpoints as (lsn, offset), ascending."""
        return [(lsn, place & ~_WIDE) for lsn, place in zip(self._lsns, self._places, strict=False)]

    def seek(self, since_lsn: int) -> int:
        """Offset of the last checkpoint with ``lsn <= since_lsn``, else 0."""
        floor = self.floor(since_lsn)
        return 0 if floor is None else floor[1]

    def floor(self, since_lsn: int) -> tuple[int, int, bool] | None:
        """The last checkpoint with ``lsn <= since_lsn`` as (lsn, offset, wide)."""
        at = bisect_right(self._lsns, since_lsn) - 1
        if at < 0:
            return None
        place = self._places[at]
        return self._lsns[at], place & ~_WIDE, bool(place & _WIDE)

    def places(self) -> list[tuple[int, int]]:
        """All checkpoints as (lsn, offset with bit 63 for the wide layout)."""
        return list(zip(self._lsns, self._places, strict=False))

    def __len__(self) -> int:
        return len(self._lsns)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanReport:
    """What is known of one file; the attributes are those of the core's contract."""

    records: int = 0
    valid_bytes: int = 0
    file_bytes: int = 0
    base_lsn: int = 0
    first_lsn: int | None = None
    last_lsn: int | None = None
    highest_lsn: int = 0
    highest_term: int = 0
    last_term: int = 0
    ordered: bool = True
    reframe: bool = False
    v1_bytes: int = 0
    last_wide: bool = False
    tail_crc: int = 0
    index: Index
    marked_bytes: int = 0
    stop: str | None = None
    reason: str = ""
    zero_tail: bool = False
    behind_frames: int = 0
    behind_first_lsn: int | None = None
    behind_highest_lsn: int = 0
    behind_end: int = 0
    behind_any: bool = False
    foreign: bool = False


#: What a prefix and a report have in common.
_FACTS: Final = (
    "records",
    "valid_bytes",
    "base_lsn",
    "first_lsn",
    "last_lsn",
    "highest_lsn",
    "highest_term",
    "last_term",
    "ordered",
    "reframe",
    "v1_bytes",
    "last_wide",
    "tail_crc",
    "index",
)


_facts = attrgetter(*_FACTS)


class Prefix:
    """The valid prefix of a file while it grows, frame by frame."""

    __slots__ = (*_FACTS, "fresh")

    def __init__(self, base_lsn: int) -> None:
        self.records = 0
        self.valid_bytes = 0
        self.base_lsn = base_lsn
        self.first_lsn: int | None = None
        self.last_lsn: int | None = None
        self.highest_lsn = base_lsn
        self.highest_term = 0
        self.last_term = 0
        self.ordered = True
        self.reframe = False
        self.v1_bytes = 0
        self.last_wide = False
        self.tail_crc = 0
        self.index = Index()
        # Checkpoints that are not in the shared index yet.
        self.fresh: list[tuple[int, int, bool]] = []

    @classmethod
    def of(cls, known: Any) -> Prefix:
        """A prefix to go on from: that of a report, or a copy of another prefix. The index is shared."""
        prefix = cls.__new__(cls)
        for fact, value in zip(_FACTS, _facts(known), strict=True):
            setattr(prefix, fact, value)
        prefix.fresh = []
        return prefix

    @property
    def before_lsn(self) -> int:
        """LSN of the record before the next one."""
        return self.base_lsn if self.last_lsn is None else self.last_lsn

    @property
    def all_v1(self) -> bool:
        """Whether there is no newer frame yet, behind which a version 1 frame would be damage."""
        return self.v1_bytes == self.valid_bytes

    def add(self, end: int, lsn: int, term: int, timestamp_ms: int, version: int, wide: bool, tail: int) -> None:
        """Take in the frame from where the prefix ends to ``end``."""
        if self.records % INTERVAL == 0:
            self.fresh.append((lsn, self.valid_bytes, wide))
        if version == 1:
            self.v1_bytes = end
        if version != 3 or wide or timestamp_ms == 0:
            self.reframe = True
        if lsn > self.highest_lsn:
            self.highest_lsn = lsn
        else:
            self.ordered = False
        if term > self.highest_term:
            self.highest_term = term
        if self.first_lsn is None:
            self.first_lsn = lsn
        self.last_lsn = lsn
        self.last_term = term
        self.last_wide = wide
        self.tail_crc = tail
        self.records += 1
        self.valid_bytes = end

    def publish_index(self) -> None:
        """Hand the new checkpoints to the shared index. Doing so twice does no harm."""
        for checkpoint in self.fresh:
            self.index.add(*checkpoint)

    def report(self, **evidence: Any) -> ScanReport:
        """The report of a file that holds this prefix, and what ``evidence`` says besides."""
        self.publish_index()
        known = {fact: getattr(self, fact) for fact in _FACTS}
        return ScanReport(**{"file_bytes": self.valid_bytes, "marked_bytes": self.valid_bytes, **known, **evidence})


# The sidecar of a sealed segment, little-endian: the fields below, the checkpoints (lsn u64, offset u64 with bit 63
# for the wide layout), extra_len u32, extra, crc32 u32 over everything before it.

_SIDECAR: Final = struct.Struct("<4sBBH16sQIIQQQQQQQQQ")
_CHECKPOINT: Final = struct.Struct("<QQ")
_U32: Final = struct.Struct("<I")
_SIDECAR_MAGIC: Final = b"WSPI"
_SIDECAR_VERSION: Final = 1
_ORDERED, _REFRAME, _LAST_WIDE = 1, 2, 4


def encode_sidecar(spool_id: bytes, prev_lsn: int, report: ScanReport, extra: bytes = b"") -> bytes:
    """The index sidecar of the file that ``report`` describes."""
    if len(spool_id) != 16:
        raise ValueError("spool_id must have 16 bytes")
    # A writer may have gone on since, and the index is shared.
    places = [place for place in report.index.places() if place[1] & ~_WIDE < report.valid_bytes]
    head = _SIDECAR.pack(
        _SIDECAR_MAGIC,
        _SIDECAR_VERSION,
        _ORDERED * report.ordered | _REFRAME * report.reframe | _LAST_WIDE * report.last_wide,
        0,
        spool_id,
        report.valid_bytes,
        report.tail_crc,
        len(places),
        report.records,
        report.base_lsn,
        prev_lsn,
        report.first_lsn or 0,
        report.last_lsn or 0,
        report.highest_lsn,
        report.highest_term,
        report.last_term,
        report.v1_bytes,
    )
    body = b"".join((head, *(_CHECKPOINT.pack(*place) for place in places), _U32.pack(len(extra)), extra))
    return body + _U32.pack(zlib.crc32(body))


def decode_sidecar(data: Any) -> tuple[bytes, int, ScanReport, bytes]:
    """``(spool_id, prev_lsn, report, extra)`` of a sidecar; ``ValueError`` with the reason when it is none."""
    data = bytes(memoryview(data))
    if len(data) < _SIDECAR.size + 2 * _U32.size:
        raise ValueError("the sidecar is too short")
    if data[:4] != _SIDECAR_MAGIC:
        raise ValueError("not a sidecar")
    if data[4] != _SIDECAR_VERSION:
        raise ValueError(f"unknown sidecar version {data[4]}")
    if _U32.unpack(data[-4:])[0] != zlib.crc32(data[:-4]):
        raise ValueError("the sidecar's checksum does not match")
    _, _, flags, reserved, spool_id, valid_bytes, tail_crc, count, *numbers = _SIDECAR.unpack_from(data)
    records, base_lsn, prev_lsn, first_lsn, last_lsn, highest_lsn, highest_term, last_term, v1_bytes = numbers
    end = _SIDECAR.size + count * _CHECKPOINT.size
    if end + 2 * _U32.size > len(data) or end + 2 * _U32.size + _U32.unpack_from(data, end)[0] != len(data):
        raise ValueError("the sidecar's lengths do not match")
    if flags & ~(_ORDERED | _REFRAME | _LAST_WIDE) or reserved:
        raise ValueError("the sidecar has unknown flags")
    report = ScanReport(
        records=records,
        valid_bytes=valid_bytes,
        file_bytes=valid_bytes,
        base_lsn=base_lsn,
        first_lsn=first_lsn if records else None,
        last_lsn=last_lsn if records else None,
        highest_lsn=highest_lsn,
        highest_term=highest_term,
        last_term=last_term,
        ordered=bool(flags & _ORDERED),
        reframe=bool(flags & _REFRAME),
        v1_bytes=v1_bytes,
        last_wide=bool(flags & _LAST_WIDE),
        tail_crc=tail_crc,
        index=Index(),
        marked_bytes=valid_bytes,
    )
    _check_sense(report, list(_CHECKPOINT.iter_unpack(data[_SIDECAR.size : end])))
    return spool_id, prev_lsn, report, data[end + _U32.size : -_U32.size]


def _check_sense(report: ScanReport, places: list[tuple[int, int]]) -> None:
    """Take the checkpoints in. A sidecar that contradicts itself is none, whatever its checksum."""
    offset = -1
    for lsn, place in places:
        if place & ~_WIDE <= offset:
            break
        offset = place & ~_WIDE
        report.index.add(lsn, offset, bool(place & _WIDE))
    begins = not places or (places[0][0], places[0][1] & ~_WIDE) == (report.first_lsn, 0)
    most = -(-report.records // INTERVAL)
    if len(report.index) != len(places) or offset >= report.valid_bytes > 0 or not begins or len(places) > most:
        raise ValueError("the sidecar's checkpoints make no sense")
    empty = report.records == 0
    last_lsn = report.base_lsn if report.last_lsn is None else report.last_lsn
    if (
        empty != (report.valid_bytes == 0)
        or empty != (not places)
        or report.highest_lsn < max(report.base_lsn, last_lsn)
        or report.v1_bytes > report.valid_bytes
        or report.last_term > report.highest_term
    ):
        raise ValueError("the sidecar's numbers make no sense")
