"""A follower that is dropped, interrupted, or given what is no good."""

from __future__ import annotations

import dataclasses
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import walspool
from tests.net.kit import PATIENCE_S
from tests.net.site import SMALL, Site, eventually, same, sites
from tests.net.test_strange_answers import answering
from walspool import LogicalWalSpool, PrimaryReplication
from walspool.core import Entry
from walspool.net import Follower
from walspool.net import follower as module


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A primary with ten records."""
    with sites(Site(tmp_path / "p" / "app.db")) as (found,):
        found.write(10)
        yield found


def follower(site: Site, folder: Path, **options: Any) -> Follower:
    """A follower that is not started."""
    return Follower(site.url, "a", folder / "a" / "app.db", segment_bytes=500, **options)


@pytest.mark.parametrize("apply", [None, lambda entry: None])
def test_one_that_nobody_holds_any_more_ends(
    site: Site, tmp_path: Path, apply: Callable[[Entry], object] | None
) -> None:
    one = follower(site, tmp_path, apply=apply)
    one.start()
    same(one, site)
    threads = one._threads
    held = [one]
    del one
    with pytest.warns(ResourceWarning, match="not stopped"):
        held.clear()
    gc.collect()
    for each in threads:
        each.join(PATIENCE_S)
        assert not each.is_alive()
    with follower(site, tmp_path) as again:  # the log was let go of
        site.write(1)
        same(again, site)


@pytest.mark.parametrize("during", ["status", "wait_for"])
def test_a_signal_handler_may_stop_it_whatever_the_main_thread_does(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    free: list[bool] = []

    def stop(*_: object) -> None:
        def take() -> None:
            assert pulling is not None
            free.append(pulling.changed.acquire(timeout=5))
            if free[-1]:
                pulling.changed.release()

        other = threading.Thread(target=take)  # as the threads do that stop waits for
        other.start()
        other.join()
        if all(free):
            one.stop()

    def interrupted(*given: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return whole(*given, **named)

    with follower(site, tmp_path) as one:
        same(one, site)
        pulling = one._pulling
        assert pulling is not None
        before = signal.signal(signal.SIGUSR1, stop)
        try:
            whole: Callable[..., Any]
            if during == "status":
                whole = module.FollowerStatus
                monkeypatch.setattr(module, "FollowerStatus", interrupted)
                one.status()
            else:
                whole = pulling.changed.wait
                monkeypatch.setattr(pulling.changed, "wait", interrupted)
                with pytest.raises(walspool.SpoolClosed):
                    one.wait_for(1_000, PATIENCE_S)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert free
        assert all(free)


def test_a_log_that_turns_out_to_be_corrupt_is_fetched_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    some_after = LogicalWalSpool.some_after
    rotten = threading.Event()

    def read(self: LogicalWalSpool, lsn: int, max_count: int, max_bytes: int) -> list[Entry]:
        if rotten.is_set() and threading.current_thread().name == "walspool-apply-a":
            rotten.clear()
            raise walspool.SpoolCorrupt(path=tmp_path / "x", reason="a rotten bit")
        return some_after(self, lsn, max_count, max_bytes)

    monkeypatch.setattr(LogicalWalSpool, "some_after", read)
    site.options["snapshot"] = lambda: (site.primary.current_logical_lsn, [b"all"])
    site.stop()
    site.serve()
    loaded: list[int] = []

    def load(lsn: int, chunks: Iterator[bytes]) -> None:
        assert b"".join(chunks) == b"all"
        loaded.append(lsn)

    with follower(site, tmp_path, apply=lambda entry: None, load_snapshot=load) as one:
        assert one.wait_for(10, PATIENCE_S, applied=True)
        rotten.set()
        status = eventually(one, lambda status: status.bootstraps)
        assert (status.bootstraps, status.apply_errors, loaded) == (1, 0, [10])
        site.write(1, ack=1)
        same(one, site, 10)
        assert one.wait_for(11, PATIENCE_S, applied=True)
    assert "a rotten bit" in caplog.text


def test_one_that_was_never_applied_from_begins_where_its_log_does(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path) as one:
        same(one, site)
        position = one.spool.position()
    assert position is not None
    LogicalWalSpool.restart_at(tmp_path / "a" / "app.db", position).close()  # as a bootstrap leaves it
    with follower(site, tmp_path, apply=lambda entry: None) as again:
        assert again.wait_for(10, PATIENCE_S, applied=True)
        with again.promote(SMALL, timeout=PATIENCE_S) as promoted:
            assert isinstance(promoted, PrimaryReplication)
            assert promoted.current_logical_lsn == 10


def test_what_a_stranger_says_is_shown_escaped(tmp_path: Path) -> None:
    with (
        answering(b"\x1b[31mCRITICAL\r\n\r\n") as url,
        Follower(url, "a", tmp_path / "app.db") as one,
    ):
        error = eventually(one, lambda status: status.error).error
        assert error is not None
        assert "CRITICAL" in error
        assert error.isprintable()


def test_answers_without_anything_make_no_busy_loop(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the primary is asked to wait for nothing, and that is not what the follower takes it to be asked
    monkeypatch.setattr(
        "walspool.net.pulling.replace", lambda request, wait_ms: dataclasses.replace(request, wait_ms=0)
    )
    with follower(site, tmp_path) as one:
        assert eventually(one, lambda status: status.state == "waiting").error is None
        site.write(1, ack=1)
        same(one, site)


def test_stopping_does_not_wait_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def resolve(*_: object, flags: int = 0, **__: object) -> list[Any]:
        if flags == socket.AI_NUMERICHOST:
            raise socket.gaierror
        asked.set()
        answer.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    one = Follower("http://db-1:4646", "a", tmp_path / "app.db")
    one.start()
    assert asked.wait(PATIENCE_S)
    stopping = threading.Thread(target=one.stop, daemon=True)
    stopping.start()
    stopping.join(4)
    hangs = stopping.is_alive()
    answer.set()
    assert not hangs
