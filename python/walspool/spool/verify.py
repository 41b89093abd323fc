"""Reading every byte of a log and saying what is wrong with it. Changes nothing."""

from __future__ import annotations

import os

from walspool import core
from walspool.errors import SpoolCorrupt
from walspool.spool.files import SpoolFiles
from walspool.spool.reports import Problem, VerifyReport
from walspool.spool.segments import Segment, Snapshot, load_sidecar
from walspool.spool.state import load_state

__all__ = ["verify"]


def verify(view: Snapshot, files: SpoolFiles) -> VerifyReport:
    """Check each segment of a snapshot, its sidecar, the state file and the ranges known to be lost."""
    problems: list[Problem] = []
    records = size = 0
    try:
        load_state(files)
    except SpoolCorrupt as error:
        problems.append(Problem(files.state, None, None, None, error.reason))
    for first, last in view.state.holes:
        problems.append(Problem(view.active.path, None, first, last, "acknowledged records are lost"))
    for segment in view.everything():
        found = _scan(segment, problems)
        records, size = records + found.records, size + found.valid_bytes
        if segment is not view.active and found.valid_bytes >= segment.report.valid_bytes:
            _check_sidecar(view, files, segment, found, problems)
    return VerifyReport(not problems, records, size, len(view.everything()), tuple(problems))


def _scan(segment: Segment, problems: list[Problem]) -> core.ScanReport:
    known = segment.report
    found = core.scan_file(
        segment.file,
        segment.path,
        base_lsn=known.base_lsn,
        mark=known.highest_lsn,
        until_lsn=known.highest_lsn,
    )
    if found.valid_bytes < known.valid_bytes:
        reason = found.reason or f"it holds {found.valid_bytes} bytes of records where {known.valid_bytes} belong"
        problems.append(Problem(segment.path, found.valid_bytes, found.highest_lsn + 1, known.highest_lsn, reason))
    return found


def _check_sidecar(
    view: Snapshot, files: SpoolFiles, segment: Segment, found: core.ScanReport, problems: list[Problem]
) -> None:
    path = files.sidecar(segment.path)
    if not os.path.exists(path):
        return  # it is not needed, or was pruned while this ran
    beside = load_sidecar(view.state.spool_id, segment.path)
    if beside is None:
        problems.append(Problem(path, None, None, None, "it can't be used; the next open for writing rebuilds it"))
    elif (beside[0].valid_bytes, beside[0].tail_crc) != (found.valid_bytes, found.tail_crc):
        problems.append(Problem(path, None, None, None, "it does not fit its segment"))
    elif beside[0].index.checkpoints() != found.index.checkpoints():
        problems.append(Problem(path, None, None, None, "its index does not fit its segment"))
