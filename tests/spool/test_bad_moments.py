"""Calls at a bad moment: after and during close, after a fork, below a prune boundary; and a spool never closed."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.spool.kit import PATIENCE_S, Program, contents, fill, holds, payload

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


@pytest.mark.parametrize("round_", range(4))
def test_use_during_close(core: ModuleType, tmp_path: Path, round_: int) -> None:
    log = walspool.open(tmp_path / "app.db", segment_bytes=4000)
    started = threading.Barrier(7)
    given: list[list[int]] = [[] for _ in range(4)]
    ended: list[type[BaseException]] = []

    def until_closed(step: Callable[[], object]) -> None:
        started.wait(PATIENCE_S)
        try:
            while True:
                step()
        except BaseException as error:
            ended.append(type(error))

    steps: list[Callable[[], object]] = [
        partial(lambda mine: mine.append(log.append_next(b"x" * 50)), mine) for mine in given
    ]
    steps.append(lambda: log.wait_for_lsn_after(2**63, None))
    steps.append(lambda: [None for _ in log.follow(log.current_lsn)])
    threads = [threading.Thread(target=until_closed, args=(step,)) for step in steps]
    for each in threads:
        each.start()
    started.wait(PATIENCE_S)
    assert log.wait_for_lsn_after(log.current_lsn + 10 * round_, PATIENCE_S)
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


@pytest.mark.parametrize("read_only", [False, True])
def test_a_spool_that_is_never_closed(core: ModuleType, tmp_path: Path, read_only: bool) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 3)
    log = walspool.open(tmp_path / "app.db", read_only=read_only)
    path = str(log.path)
    if not read_only:
        fill(log, 2)
        asyncio.run(log.aappend(6, payload(6)))  # which starts a thread
    forget = [log]
    del log
    with pytest.warns(ResourceWarning, match="unclosed spool") as caught:
        forget.clear()
    assert path in str(caught[0].message)
    with walspool.open(tmp_path / "app.db", recovery="strict") as log:
        assert log.recovery.verdict == "clean"
        assert holds(log, 1, 3 if read_only else 6)


def test_an_open_that_fails_leaves_nothing_behind(core: ModuleType, tmp_path: Path) -> None:
    Spool.path_for(tmp_path / "app.db").write_bytes(b"not a log")
    gc.collect()
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
            seen.extend(entry.lsn for entry in following)
        assert seen == list(range(1, len(seen) + 1))
        assert (caught.value.lsn, caught.value.pruned_through) == (seen[-1], 50)
        assert f"LSN {seen[-1]} " in str(caught.value)
        assert "LSN 50" in str(caught.value)
        if read_only:
            follower.close()
