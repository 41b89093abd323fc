"""One read-only pass over a file: the valid prefix, its index, and the evidence for a verdict."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from walspool.core.pure.file import File, Shrunk, StrPath, Window, named, status
from walspool.core.pure.frame import MAGIC, MAX_PAYLOAD, V2, V3, WIDE, Bad, Frame, legacy_term, read_frame
from walspool.core.pure.index import Prefix, ScanReport

__all__ = ["build_seek_index", "scan", "scan_file"]


def scan(path: StrPath) -> ScanReport:
    """Scan the file at ``path``, read-only and without a mark."""
    # Without O_NONBLOCK the open of a FIFO would wait for a writer.
    with named(path):
        file = File(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), path)
    mode = status(file).st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.ESPIPE
        raise OSError(number, os.strerror(number), path)
    return scan_file(file, path)


def build_seek_index(path: StrPath) -> list[tuple[int, int]]:
    """The checkpoints (lsn, offset) of the file at ``path``."""
    return scan(path).index.checkpoints()


def scan_file(
    file: File,
    path: StrPath,
    *,
    base_lsn: int = 0,
    mark: int | None = None,
    until_lsn: int | None = None,
    resume: ScanReport | None = None,
) -> ScanReport:
    """Read the file from its start, or from where ``resume`` ended, to the first bad frame, and look behind that.

    ``mark`` is the durable mark's LSN. With ``until_lsn`` the pass ends before the first frame above it, and what
    follows is not judged once that LSN was seen.
    """
    while True:
        prefix = Prefix(base_lsn) if resume is None else Prefix.of(resume)
        marked = None
        if resume is not None and mark is not None and resume.highest_lsn > mark:
            marked = resume.marked_bytes
        try:
            return _scan(Window(file, path, status(file).st_size), prefix, mark, marked, until_lsn)
        except Shrunk:
            # Its writer trims it as we read; what is left is judged from its start.
            continue


def _scan(window: Window, prefix: Prefix, mark: int | None, marked: int | None, until: int | None) -> ScanReport:
    bad = None
    while prefix.valid_bytes < window.end:
        offset = prefix.valid_bytes
        frame = read_frame(window, offset, prefix.last_wide, prefix.before_lsn, prefix.all_v1)
        if isinstance(frame, Bad):
            bad = frame
            break
        if until is not None and frame.lsn > until:
            break
        if marked is None and mark is not None and frame.lsn > mark:
            marked = offset
        term = frame.term
        if term is None:
            term = legacy_term(window.view(frame.body, frame.body_end - frame.body))
        prefix.add(frame.end, frame.lsn, term, frame.timestamp_ms, frame.version, frame.wide, frame.tail)
    marked_bytes = prefix.valid_bytes if marked is None else marked
    if bad is None or (until is not None and prefix.highest_lsn >= until):
        return prefix.report(file_bytes=window.end, marked_bytes=marked_bytes)
    if window.data_end() <= prefix.valid_bytes:
        return prefix.report(file_bytes=window.end, marked_bytes=marked_bytes, zero_tail=True)
    behind = _search(window, prefix, marked=mark is not None)
    return prefix.report(
        file_bytes=window.end,
        marked_bytes=marked_bytes,
        stop=bad.stop,
        reason=f"{bad.reason} at offset {prefix.valid_bytes}",
        behind_frames=behind.frames,
        behind_first_lsn=behind.first_lsn,
        behind_highest_lsn=behind.highest_lsn,
        behind_end=behind.end,
        behind_any=behind.any,
        foreign=prefix.records == 0 and not behind.any and not _begins_like_ours(window),
    )


def _begins_like_ours(window: Window) -> bool:
    head = window.view(0, len(MAGIC)).tobytes()
    return head[:1] == b"\0" or (MAGIC.startswith(head) if window.end < len(MAGIC) else head == MAGIC)


@dataclass(slots=True)
class _Run:
    """Frames that count, each beginning where the one before ends."""

    frames: int = 0
    first_lsn: int | None = None
    highest_lsn: int = 0
    end: int = 0

    def add(self, lsn: int, end: int) -> None:
        if self.first_lsn is None:
            self.first_lsn = lsn
        self.frames += 1
        self.highest_lsn = max(self.highest_lsn, lsn)
        self.end = end


@dataclass(slots=True)
class _Behind(_Run):
    """All runs that count, and whether there is any valid frame."""

    any: bool = False

    def take(self, run: _Run) -> None:
        if self.first_lsn is None:
            self.first_lsn = run.first_lsn
        self.frames += run.frames
        self.highest_lsn = max(self.highest_lsn, run.highest_lsn)
        self.end = run.end


def _search(window: Window, prefix: Prefix, *, marked: bool) -> _Behind:
    """The valid frames behind the bad one at the end of the prefix."""
    behind = _Behind()
    run = _Run()
    wide, last_lsn = prefix.last_wide, prefix.before_lsn
    end = window.data_end()
    offset = _next_place(window, prefix.valid_bytes, wide, marked)
    while offset < end:
        frame = read_frame(window, offset, wide, last_lsn, legacy=False)
        if isinstance(frame, Frame):
            behind.any = True
            wide, last_lsn = frame.wide, frame.lsn
            if frame.lsn > prefix.highest_lsn:
                run.add(frame.lsn, frame.end)
            else:
                run = _close(window, run, behind)
            offset = frame.end
        else:
            run = _close(window, run, behind)
            offset = _next_place(window, offset, wide, marked)
    _close(window, run, behind)
    return behind


def _close(window: Window, run: _Run, behind: _Behind) -> _Run:
    """Judge a run that has come to its end: a lone frame in the middle of other bytes proves nothing."""
    if run.frames > 1 or (run.frames == 1 and _ends_well(window, run.end)):
        behind.take(run)
    return _Run() if run.frames else run


def _ends_well(window: Window, end: int) -> bool:
    return end + len(MAGIC) > window.data_end() or window.magic_at(end)


def _next_place(window: Window, offset: int, wide: bool, marked: bool) -> int:
    """Where to go on from the bad frame at ``offset``: where its own length leads if that stands to reason."""
    ends = _own_ends(window, offset, wide)
    for end in ends:
        if window.magic_at(end):
            return end
    for end in ends:
        if window.data_end() <= end <= window.end:
            return end
    if marked:
        for end in ends:
            if end > window.end:
                return end
    return window.find_magic(offset + 1, window.data_end())


def _own_ends(window: Window, offset: int, wide: bool) -> list[int]:
    """Where the frame at ``offset`` ends by its own length. A version 1 frame proves nothing, its length neither."""
    head = window.view(offset, WIDE.size)
    version = head[4] if len(head) > 4 else 0
    layouts = {2: [V2], 3: [WIDE, V3] if wide else [V3, WIDE]}.get(version, [])
    lengths = [(layout.size, layout.unpack_from(head)[-1]) for layout in layouts if len(head) >= layout.size]
    return [offset + header + length + 4 for header, length in lengths if length <= MAX_PAYLOAD]
