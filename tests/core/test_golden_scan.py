"""The golden files, as one core sees one file."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit

GOLDEN = Path(__file__).parent.parent / "data" / "golden"


def _cases(kind: str) -> dict[str, dict[str, Any]]:
    folders = sorted(path.parent for path in GOLDEN.glob("*/expected.json"))
    loaded = {folder.name: json.loads((folder / "expected.json").read_text()) for folder in folders}
    return {name: case for name, case in loaded.items() if case["kind"] == kind}


SPOOLS = _cases("spool")
PRUNES = _cases("prune")
READABLE = [name for name, case in SPOOLS.items() if "raises" not in case["walspool"]]
#: Where the older release read all that there is. (The newer one's read puts the frame's epoch into payloads.)
READ = [name for name in READABLE if SPOOLS[name]["reference"]["records"] >= SPOOLS[name]["walspool"]["records"]]


def _expected(case: dict[str, Any]) -> dict[str, Any]:
    """What the newer release read where the older could not, and what walspool must do before both."""
    newer = case.get("reference_newer", {})
    better = newer if newer.get("records", -1) > case["reference"]["records"] else {}
    return {**case["reference"], **better, **case["walspool"]}


def _data(payload: bytes) -> dict[str, Any]:
    if len(payload) > 160:
        return {"len": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    return {"len": len(payload), "hex": payload.hex()}


def _listed(items: list[dict[str, Any]], expected: dict[str, Any], name: str) -> None:
    """Compare with a list of the golden file, of which a long one keeps only its ends and a hash."""
    wanted = expected[name]
    digest = expected.get(f"{name}_sha256")
    if digest is None:
        assert items == wanted
        return
    assert items[:3] == wanted[:3]
    assert items[-3:] == wanted[-3:]
    text = json.dumps(items, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == digest


@pytest.fixture
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the case's file."""
    name = request.node.callspec.params["name"]
    return Path(shutil.copy(GOLDEN / name / "spool.rdb.logical.wal", tmp_path))


@pytest.mark.parametrize("name", SPOOLS)
def test_scan(core: ModuleType, name: str, path: Path) -> None:
    case, before = SPOOLS[name], path.read_bytes()
    report = core.scan(path)
    assert path.read_bytes() == before
    assert report.file_bytes == case["input"]["bytes"]
    expected = _expected(case)
    assert report.foreign == ("raises" in expected)
    if report.foreign:
        return
    verdict = "corrupt" if report.behind_frames else "torn" if report.stop else "clean"
    assert verdict == expected["verdict"]
    assert report.records == expected["records"]
    assert report.valid_bytes == report.marked_bytes == expected.get("kept_bytes", case["input"]["bytes"])
    assert report.file_bytes - report.valid_bytes == expected["cut_bytes"]
    assert max(report.highest_lsn, report.behind_highest_lsn) == expected["current_lsn"]
    assert report.behind_frames == expected.get("valid_frames_behind", 0)
    assert report.first_lsn == expected.get("oldest_lsn", report.first_lsn)
    assert report.ordered == (not expected.get("file_order", False))
    assert bool(report.reason) == (report.stop is not None)
    assert report.zero_tail == (report.stop is None and report.valid_bytes < report.file_bytes)
    if report.stop and "reason_class" in expected and report.records == case["reference"]["records"]:
        assert report.stop == expected["reason_class"]
    if "checkpoints" in expected and report.records == case["reference"]["records"]:
        checkpoints = [tuple(checkpoint) for checkpoint in expected["checkpoints"]]
        assert report.index.checkpoints() == core.build_seek_index(path) == checkpoints
    for since, offset in expected.get("seek_floor", []):
        assert report.index.seek(since) == offset


@pytest.mark.parametrize("name", READABLE)
def test_entries(core: ModuleType, name: str, path: Path) -> None:
    expected = _expected(SPOOLS[name])
    entries = kit.read_all(core, path)
    assert len(entries) == expected["records"]
    if "layouts" in expected:
        assert [entry[4] for entry in entries] == [int(layout[1]) for layout in expected["layouts"]]
    if len(expected["entries"]) > len(entries):
        # What walspool cuts and the reference kept.
        expected["entries"] = expected["entries"][: len(entries)]
    keys = expected["entries"][0] if expected["entries"] else {}
    shown = [
        {"term": term, "lsn": lsn, "timestamp": timestamp_ms, "data": _data(payload)}
        | ({"ownership_epoch": epoch} if "ownership_epoch" in keys else {})
        for lsn, term, timestamp_ms, payload, _, epoch in entries
    ]
    _listed(shown, expected, "entries")


@pytest.mark.parametrize("name", READ)
def test_reads(core: ModuleType, name: str, path: Path) -> None:
    expected = _expected(SPOOLS[name])
    report = core.scan(path)
    file = kit.open_file(core, path)
    for read in expected["reads"]:
        reader = core.Reader(file, path, report, since_lsn=read["since"])
        records = reader.read_tuples(read["max"], reencode=True)
        if "records_sha256" not in read:
            # What walspool cuts and the reference kept.
            read["records"] = [each for each in read["records"] if each["lsn"] <= report.highest_lsn][: report.records]
        _listed([{"lsn": lsn, "data": _data(payload)} for lsn, payload in records], read, "records")


@pytest.mark.parametrize("name", PRUNES)
def test_what_a_prune_keeps(core: ModuleType, name: str, path: Path, tmp_path: Path) -> None:
    case = PRUNES[name]
    expected = {**case.get("reference", {}), **case.get("reference_newer", {}), **case["walspool"]}
    report = core.scan(path)
    target = tmp_path / "target"
    reader = core.Reader(kit.open_file(core, path), path, report, since_lsn=case["prune_through"])
    now = 1_700_000_099_000
    copied = core.copy_frames(reader, kit.open_file(core, target), target, stamp_ms=now)
    assert kit.facts(copied) == {**kit.facts(core.scan(target)), "base_lsn": 0}
    assert copied.valid_bytes == target.stat().st_size
    assert not copied.reframe
    entries = kit.read_all(core, target)
    shown = [
        {"term": term, "lsn": lsn, "timestamp": "NOW" if timestamp_ms == now else timestamp_ms, "data": _data(payload)}
        for lsn, term, timestamp_ms, payload, _, _ in entries
    ]
    for each in expected["entries_after"]:
        each.pop("ownership_epoch", None)
    _listed(shown, expected, "entries_after")
    if expected.get("file_after"):
        masked = bytearray(target.read_bytes())
        for offset, length in expected["file_after"]["zeroed"]:
            masked[offset : offset + length] = bytes(length)
        assert bytes(masked) == (GOLDEN / name / expected["file_after"]["file"]).read_bytes()
