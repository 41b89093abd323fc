"""Records of the older versions that are larger than what is read at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.core import kit

pyarrow: Any = importlib.import_module("pyarrow")

BUILD = pytest.mark.parametrize("build", [kit.v1, kit.v2])
SIZE = pytest.mark.parametrize("size", [40_000, 3 << 20])
BEFORE = pytest.mark.parametrize("before", [0, 2], ids=["alone", "last"])
Build = Callable[[int, bytes], bytes]


@BUILD
@SIZE
@BEFORE
def test_a_core_reads_it(core: ModuleType, tmp_path: Path, build: Build, size: int, before: int) -> None:
    records = [(lsn, b"small") for lsn in range(1, before + 1)] + [(before + 1, b"x" * size)]
    path = tmp_path / "log"
    path.write_bytes(b"".join(build(lsn, payload) for lsn, payload in records))
    file = kit.open_file(core, path)
    report = core.scan_file(file, path)
    assert (report.records, report.stop, report.valid_bytes) == (before + 1, None, path.stat().st_size)

    def reader(since: int = 0) -> Any:
        return core.Reader(file, path, report, since_lsn=since)

    assert kit.flat(reader().tuple_runs()) == reader().read_tuples() == records
    assert [(entry.lsn, entry.payload) for entry in kit.flat(reader().entry_runs())] == records
    assert [(entry.lsn, entry.payload) for entry in reader().read_entries()] == records
    assert reader(before).read_tuples(1) == records[-1:]
    data, count, first, last = reader().read_frames(64 << 20)
    assert (count, first, last) == (before + 1, 1, before + 1)
    assert core.decode_frame(data[-(size + 37) :])[0].payload == records[-1][1]


@BUILD
@SIZE
@BEFORE
def test_a_spool_reads_and_prunes_it(core: ModuleType, tmp_path: Path, build: Build, size: int, before: int) -> None:
    records = [(lsn, b"small") for lsn in range(1, before + 1)] + [(before + 1, b"x" * size)]
    base = tmp_path / "orders"
    path = Path(walspool.LogicalWalSpool.path_for(base))
    path.write_bytes(b"".join(build(lsn, payload) for lsn, payload in records))
    with walspool.open(base) as spool:
        assert spool.read_since(0) == records
        assert pyarrow.table(spool.arrow_stream())["payload"].to_pylist() == [payload for _, payload in records]
        assert spool.prune_through(before).records == before
        assert spool.read_since(0) == records[-1:]
        assert spool.append_next(b"next") == before + 2
    with walspool.open(base) as spool:
        assert spool.read_since(0) == [*records[-1:], (before + 2, b"next")]
