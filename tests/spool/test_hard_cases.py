"""Cases in which a record, a report or a promise was once lost."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import threading
import zlib
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from walspool.spool import files as fs
from walspool.spool import prune, segments
from walspool.spool.files import SpoolFiles, spool_path
from walspool.spool.state import load_state

FRAME = 77


def fill(data_path: Path, count: int = 7, segment_bytes: int = 100) -> SpoolFiles:
    """A closed log with two records in each segment."""
    with walspool.open(data_path, segment_bytes=segment_bytes) as spool:
        for lsn in range(1, count + 1):
            spool.append(lsn, bytes([lsn]) * 40)
    return SpoolFiles(spool_path(data_path))


def test_close_waits_for_a_rotation(core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = walspool.open(tmp_path / "app.db", segment_bytes=50)
    spool.append(1, bytes(40))
    reached, go_on = threading.Event(), threading.Event()
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if str(target).endswith("0001"):
            reached.set()
            assert go_on.wait(60)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)

    def append() -> None:
        with contextlib.suppress(walspool.SpoolClosed):  # closed before its turn, or not
            spool.append(2, bytes(40))

    appending = threading.Thread(target=append)
    appending.start()
    assert reached.wait(60)
    closing = threading.Thread(target=spool.close)
    closing.start()
    with pytest.raises(walspool.SpoolLocked):
        walspool.open(tmp_path / "app.db")
    go_on.set()
    appending.join()
    closing.join()
    with walspool.open(tmp_path / "app.db", recovery="strict") as again:
        assert {lsn for lsn, _ in again.tuples()} >= {1}


def test_an_open_syncs_the_directory_it_found(
    core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "app.db")
    synced: list[Path] = []
    real = fs.sync_directory
    monkeypatch.setattr(fs, "sync_directory", lambda folder: (synced.append(folder), real(folder)))
    walspool.open(tmp_path / "app.db").close()
    assert tmp_path in synced


def test_a_rotation_never_replaces_a_segment(core: ModuleType, tmp_path: Path) -> None:
    files = fill(tmp_path / "app.db", count=2)
    fill(tmp_path / "other.db", count=2, segment_bytes=1 << 20)
    old = files.list_sealed() or [files.active]
    with walspool.open(tmp_path / "app.db", segment_bytes=100) as spool:
        spool.append(3, bytes(40))
    kept = files.sealed(1).read_bytes()
    files.active.write_bytes(spool_path(tmp_path / "other.db").read_bytes())
    with walspool.open(tmp_path / "app.db", segment_bytes=100) as spool, pytest.raises(walspool.SpoolCorrupt) as caught:
        spool.append(10, bytes(40))
    assert caught.value.path == files.sealed(1)
    assert files.sealed(1).read_bytes() == kept
    assert old


def test_a_half_saved_quarantine_is_saved_again(core: ModuleType, tmp_path: Path) -> None:
    files = fill(tmp_path / "app.db", count=5, segment_bytes=1 << 20)
    damaged = bytearray(files.active.read_bytes())
    damaged[FRAME + 40] ^= 1
    files.active.write_bytes(damaged)
    crc = core.crc32(bytes(damaged[FRAME:]))
    files.quarantine(FRAME, crc).write_bytes(bytes(len(damaged) - FRAME))
    with walspool.open(tmp_path / "app.db") as spool:
        assert spool.recovery.quarantine == files.quarantine(FRAME, crc)
        assert spool.recovery.quarantine.read_bytes() == damaged[FRAME:]


def test_a_prune_through_a_hole_forgets_the_boundary(core: ModuleType, tmp_path: Path) -> None:
    files = fill(tmp_path / "app.db")
    files.list_sealed()[1].unlink()
    with walspool.open(tmp_path / "app.db") as spool:
        spool.prune_through(4)
        assert spool.position(2) is None
        with pytest.raises(walspool.LsnPruned) as caught:
            next(spool.follow(2, timeout=0))
        assert (caught.value.lsn, caught.value.pruned_through) == (2, 4)


def test_a_reader_stops_at_damage_without_a_mark(core: ModuleType, tmp_path: Path) -> None:
    files = fill(tmp_path / "app.db", count=6, segment_bytes=1 << 20)
    files.mark.unlink()
    damaged = bytearray(files.active.read_bytes())
    damaged[2 * FRAME + 40] ^= 1
    files.active.write_bytes(damaged)
    with walspool.open(tmp_path / "app.db", read_only=True) as spool:
        assert spool.recovery.verdict == "corrupt"
        assert [lsn for lsn, _ in spool.read_since(0, 2)] == [1, 2]
        with pytest.raises(walspool.SpoolCorrupt) as caught:
            spool.read_since(0)
        assert (caught.value.first_lsn, caught.value.last_lsn) == (3, 6)
        assert not spool.verify().ok


def test_repair_does_not_hide_what_the_mark_misses(core: ModuleType, tmp_path: Path) -> None:
    files = fill(tmp_path / "app.db", count=6, segment_bytes=1 << 20)
    files.state.write_bytes(b"junk")
    files.active.write_bytes(files.active.read_bytes()[: 3 * FRAME])
    done = walspool.LogicalWalSpool.repair(tmp_path / "app.db")
    assert done.recovery is not None
    assert done.recovery.verdict == "corrupt"
    assert done.lsn_floor == 6


def test_nothing_slips_below_a_prune_beyond_the_end(
    core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with walspool.open(tmp_path / "app.db") as spool:
        spool.append(10, b"ten")
        real = prune._count
        started: list[threading.Thread] = []

        def refused() -> None:
            with pytest.raises(walspool.LsnOrderError):
                spool.append(11, b"late")

        def count(*args: object) -> object:
            appending = threading.Thread(target=refused)
            appending.start()
            started.append(appending)
            return real(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(prune, "_count", count)
        spool.prune_through(1000)
        started[0].join()
        assert spool.position() == spool.position(10)
        assert (spool.record_count, spool.current_lsn) == (0, 1000)


def test_no_sidecar_of_the_old_content_is_left_by_a_rewrite(
    core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fill(tmp_path / "app.db")
    victim = files.list_sealed()[0]
    seen: list[bool] = []
    real = fs.rename
    monkeypatch.setattr(
        fs, "rename", lambda a, b: (seen.append(files.sidecar(victim).exists()) if b == victim else None, real(a, b))
    )
    with walspool.open(tmp_path / "app.db") as spool:
        spool.prune_through(1)
        assert [lsn for lsn, _ in spool.tuples()] == [2, 3, 4, 5, 6, 7]
    assert seen == [False]


def test_a_failed_directory_sync_in_a_rotation_poisons(
    core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=50) as spool:
        spool.append(1, bytes(40))
        renamed: list[int] = []
        real_rename, real_sync = os.rename, fs.sync_file

        def rename(source: Path, target: Path) -> None:
            real_rename(source, target)
            if str(target).endswith("0001"):
                renamed.append(1)

        def sync(fd: int, path: Path) -> None:
            if renamed:
                raise OSError(5, "Input/output error", str(path))
            real_sync(fd, path)

        monkeypatch.setattr(os, "rename", rename)
        monkeypatch.setattr(segments.fs, "sync_file", sync)
        with pytest.raises(OSError, match="Input/output error"):
            spool.append(2, bytes(40))
        monkeypatch.undo()
        with pytest.raises(walspool.SpoolPoisoned):
            spool.append(2, bytes(40))
    with walspool.open(tmp_path / "app.db", recovery="strict") as spool:
        assert [lsn for lsn, _ in spool.tuples()] == [1]
        spool.append(2, bytes(40))


def test_a_known_hole_is_no_damage_when_its_old_sidecar_is_back(core: ModuleType, tmp_path: Path) -> None:
    files = fill(tmp_path / "app.db")
    victim = files.list_sealed()[1]
    sidecar = files.sidecar(victim).read_bytes()
    data = bytearray(victim.read_bytes())
    data[FRAME + 40] ^= 1
    victim.write_bytes(data[:-1])
    walspool.open(tmp_path / "app.db").close()
    files.sidecar(victim).write_bytes(sidecar)
    with walspool.open(tmp_path / "app.db", recovery="strict") as spool:
        assert spool.recovery.verdict == "clean"
    state = load_state(files)
    assert state is not None
    assert state.holes == ((4, 4),)


@pytest.mark.parametrize("segment_bytes", [None, 1 << 20])
def test_what_follows_a_wide_frame_is_not_taken_for_one(
    core: ModuleType, tmp_path: Path, segment_bytes: int | None
) -> None:
    path = spool_path(tmp_path / "app.db")
    path.write_bytes(wide_frame(1) + wide_frame(2))
    looks_wide = b"TAG1" + (16).to_bytes(4, "little") + b"sixteen bytes ok"
    with walspool.open(tmp_path / "app.db", segment_bytes=segment_bytes) as spool:
        assert path.read_bytes() == wide_frame(1) + wide_frame(2)
        spool.append(3, looks_wide)
        spool.append(4, looks_wide)
    with walspool.open(tmp_path / "app.db", recovery="strict") as spool:
        assert spool.read_since(2) == [(3, looks_wide), (4, looks_wide)]
        assert [each.ownership_epoch for each in spool.entries()] == [7, 7, None, None]
        assert spool.verify().ok
        spool.prune_through(0)
        assert spool.read_since(2) == [(3, looks_wide), (4, looks_wide)]


def wide_frame(lsn: int) -> bytes:
    """A frame of the newer reference: an ownership epoch behind the term."""
    head = struct.pack("<4sBQQQQI", b"RDLW", 3, 1, 7, lsn, 1_700_000_000_000, 4)
    return head + b"wide" + struct.pack("<I", zlib.crc32((head + b"wide")[4:]))


def test_close_within_close(core: ModuleType, tmp_path: Path) -> None:
    spool = walspool.open(tmp_path / "app.db")
    spool.append(1, b"one")
    before = signal.signal(signal.SIGUSR1, lambda *_: spool.close())
    real = spool._flusher.close

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        real()

    spool._flusher.close = interrupted  # type: ignore[method-assign]
    try:
        spool.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert spool.closed
    walspool.open(tmp_path / "app.db", recovery="strict").close()


def test_a_segment_whose_sidecar_goes_back_hides_no_record(core: ModuleType, tmp_path: Path) -> None:
    files = fill(tmp_path / "app.db", count=60, segment_bytes=1000)
    first, second, *_ = files.list_sealed()
    sidecar = files.sidecar(second)
    owner, prev_lsn, _, _ = core.decode_sidecar(sidecar.read_bytes())
    # what somebody restored: older records, with a sidecar that fits them by size and checksum
    second.write_bytes(b"".join(core.encode_frame(lsn, b"old", timestamp_ms=1) for lsn in (1, 2)))
    sidecar.write_bytes(core.encode_sidecar(owner, prev_lsn, core.scan(second)))
    with walspool.open(tmp_path / "app.db", read_only=True) as spool:
        last = spool.segments[0].last_lsn
        assert last is not None
        assert last > 5
        assert spool.segments[0].path == first
        for since in range(last):
            assert [lsn for lsn, _ in spool.read_since(since, 1)] == [since + 1]


def test_reads_begin_in_any_of_many_segments(core: ModuleType, tmp_path: Path) -> None:
    fill(tmp_path / "app.db", count=41)
    with walspool.open(tmp_path / "app.db", segment_bytes=100) as spool:
        assert len(spool.segments) > 20
        spool.prune_through(9)
        for since in range(43):
            assert [lsn for lsn, _ in spool.read_since(since)] == list(range(max(since, 9) + 1, 42))
        spool.append_next(b"more")
        assert spool.read_since(41) == [(42, b"more")]
