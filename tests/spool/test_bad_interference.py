"""Interference from outside: Ctrl-C, a buffer or a clock that changes during the call, a directory that is locked."""

from __future__ import annotations

import asyncio
import mmap
import subprocess
import threading
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.spool.kit import Program, fill

INTERRUPTED = """
import os, signal, sys, walspool
inside = False

def interrupt(*_):
    if inside:
        raise KeyboardInterrupt
    os.write(1, b"missed\\n")

signal.signal(signal.SIGINT, interrupt)
log = walspool.open(sys.argv[1], segment_bytes=3000)
many = sys.argv[2] == "many"
sure = caught = 0
os.write(1, b"ready\\n")
while caught < int(sys.argv[3]):
    try:
        inside = True
        if many:
            log.append_next_many([b"%d" % lsn for lsn in range(sure + 1, sure + 21)])
        else:
            log.append(sure + 1, b"%d" % (sure + 1))
        inside = False
        sure += 20 if many else 1
    except KeyboardInterrupt:
        inside = False
        now = log.current_lsn
        assert now == log.durable_lsn
        assert now == sure or now == sure + (20 if many else 1), (sure, now)
        assert log.read_since(max(now - 1, 0)) == ([(now, b"%d" % now)] if now else [])
        sure, caught = now, caught + 1
        os.write(1, b"caught\\n")
inside = False
signal.signal(signal.SIGINT, signal.SIG_IGN)
assert list(log.tuples()) == [(lsn, b"%d" % lsn) for lsn in range(1, sure + 1)]
assert log.append_next(b"goes on") == sure + 1
assert log.verify().ok
log.close()
print("done", sure)
"""


@pytest.mark.parametrize("how", ["one", "many"])
def test_ctrl_c_during_an_append(core: ModuleType, tmp_path: Path, how: str) -> None:
    with Program(core.name, INTERRUPTED, tmp_path / "app.db", how, 50) as program:
        assert program.line() == "ready"
        caught = 0
        while caught < 50:
            program.interrupt()
            line = program.line()
            assert line in ("caught", "missed")
            caught += line == "caught"
        done = program.finish().split()
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


# The signal goes to another thread, and like one that comes just before a wait blocks it does not end the wait itself.
LATE = """
import signal, sys, threading
import walspool
from walspool.replication.backing import MemoryBacking
from walspool.replication.buffer import WalBuffer
from walspool.replication.commit import CommitWaiter

with walspool.open(sys.argv[1]) as log, walspool.open(sys.argv[1], read_only=True) as reader:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    for wait in (
        lambda: log.wait_for_lsn_after(9, None),
        lambda: reader.wait_for_lsn_after(9, None),
        lambda: CommitWaiter().await_acks(9, 1, None),
        lambda: MemoryBacking(WalBuffer(9)).wait_after(9, None),
    ):
        try:
            print("waiting", flush=True)
            wait()
        except KeyboardInterrupt:
            print("caught", flush=True)
"""


def test_ctrl_c_that_does_not_end_the_wait_itself(core: ModuleType, tmp_path: Path) -> None:
    with Program(core.name, LATE, tmp_path / "app.db") as program:
        for _ in range(4):
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
            with pytest.raises(walspool.FrameCorrupt) as caught:
                log.append_frames(region)
            assert caught.value.offset == 0
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
    list(log), log.segments, log.verify(), log.recovery
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
many = [(count + 1, b"y")]
for call in (lambda: log.append_next(b"y"), lambda: log.append(count + 1, b"y"), lambda: log.append_many(many)):
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
