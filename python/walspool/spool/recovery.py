"""From what was found to what is done about it: saving, cutting, holes, and making what is published durable."""

# No annotations as texts here: those of a NamedTuple would be compiled, one by one, at each start of a program.

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from walspool import core
from walspool.errors import SpoolCorrupt
from walspool.spool import files as fs
from walspool.spool.files import SpoolFiles
from walspool.spool.inspection import Inspection, inspect
from walspool.spool.lock import WriterLock
from walspool.spool.segments import Segment, Snapshot, write_sidecar
from walspool.spool.state import Mark, State, create_mark, keep_spare, save_state
from walspool.spool.telling import log_error, log_warning

if TYPE_CHECKING:
    from walspool.spool.reports import RecoveryReport

__all__ = ["Recovered", "recover", "report_of", "save_cut", "settled_state"]


class Recovered(NamedTuple):
    """A log that is ready for a writer: every record of it is durable."""

    state: State
    sealed: tuple[Segment, ...]
    active: Segment
    mark: Mark
    mark_file: core.File
    report: Callable[[], "RecoveryReport"]


def recover(files: SpoolFiles, lock: WriterLock, *, strict: bool, thorough: bool = False) -> Recovered:
    """Bring the files into a state that a writer can go on from. ``strict`` refuses damage to acknowledged records.

    ``thorough`` looks for damage in every byte, where an open leaves that to the reads.
    """
    started = time.monotonic()
    found = inspect(files, write=True, thorough=thorough)
    if strict:
        found.raise_if_corrupt()
    # an entry that was found may not be durable yet, and everything below relies on it
    fs.sync_directory(files.directory)
    saved = _save_what_is_cut(found)
    state = _settle_state(found)
    lock.sign(state.spool_id)
    cut = _mend_sealed(found)
    _sweep(found)
    active, cut_active = _mend_active(found, state)
    mark = _settle_mark(found, state, active)
    view = Snapshot(tuple(found.sealed), active, state)
    _tell(found, view)
    recovery = report_of(found, view, cut + cut_active, saved, started)
    mark_file = core.File(os.open(files.mark, os.O_RDWR | os.O_CLOEXEC), files.mark)
    return Recovered(state, view.sealed, active, mark, mark_file, recovery)


def report_of(
    found: Inspection, snapshot: Snapshot, cut_bytes: int, quarantine: Path | None, started: float
) -> Callable[[], "RecoveryReport"]:
    """What an open found, as users meet it; made when one asks, for its class takes as long to load as an open."""
    reports = [each.report for each in snapshot.everything()]
    facts: dict[str, Any] = {
        "records": sum([each.records for each in reports]) - snapshot.hidden_records(),
        "bytes": sum([each.valid_bytes for each in reports]),
        "cut_bytes": cut_bytes,
        "verdict": found.verdict,
        "reason": found.reason,
        "quarantine": quarantine,
        "scanned_bytes": found.scanned_bytes,
        "duration_ms": (time.monotonic() - started) * 1000,
    }

    def report() -> "RecoveryReport":
        from walspool.spool.reports import RecoveryReport

        return RecoveryReport(**facts)

    return report


def _save_what_is_cut(found: Inspection) -> Path | None:
    saved = None
    for each in found.closely.values():
        known = each.segment.report
        if each.damaged and known.valid_bytes < each.size:
            saved = save_cut(found.files, each.segment, each.size)
    if found.active is not None:
        known = found.active.report
        proven = found.verdict in ("unfinished-batch", "corrupt") or known.records == 0
        if known.stop is not None and proven:
            saved = save_cut(found.files, found.active, known.file_bytes)
    return saved


def save_cut(files: SpoolFiles, segment: Segment, end: int) -> Path:
    """Copy what lies behind a segment's valid prefix into a quarantine file, durably, once."""
    source, start = segment.file.fileno(), segment.report.valid_bytes
    crc, offset = 0, start
    while offset < end:
        part = fs.pread_exactly(source, min(fs.CHUNK, end - offset), offset, segment.path)
        if not part:
            break
        crc, offset = core.crc32(part, crc), offset + len(part)
    target = files.quarantine(start, crc)
    fd = fs.create(target, exclusive=False)
    try:
        written = offset - start if _holds(fd, target, offset - start, crc) else 0
        if not written:
            with fs.names_path(target):
                os.ftruncate(fd, 0)
        while start + written < offset:
            part = fs.pread_exactly(source, min(fs.CHUNK, offset - start - written), start + written, segment.path)
            fs.pwrite_all(fd, part, written, target)
            written += len(part)
        fs.sync_file(fd, target)
    finally:
        os.close(fd)
    fs.sync_directory(files.directory)
    return target


def _holds(fd: int, path: Path, length: int, crc: int) -> bool:
    """Whether a file is a complete copy: a crash may have left one of the right size, without the bytes."""
    if os.fstat(fd).st_size != length:
        return False
    found = offset = 0
    while part := fs.pread_exactly(fd, fs.CHUNK, offset, path):
        found, offset = core.crc32(part, found), offset + len(part)
    return found == crc


def settled_state(found: Inspection) -> State:
    """The state with the floor and the holes of what is about to be cut."""
    state = found.state
    for first, last in found.lost:
        state = state.with_hole(first, last)
    floor, term = state.lsn_floor, state.term
    if found.verdict == "corrupt":
        proven = found.active.report.behind_highest_lsn if found.active is not None else 0
        if found.active is not None and found.active.report.behind_frames == 0:
            proven = 0
        floor = max(floor, proven, found.mark.lsn if found.mark is not None else 0)
    there = found.sealed if found.active is None else [*found.sealed, found.active]
    return state._replace(lsn_floor=floor, term=max([term, *[each.report.highest_term for each in there]]))


def _settle_state(found: Inspection) -> State:
    """Make it durable before the cut."""
    state = settled_state(found)
    if found.state_is_new or state._replace(term=found.state.term) != found.state:
        save_state(found.files, state)
    else:
        keep_spare(found.files, len(state.encode()))
    found.state = state
    return state


def _truncate(segment: Segment, length: int) -> None:
    with fs.names_path(segment.path):
        os.ftruncate(segment.file.fileno(), length)
    fs.sync_file(segment.file.fileno(), segment.path)


def _mend_sealed(found: Inspection) -> int:
    cut = 0
    for place, each in found.closely.items():
        segment = each.segment
        if each.damaged:
            keep = segment.report.valid_bytes
            if keep < each.size:
                _truncate(segment, keep)
                cut += each.size - keep
            report = core.scan_file(segment.file, segment.path, base_lsn=segment.report.base_lsn)
            segment = found.sealed[place] = segment._replace(report=report)
        if each.damaged or not each.has_sidecar:
            before = each.prev_lsn
            if before is None:
                highest = found.sealed[place - 1].report.highest_lsn if place else 0
                before = max(found.state.pruned_through, highest)
            write_sidecar(found.files, found.state.spool_id, segment.path, before, segment.report)
    return cut


def _sweep(found: Inspection) -> None:
    """Finish a prune that a crash interrupted, and remove half-written replacements."""
    removed = [fs.unlink(path) for path in found.leftovers]
    if any(removed):
        fs.sync_directory(found.files.directory)


def _mend_active(found: Inspection, state: State) -> tuple[Segment, int]:
    files = found.files
    if found.active is None:
        file = core.File(fs.create(files.active), files.active)
        fs.sync_directory(files.directory)
        report = core.scan_file(file, files.active, base_lsn=found.highest_sealed())
        return Segment(files.active, file, report), 0
    segment, known = found.active, found.active.report
    cut = known.file_bytes - known.valid_bytes
    _write_again(segment, known.marked_bytes if found.mark is not None else known.valid_bytes)
    if cut:
        with fs.names_path(segment.path):
            os.ftruncate(segment.file.fileno(), known.valid_bytes)
    if cut or found.mark is None or known.marked_bytes < known.valid_bytes:
        fs.sync_file(segment.file.fileno(), segment.path)
    return segment, cut


def _write_again(segment: Segment, offset: int) -> None:
    """Write records past the mark once more: after a failed sync they may be cached, clean, and not on disk."""
    end = segment.report.valid_bytes
    while offset < end:
        part = fs.pread_exactly(segment.file.fileno(), min(fs.CHUNK, end - offset), offset, segment.path)
        if not part:
            raise SpoolCorrupt(path=segment.path, reason="it was shortened while it was opened", offset=offset)
        fs.pwrite_all(segment.file.fileno(), part, offset, segment.path)
        offset += len(part)


def _settle_mark(found: Inspection, state: State, active: Segment) -> Mark:
    highest = max(active.report.highest_lsn if active.report.records else 0, found.highest_sealed())
    old = found.mark
    if old is None:
        mark = Mark.new(state.spool_id, highest)
        create_mark(found.files.mark, mark)
        return mark
    mark = Mark.new(state.spool_id, max(old.lsn, highest), old.sector)
    if mark != old:
        fd = os.open(found.files.mark, os.O_RDWR | os.O_CLOEXEC)
        try:
            fs.pwrite_all(fd, mark.sector, 0, found.files.mark)
        finally:
            os.close(fd)
    return mark


def _tell(found: Inspection, snapshot: Snapshot) -> None:
    if found.verdict == "corrupt":
        kept = sum(each.report.records for each in snapshot.everything())
        log_error(
            "%s: corrupt: %s; %d records kept, LSNs go on above %d",
            found.path,
            found.reason,
            kept,
            found.state.lsn_floor,
        )
    elif found.verdict != "clean":
        kept = sum(each.report.records for each in snapshot.everything())
        log_warning(
            "%s: %s at offset %s: %s; %d records kept", found.path, found.verdict, found.offset, found.reason, kept
        )
    for each in snapshot.everything():
        if not each.report.ordered:
            log_warning("%s holds LSNs out of order; it is read in file order", each.path)
