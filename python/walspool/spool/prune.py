"""What goes and what is rewritten. A prune takes effect when its state is durable; what follows only frees space."""

from __future__ import annotations

import contextlib
import os
import time

from walspool import core
from walspool.records import Position
from walspool.spool import files as fs
from walspool.spool.reports import PruneReport
from walspool.spool.segments import Segment, Snapshot, WriterSegments, write_sidecar

__all__ = ["prune_through"]


def prune_through(segments: WriterSegments, lsn: int) -> PruneReport:
    """Drop every record at or below ``lsn``; for one caller at a time."""
    # beyond the end, an append must not slip in between what is counted and the new floor
    beyond = lsn > segments.appender.durable_lsn
    with segments.paused() if beyond else contextlib.nullcontext():
        before = segments.snapshot()
        size = _size(before)
        records, boundary = _count(before, lsn)
        _settle(segments, lsn, boundary or segments.state.boundary)
    removed = _unlink_whole(segments)
    try:
        removed += _free_boundary(segments)
    except OSError as error:
        if not fs.no_room(error) or segments.poisoned:
            raise
    freed = max(size - _size(segments.snapshot()), 0)
    return PruneReport(records=records, bytes_freed=freed, segments_removed=removed)


def _settle(segments: WriterSegments, lsn: int, boundary: Position | None) -> None:
    """Make the prune durable: from here on the records through ``lsn`` are gone for every reader."""
    state = segments.state
    if lsn > state.pruned_through:
        known = boundary.lsn if boundary is not None else 0
        lost_behind = any(low <= lsn and min(high, lsn) > known for low, high in state.holes)
        segments.change_state(
            pruned_through=lsn,
            lsn_floor=max(state.lsn_floor, lsn),
            term=max(state.term, segments.appender.current_term),
            boundary=None if lost_behind else boundary,  # the last record that was pruned is then not known
            holes=tuple((max(low, lsn + 1), high) for low, high in state.holes if high > lsn),
        )
    segments.appender.raise_floor(lsn)


def _count(before: Snapshot, lsn: int) -> tuple[int, Position | None]:
    """How many records a prune drops, and the position of the last of them."""
    records, boundary = -before.hidden_records(), None
    for segment in before.everything():
        known = segment.report
        if known.records == 0 or (known.ordered and (known.first_lsn or 0) > lsn):
            continue
        whole = known.highest_lsn <= lsn
        counted, position = (known.records, None) if whole else segment.count_through(lsn)
        if whole and known.highest_lsn > before.state.pruned_through:
            position = segment.count_through(lsn)[1] if known.ordered is False else _last_position(segment)
        records += counted
        if position is not None and (boundary is None or position.lsn > boundary.lsn):
            boundary = position
    return max(records, 0), boundary


def _last_position(segment: Segment) -> Position | None:
    return segment.count_through(segment.report.highest_lsn)[1]


def _size(snapshot: Snapshot) -> int:
    return sum(each.report.valid_bytes for each in snapshot.everything())


def _unlink_whole(segments: WriterSegments) -> int:
    """Unlink each sealed segment that is pruned whole; how many there were."""
    pruned = segments.state.pruned_through
    with segments.rotate_lock:
        gone = [each for each in segments.sealed if each.report.highest_lsn <= pruned]
        segments.publish_sealed(tuple(each for each in segments.sealed if each.report.highest_lsn > pruned))
    for each in gone:
        fs.unlink(each.path)
        fs.unlink(segments.files.sidecar(each.path))
    if gone:
        fs.sync_directory(segments.files.directory)
    return len(gone)


def _free_boundary(segments: WriterSegments) -> int:
    """Rewrite the segment that the boundary cuts, or the oldest one that is to be re-framed."""
    pruned = segments.state.pruned_through
    active = segments.snapshot().active.report
    in_active = active.records > 0 and (active.first_lsn or 0) <= pruned
    to_reframe = not any(each.report.reframe for each in segments.sealed) and active.records > 0 and active.reframe
    removed = 0
    if in_active or to_reframe:
        if segments.segment_bytes is None:
            _rewrite_active(segments)
            return 0
        segments.rotate(force=True)
        removed = _unlink_whole(segments)
    cut = [each for each in segments.sealed if (each.report.first_lsn or 0) <= pruned]
    old = [each for each in segments.sealed if each.report.reframe]
    if cut or old:
        _rewrite_sealed(segments, (cut or old)[0])
    return removed


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _rewrite_sealed(segments: WriterSegments, old: Segment) -> None:
    target = segments.files.rewrite(old.path)
    file = core.File(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), target)
    try:
        reader = old.reader(segments.state.pruned_through)
        report = core.copy_frames(reader, file, target, stamp_ms=_now_ms())
        fs.sync_file(file.fileno(), target)
        # an old sidecar might fit the new file by its size and last checksum
        if fs.unlink(segments.files.sidecar(old.path)):
            fs.sync_directory(segments.files.directory)
        with segments.rotate_lock:
            fs.rename(target, old.path)
            fresh = Segment(old.path, file, report)
            segments.publish_sealed(tuple(fresh if each is old else each for each in segments.sealed))
    except BaseException:
        fs.unlink(target)
        raise
    write_sidecar(segments.files, segments.state.spool_id, old.path, segments.state.pruned_through, report)


def _rewrite_active(segments: WriterSegments) -> None:
    """Rewrite the one file under its own name: most of it while appends go on, the rest while they wait."""
    files, pruned, stamp = segments.files, segments.state.pruned_through, _now_ms()
    target = files.active_rewrite
    file = core.File(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), target)
    try:
        now = segments.snapshot().active
        report = None
        if now.report.ordered:
            report = core.copy_frames(now.reader(pruned), file, target, stamp_ms=stamp)
            fs.sync_file(file.fileno(), target)
        with segments.rotate_lock:
            complete = now._replace(report=segments.appender.seal())
            try:
                since = max(pruned, now.report.highest_lsn) if report is not None else pruned
                report = core.copy_frames(complete.reader(since), file, target, stamp_ms=stamp, resume=report)
                fs.sync_file(file.fileno(), target)
                fs.rename(target, files.active)
            except BaseException:
                segments.unseal()
                raise
            segments.swap_active(Segment(files.active, file, report), segments.sealed)
    except BaseException:
        fs.unlink(target)
        raise
