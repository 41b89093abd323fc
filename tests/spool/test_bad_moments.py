"""Things that happen at a bad moment: closing, forking, Ctrl-C, a buffer or a clock that changes, a directory that is locked."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.spool.kit import PATIENCE_S, Program, contents, fill, holds

Spool = walspool.LogicalWalSpool

#: Every call that a closed spool must refuse.
CALLS: dict[str, Callable[[Spool], object]] = {
    "append": lambda log: log.append(9, b"x"),
    "append_with_timestamp": lambda log: log.append_with_timestamp(9, 1, b"x"),
    "append_with_term_and_timestamp": lambda log: log.append_with_term_and_timestamp(1, 9, 1, b"x"),
    "append_next": lambda log: log.append_next(b"x"),
    "append_many": lambda log: log.append_many([(9, b"x")]),
    "append_next_many": lambda log: log.append_next_many([b"x"]),
    "append_frames": lambda log: log.append_frames(walspool.core.encode_frame(9, b"x")),
    "aappend": lambda log: asyncio.run(log.aappend(9, b"x")),
    "aappend_next": lambda log: asyncio.run(log.aappend_next(b"x")),
    "read_since": lambda log: log.read_since(0),
    "read_entries": lambda log: log.read_entries(),
    "entries": lambda log: list(log.entries()),
    "iter": lambda log: list(log),
    "tuples": lambda log: list(log.tuples()),
    "read_frames": lambda log: log.read_frames(0),
    "arrow_stream": lambda log: log.arrow_stream(),
    "follow": lambda log: list(log.follow(0, timeout=0)),
    "afollow": lambda log: log.afollow(0),
    "wait_for_lsn_after": lambda log: log.wait_for_lsn_after(0, 0),
    "await_lsn_after": lambda log: asyncio.run(log.await_lsn_after(0)),
    "seek_floor_offset": lambda log: log.seek_floor_offset(0),
    "position": lambda log: log.position(),
    "prune_through": lambda log: log.prune_through(1),
    "verify": lambda log: log.verify(),
    "stats": lambda log: log.stats(),
    "current_lsn": lambda log: log.current_lsn,
    "durable_lsn": lambda log: log.durable_lsn,
    "oldest_lsn": lambda log: log.oldest_lsn,
    "current_term": lambda log: log.current_term,
    "record_count": lambda log: log.record_count,
    "size_bytes": lambda log: log.size_bytes,
    "segments": lambda log: log.segments,
}


@pytest.mark.parametrize("read_only", [False, True])
def test_use_after_close(core: ModuleType, tmp_path: Path, read_only: bool) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 3)
    log = walspool.open(tmp_path / "app.db", read_only=read_only)
    log.close()
    log.close()
    before = contents(tmp_path)
    for name, call in CALLS.items():
        with pytest.raises(walspool.SpoolClosed) as caught:
            call(log)
        assert caught.value.path == log.path, name
        assert str(log.path) in str(caught.value), name
    assert log.closed
    assert log.recovery.records == 3
    assert "closed" in repr(log)
    assert contents(tmp_path) == before
    with walspool.open(tmp_path / "app.db") as log:
        assert holds(log, 1, 3)


def test_use_during_close(core: ModuleType, tmp_path: Path) -> None:
    for _ in range(5):
        log = walspool.open(tmp_path / "app.db", segment_bytes=4000)
        started = threading.Barrier(7)
        given: list[list[int]] = [[] for _ in range(4)]
        ended: list[type[BaseException]] = []

        def until_closed(step: Callable[[], object], started: threading.Barrier, ended: list[type[BaseException]]) -> None:
            started.wait(PATIENCE_S)
            try:
                while True:
                    step()
            except BaseException as error:
                ended.append(type(error))

        steps: list[Callable[[], object]] = [lambda mine=mine: mine.append(log.append_next(b"x" * 50)) for mine in given]
        steps.append(lambda: log.wait_for_lsn_after(2**63, None))
        steps.append(lambda: [None for _ in log.follow(log.current_lsn)])
        threads = [threading.Thread(target=until_closed, args=(step, started, ended)) for step in steps]
        for each in threads:
            each.start()
        started.wait(PATIENCE_S)
        log.wait_for_lsn_after(log.current_lsn + 20, PATIENCE_S)
        log.close()
        for each in threads:
            each.join(PATIENCE_S)
            assert not each.is_alive()
        assert ended == [walspool.SpoolClosed] * 6
        with walspool.open(tmp_path / "app.db", recovery="strict", segment_bytes=4000) as again:
            kept = {lsn for lsn, _ in again.tuples()}
            assert {lsn for mine in given for lsn in mine} <= kept
            assert again.recovery.verdict == "clean"


def test_read_only_waiters_end_at_close(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 3)
    reader = walspool.open(tmp_path / "app.db", read_only=True)
    ended: list[type[BaseException]] = []
    seen = threading.Semaphore(0)

    def follow() -> None:
        try:
            for _ in reader.follow(0):
                seen.release()
        except walspool.SpoolClosed as error:
            ended.append(type(error))

    thread = threading.Thread(target=follow)
    thread.start()
    for _ in range(3):
        assert seen.acquire(timeout=PATIENCE_S)
    reader.close()
    thread.join(PATIENCE_S)
    assert ended == [walspool.SpoolClosed]


FORK = """
import asyncio, gc, os, sys, walspool
from tests.spool.test_bad_moments import CALLS
log = walspool.open(sys.argv[1])
asyncio.run(log.aappend_next(b"one"))
log.append_many([(lsn, b"x" * 300) for lsn in range(2, 200)])
for lsn in range(200, 300):
    log.append(lsn, b"y")
size = log.path.stat().st_size
child = os.fork()
if child == 0:
    wrong = []
    for name, call in CALLS.items():
        try:
            call(log)
            wrong.append(name)
        except walspool.SpoolClosed:
            pass
    wrong += [] if log.closed else ["closed"]
    log.close()
    del log
    gc.collect()
    os.write(1, (repr(wrong) + "\\n").encode())
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print(log.path.stat().st_size == size, flush=True)
input()
log.append(300, b"z")
assert asyncio.run(log.aappend_next(b"and asyncio")) == 301
assert len(log.read_since(0)) == 301
log.close()
"""


def test_use_after_fork(core: ModuleType, tmp_path: Path) -> None:
    with Program(core.name, FORK, tmp_path / "app.db", cwd=Path(__file__).parents[2]) as parent:
        assert parent.line() == "[]"
        assert parent.line() == "True"
        with pytest.raises(walspool.SpoolLocked) as caught:
            walspool.open(tmp_path / "app.db")
        assert caught.value.pid == parent.process.pid
        parent.tell()
        parent.finish()
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.recovery.verdict == "clean"
        assert log.record_count == 301


INTERRUPTED = """
import sys, walspool
log = walspool.open(sys.argv[1], segment_bytes=3000)
many = sys.argv[2] == "many"
sure = 0
caught = 0
print("ready", flush=True)
while caught < 12:
    try:
        if many:
            log.append_next_many([b"%d" % lsn for lsn in range(sure + 1, sure + 21)])
            sure += 20
        else:
            log.append(sure + 1, b"%d" % (sure + 1))
            sure += 1
    except KeyboardInterrupt:
        caught += 1
        now = log.current_lsn
        assert now == log.durable_lsn
        assert now in ((sure, sure + 20) if many else (sure, sure + 1)), (sure, now)
        sure = now
        print(caught, flush=True)
assert list(log.tuples()) == [(lsn, b"%d" % lsn) for lsn in range(1, sure + 1)]
assert log.append_next(b"goes on") == sure + 1
assert log.verify().ok
log.close()
print("done", sure, flush=True)
"""


@pytest.mark.parametrize("how", ["one", "many"])
def test_ctrl_c_during_an_append(core: ModuleType, tmp_path: Path, how: str) -> None:
    with Program(core.name, INTERRUPTED, tmp_path / "app.db", how) as program:
        assert program.line() == "ready"
        for number in range(1, 13):
            program.interrupt()
            assert program.line() == str(number)
        done = program.line().split()
        program.finish()
    assert done[0] == "done"
    with walspool.open(tmp_path / "app.db", recovery="strict", segment_bytes=3000) as log:
        assert log.recovery.verdict == "clean"
        assert log.current_lsn == int(done[1]) + 1


def test_ctrl_c_during_a_wait(core: ModuleType, tmp_path: Path) -> None:
    text = (
        "import sys, walspool\n"
        "log = walspool.open(sys.argv[1], read_only=sys.argv[2] == 'reader')\n"
        "for wait in (lambda: log.wait_for_lsn_after(9, None), lambda: list(log.follow(0))):\n"
        "    try:\n"
        "        print('waiting', flush=True)\n"
        "        wait()\n"
        "    except KeyboardInterrupt:\n"
        "        print('caught', flush=True)\n"
        "log.close()\n"
    )
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 2)
    for mode in ("writer", "reader"):
        with Program(core.name, text, tmp_path / "app.db", mode) as program:
            for _ in range(2):
                assert program.line() == "waiting"
                program.interrupt()
                assert program.line() == "caught"
            program.finish()


CHANGING = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as region:
    patterns = [bytes([each]) * len(region) for each in range(1, 8)]
    print("changing", flush=True)
    while True:
        for each in patterns:
            region[:] = each
"""


def test_a_buffer_that_changes_during_the_call(core: ModuleType, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.write_bytes(b"\1" * (1 << 18))
    with (
        Program(core.name, CHANGING, shared) as changer,
        shared.open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as region,
        walspool.open(tmp_path / "app.db", segment_bytes=4 << 20) as log,
    ):
        assert changer.line() == "changing"
        for _ in range(8):
            log.append_next(region)
            log.append_next_many([region, region])
            log.append_many([(log.current_lsn + 1, region)])
            asyncio.run(log.aappend_next(region))
            try:
                log.append_frames(region)
            except walspool.FrameCorrupt as error:
                assert error.offset == 0
        changer.process.kill()
        assert log.verify().ok
        kept = list(log.tuples())
        assert len(kept) == 40
        assert all(len(data) == 1 << 18 for _, data in kept)
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.recovery.verdict == "clean"
        assert list(log.tuples()) == kept


def test_frames_that_change_during_the_call(core: ModuleType, tmp_path: Path) -> None:
    frames = bytearray(b"".join(core.encode_frame(lsn, bytes(2000), timestamp_ms=1) for lsn in range(1, 501)))
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for offset in range(40, len(frames), 2037):
                frames[offset] ^= 0xFF

    thread = threading.Thread(target=change)
    with walspool.open(tmp_path / "app.db") as log:
        thread.start()
        outcomes = set()
        for _ in range(20):
            try:
                outcomes.add(log.append_frames(frames).records)
            except walspool.FrameCorrupt:
                outcomes.add(0)
            except walspool.LsnOrderError:
                break
        stop.set()
        thread.join()
        assert outcomes <= {0, 500}
        assert log.verify().ok
        assert log.record_count in (0, 500)


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    static long calls;
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec -= 3600 * __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    return result;
}
"""

BACKWARDS = """
import sys, walspool
log = walspool.open(sys.argv[1], segment_bytes=400)
for lsn in range(1, 21):
    log.append(lsn, b"x" * 20)
log.append_next_many([b"y", b"z"])
stamps = [each.timestamp_ms for each in log.entries()]
assert stamps[:20] == sorted(stamps[:20], reverse=True) and stamps[0] > stamps[19], stamps
assert [each.lsn for each in log.follow(0, timeout=0.01)] == list(range(1, 23))
assert not log.wait_for_lsn_after(22, 0.01)
log.prune_through(5)
assert [lsn for lsn, _ in log.tuples()] == list(range(6, 23))
log.close()
log = walspool.open(sys.argv[1], recovery="strict")
assert log.recovery.verdict == "clean" and log.recovery.duration_ms >= 0
assert [each.timestamp_ms for each in log.entries()] == stamps[5:]
assert log.append_next(b"goes on") == 23
log.close()
print("done")
"""


def test_a_clock_that_goes_back(core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with walspool.open(tmp_path / "given.db") as log:
        for lsn, stamp in enumerate([5000, 4000, 0, 2**64 - 1, 1], start=1):
            log.append(lsn, b"x", timestamp_ms=stamp)
        assert [each.timestamp_ms for each in log] == [5000, 4000, 0, 2**64 - 1, 1]
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    with Program(core.name, BACKWARDS, tmp_path / "app.db") as program:
        assert program.finish() == "done\n"


UNWRITABLE = """
import os, sys, walspool
folder = sys.argv[1]
os.chdir(folder)
with walspool.open("warm-up.db") as log:
    log.append(1, b"x")
    list(log)
for name in os.listdir("."):
    os.unlink(name)
os.chmod(".", 0o555)
if os.geteuid() == 0:
    os.chown(".", 65534, 65534)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    walspool.open("app.db")
except OSError as error:
    print(type(error).__name__, error.errno, error.filename, flush=True)
print(os.listdir("."), flush=True)
os.chmod(".", 0o755)
log = walspool.open("app.db", segment_bytes=300)
while log.segments[-1].bytes < 300:
    log.append_next(b"x" * 50)
count = log.current_lsn
os.chmod(".", 0o555)
for call in (lambda: log.append_next(b"y"), lambda: log.append(count + 1, b"y"), lambda: log.append_many([(count + 1, b"y")])):
    try:
        call()
        print("appended")
    except OSError as error:
        print(type(error).__name__, error.errno, error.filename, flush=True)
assert log.current_lsn == count == len(log.read_since(0))
os.chmod(".", 0o755)
assert log.append_next(b"y") == count + 1
assert log.append_next(b"y") == count + 2
assert len(log.read_since(0)) == count + 2 and len(log.segments) == 2 and log.verify().ok
log.close()
with walspool.open("app.db", recovery="strict") as log:
    assert log.record_count == count + 2
print("done")
"""


def test_a_directory_without_write_permission(core: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    with Program(core.name, UNWRITABLE, folder) as program:
        assert program.line() == "PermissionError 13 app.db.logical.wal.lock"
        assert program.line() == "[]"
        for _ in range(3):
            kind, number, name = program.line().split()
            assert (kind, number) == ("PermissionError", "13")
            assert name.startswith("app.db.logical.wal")
        assert program.finish() == "done\n"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_spool_that_is_never_closed(core: ModuleType, tmp_path: Path, read_only: bool) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 3)
    log = walspool.open(tmp_path / "app.db", read_only=read_only)
    path = str(log.path)
    if not read_only:
        fill(log, 3)
    with pytest.warns(ResourceWarning, match="unclosed spool") as caught:
        del log
        gc.collect()
    assert path in str(caught[0].message)
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.recovery.verdict == "clean"
        assert holds(log, 1, 3 if read_only else 6)


def test_an_open_that_fails_leaves_nothing_behind(core: ModuleType, tmp_path: Path) -> None:
    Spool.path_for(tmp_path / "app.db").write_bytes(b"not a log")
    descriptors = len(os.listdir("/dev/fd"))
    for _ in range(5):
        with pytest.raises(walspool.SpoolCorrupt):
            walspool.open(tmp_path / "app.db")
        gc.collect()
    assert len(os.listdir("/dev/fd")) == descriptors


@pytest.mark.parametrize("read_only", [False, True])
def test_follow_below_the_prune_boundary(core: ModuleType, tmp_path: Path, read_only: bool) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=600) as log:
        fill(log, 40)
        log.prune_through(25)
        follower = walspool.open(tmp_path / "app.db", read_only=True) if read_only else log
        for since in (0, 24):
            for call in (follower.follow, follower.afollow):
                with pytest.raises(walspool.LsnPruned) as caught:
                    call(since)
                assert (caught.value.lsn, caught.value.pruned_through) == (since, 25)
                assert f"LSN {since} " in str(caught.value)
                assert "LSN 25" in str(caught.value)
        assert [each.lsn for each in follower.follow(25, timeout=0)] == list(range(26, 41))
        if read_only:
            follower.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_follow_overtaken_by_a_prune(core: ModuleType, tmp_path: Path, read_only: bool) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=600) as log:
        fill(log, 40)
        follower = walspool.open(tmp_path / "app.db", read_only=True) if read_only else log
        following = follower.follow(0)
        seen = [next(following).lsn for _ in range(3)]
        fill(log, 20)
        log.prune_through(50)
        with pytest.raises(walspool.LsnPruned) as caught:
            while True:
                seen.append(next(following).lsn)
        assert seen == list(range(1, len(seen) + 1))
        assert (caught.value.lsn, caught.value.pruned_through) == (seen[-1], 50)
        assert f"LSN {seen[-1]} " in str(caught.value)
        assert "LSN 50" in str(caught.value)
        if read_only:
            follower.close()
