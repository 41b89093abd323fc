"""``walspool repair``: rebuild what can't be read, and let a person lower the LSN floor knowingly."""

from __future__ import annotations

import errno
import os
import time

from walspool import core
from walspool.errors import SpoolCorrupt
from walspool.spool.files import SpoolFiles
from walspool.spool.inspection import Inspection, inspect
from walspool.spool.lock import WriterLock, read_lock_file
from walspool.spool.recovery import Recovered, recover, report_of, settled_state
from walspool.spool.reports import RepairReport
from walspool.spool.restart import finish_restart
from walspool.spool.segments import Segment, Snapshot, open_file
from walspool.spool.state import Mark, State, create_mark, load_mark, load_state, new_spool_id, save_state

__all__ = ["repair"]


def repair(files: SpoolFiles, *, dry_run: bool, lsn_floor: int | None) -> RepairReport:
    """Bring a spool back to where an ordinary open works, cutting what is damaged, and say what that took."""
    if not any(os.path.lexists(each) for each in (files.active, files.state, files.mark)) and not files.list_sealed():
        raise FileNotFoundError(errno.ENOENT, "there is no log here", str(files.active))
    if dry_run:
        return _plan(files, lsn_floor)
    lock = WriterLock(files.lock)
    try:
        actions: list[str] = []
        if (under_way := _restart_under_way(files)) is not None:
            finish_restart(files, lock)
            actions.append(f"The restart behind LSN {under_way} is carried through.")
        if _state_problem(files) is not None:
            state = _rebuilt_state(files)
            save_state(files, state)
            actions.append(_rebuilt_words(files, state))
        done = recover(files, lock, strict=False, thorough=True)
        report = done.report()
        actions += _recovery_words(report.verdict, report.reason, report.cut_bytes, done.state.lsn_floor)
        if report.quarantine is not None:
            actions.append(f"What was cut is saved as {report.quarantine.name}.")
        floor = done.state.lsn_floor
        if lsn_floor is not None:
            actions += _lower_floor(files, done, lsn_floor)
            floor = lsn_floor
        return RepairReport(bool(actions), tuple(actions), floor, report)
    finally:
        lock.release()


def _plan(files: SpoolFiles, lsn_floor: int | None) -> RepairReport:
    actions: list[str] = []
    if (under_way := _restart_under_way(files)) is not None:
        return RepairReport(True, (f"The restart behind LSN {under_way} is carried through.",), under_way, None)
    if _state_problem(files) is not None:
        state = _rebuilt_state(files)
        actions.append(_rebuilt_words(files, state) + " The rest is looked at once that is done.")
        return RepairReport(True, tuple(actions), state.lsn_floor, None)
    started = time.monotonic()
    found = inspect(files, write=True, thorough=True)
    view = _view(files, found)
    cut = sum(each.size - each.segment.report.valid_bytes for each in found.closely.values())
    cut += view.active.report.file_bytes - view.active.report.valid_bytes if found.active is not None else 0
    floor = settled_state(found).lsn_floor
    actions += _recovery_words(found.verdict, found.reason, cut, floor)
    if lsn_floor is not None:
        _check_floor(view, lsn_floor)
        actions.append(_floor_words(floor, lsn_floor))
        floor = lsn_floor
    return RepairReport(bool(actions), tuple(actions), floor, report_of(found, view, cut, None, started)())


def _view(files: SpoolFiles, found: Inspection) -> Snapshot:
    active = found.active
    if active is None:
        null = core.File(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), files.active)
        active = Segment(files.active, null, core.scan_file(null, files.active))
    return Snapshot(tuple(found.sealed), active, found.state)


def _restart_under_way(files: SpoolFiles) -> int | None:
    try:
        state = load_state(files)
    except SpoolCorrupt:
        return None
    return None if state is None or state.restart is None else state.restart.lsn


def _state_problem(files: SpoolFiles) -> str | None:
    """Why the state file can't be used, ``None`` where it can, or where a fresh spool has none."""
    try:
        state = load_state(files)
    except SpoolCorrupt as error:
        return error.reason
    mark, _ = load_mark(files.mark)
    if state is None:
        return "it is missing" if mark is not None or files.list_sealed() else None
    if mark is not None and mark.spool_id != state.spool_id and read_lock_file(files.lock)[1] != state.spool_id:
        return "it is of another spool"
    return None


def _rebuilt_state(files: SpoolFiles) -> State:
    """A state from what else there is: the segments, their sidecars, the mark, and what was saved before a cut."""
    mark, _ = load_mark(files.mark)
    owners = [mark.spool_id] if mark is not None else []
    highest, term, sealed_through = 0, 1, 0  # not the mark's LSN: what is missing below it is still to be found
    oldest: int | None = None
    prev: int | None = None
    for path in files.list_sealed():
        beside = _sidecar(files, path)
        report = core.scan_file(open_file(path), path)
        if beside is not None:
            owners.append(beside[0])
            sealed_through = max(sealed_through, beside[2].highest_lsn)
            prev = beside[1] if prev is None and oldest is None else prev
        if report.records:
            oldest = report.first_lsn if oldest is None else oldest
            sealed_through = max(sealed_through, report.highest_lsn)
        term = max(term, report.highest_term)
    for path in (files.active, *files.list_quarantined()):
        if os.path.exists(path):
            report = core.scan_file(open_file(path), path)
            highest = max(highest, report.highest_lsn, report.behind_highest_lsn)
            term = max(term, report.highest_term)
            if path == files.active and oldest is None:
                oldest = report.first_lsn
    highest = max(highest, sealed_through)
    pruned = prev if prev is not None else (oldest - 1 if oldest is not None else highest)
    lock_id = read_lock_file(files.lock)[1]
    spool_id = owners[0] if owners else lock_id or new_spool_id()
    return State(spool_id, lsn_floor=highest, term=term, pruned_through=pruned, sealed_through=sealed_through)


def _sidecar(files: SpoolFiles, segment: os.PathLike[str]) -> tuple[bytes, int, core.ScanReport] | None:
    try:
        with open(os.fspath(segment) + ".idx", "rb") as file:
            owner, prev_lsn, report, _ = core.decode_sidecar(file.read())
    except (OSError, ValueError):
        return None
    return owner, prev_lsn, report


def _rebuilt_words(files: SpoolFiles, state: State) -> str:
    return (
        f"{files.state.name} is rebuilt: new LSNs start above {state.lsn_floor}, everything through LSN "
        f"{state.pruned_through} counts as pruned, and the position at that boundary is not known."
    )


def _recovery_words(verdict: str, reason: str, cut: int, floor: int) -> list[str]:
    if verdict == "clean":
        return []
    words = [f"The log was {verdict}: {reason}.", f"{cut} bytes that can't be read as records are cut."]
    if verdict == "corrupt":
        words.append(f"Acknowledged records are lost; new LSNs start above {floor}, so none of theirs is used again.")
    return words


def _floor_words(old: int, new: int) -> str:
    if new >= old:
        return f"The LSN floor goes up from {old} to {new}: new LSNs start above it."
    return (
        f"The LSN floor goes down from {old} to {new}. Given up: LSNs {new + 1} to {old} may have been acknowledged, "
        "and will be used again for other records; replicas and readers that saw them must start again from a snapshot."
    )


def _lower_floor(files: SpoolFiles, done: Recovered, floor: int) -> list[str]:
    state = done.state
    held = _check_floor(Snapshot(done.sealed, done.active, state), floor)
    if done.mark.lsn > floor:
        create_mark(files.mark, Mark.new(state.spool_id, held, done.mark.sector))
    # what lies above the floor is no longer missed
    holes = tuple((low, min(high, floor)) for low, high in state.holes if low <= floor)
    save_state(files, state._replace(lsn_floor=floor, holes=holes, sealed_through=min(state.sealed_through, floor)))
    return [_floor_words(state.lsn_floor, floor)]


def _check_floor(view: Snapshot, floor: int) -> int:
    """Refuse a floor below what the log holds or pruned; the highest LSN that it holds."""
    held = max((each.report.highest_lsn for each in view.everything() if each.report.records), default=0)
    least = max(held, view.state.pruned_through)
    if floor < least:
        raise ValueError(f"the LSN floor {floor} is below LSN {least}, which the log holds or pruned")
    return held
