"""Read-only opens: no lock, no write, no repair; they see what is durable, beside a writer that goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.spool.kit import Program, contents, fill, holds, payload

Spool = walspool.LogicalWalSpool

WRITES: dict[str, Callable[[Spool], object]] = {
    "append": lambda log: log.append(99, b"x"),
    "append_next": lambda log: log.append_next(b"x"),
    "aappend": lambda log: asyncio.run(log.aappend(99, b"x")),
    "aappend_next": lambda log: asyncio.run(log.aappend_next(b"x")),
    "append_many": lambda log: log.append_many([(99, b"x")]),
    "append_next_many": lambda log: log.append_next_many([b"x"]),
    "append_frames": lambda log: log.append_frames(b""),
    "prune_through": lambda log: log.prune_through(1),
}


@pytest.fixture
def log(core: ModuleType, tmp_path: Path) -> Iterator[Spool]:
    """A writer with 30 records."""
    with walspool.open(tmp_path / "app.db", segment_bytes=600) as spool:
        fill(spool, 30)
        yield spool


def _stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {each.name: (each.stat().st_ino, each.stat().st_mtime_ns, each.stat().st_size) for each in folder.iterdir()}


def test_it_refuses_to_write(log: Spool, tmp_path: Path) -> None:
    before = _stamps(tmp_path)
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        for name, call in WRITES.items():
            with pytest.raises(walspool.SpoolReadOnly) as caught:
                call(reader)
            assert (caught.value.call, caught.value.path) == (name, log.path)
            assert f"{name} is refused" in str(caught.value)
        assert "read-only" in repr(reader)
    assert _stamps(tmp_path) == before


def test_it_sees_what_a_writer_sees(log: Spool, tmp_path: Path) -> None:
    log.append(100, b"behind a gap", term=4)
    log.prune_through(7)
    before = _stamps(tmp_path)
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        for name in [
            "path",
            "current_lsn",
            "durable_lsn",
            "oldest_lsn",
            "current_term",
            "record_count",
            "size_bytes",
            "segments",
            "pruned_through",
        ]:
            assert getattr(reader, name) == getattr(log, name), name
        assert list(reader) == list(log)
        assert reader.read_since(20) == log.read_since(20)
        assert reader.read_frames(9, 300) == log.read_frames(9, 300)
        for lsn in (None, 7, 8, 30, 100):
            assert reader.position(lsn) == log.position(lsn)
        assert reader.seek_floor_offset(25) == log.seek_floor_offset(25)
        assert reader.verify() == log.verify()
        assert reader.stats().appends == 0
        assert reader.stats().reads > 0
    assert _stamps(tmp_path) == before


def test_it_goes_along_with_the_writer(log: Spool, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        for lsn in range(31, 80):
            log.append(lsn, payload(lsn))
            assert reader.current_lsn == lsn
            assert reader.read_since(lsn - 1) == [(lsn, payload(lsn))]
            if lsn % 10 == 0:
                log.prune_through(lsn - 15)
                assert reader.oldest_lsn == lsn - 14
                assert holds(reader, lsn - 14, lsn)
                assert reader.segments == log.segments
        log.prune_through(79)
        assert (reader.record_count, reader.oldest_lsn, reader.current_lsn) == (0, None, 79)


def test_one_file_that_is_rewritten(core: ModuleType, tmp_path: Path) -> None:
    with (
        walspool.open(tmp_path / "app.db", segment_bytes=None) as log,
        walspool.open(tmp_path / "app.db", read_only=True) as reader,
    ):
        for lsn in range(1, 60):
            log.append(lsn, payload(lsn))
            if lsn % 7 == 0:
                log.prune_through(lsn - 3)
                assert holds(reader, lsn - 2, lsn)
        assert reader.verify().ok


def test_nothing_there_yet(core: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        walspool.open(tmp_path / "app.db", read_only=True)
    assert Path(caught.value.filename) == Spool.path_for(tmp_path / "app.db")
    assert list(tmp_path.iterdir()) == []
    with walspool.open(tmp_path / "app.db") as log, walspool.open(tmp_path / "app.db", read_only=True) as reader:
        assert (reader.current_lsn, reader.record_count, reader.oldest_lsn) == (0, 0, None)
        log.append(1, payload(1))
        assert holds(reader, 1, 1)
        assert reader.wait_for_lsn_after(0, 0)
        fill(log, 10)
        assert holds(reader, 1, 11)


def test_it_takes_bytes_behind_the_mark_for_not_yet(log: Spool, core: ModuleType, tmp_path: Path) -> None:
    whole = core.encode_frame(31, payload(31), timestamp_ms=1)
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        for part in (b"R", whole[:20], whole, whole + whole[:10], b"\0" * 5000):
            size = log.size_bytes - sum(each.bytes for each in log.segments[:-1])
            with log.path.open("r+b") as file:
                file.seek(size)
                file.write(part)
            assert holds(reader, 1, 30)
            with walspool.open(tmp_path / "app.db", read_only=True) as fresh:
                assert fresh.recovery.verdict == "clean"
                assert holds(fresh, 1, 30)
            os.truncate(log.path, size)
        log.append(31, payload(31))
        assert holds(reader, 1, 31)


def test_a_mark_that_can_not_be_read_for_a_while(log: Spool, tmp_path: Path) -> None:
    mark = tmp_path / "app.db.logical.wal.mark"
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        assert reader.current_lsn == 30
        good = mark.read_bytes()
        for bad in (good[:100] + b"torn" + good[104:], b"", bytes(512)):
            mark.write_bytes(bad)
            assert reader.current_lsn == 30
            assert holds(reader, 1, 30)
        mark.write_bytes(good)
        fill(log, 3)
        assert holds(reader, 1, 33)


def test_a_log_without_a_mark(log: Spool, tmp_path: Path) -> None:
    log.close()
    for name in ("mark", "state", "state.spare", "lock"):
        (tmp_path / f"app.db.logical.wal.{name}").unlink()
    for each in list(tmp_path.glob("*.wal.0*")):
        each.unlink()
    before = contents(tmp_path)
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        (info,) = reader.segments
        assert reader.record_count == info.records > 0
        assert [lsn for lsn, _ in reader.tuples()] == list(range(info.first_lsn or 0, 31))
    assert contents(tmp_path) == before


def test_a_folder_that_can_only_be_read(log: Spool, core: ModuleType, tmp_path: Path) -> None:
    text = (
        "import os, sys, walspool\n"
        "os.chdir(sys.argv[1])\n"
        "if os.geteuid() == 0:\n"
        "    walspool.open('app.db', read_only=True).close()\n"
        "    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "with walspool.open('app.db', read_only=True) as log:\n"
        "    print(len(log.read_since(0)), flush=True)\n"
        "    input()\n"
        "    print(next(log.follow(30)).lsn)\n"
    )
    for each in tmp_path.iterdir():
        each.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with Program(core.name, text, tmp_path) as reader:
            assert reader.line() == "30"
            log.append(31, payload(31))
            reader.tell()
            assert reader.finish() == "31\n"
    finally:
        tmp_path.chmod(0o755)


FOLLOWER = """
import sys, walspool
last = 0
with walspool.open(sys.argv[1], read_only=True) as log:
    print("following", flush=True)
    for entry in log.follow(0):
        assert entry.lsn == last + 1, (last, entry.lsn)
        assert entry.payload == b"record %d" % entry.lsn
        last = entry.lsn
        print(last, flush=True)
        if last == int(sys.argv[2]):
            break
print("done")
"""


def test_it_follows_a_writer_in_another_process(core: ModuleType, tmp_path: Path) -> None:
    with (
        walspool.open(tmp_path / "app.db", segment_bytes=500) as log,
        Program(core.name, FOLLOWER, tmp_path / "app.db", 150) as follower,
    ):
        assert follower.line() == "following"
        for lsn in range(1, 151):
            assert log.append_next(b"record %d" % lsn) == lsn
            assert follower.line() == str(lsn)  # it woke for this very record
            if lsn % 20 == 0:
                log.prune_through(lsn - 5)
        assert follower.finish() == "done\n"


WRITER = """
import sys, walspool
log = walspool.open(sys.argv[1], segment_bytes=500)
for line in sys.stdin:
    call, number = line.split()
    if call == "append":
        for _ in range(int(number)):
            lsn = log.current_lsn + 1
            log.append(lsn, b"record %d" % lsn)
    else:
        log.prune_through(int(number))
    print("ok", flush=True)
"""


def test_a_writer_that_is_killed(core: ModuleType, tmp_path: Path) -> None:
    with Program(core.name, WRITER, tmp_path / "app.db") as writer:
        writer.tell("append 30")
        assert writer.line() == "ok"
        reader = walspool.open(tmp_path / "app.db", read_only=True)
        following = reader.follow(0)
        assert [next(following).lsn for _ in range(30)] == list(range(1, 31))
        writer.tell("append 5")
        assert writer.line() == "ok"
        writer.process.kill()
    assert [next(following).lsn for _ in range(5)] == list(range(31, 36))
    with Program(core.name, WRITER, tmp_path / "app.db") as writer:
        for command in ("append 20", "prune 10", "append 20"):
            writer.tell(command)
            assert writer.line() == "ok"
        assert [next(following).lsn for _ in range(40)] == list(range(36, 76))
        assert reader.record_count == 65
        writer.tell("prune 75")
        assert writer.line() == "ok"
        assert (reader.current_lsn, reader.record_count) == (75, 0)
        del following
        reader.close()
        writer.finish()
