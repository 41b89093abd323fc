"""A follower over real connections on loopback: what it keeps, what it takes, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.net.kit import PATIENCE_S, nobody_accepts
from tests.net.site import SMALL, Site, eventually, frames, same, sites
from walspool import PrimaryReplication
from walspool.net import Follower
from walspool.net.connection import Body
from walspool.net.sink import Sink


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A primary with ten records."""
    with sites(Site(tmp_path / "p" / "app.db")) as (found,):
        found.write(10)
        yield found


def follower(site: Site, folder: Path, name: str = "a", **options: Any) -> Follower:
    """A follower that is not started."""
    return Follower(site.url, name, folder / name / "app.db", segment_bytes=500, **options)


def test_first_contact_streaming_and_acknowledging(core: ModuleType, tmp_path: Path) -> None:
    with sites(Site(tmp_path / "p" / "app.db")) as (site,):
        site.write(10)
        with follower(site, tmp_path, region="eu") as one:
            same(one, site)
            site.write(5, ack=1)
            same(one, site)
            status = eventually(one, lambda status: status.primary_lsn == 15)
            assert (status.state, status.term, status.durable_lsn, status.applied_lsn) == ("pulling", 1, 15, 15)
            assert (status.error, status.bootstraps, status.connects) == (None, 0, 2)
            (replica,) = site.primary.replica_snapshots()
            assert (replica.id, replica.region) == ("a", "eu")
        with pytest.raises(walspool.SpoolClosed, match="not started"):
            one.status()
        with pytest.raises(walspool.SpoolClosed):
            _ = one.spool


def test_a_record_larger_than_the_buffer(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path) as one:
        same(one, site)
        site.primary.commit(os.urandom(9 << 20), ack=1, timeout=PATIENCE_S)
        site.write(3, ack=1)
        same(one, site)


def test_many_records_at_once(site: Site, tmp_path: Path) -> None:
    site.log.append_next_many([b"%d" % number * 20 for number in range(50_000)])
    with follower(site, tmp_path) as one:
        same(one, site)


def test_a_log_that_has_diverged_holds_nothing_that_was_waited_for(site: Site, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "a" / "app.db") as log:
        log.append(5, b"another history")
    with follower(site, tmp_path) as one:
        eventually(one, lambda status: status.state == "stopped")
        for lsn in (1, 5, 10):
            with pytest.raises(walspool.Diverged):
                one.wait_for(lsn, PATIENCE_S)


def test_only_while_it_is_behind_it_waits_for_more(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync for each part that comes would cost more; but a commit waits for the copy of a new record."""
    asked: list[bool] = []
    readinto = Body.readinto

    def noted(self: Body, buffer: memoryview, more_ms: int = 0) -> int:
        asked.append(more_ms > 0)
        return readinto(self, buffer, more_ms)

    monkeypatch.setattr(Body, "readinto", noted)
    with follower(site, tmp_path) as one:
        same(one, site)
        behind = len(asked)
        site.write(2, ack=1)
        same(one, site)
    assert asked[0]
    assert not any(asked[behind:])


def test_it_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path) as one:
        same(one, site)
        site.stop()
        eventually(one, lambda status: status.error is not None)
        site.serve()
        site.write(5)
        same(one, site)
        assert eventually(one, lambda status: status.error is None).bootstraps == 0
    site.write(5)
    with follower(site, tmp_path) as again:
        same(again, site)
        assert again.status().bootstraps == 0
    assert site.primary.partial_resync_count > 0


def lose_what_it_needs(site: Site) -> None:
    """Retention removes what the replica has not got."""
    site.write(20)
    site.primary.drop_slot("a")
    site.primary.prune_retained_wal_through(site.write(1) - 5)


def test_behind_the_cap_it_starts_again_by_itself(core: ModuleType, tmp_path: Path) -> None:
    applied: list[int] = []
    loaded: list[tuple[int, bytes]] = []

    def load(lsn: int, chunks: Iterator[bytes]) -> None:
        loaded.append((lsn, b"".join(chunks)))

    options: dict[str, Any] = {"apply": lambda entry: applied.append(entry.lsn), "load_snapshot": load}
    snapshot = b"everything" * 100_000
    made: Site = Site(
        tmp_path / "p" / "app.db", snapshot=lambda: (made.primary.current_logical_lsn - 2, [snapshot, b"!"])
    )
    with sites(made) as (site,):
        site.write(10)
        with follower(site, tmp_path, **options) as one:
            assert one.wait_for(10, PATIENCE_S, applied=True)
        lose_what_it_needs(site)
        end = site.primary.current_logical_lsn
        with follower(site, tmp_path, **options) as again:
            same(again, site, end - 2)
            assert again.spool.pruned_through == end - 2
            site.write(2, ack=1)
            assert again.wait_for(end + 2, PATIENCE_S, applied=True)
            assert again.status().bootstraps == 1
        assert loaded == [(end - 2, snapshot + b"!")]
        assert applied == [*range(1, 11), *range(end - 1, end + 3)]


def test_a_snapshot_that_is_not_loaded_whole_is_asked_for_again(site: Site, tmp_path: Path) -> None:
    tries: list[str] = []
    started = threading.Event()

    def load(lsn: int, chunks: Iterator[bytes]) -> None:
        assert started.wait(PATIENCE_S)
        tries.append(str(again.status().error))
        if len(tries) == 1:
            raise RuntimeError("the database is away")
        if len(tries) == 2:
            return  # and took nothing of it
        assert b"".join(chunks) == b"whole"

    site.options["snapshot"] = lambda: (site.primary.current_logical_lsn, [b"who", b"le"])
    site.stop()
    site.serve()
    with follower(site, tmp_path) as one:
        same(one, site)
    lose_what_it_needs(site)
    with follower(site, tmp_path, load_snapshot=load) as again:
        started.set()
        assert again.wait_for(site.primary.current_logical_lsn, PATIENCE_S)
        assert (len(tries), again.status().bootstraps) == (3, 1)
    assert "the database is away" in tries[1]
    assert "before it had the whole" in tries[2]


def test_without_a_way_to_load_it_stops_and_its_log_stays(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path) as one:
        same(one, site)
        held = frames(one.spool)
    lose_what_it_needs(site)
    with follower(site, tmp_path) as again:
        status = eventually(again, lambda status: status.state == "stopped")
        assert "load_snapshot" in (status.error or "")
        with pytest.raises(walspool.ProtocolError, match="nothing to load one with"):
            again.wait_for(site.primary.current_logical_lsn, PATIENCE_S)
        assert frames(again.spool) == held
    with pytest.raises(walspool.ProtocolError, match="nothing to load one with"):
        again.run()
    # and it is as good as before for whoever decides so
    follower(site, tmp_path).promote().close()


def test_a_corrupt_log_is_fetched_again(site: Site, tmp_path: Path) -> None:
    site.write(20)
    with follower(site, tmp_path) as one:
        same(one, site)
        site.write(1, ack=1)  # in a segment of its own
        same(one, site)
    path = walspool.LogicalWalSpool.path_for(tmp_path / "a" / "app.db")
    damaged = min(path.parent.glob(f"{path.name}.0*"))
    damaged.with_name(damaged.name + ".idx").unlink(missing_ok=True)
    content = bytearray(damaged.read_bytes())
    content[40] ^= 1
    damaged.write_bytes(content)
    with follower(site, tmp_path) as again:
        same(again, site)
        assert again.status().bootstraps == 1


def test_a_sync_that_fails_opens_the_log_anew(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([walspool.SpoolPoisoned(path="x", reason="EIO"), OSError(28, "No space left on device", "x")])
    take, opened = Sink.take, Sink.reopen
    reopened: list[bool] = []

    def failing(self: Sink, data: bytes, now_s: float) -> bool:
        error = next(failures, None)
        if error is not None:
            raise error
        return take(self, data, now_s)

    monkeypatch.setattr(Sink, "take", failing)

    def reopen(self: Sink) -> None:
        reopened.append(True)
        opened(self)

    monkeypatch.setattr(Sink, "reopen", reopen)
    with follower(site, tmp_path) as one:
        same(one, site)
    assert reopened == [True]


def test_a_second_instance_is_refused_and_a_restart_is_none(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path) as one:
        same(one, site)
        shutil.copytree(tmp_path / "a", tmp_path / "copied" / "a")
        with pytest.raises(walspool.SpoolLocked):
            follower(site, tmp_path).start()
        with follower(site, tmp_path / "copied") as twin:
            assert "another program" in (eventually(twin, lambda status: status.error).error or "")
            site.write(1, ack=1)
            same(one, site)
    with follower(site, tmp_path) as again:
        site.write(1)
        same(again, site)
        assert again.status().error is None


def test_stopping_is_prompt_whatever_it_waits_for(site: Site, tmp_path: Path) -> None:
    # nobody accepts here, nobody answers there, and the third waits for records
    with nobody_accepts() as full, socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (full, silent.getsockname()[1], site.port):
            one = Follower(f"http://127.0.0.1:{port}", "a", tmp_path / str(port) / "app.db")
            one.start()
            stopping = threading.Thread(target=one.stop)
            stopping.start()
            stopping.join(4)
            assert not stopping.is_alive()
            one.stop()


def test_a_partition_is_noticed(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walspool.net.pulling._GRACE_S", 0.05)
    monkeypatch.setattr("walspool.net.connection.ANSWER_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = tmp_path / "a" / "app.db"
        with Follower(f"http://127.0.0.1:{silent.getsockname()[1]}", "a", path, wait_ms=10) as one:
            assert "timed out" in (eventually(one, lambda status: status.error).error or "")


def test_a_forked_child_refuses_and_leaves_the_parent_alone(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path) as one:
        same(one, site)
        child = os.fork()
        if child == 0:
            try:
                one.stop()
                one.status()
            except walspool.SpoolClosed:
                os._exit(17)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        site.write(2, ack=1)
        same(one, site)
        assert one.status().connects == 2


def test_run_ends_with_stop(site: Site, tmp_path: Path) -> None:
    one = follower(site, tmp_path)
    running = threading.Thread(target=one.run)
    running.start()
    site.log.append_next(b"x")
    while one._pulling is None:
        running.join(0.01)
    assert one.wait_for(11, PATIENCE_S)
    one.stop()
    running.join(PATIENCE_S)
    assert not running.is_alive()


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("db-1:4646", {}, "http://HOST:PORT"),
        ("ftp://db-1", {}, "http://HOST:PORT"),
        ("http://", {}, "http://HOST:PORT"),
        ("http://a:b@db-1", {}, "must not hold a user"),
        ("http://db-1:99999", {}, "can't be read"),
        ("http://db-1/?x=1", {}, "http://HOST:PORT"),
        ("http://db-1\r\n", {"token": "t" * 20}, "plain text"),
        ("http://db-1", {"token": "t" * 20}, "plain text"),
        ("https://db-1", {"token": "short"}, "16 to 256"),
        ("https://db-1", {"token": "t" * 20 + "\n"}, "16 to 256"),
        ("http://db-1", {"wait_ms": 0}, "between 1 and 30000"),
        ("http://db-1", {"wait_ms": 30_001}, "between 1 and 30000"),
        ("http://db-1", {"region": ""}, "region must be"),
        ("http://db-1", {"region": "r" * 65}, "region must be"),
    ],
)
def test_what_can_not_be_followed(tmp_path: Path, url: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        Follower(url, "a", tmp_path / "app.db", **options)  # type: ignore[arg-type]
    assert "t" * 20 not in str(error.value)
    assert "t" * 20 not in repr(Follower("http://db-1", "a", tmp_path / "x", token="t" * 20, insecure=True))


def test_one_that_nobody_stopped_says_so(site: Site, tmp_path: Path) -> None:
    one = follower(site, tmp_path)
    one.start()
    same(one, site)
    pulling, sink = one._pulling, one._sink
    with pytest.warns(ResourceWarning, match="not stopped"):
        one.__del__()
    assert pulling is not None
    assert sink is not None
    pulling.end()
    sink.close()


def test_two_followers_hold_the_same(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path, "a") as one, follower(site, tmp_path, "b") as two:
        same(one, site)
        same(two, site)
        site.write(20, ack=2)
        same(one, site)
        same(two, site)


def test_a_log_of_one_file_and_a_promoted_one(tmp_path: Path) -> None:
    """The settings of the log are the follower's own."""
    with sites(Site(tmp_path / "p" / "app.db", SMALL)) as (site,):
        site.write(30)
        with Follower(site.url, "a", tmp_path / "a" / "app.db", segment_bytes=None) as one:
            same(one, site)
            assert len(one.spool.segments) == 1
            promoted = one.promote(SMALL)
        with promoted:
            assert isinstance(promoted, PrimaryReplication)
            assert (promoted.term, promoted.current_logical_lsn) == (2, 30)
