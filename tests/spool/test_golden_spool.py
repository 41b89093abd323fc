"""Files that the reference wrote, opened as a user would: what comes out is what the cases say."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.conftest import GOLDEN


def _cases(kind: str) -> list[str]:
    found = sorted(path.parent.name for path in GOLDEN.glob("*/expected.json") if _kind(path) == kind)
    assert found, f"no golden cases of kind {kind} under {GOLDEN}"
    return found


def _kind(path: Path) -> str:
    return str(json.loads(path.read_text())["kind"])


def load(name: str, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """A case's expectations, and the data path of a copy that may be changed."""
    expected = json.loads((GOLDEN / name / "expected.json").read_text())
    for each in (GOLDEN / name).iterdir():
        if each.name != "expected.json":
            shutil.copyfile(each, tmp_path / each.name)
    return expected, tmp_path / "spool.rdb"


def data_of(payload: bytes) -> dict[str, Any]:
    """A payload as the cases describe it."""
    if len(payload) > 160:
        return {"len": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    return {"len": len(payload), "hex": payload.hex()}


def same_list(found: list[dict[str, Any]], case: dict[str, Any], key: str) -> None:
    """Compare with a list of a case, which for long lists keeps both ends and a checksum."""
    wanted = case[key]
    if f"{key}_sha256" in case:
        text = json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
        assert hashlib.sha256(text).hexdigest() == case[f"{key}_sha256"]
        assert found[:3] == wanted[:3]
        assert found[-3:] == wanted[-3:]
    else:
        assert found == wanted


def entries_of(spool: walspool.LogicalWalSpool, *, epoch: bool) -> list[dict[str, Any]]:
    """The log's entries as the cases describe them."""
    found = []
    for entry in spool.entries():
        each = {"term": entry.term, "lsn": entry.lsn, "timestamp": entry.timestamp_ms, "data": data_of(entry.payload)}
        if epoch:
            each["ownership_epoch"] = entry.ownership_epoch
        found.append(each)
    return found


@pytest.mark.parametrize("name", _cases("spool"))
def test_open_and_read(name: str, core: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected, data_path = load(name, tmp_path)
    wanted, reference = expected["walspool"], expected["reference"]
    active = walspool.LogicalWalSpool.path_for(data_path)
    before = active.read_bytes()
    if "raises" in wanted:
        for mode in ("truncate", "strict"):
            with pytest.raises(walspool.SpoolCorrupt) as caught:
                walspool.open(data_path, recovery=mode)
            assert str(active) in str(caught.value)
            assert active.read_bytes() == before
        return
    if wanted.get("strict_raises"):
        with pytest.raises(walspool.SpoolCorrupt):
            walspool.open(data_path, recovery="strict")
        assert active.read_bytes() == before
    else:
        strict = tmp_path / "strict"
        strict.mkdir()
        shutil.copyfile(active, strict / active.name)
        walspool.open(strict / data_path.name, recovery="strict").close()
    with caplog.at_level(logging.WARNING, "walspool"), walspool.open(data_path) as spool:
        _check_recovery(spool, wanted, before)
        warned = [each for each in caplog.records if each.name == "walspool"]
        assert bool(warned) == wanted["warn"], [each.getMessage() for each in warned]
        kept = wanted["records"] == reference["records"]
        _check_reads(spool, wanted, reference, kept=kept)
    assert active.stat().st_size == wanted.get("kept_bytes", len(before))


def _check_recovery(spool: walspool.LogicalWalSpool, wanted: dict[str, Any], before: bytes) -> None:
    found = spool.recovery
    assert (found.records, found.verdict, found.cut_bytes) == (
        wanted["records"],
        wanted["verdict"],
        wanted["cut_bytes"],
    )
    assert spool.record_count == wanted["records"]
    assert spool.current_lsn == wanted["current_lsn"]
    if "oldest_lsn" in wanted:
        assert spool.oldest_lsn == wanted["oldest_lsn"]
    if wanted.get("quarantine"):
        assert found.quarantine is not None
        assert found.quarantine.name.split("quarantine-")[1].split("-")[0] == str(wanted["quarantine_offset"])
        assert found.quarantine.read_bytes() == before[wanted["quarantine_offset"] :]
    else:
        assert found.quarantine is None


def _check_reads(
    spool: walspool.LogicalWalSpool, wanted: dict[str, Any], reference: dict[str, Any], *, kept: bool
) -> None:
    if "entries" in wanted:
        same_list(entries_of(spool, epoch=True), wanted, "entries")
    elif kept:
        same_list(entries_of(spool, epoch=False), reference, "entries")
    if "layouts" in wanted:
        names = {1: "v1", 2: "v2", 3: "v3"}
        wide = ["v3+epoch" if each.ownership_epoch is not None else names[each.version] for each in spool.entries()]
        plain = [each.split("+")[0] for each in wanted["layouts"]]
        assert [each.split("+")[0] for each in wide] == plain
    for read in wanted.get("reads", reference["reads"] if kept else []):
        found = [{"lsn": lsn, "data": data_of(data)} for lsn, data in spool.read_since(read["since"], read["max"])]
        same_list(found, read, "records")
    for since, offset in reference.get("seek_floor", []) if kept else []:
        assert spool.seek_floor_offset(since) == offset


@pytest.mark.parametrize("name", _cases("spool"))
def test_goes_on_after_recovery(name: str, core: ModuleType, tmp_path: Path) -> None:
    expected, data_path = load(name, tmp_path)
    if "raises" in expected["walspool"]:
        assert expected["walspool"]["raises"] == "SpoolCorrupt"
        return
    with walspool.open(data_path) as spool:
        before = list(spool.tuples())
        top = spool.current_lsn
        if top < 2**64 - 1:
            spool.append(top + 1, b"after recovery")
            before.append((top + 1, b"after recovery"))
    with walspool.open(data_path, recovery="strict") as spool:
        assert spool.recovery.verdict == "clean"
        assert spool.recovery.cut_bytes == 0
        assert list(spool.tuples()) == before
        assert spool.verify().ok


@pytest.mark.parametrize("rotating", [False, True])
@pytest.mark.parametrize("name", _cases("prune"))
def test_prune(name: str, rotating: bool, core: ModuleType, tmp_path: Path) -> None:
    expected, data_path = load(name, tmp_path)
    wanted = {**expected.get("reference", expected.get("reference_newer")), **expected["walspool"]}
    with walspool.open(data_path, segment_bytes=64 << 20 if rotating else None) as spool:
        assert spool.current_lsn == wanted["current_lsn_before"]
        spool.prune_through(expected["prune_through"])
        assert spool.current_lsn == wanted["current_lsn_after"]
        assert spool.oldest_lsn == wanted["oldest_lsn_after"]
        epoch = any("ownership_epoch" in each for each in wanted["entries_after"])
        _check_stamped(entries_of(spool, epoch=epoch), wanted)
        assert all(each.version == 3 and each.timestamp_ms for each in spool.entries())
        found = [{"lsn": lsn, "data": data_of(data)} for lsn, data in spool.read_since(0)]
        same_list(found, wanted, "read_since_0" if "read_since_0" in wanted else "entries_after")
        files = [each.path for each in spool.segments]
        for lsn, offset in wanted["checkpoints_after"] if wanted["file_after"] else []:
            assert spool.seek_floor_offset(lsn) == offset
    text = bytearray(b"".join(each.read_bytes() for each in files))
    if wanted["file_after"]:
        for offset, length in wanted["file_after"]["zeroed"]:
            text[offset : offset + length] = bytes(length)
        assert bytes(text) == (GOLDEN / name / wanted["file_after"]["file"]).read_bytes()
    with walspool.open(data_path) as spool:
        assert spool.current_lsn == wanted["reopened"]["current_lsn"]
        assert spool.oldest_lsn == wanted["reopened"]["oldest_lsn"]


def _check_stamped(found: list[dict[str, Any]], wanted: dict[str, Any]) -> None:
    for each, case in zip(found, wanted["entries_after"], strict=False):
        if case["timestamp"] == "NOW":
            assert each["timestamp"] > 1_700_000_000_000
            each["timestamp"] = "NOW"
    same_list(found, wanted, "entries_after")


def test_paths(core: ModuleType) -> None:
    cases = json.loads((GOLDEN / "paths" / "expected.json").read_text())["cases"]
    for case in cases:
        wanted = case.get("walspool", case["reference"])
        assert walspool.LogicalWalSpool.path_for(case["data_path"]) == Path(wanted["spool"]), case
