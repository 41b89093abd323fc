"""The index sidecar of a sealed file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit

ID = bytes(range(16))
LOG = kit.v1(5) + kit.v2(7) + kit.wide(9, term=3) + kit.log(10, 200)


def report_of(core: ModuleType, tmp_path: Path, data: bytes, base_lsn: int = 0) -> Any:
    path = tmp_path / "log"
    path.write_bytes(data)
    return core.scan_file(kit.open_file(core, path), path, base_lsn=base_lsn)


@pytest.mark.parametrize("data", [b"", kit.v3(5), LOG, kit.log(5, 70) + kit.wide(71), kit.v3(9) + kit.v3(8)])
def test_what_is_encoded_decodes_to_the_same(core: ModuleType, tmp_path: Path, data: bytes) -> None:
    report = report_of(core, tmp_path, data, base_lsn=4)
    sidecar = core.encode_sidecar(ID, 3, report, b"of a later release")
    spool_id, prev_lsn, decoded, extra = core.decode_sidecar(sidecar)
    assert (spool_id, prev_lsn, extra) == (ID, 3, b"of a later release")
    assert kit.facts(decoded) == kit.facts(report)
    assert core.encode_sidecar(spool_id, prev_lsn, decoded, extra) == sidecar


def test_its_layout(core: ModuleType, tmp_path: Path) -> None:
    data = kit.log(5, 69) + kit.wide(70, term=9)
    sidecar = core.encode_sidecar(ID, 4, report_of(core, tmp_path, data, base_lsn=4))
    size = len(kit.v3(1))
    numbers = (66, 4, 4, 5, 70, 70, 9, 9, 0)
    body = struct.pack("<4sBBH16sQI", b"WSPI", 1, 1 | 2 | 4, 0, ID, len(data), int.from_bytes(data[-4:], "little"))
    body += struct.pack("<I9Q", 2, *numbers) + struct.pack("<4Q", 5, 0, 69, 64 * size) + struct.pack("<I", 0)
    assert sidecar == body + struct.pack("<I", zlib.crc32(body))


def test_a_checkpoint_keeps_the_layout_of_its_frame(core: ModuleType, tmp_path: Path) -> None:
    data = kit.log(1, 64) + kit.wide(65) + kit.v3(66)
    report = report_of(core, tmp_path, data)
    sidecar = core.encode_sidecar(ID, 0, report)
    _, second = struct.unpack_from("<QQ", sidecar, 112 + 16)
    assert second == 1 << 63 | 64 * len(kit.v3(1))
    _, _, decoded, _ = core.decode_sidecar(sidecar)
    reader = core.Reader(kit.open_file(core, tmp_path / "log"), tmp_path / "log", decoded, since_lsn=65)
    assert [lsn for lsn, _ in reader.read_tuples()] == [66]


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def changed(sidecar: bytes, offset: int, value: bytes) -> bytes:
    return sealed(sidecar[:offset] + value + sidecar[offset + len(value) : -4])


def test_every_flipped_bit_and_every_cut_is_found(core: ModuleType, tmp_path: Path) -> None:
    sidecar = core.encode_sidecar(ID, 0, report_of(core, tmp_path, LOG), b"ex")
    for bit in range(len(sidecar) * 8):
        with pytest.raises(ValueError, match="sidecar"):
            core.decode_sidecar(kit.flip(sidecar, bit // 8, bit % 8))
    for size in range(len(sidecar)):
        with pytest.raises(ValueError, match="sidecar"):
            core.decode_sidecar(sidecar[:size])
    for other in (sidecar + b"\0", bytes(len(sidecar)), b""):
        with pytest.raises(ValueError, match="sidecar"):
            core.decode_sidecar(other)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (4, b"\x02"),
        (5, b"\x09"),
        (6, b"\x01"),
        (36, struct.pack("<I", 2**32 - 1)),
        (36, struct.pack("<I", 2)),
        (40, struct.pack("<Q", 0)),
        (24, struct.pack("<Q", 0)),
        (24, struct.pack("<Q", 9)),
        (80, struct.pack("<Q", 1)),
        (88, struct.pack("<Q", 0)),
        (104, struct.pack("<Q", 2**40)),
        (112, struct.pack("<Q", 6)),
        (120, struct.pack("<Q", 1)),
        (112 + 16, struct.pack("<Q", 5)),
        (112 + 24, struct.pack("<Q", 0)),
    ],
)
def test_a_sidecar_that_contradicts_itself_is_none(core: ModuleType, tmp_path: Path, offset: int, value: bytes) -> None:
    sidecar = core.encode_sidecar(ID, 0, report_of(core, tmp_path, LOG))
    assert core.decode_sidecar(changed(sidecar, 56, struct.pack("<Q", 3)))[1] == 3
    with pytest.raises(ValueError, match="sidecar"):
        core.decode_sidecar(changed(sidecar, offset, value))


def test_it_ends_where_its_report_ends(core: ModuleType, tmp_path: Path) -> None:
    writer = kit.Writer(core, tmp_path)
    writer.append()
    report = writer.appender.summary()
    for _ in range(100):
        writer.append()
    _, _, decoded, _ = core.decode_sidecar(core.encode_sidecar(ID, 0, report))
    assert decoded.index.checkpoints() == [(1, 0)]


def test_the_id_has_16_bytes(core: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        core.encode_sidecar(b"short", 0, report_of(core, tmp_path, b""))
