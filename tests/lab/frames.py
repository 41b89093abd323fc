"""A decoder of its own for the checker: frames and the names of log files, from the format's table alone."""

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct("<5xQQQI")
_HEAD_2 = struct.Struct("<5xQQI")
_HEADS = {b"RDLW\x03": _HEAD, b"RDLW\x02": _HEAD_2}
OVERHEAD = _HEAD.size + 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One record as it lies in a file."""

    lsn: int
    term: int
    payload: bytes


def encode(lsn: int, payload: bytes, term: int = 1, timestamp_ms: int = 1) -> bytes:
    """One frame."""
    return _seal(b"\x03" + _HEAD.pack(term, lsn, timestamp_ms, len(payload))[5:] + payload)


def encode_2(lsn: int, payload: bytes, timestamp_ms: int) -> bytes:
    """One frame of version 2, which has no term."""
    return _seal(b"\x02" + _HEAD_2.pack(lsn, timestamp_ms, len(payload))[5:] + payload)


def _seal(body: bytes) -> bytes:
    return b"RDLW" + body + zlib.crc32(body).to_bytes(4, "little")


def decode(data: bytes) -> tuple[list[Frame], int]:
    """The frames from the start of a file, and where the first byte lies that is part of none."""
    frames, at = [], 0
    while (head := _HEADS.get(data[at : at + 5])) and at + head.size + 4 <= len(data):
        term, lsn, _, size = head.unpack_from(data, at) if head is _HEAD else (1, *head.unpack_from(data, at))
        start, stop = at + head.size, at + head.size + size
        if zlib.crc32(data[at + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "little") or stop + 4 > len(data):
            break
        frames.append(Frame(lsn, term, data[start:stop]))
        at = stop + 4
    return frames, at


def frames_behind(data: bytes) -> int:
    """How many whole frames start behind the first bad one: what a cut has to get rid of."""
    count = 0
    at = data.find(b"RDLW", decode(data)[1])
    while at >= 0:
        count += bool(decode(data[at : at + 5000])[0])
        at = data.find(b"RDLW", at + 1)
    return count


def log_files(data_path: Path) -> list[Path]:
    """Sealed segments in order, then the active one."""
    stem = data_path.name + ".logical.wal"
    sealed = [p for p in data_path.parent.iterdir() if re.fullmatch(re.escape(stem) + r"\.[0-9]{20}", p.name)]
    active = data_path.with_name(stem)
    return sorted(sealed) + ([active] if active.exists() else [])


def decode_log(data_path: Path) -> tuple[list[Frame], list[str]]:
    """All frames of a closed log, and what is wrong with its files."""
    frames, problems = [], []
    for path in log_files(data_path):
        data = path.read_bytes()
        found, stop = decode(data)
        frames += found
        if stop != len(data):
            problems.append(f"{path.name}: {len(data) - stop} bytes from {stop} on are no frame")
    return frames, problems
