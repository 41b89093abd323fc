"""Reading a log that is in the page cache: all of it in every form, and one record in its middle."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limits import opened, pread_crc, pread_file, unpack_crc, unpack_file, unpack_list
from logs import FRAME_BYTES, PAYLOAD_BYTES, RECORDS, build_log, wal_of
from model import Case, Contender, Run

import walspool
from walspool import core

__all__ = ["READ_CASES"]

SEEKS = 200


def _file(folder: Path) -> Path:
    return wal_of(build_log(folder / "read"))


def _reading(read: Callable[[walspool.LogicalWalSpool], int], amount: int = RECORDS) -> Contender:
    """``read`` on an open log; what it returns must be ``amount``."""

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        with walspool.open(build_log(folder / "read") / "log", segment_bytes=None) as spool:

            def run() -> None:
                found = read(spool)
                assert found == amount, f"{found} of {amount} records were read"

            yield Run(amount, run)

    return ready


def _tuples(spool: walspool.LogicalWalSpool) -> int:
    last = 0
    for lsn, _payload in spool.tuples():
        last = lsn
    return last


def _entries(spool: walspool.LogicalWalSpool) -> int:
    last = 0
    for entry in spool.entries():
        last = entry.lsn
    return last


def _frames(spool: walspool.LogicalWalSpool) -> int:
    records = since = 0
    while (batch := spool.read_frames(since)).records:
        assert batch.last_lsn is not None
        records, since = records + batch.records, batch.last_lsn
    return records


def _arrow(spool: walspool.LogicalWalSpool) -> int:
    pyarrow: Any = importlib.import_module("pyarrow")
    return sum(batch.num_rows for batch in pyarrow.RecordBatchReader.from_stream(spool.arrow_stream()))


def _middle(spool: walspool.LogicalWalSpool) -> int:
    found = 0
    for step in range(SEEKS):
        found += len(spool.read_since(RECORDS // 2 + step * 7, 1))
    return found


@contextmanager
def _pread_records(folder: Path) -> Iterator[Run]:
    with opened(_file(folder), os.O_RDONLY) as fd:

        def run() -> None:
            for step in range(SEEKS):
                os.pread(fd, FRAME_BYTES, (RECORDS // 2 + step * 7) * FRAME_BYTES)

        yield Run(SEEKS, run)


@contextmanager
def _scan(folder: Path) -> Iterator[Run]:
    path = _file(folder)

    def run() -> None:
        assert core.scan(path).records == RECORDS

    yield Run(RECORDS, run)


_PREAD = pread_file(_file, RECORDS)
_UNPACK = unpack_file(_file, RECORDS, PAYLOAD_BYTES)
_UNPACK_CRC = unpack_crc(_file, RECORDS, PAYLOAD_BYTES)
_UNPACK_LIST = unpack_list(_file, RECORDS, PAYLOAD_BYTES)
_CRC = pread_crc(_file, RECORDS)

#: In the order of the table.
READ_CASES = [
    Case(
        "replay tuples",
        "records",
        _reading(_tuples),
        {"iter_unpack": _UNPACK, "unpack+crc": _UNPACK_CRC, "pread": _PREAD},
    ),
    Case("replay entries", "records", _reading(_entries), {"iter_unpack": _UNPACK, "unpack+crc": _UNPACK_CRC}),
    Case("read_since, all", "records", _reading(lambda spool: len(spool.read_since(0))), {"unpack list": _UNPACK_LIST}),
    Case("read_frames", "records", _reading(_frames), {"pread": _PREAD, "pread+crc": _CRC}),
    Case("scan", "records", _scan, {"pread": _PREAD, "pread+crc": _CRC}),
    Case("seek, one record", "records", _reading(_middle, SEEKS), {"pread record": _pread_records}),
]
if importlib.util.find_spec("pyarrow") is not None:
    READ_CASES.insert(4, Case("arrow_stream", "records", _reading(_arrow), {"pread": _PREAD, "pread+crc": _CRC}))
