"""The verdicts of an open, with a mark and without; what is saved, what is cut, which LSNs are free again."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from walspool.spool.files import SpoolFiles, spool_path
from walspool.spool.state import Mark, load_mark, load_state


def make(tmp_path: Path, lsns: range = range(1, 6), size: int = 40) -> tuple[Path, Path]:
    """A cleanly closed log; its data path and its active file."""
    data_path = tmp_path / "app.db"
    with walspool.open(data_path) as spool:
        spool.append_many([(lsn, bytes([lsn % 256]) * size) for lsn in lsns])
    return data_path, spool_path(data_path)


def set_mark(active: Path, lsn: int) -> None:
    """Let the mark say another LSN, as an older version of it would after a power loss."""
    path = SpoolFiles(active).mark
    mark, _ = load_mark(path)
    assert mark is not None
    path.write_bytes(Mark.new(mark.spool_id, lsn, mark.sector).sector)


def flip(path: Path, offset: int) -> None:
    """Flip the lowest bit of one byte."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def frame(core: ModuleType, lsn: int, payload: bytes = b"x" * 40) -> bytes:
    """A version 3 frame."""
    encoded: bytes = core.encode_frame(lsn, payload, term=1, timestamp_ms=1)
    return encoded


FRAME = 77


def test_a_torn_frame_behind_the_mark_is_cut(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    with active.open("ab") as file:
        file.write(frame(core, 6)[:50])
    with walspool.open(data_path, recovery="strict") as spool:
        assert (spool.recovery.verdict, spool.recovery.cut_bytes) == ("torn", 50)
        assert spool.recovery.quarantine is None
        spool.append(6, b"its LSN was never acknowledged, so it is free")


def test_damage_below_the_mark_is_corrupt(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    flip(active, 4 * FRAME + 40)
    before = active.read_bytes()
    with pytest.raises(walspool.SpoolCorrupt) as caught:
        walspool.open(data_path, recovery="strict")
    assert (caught.value.offset, caught.value.first_lsn, caught.value.last_lsn) == (4 * FRAME, 5, 5)
    assert active.read_bytes() == before
    with walspool.open(data_path) as spool:
        assert spool.recovery.verdict == "corrupt"
        assert spool.recovery.quarantine is not None
        assert spool.recovery.quarantine.read_bytes() == before[4 * FRAME :]
        assert spool.current_lsn == 5
        with pytest.raises(walspool.LsnOrderError):
            spool.append(5, b"it was acknowledged once")
        spool.append(6, b"goes on")
    with walspool.open(data_path, recovery="strict") as spool:
        assert [lsn for lsn, _ in spool.tuples()] == [1, 2, 3, 4, 6]


def test_a_log_cut_at_a_frame_boundary_is_corrupt(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    active.write_bytes(active.read_bytes()[: 3 * FRAME])
    with pytest.raises(walspool.SpoolCorrupt, match="LSN 5 was durable"):
        walspool.open(data_path, recovery="strict")
    with walspool.open(data_path) as spool:
        assert (spool.recovery.verdict, spool.recovery.cut_bytes, spool.current_lsn) == ("corrupt", 0, 5)
    with walspool.open(data_path, recovery="strict") as spool:
        assert (spool.recovery.verdict, spool.current_lsn) == ("clean", 5)


def test_an_unfinished_batch_is_saved_and_cut(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    batch = bytearray(b"".join(frame(core, lsn) for lsn in (6, 7, 8)))
    batch[30:60] = bytes(30)
    with active.open("ab") as file:
        file.write(batch)
    with walspool.open(data_path, recovery="strict") as spool:
        assert spool.recovery.verdict == "unfinished-batch"
        assert spool.recovery.quarantine is not None
        assert spool.recovery.quarantine.read_bytes() == batch
        assert spool.current_lsn == 5
        spool.append(6, b"free")


def test_valid_frames_too_far_behind_are_corrupt(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    batch = bytearray(b"".join(frame(core, lsn, bytes(1 << 20)) for lsn in range(6, 12)))
    batch[30:60] = bytes(30)
    with active.open("ab") as file:
        file.write(batch)
    with pytest.raises(walspool.SpoolCorrupt):
        walspool.open(data_path, recovery="strict")
    with walspool.open(data_path) as spool:
        assert (spool.recovery.verdict, spool.current_lsn) == ("corrupt", 11)


def test_the_same_frames_without_a_mark_are_corrupt(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    batch = bytearray(b"".join(frame(core, lsn) for lsn in (6, 7, 8)))
    batch[30:60] = bytes(30)
    with active.open("ab") as file:
        file.write(batch)
    SpoolFiles(active).mark.unlink()
    with pytest.raises(walspool.SpoolCorrupt):
        walspool.open(data_path, recovery="strict")


def test_a_mark_that_lags_hides_nothing(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    set_mark(active, 2)
    with walspool.open(data_path, read_only=True) as spool:
        assert [lsn for lsn, _ in spool.tuples()] == [1, 2]
    with walspool.open(data_path, recovery="strict") as spool:
        assert [lsn for lsn, _ in spool.tuples()] == [1, 2, 3, 4, 5]
    mark, _ = load_mark(SpoolFiles(active).mark)
    assert mark is not None
    assert mark.lsn == 5


def test_what_open_publishes_is_written_again(
    core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_path, active = make(tmp_path)
    set_mark(active, 2)
    written: list[tuple[int, int]] = []
    synced: list[str] = []
    real_pwrite, real_fsync = os.pwrite, os.fsync

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{fd}") == str(active):
            written.append((offset, len(data)))
        return real_pwrite(fd, data, offset)

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real_fsync(fd)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fsync", fsync)
    walspool.open(data_path).close()
    assert written[0] == (2 * FRAME, 3 * FRAME)
    assert str(active) in synced


def test_a_crash_loop_saves_the_same_bytes_once(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    whole = active.read_bytes()
    for _ in range(3):
        damaged = bytearray(whole)
        damaged[2 * FRAME + 40] ^= 1
        active.write_bytes(damaged)
        walspool.open(data_path).close()
    assert len(SpoolFiles(active).list_quarantined()) == 1


def test_nothing_valid_kept_is_saved(core: ModuleType, tmp_path: Path) -> None:
    data_path = tmp_path / "app.db"
    active = spool_path(data_path)
    active.write_bytes(frame(core, 1)[:60])
    with walspool.open(data_path, recovery="strict") as spool:
        assert spool.recovery.verdict == "torn"
        assert spool.recovery.quarantine is not None
        assert spool.recovery.quarantine.read_bytes() == frame(core, 1)[:60]


@pytest.fixture
def segmented(tmp_path: Path) -> Path:
    """A closed log of three sealed segments of two records each, and one record in the active one."""
    data_path = tmp_path / "app.db"
    with walspool.open(data_path, segment_bytes=100) as spool:
        for lsn in range(1, 8):
            spool.append(lsn, bytes([lsn]) * 40)
        assert [each.records for each in spool.segments] == [2, 2, 2, 1]
    return data_path


def test_sealed_segments_with_a_sidecar_are_not_read(core: ModuleType, segmented: Path) -> None:
    with walspool.open(segmented) as spool:
        assert spool.recovery.scanned_bytes == FRAME
        assert [lsn for lsn, _ in spool.tuples()] == list(range(1, 8))


def test_a_damaged_sealed_segment_leaves_a_hole(core: ModuleType, segmented: Path) -> None:
    files = SpoolFiles(spool_path(segmented))
    victim = files.list_sealed()[1]
    flip(victim, FRAME + 40)
    files.sidecar(victim).unlink()
    with pytest.raises(walspool.SpoolCorrupt) as caught:
        walspool.open(segmented, recovery="strict")
    assert (caught.value.first_lsn, caught.value.last_lsn) == (4, 4)
    for _ in range(2):
        with walspool.open(segmented) as spool:
            _reads_stop_at_the_hole(spool, 4, 4)
    with walspool.open(segmented) as spool:
        spool.prune_through(4)
        assert [lsn for lsn, _ in spool.tuples()] == [5, 6, 7]


def _reads_stop_at_the_hole(spool: walspool.LogicalWalSpool, first: int, last: int) -> None:
    assert [lsn for lsn, _ in spool.read_since(0, first - 1)] == list(range(1, first))
    for read in (lambda: spool.read_since(0), lambda: list(spool.entries(first - 1)), lambda: list(spool.tuples())):
        with pytest.raises(walspool.SpoolCorrupt) as caught:
            read()
        assert (caught.value.first_lsn, caught.value.last_lsn) == (first, last)
    assert [lsn for lsn, _ in spool.read_since(last)] == list(range(last + 1, 8))


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("with_sidecar", [False, True])
def test_a_missing_sealed_segment_leaves_a_hole(
    which: int, with_sidecar: bool, core: ModuleType, segmented: Path
) -> None:
    files = SpoolFiles(spool_path(segmented))
    victim = files.list_sealed()[which]
    victim.unlink()
    if with_sidecar:
        files.sidecar(victim).unlink()
    first, last = 2 * which + 1, 2 * which + 2
    with pytest.raises(walspool.SpoolCorrupt) as caught:
        walspool.open(segmented, recovery="strict")
    assert (caught.value.first_lsn, caught.value.last_lsn) == (first, last)
    with walspool.open(segmented) as spool:
        _reads_stop_at_the_hole(spool, first, last)
    with walspool.open(segmented, recovery="strict") as spool:
        assert spool.recovery.verdict == "clean"


def test_a_missing_active_segment_is_noticed(core: ModuleType, segmented: Path) -> None:
    spool_path(segmented).unlink()
    with pytest.raises(walspool.SpoolCorrupt, match="LSN 7 was durable"):
        walspool.open(segmented, recovery="strict")
    with walspool.open(segmented) as spool:
        assert (spool.recovery.verdict, spool.current_lsn) == ("corrupt", 7)


def test_no_active_segment_after_a_rotation_is_normal(core: ModuleType, segmented: Path) -> None:
    files = SpoolFiles(spool_path(segmented))
    with walspool.open(segmented, segment_bytes=1) as spool:
        spool.append(8, b"eight")
    files.active.unlink()
    set_mark(files.active, 7)
    with walspool.open(segmented, recovery="strict") as spool:
        assert spool.recovery.verdict == "clean"
        assert spool.current_lsn == 7


def test_the_floor_survives_when_everything_is_pruned(core: ModuleType, tmp_path: Path) -> None:
    data_path, active = make(tmp_path)
    with walspool.open(data_path) as spool:
        last = spool.position()
        assert spool.prune_through(5).records == 5
        assert (spool.oldest_lsn, spool.current_lsn, spool.position()) == (None, 5, last)
    with walspool.open(data_path, recovery="strict") as spool:
        assert (spool.oldest_lsn, spool.current_lsn, spool.position()) == (None, 5, last)
        assert spool.append_next(b"six") == 6
    state = load_state(SpoolFiles(active))
    assert state is not None
    assert state.pruned_through == 5
