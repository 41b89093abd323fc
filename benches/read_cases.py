"""Reading a log that is in the page cache: all of it in every form, and one record in its middle."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from limits import opened, pread_crc, pread_file, preadv_file, unpack_crc, unpack_fields, unpack_file, unpack_list
from logs import FRAME_BYTES, PAYLOAD_BYTES, RECORDS, build_log, change_payloads, shared_log, wal_of
from model import Case, Contender, Run

import walspool
from walspool import core

__all__ = ["CHANGES", "ENTRIES", "POLARS", "READ_CASES", "READ_FRAMES", "SEEK", "TUPLES"]

SEEKS = 200
#: One record in 64 has its place in the index, so a seek reads up to 64.
INDEXED = 64
CHANGES_HELD = 20_000


def _file(folder: Path) -> Path:
    return wal_of(shared_log(folder.parent))


def _reading(
    read: Callable[[walspool.LogicalWalSpool], int],
    amount: int = RECORDS,
    build: Callable[[Path], Path] = build_log,
) -> Contender:
    """``read`` on an open log; what it returns must be ``amount``."""

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        with walspool.open(build(folder / "read") / "log") as spool:

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


def _polars(spool: walspool.LogicalWalSpool) -> int:
    polars: Any = importlib.import_module("polars")
    return len(polars.DataFrame(spool.arrow_stream()))


@contextmanager
def _loads_each(folder: Path) -> Iterator[Run]:
    """``json.loads`` of each payload, all of them in memory."""
    path = shared_log(folder.parent, records=CHANGES_HELD, payloads=change_payloads) / "log"
    with walspool.open(path, read_only=True) as spool:
        payloads = [payload for _, payload in spool.read_since(0)]

    def run() -> None:
        for payload in payloads:
            json.loads(payload)

    yield Run(CHANGES_HELD, run)


def _middle(spool: walspool.LogicalWalSpool) -> int:
    found = 0
    for step in range(SEEKS):
        found += len(spool.read_since(RECORDS // 2 + step * 7, 1))
    return found


def _pread_records(records: int) -> Contender:
    """One ``pread`` for each seek, of the record alone or of the ``records`` that the index leads to."""

    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        with opened(_file(folder), os.O_RDONLY) as fd:

            def run() -> None:
                for step in range(SEEKS):
                    first = (RECORDS // 2 + step * 7) // records * records
                    os.pread(fd, FRAME_BYTES * records, first * FRAME_BYTES)

            yield Run(SEEKS, run)

    return ready


@contextmanager
def _scan(folder: Path) -> Iterator[Run]:
    path = _file(folder)

    def run() -> None:
        assert core.scan(path).records == RECORDS

    yield Run(RECORDS, run)


_PREAD = pread_file(_file, RECORDS)
_PREADV = preadv_file(_file, RECORDS)
_UNPACK = unpack_file(_file, RECORDS, PAYLOAD_BYTES)
_UNPACK_FIELDS = unpack_fields(_file, RECORDS, PAYLOAD_BYTES)
_UNPACK_CRC = unpack_crc(_file, RECORDS, PAYLOAD_BYTES)
_UNPACK_LIST = unpack_list(_file, RECORDS, PAYLOAD_BYTES)
_CRC = pread_crc(_file, RECORDS)
_BUILD_CHANGES = partial(build_log, records=CHANGES_HELD, payloads=change_payloads)

TUPLES = Case(
    "replay tuples",
    "records",
    _reading(_tuples),
    {"unpack fields": _UNPACK_FIELDS, "iter_unpack": _UNPACK, "unpack+crc": _UNPACK_CRC, "pread": _PREAD},
)
ENTRIES = Case(
    "replay entries",
    "records",
    _reading(_entries),
    {"unpack fields": _UNPACK_FIELDS, "iter_unpack": _UNPACK, "unpack+crc": _UNPACK_CRC},
)
CHANGES = Case(
    "read_since, changes",
    "records",
    _reading(lambda spool: len(spool.read_since(0)), CHANGES_HELD, _BUILD_CHANGES),
    {"json.loads": _loads_each},
)
READ_FRAMES = Case("read_frames", "records", _reading(_frames), {"preadv": _PREADV, "pread": _PREAD, "pread+crc": _CRC})
SEEK = Case(
    "seek, one record",
    "records",
    _reading(_middle, SEEKS),
    {"pread 64": _pread_records(INDEXED), "pread record": _pread_records(1)},
)
#: Only where polars is installed.
POLARS = Case("arrow_stream, polars", "records", _reading(_polars), {"preadv": _PREADV})

#: In the order of the table.
READ_CASES = [
    TUPLES,
    ENTRIES,
    Case("read_since, all", "records", _reading(lambda spool: len(spool.read_since(0))), {"unpack list": _UNPACK_LIST}),
    CHANGES,
    READ_FRAMES,
    Case("scan", "records", _scan, {"pread": _PREAD, "pread+crc": _CRC}),
    SEEK,
]
if importlib.util.find_spec("pyarrow") is not None:
    READ_CASES.insert(5, Case("arrow_stream", "records", _reading(_arrow), {"pread": _PREAD, "pread+crc": _CRC}))
if importlib.util.find_spec("polars") is not None:
    READ_CASES.insert(5, POLARS)
