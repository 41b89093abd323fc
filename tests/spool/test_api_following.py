"""Waiting for more: in threads, in asyncio, over rotation, prune and floors."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.spool.kit import PATIENCE_S, fill, payload
from walspool.spool import prune

Spool = walspool.LogicalWalSpool


@pytest.fixture
def log(core: ModuleType, tmp_path: Path) -> Iterator[Spool]:
    """Ten records; a segment takes about as many."""
    with walspool.open(tmp_path / "app.db", segment_bytes=800) as spool:
        fill(spool, 10)
        yield spool


@pytest.fixture(params=["writer", "reader"])
def follower(request: pytest.FixtureRequest, log: Spool, tmp_path: Path) -> Iterator[Spool]:
    """The writer itself, or a read-only open of the same log."""
    if request.param == "writer":
        yield log
    else:
        with walspool.open(tmp_path / "app.db", read_only=True) as reader:
            yield reader


def test_follow_gives_what_is_there_and_then_ends(log: Spool, follower: Spool) -> None:
    assert [each.lsn for each in follower.follow(0, timeout=0)] == list(range(1, 11))
    assert [each.lsn for each in follower.follow(7, timeout=0.01)] == [8, 9, 10]
    assert list(follower.follow(10, timeout=0)) == []
    assert list(follower.follow(5000, timeout=0)) == []
    started = time.monotonic()
    assert list(follower.follow(10, timeout=0.05)) == []
    assert time.monotonic() - started >= 0.05


def test_follow_gives_each_new_record(log: Spool, follower: Spool) -> None:
    following = follower.follow(0)
    for lsn in range(1, 11):
        assert next(following).lsn == lsn
    for lsn in range(11, 100):
        log.append(lsn, payload(lsn))
        entry = next(following)
        assert (entry.lsn, entry.payload) == (lsn, payload(lsn))
    assert len(log.segments) > 5
    log.append(1000, b"behind a gap", term=3)
    entry = next(following)
    assert (entry.lsn, entry.term, entry.payload) == (1000, 3, b"behind a gap")
    del following


def test_follow_wakes_for_a_record(log: Spool, follower: Spool) -> None:
    seen: list[int] = []
    ready = threading.Event()

    def follow() -> None:
        for entry in follower.follow(9):
            seen.append(entry.lsn)
            ready.set()
            if entry.lsn == 40:
                return

    thread = threading.Thread(target=follow)
    thread.start()
    assert ready.wait(PATIENCE_S)
    fill(log, 30)
    thread.join(PATIENCE_S)
    assert seen == list(range(10, 41))


def test_follow_over_a_prune_of_what_it_has_seen(log: Spool, follower: Spool) -> None:
    following = follower.follow(0)
    for lsn in range(1, 11):
        assert next(following).lsn == lsn
    for lsn in range(11, 60):
        log.append(lsn, payload(lsn))
        log.prune_through(lsn - 1)
        assert next(following).lsn == lsn
    log.prune_through(59)
    log.append(60, b"x")
    assert next(following).payload == b"x"
    del following


def test_follow_refuses_what_a_prune_took_while_its_bytes_are_still_there(
    core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "_free_boundary", lambda segments: 0)
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 10)
        following = log.follow(9)
        assert next(following).lsn == 10
        fill(log, 1)
        assert next(following).lsn == 11
        fill(log, 3)
        log.prune_through(13)
        with pytest.raises(walspool.LsnPruned):
            next(following)


def test_a_follower_that_waited_is_told_of_damage_behind_what_is_good(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 10)
        following = log.follow(9)
        assert next(following).lsn == 10
        fill(log, 1)
        assert next(following).lsn == 11
        good = log.size_bytes
        fill(log, 1)
        bad = log.size_bytes
        fill(log, 1)
        with open(log.path, "r+b") as file:
            file.seek(bad - 1)
            last = file.read(1)
            file.seek(bad - 1)
            file.write(bytes([last[0] ^ 1]))
        with pytest.raises(walspool.SpoolCorrupt) as caught:
            next(following)
        assert (caught.value.offset, caught.value.first_lsn) == (good, 12)


def test_follow_behind_a_floor(log: Spool, follower: Spool) -> None:
    log.prune_through(500)
    assert follower.durable_lsn == follower.current_lsn == 500
    assert list(follower.follow(10, timeout=0)) == []
    assert list(follower.follow(400, timeout=0.01)) == []
    following = follower.follow(10)
    log.append(501, b"x")
    assert next(following).lsn == 501
    del following


def test_wait_for_lsn_after(log: Spool, follower: Spool) -> None:
    assert follower.wait_for_lsn_after(9, 0) is True
    assert follower.wait_for_lsn_after(9, None) is True
    assert follower.wait_for_lsn_after(10, 0) is False
    assert follower.wait_for_lsn_after(10, -1) is False
    assert follower.wait_for_lsn_after(10, 0.01) is False
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(follower.wait_for_lsn_after(19, PATIENCE_S)))
    thread.start()
    fill(log, 9)
    assert outcome == []
    fill(log, 1)
    thread.join(PATIENCE_S)
    assert outcome == [True]
    for wrong in ("1", b""):
        with pytest.raises(TypeError):
            follower.wait_for_lsn_after(100, wrong)  # type: ignore[arg-type]


def test_afollow(log: Spool, follower: Spool) -> None:
    async def follow() -> list[int]:
        seen = []
        async for entry in follower.afollow(0):
            assert entry.payload == payload(entry.lsn)
            seen.append(entry.lsn)
            if entry.lsn == 10:
                await asyncio.to_thread(fill, log, 20)
            if entry.lsn == 30:
                break
        return seen

    assert asyncio.run(follow()) == list(range(1, 31))


def test_afollow_overtaken_by_a_prune(log: Spool, follower: Spool) -> None:
    async def follow() -> list[int]:
        seen = []
        async for entry in follower.afollow(0):
            seen.append(entry.lsn)
            if entry.lsn == 10:
                await asyncio.to_thread(fill, log, 20)
                await asyncio.to_thread(log.prune_through, 25)
        return seen

    with pytest.raises(walspool.LsnPruned) as caught:
        asyncio.run(follow())
    assert (caught.value.lsn, caught.value.pruned_through) == (10, 25)


def test_await_lsn_after(log: Spool, follower: Spool) -> None:
    async def wait() -> None:
        assert await follower.await_lsn_after(9) is True
        waiting = asyncio.ensure_future(follower.await_lsn_after(19))
        await asyncio.sleep(0)
        await asyncio.to_thread(fill, log, 9)
        assert not waiting.done()
        await asyncio.to_thread(fill, log, 1)
        assert await asyncio.wait_for(waiting, PATIENCE_S) is True
        given_up = asyncio.ensure_future(follower.await_lsn_after(100))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up

    asyncio.run(wait())


def test_many_afollowers_of_one_loop(log: Spool, follower: Spool) -> None:
    async def follow(last: int) -> int:
        count = 0
        async for entry in follower.afollow(0):
            count += 1
            if entry.lsn == last:
                return count
        return -1

    async def run() -> list[int]:
        tasks = [asyncio.ensure_future(follow(40)) for _ in range(20)]
        await asyncio.to_thread(fill, log, 30)
        return await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_S)

    assert asyncio.run(run()) == [40] * 20


@pytest.mark.parametrize("read_only", [False, True])
def test_asyncio_waiters_end_at_close(log: Spool, tmp_path: Path, read_only: bool) -> None:
    other = walspool.open(tmp_path / "app.db", read_only=True) if read_only else log

    async def follow() -> None:
        async for _ in other.afollow(0):
            pass

    async def run() -> list[object]:
        tasks = [asyncio.ensure_future(follow()), asyncio.ensure_future(other.await_lsn_after(50))]
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.to_thread(other.close)
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)

    outcomes = asyncio.run(run())
    assert [type(each) for each in outcomes] == [walspool.SpoolClosed] * 2


def test_follow_looks_now_and_then_where_the_system_grants_no_more_watches(
    log: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives each user a number of inotify instances, 128 by default, which other processes share."""

    class UsedUp:
        def inotify_init1(self, _flags: int) -> int:
            ctypes.set_errno(errno.EMFILE)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda _name, use_errno: UsedUp())
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        assert not reader.wait_for_lsn_after(10, 0.01)
        assert any("no inotify is left" in each.message for each in caplog.records)
        following = reader.follow(9)
        assert next(following).lsn == 10
        appender = threading.Thread(target=log.append, args=(11, b"new"))
        appender.start()
        assert next(following).payload == b"new"
        appender.join()
        log.append(12, b"newer")
        assert next(following).payload == b"newer"
