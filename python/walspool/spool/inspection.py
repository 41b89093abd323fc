"""What is on disk, and what that means. Read-only: nothing here changes a file."""

# No annotations as texts here: those of a NamedTuple would be compiled, one by one, at each start of a program.

import errno
from collections.abc import Iterable
from itertools import repeat
from operator import le, lt
from pathlib import Path
from typing import Any, NamedTuple

from walspool import core
from walspool.errors import SpoolCorrupt
from walspool.spool import files as fs
from walspool.spool.files import SIDECAR_SUFFIX, Listing, SpoolFiles
from walspool.spool.lock import read_lock_file
from walspool.spool.segments import Segment, load_sidecar, open_file
from walspool.spool.state import Mark, State, load_mark, load_state, new_spool_id
from walspool.spool.telling import log_warning

__all__ = ["MAX_BATCH_BYTES", "READER_MARK_TRIES", "Inspection", "Sealed", "identity", "inspect", "judge"]

#: What one write and one sync cover at most, unless a single frame is larger. Fixed by the format.
MAX_BATCH_BYTES = 4 << 20

#: How often a reader looks at a mark that it can't read before it takes it for none.
READER_MARK_TRIES = 50

#: What the system says when it has no more descriptors.
_USED_UP = (errno.EMFILE, errno.ENFILE)


class Sealed(NamedTuple):
    """A sealed segment that was looked at closely, for it may not be what its sidecar says."""

    segment: Segment
    #: The LSN before its first record, where its sidecar says so.
    prev_lsn: int | None
    #: The last LSN that it must hold, where its sidecar says so.
    expected_lsn: int
    #: Whether its sidecar may stay as it is.
    has_sidecar: bool
    #: The file's size in bytes.
    size: int

    @property
    def damaged(self) -> bool:
        """Whether bytes of it are bad or records missing at its end."""
        known = self.segment.report
        return known.valid_bytes < self.size or known.highest_lsn < self.expected_lsn

    def last_lsn(self) -> int:
        """The highest LSN of its records, 0 without any."""
        return self.segment.report.highest_lsn if self.segment.report.records else 0

    def reason(self) -> str:
        """Why it is damaged, in words."""
        known = self.segment.report
        if known.stop is not None:
            return known.reason
        if known.valid_bytes < self.size:
            return f"zeros from offset {known.valid_bytes} on, in a sealed segment"
        return f"it ends at LSN {known.highest_lsn}, and its sidecar says {self.expected_lsn}"


class Inspection:
    """Everything that an open has to know."""

    def __init__(self, files: SpoolFiles, state: State, state_is_new: bool, mark: Mark | None) -> None:
        self.files = files
        self.state = state
        self.state_is_new = state_is_new
        self.mark = mark
        self.sealed: list[Segment] = []
        #: The LSN before the first record of each, where its sidecar says so.
        self.prev_lsns: list[int | None] = []
        #: Whether each is what its sidecar says, and begins where the one before it ends.
        self.in_a_row = False
        #: Those that were looked at closely, by their places in ``sealed``.
        self.closely: dict[int, Sealed] = {}
        #: The active segment, ``None`` where there is no such file.
        self.active: Segment | None = None
        #: Sealed segments and sidecars that a prune was about to remove, and half-written replacements.
        self.leftovers: list[Path] = []
        #: LSN ranges that sealed segments should hold and don't, not yet known as holes.
        self.lost: list[tuple[int, int]] = []
        self.verdict = "clean"
        self.reason = ""
        self.scanned_bytes = 0
        #: Where the damage that gave the verdict lies.
        self.path: Path | None = None
        self.offset: int | None = None

    def highest_sealed(self) -> int:
        """The highest LSN in sealed segments, 0 without any."""
        return self.sealed[-1].report.highest_lsn if self.sealed else 0  # none is below that of the one before it

    def add_closely(self, each: Sealed) -> None:
        """Note how the segment was found that comes next in ``sealed``."""
        self.closely[len(self.sealed)] = each
        if each.damaged:
            self.damage("corrupt", each.reason(), each.segment.path, each.segment.report.valid_bytes)

    def damage(self, verdict: str, reason: str, path: Path, offset: int | None) -> None:
        """Note the gravest thing found."""
        if verdict == "corrupt" or self.verdict == "clean":
            self.verdict, self.reason, self.path, self.offset = verdict, reason, path, offset

    def raise_if_corrupt(self) -> None:
        """``SpoolCorrupt`` for damage to acknowledged records."""
        if self.verdict != "corrupt":
            return
        first, last = self.lost_range()
        raise SpoolCorrupt(
            path=self.path, reason=self.reason, offset=self.offset, first_lsn=first, last_lsn=last if last else None
        )

    def lost_range(self) -> tuple[int | None, int]:
        """The LSNs in doubt: from the first that is lost to the highest known, or to the mark."""
        if self.lost:
            return self.lost[0]
        if self.active is None:
            return None, self.mark.lsn if self.mark else 0
        known = self.active.report
        return known.highest_lsn + 1, max(known.behind_highest_lsn, self.mark.lsn if self.mark else 0)


def identity(files: SpoolFiles, *, mark_tries: int = 1) -> tuple[State | None, Mark | None]:
    """The state and the mark of one and the same spool; ``SpoolCorrupt`` where the state can't be this spool's."""
    # the mark first: a writer that is just starting makes the state before it
    mark, _ = load_mark(files.mark, tries=mark_tries)
    state = load_state(files)
    if state is None:
        if mark is not None or files.list_sealed():
            raise SpoolCorrupt(path=files.state, reason="it is missing, while other files of the spool are there")
        return None, None
    if mark is not None and mark.spool_id != state.spool_id and state.restart is None:
        _, lock_id = read_lock_file(files.lock)
        if lock_id != state.spool_id:
            raise SpoolCorrupt(path=files.state, reason=f"it and {files.mark.name} are of two different spools")
        log_warning("%s is of another spool and is taken for no mark", files.mark)
        mark = None
    return state, mark


def inspect(files: SpoolFiles, *, write: bool, thorough: bool = False, listed: Listing | None = None) -> Inspection:
    """Look at every file of a spool. ``write`` opens them for writing and judges what lies behind the mark.

    ``thorough`` reads sealed segments that have a sidecar, too. ``listed``: the sealed segments, for who has just
    looked.
    """
    state, mark = identity(files, mark_tries=1 if write else READER_MARK_TRIES)
    if not write and state is not None and state.restart is not None:
        return Inspection(files, state.restarted(), False, None)  # what is still there is on its way out
    found = Inspection(files, state or State(new_spool_id()), state is None, mark)
    _look_at_sealed(found, listed or files.list_segments(), write=write, thorough=thorough)
    _look_at_active(found, write=write)
    _look_for_missing(found)
    return found


def _tail_crc(file: core.File, path: Path, size: int) -> int:
    return int.from_bytes(fs.pread_exactly(file.fileno(), 4, max(size - 4, 0), path), "little")


def _look_at_sealed(found: Inspection, listed: Listing, *, write: bool, thorough: bool) -> None:
    files, pruned = found.files, found.state.pruned_through
    opened: Iterable[Any] = repeat(None)
    if not thorough:
        spool_id = found.state.spool_id
        opened = core.open_sealed(files.directory, listed.sealed, SIDECAR_SUFFIX, spool_id, write=write)
        if _take_all(found, listed.sealed, opened):
            opened = ()
        elif any(isinstance(each, OSError) and each.errno in _USED_UP for each in opened):
            opened = repeat(None)  # one by one they may do, for those that a prune left are let go of at once
    highest = 0
    for path, known in zip(listed.sealed, opened, strict=False):
        if isinstance(known, OSError):
            try:
                fs.refuse_odd_file(Path(known.filename))
                raise known
            finally:
                del known, opened  # an error that this frame holds would hold all that was opened
        if known is not None and known[1].highest_lsn >= highest:  # look-ups rely on it
            each = None
            file, report, prev_lsn = known
            segment, last = Segment(path, file, report), report.highest_lsn
            kept = last > pruned
        else:
            each = _look_closely(found, Path(path), highest, write=write, thorough=thorough)
            segment, prev_lsn, last = each.segment, each.prev_lsn, each.last_lsn()
            kept = last > pruned or each.damaged
        if not kept:
            found.leftovers += [segment.path, files.sidecar(segment.path)]
            continue
        if each is not None:
            found.add_closely(each)
        found.sealed.append(segment)
        found.prev_lsns.append(prev_lsn)
        if last > highest:
            highest = last
    found.leftovers += listed.leftovers
    for sidecar, orphan in listed.orphans:
        beside = load_sidecar(found.state.spool_id, orphan)
        if beside is not None and beside[0].highest_lsn > pruned:
            _lose(found, (beside[0].first_lsn or 0, beside[0].highest_lsn), orphan)
        found.leftovers.append(sidecar)


def _take_all(found: Inspection, paths: list[str], opened: list[Any]) -> bool:
    """Take the opened segments over at a stroke, where nothing is to be said of any; whether that is so."""
    if set(map(type, opened)) != {tuple}:
        return False
    files, reports, prev_lsns = zip(*opened, strict=True)
    ends = [found.state.pruned_through, *[each.highest_lsn for each in reports]]
    if not (all(map(lt, ends, ends[1:])) and all(map(le, prev_lsns, ends))):
        return False
    found.sealed = list(map(Segment, paths, files, reports))
    found.prev_lsns = list(prev_lsns)
    found.in_a_row = True
    return True


def _look_closely(found: Inspection, path: Path, highest: int, *, write: bool, thorough: bool) -> Sealed:
    """A sealed segment that may not be as its sidecar says, or is to be read in any case."""
    fd, size = fs.open_sized(path, write=write)
    file = core.File(fd, path)
    beside = load_sidecar(found.state.spool_id, path)
    trusted = (
        beside is not None
        and beside[0].valid_bytes == size
        and beside[0].tail_crc == _tail_crc(file, path, size)
        and beside[0].highest_lsn >= highest  # look-ups rely on it
    )
    if beside is not None and trusted and not thorough:
        report = beside[0]
    else:
        report = core.scan_file(file, path, base_lsn=highest)
        found.scanned_bytes += report.file_bytes
    expected = beside[0].highest_lsn if beside is not None and beside[0].records else 0
    if expected > report.highest_lsn and found.state.is_lost(report.highest_lsn + 1, expected):
        expected = 0  # a sidecar from before a cut that is known
    return Sealed(Segment(path, file, report), beside[1] if beside else None, expected, trusted, size)


def _look_at_active(found: Inspection, *, write: bool) -> None:
    files, mark, state = found.files, found.mark, found.state
    if fs.refuse_odd_file(files.active) is not None:
        file = open_file(files.active, write=write)
        limit = None if write or mark is None else mark.lsn
        report = core.scan_file(
            file,
            files.active,
            base_lsn=found.highest_sealed(),
            mark=mark.lsn if mark else None,
            until_lsn=limit,
        )
        found.active = Segment(files.active, file, report)
        found.scanned_bytes += report.file_bytes
        if report.foreign:
            raise SpoolCorrupt(
                path=files.active, reason="it is not a walspool log, and nothing of it was touched", offset=0
            )
        verdict, reason = judge(report, mark, state.lsn_floor)
        found.damage(verdict, reason, files.active, report.valid_bytes)
    elif mark is not None and mark.lsn > max(found.highest_sealed(), state.lsn_floor):
        reason = f"it is missing, and LSN {mark.lsn} was durable in it"
        found.damage("corrupt", reason, files.active, None)


def judge(report: core.ScanReport, mark: Mark | None, floor: int) -> tuple[str, str]:
    """The verdict on an active segment, and why: the four of the recovery rules."""
    if mark is not None and mark.lsn > floor and report.highest_lsn < mark.lsn:
        ends = f"the log ends at LSN {report.highest_lsn}, offset {report.valid_bytes}, and LSN {mark.lsn} was durable"
        return "corrupt", f"{report.reason}; {ends}" if report.reason else ends
    if report.stop is None:
        return "clean", ""
    if report.behind_frames == 0:
        return "torn", report.reason
    behind = (
        f"{report.reason}; {report.behind_frames} valid frames lie behind it, through LSN {report.behind_highest_lsn}"
    )
    if mark is not None and report.behind_end - report.valid_bytes <= MAX_BATCH_BYTES:
        return "unfinished-batch", behind
    return "corrupt", behind


def _lose(found: Inspection, lost: tuple[int, int], path: Path) -> None:
    first, last = max(lost[0], found.state.pruned_through + 1), lost[1]
    if first > last or found.state.is_lost(first, last) or (first, last) in found.lost:
        return
    found.lost.append((first, last))
    found.damage("corrupt", f"the records from LSN {first} to {last} are missing", path, None)


def _look_for_missing(found: Inspection) -> None:
    """Follow the chain of LSNs through the sealed segments to the active one, and note what is not there."""
    highest, open_end = max(found.state.pruned_through, found.highest_sealed()), False
    if not found.in_a_row:
        highest, open_end = _look_between(found)
    active_first = found.active.report.first_lsn if found.active is not None else None
    upper = found.state.sealed_through
    if active_first is not None and active_first <= upper:
        # the rotation that raised it did not come to the rename, so these records are in the active segment
        upper = active_first - 1 if open_end else highest
    if upper > highest:
        _lose(found, (highest + 1, upper), found.files.directory)


def _look_between(found: Inspection) -> tuple[int, bool]:
    """Follow the chain to the end of the sealed segments: the LSN that it ends at, and whether more may be missing."""
    closely, highest, open_end = found.closely, found.state.pruned_through, False
    for place, (segment, prev_lsn) in enumerate(zip(found.sealed, found.prev_lsns, strict=True)):
        known = segment.report
        upper = prev_lsn or 0
        if open_end and known.first_lsn is not None:
            upper = max(upper, known.first_lsn - 1)
        if upper > highest:
            _lose(found, (highest + 1, upper), segment.path)
        if known.highest_lsn > highest:
            highest = known.highest_lsn
        open_end = False
        each = closely.get(place)
        if each is not None and each.damaged:
            claimed = max(each.expected_lsn, known.behind_highest_lsn if known.behind_frames else 0)
            if claimed > highest:
                _lose(found, (highest + 1, claimed), segment.path)
                highest = claimed
            open_end = claimed == 0
    return highest, open_end
