"""A follower that is stopped, started again or promoted while something else happens."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import walspool
from tests.net.kit import PATIENCE_S
from tests.net.site import SMALL, Site, eventually, same, sites
from walspool import PrimaryReplication
from walspool.core import Entry
from walspool.net import Follower
from walspool.net.sink import Sink
from walspool.spool.files import SpoolFiles
from walspool.spool.log import LogicalWalSpool


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A primary with ten records."""
    with sites(Site(tmp_path / "p" / "app.db")) as (found,):
        found.write(10)
        yield found


def follower(site: Site, folder: Path, **options: object) -> Follower:
    """A follower that is not started."""
    return Follower(site.url, "a", folder / "a" / "app.db", segment_bytes=500, **options)  # type: ignore[arg-type]


def test_started_again_it_acknowledges(site: Site, tmp_path: Path) -> None:
    one = follower(site, tmp_path)
    with one:
        same(one, site)
    with one:
        site.write(1, ack=1)
        assert eventually(one, lambda status: status.durable_lsn == 11).error is None


def test_behind_a_refused_promotion_it_acknowledges(site: Site, tmp_path: Path) -> None:
    def apply(entry: Entry) -> None:
        assert one._applying is not None
        one._applying._ending.wait(PATIENCE_S)

    with follower(site, tmp_path, apply=apply) as one:
        assert one.wait_for(10, PATIENCE_S)
        with pytest.raises(walspool.ProtocolError, match="apply has had"):
            one.promote(timeout=0)
        site.write(1, ack=1)


def test_a_refused_promotion_of_a_stopped_one_lets_go_of_the_log(site: Site, tmp_path: Path) -> None:
    one = follower(site, tmp_path)
    with one:
        same(one, site)
    SpoolFiles(LogicalWalSpool.path_for(tmp_path / "a" / "app.db")).loading.write_text("reach 50\n")
    with pytest.raises(walspool.ProtocolError, match="not back at LSN 50"):
        one.promote()
    with one:
        same(one, site)


def test_a_promotion_that_can_not_be_is_refused_before_anything_changes(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path) as one:
        same(one, site)
        with pytest.raises(TypeError, match="config"):
            one.promote("primary")  # type: ignore[arg-type]
        site.write(1, ack=1)
        assert one.status().term == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "the disk is gone")])
def test_behind_the_new_term_it_does_not_follow_and_fences_nobody(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def promote(sink: Sink) -> int:
        whole(sink)
        raise error

    whole = Sink.promote
    monkeypatch.setattr(Sink, "promote", promote)
    one = follower(site, tmp_path)
    with one:
        same(one, site)
        with pytest.raises(type(error)):
            one.promote()
        with pytest.raises(walspool.SpoolClosed):
            one.status()
        assert site.primary.fenced_by is None
        site.write(1)
    monkeypatch.undo()
    with one.promote(SMALL) as promoted:
        assert isinstance(promoted, PrimaryReplication)
        assert (promoted.term, promoted.current_logical_lsn) == (3, 10)


def test_apply_stops_it_while_somebody_else_does(site: Site, tmp_path: Path) -> None:
    applying, go = threading.Event(), threading.Event()

    def apply(entry: Entry) -> None:
        applying.set()
        assert go.wait(PATIENCE_S)
        one.stop()

    one = follower(site, tmp_path, apply=apply)
    one.start()
    assert applying.wait(PATIENCE_S)
    pulling = one._pulling
    assert pulling is not None
    other = threading.Thread(target=one.stop, daemon=True)
    other.start()
    with pulling.changed:
        assert pulling.changed.wait_for(lambda: pulling.ending, PATIENCE_S)
    go.set()
    other.join(PATIENCE_S)
    assert not other.is_alive()


def test_apply_can_not_promote_its_follower(site: Site, tmp_path: Path) -> None:
    with follower(site, tmp_path, apply=lambda entry: one.promote()) as one:
        assert "can't promote" in str(eventually(one, lambda status: status.apply_error).apply_error)
        assert one.status().state == "pulling"


def test_a_load_that_would_end_its_thread_is_tried_again(site: Site, tmp_path: Path) -> None:
    tries: list[int] = []

    def load(lsn: int, chunks: Iterator[bytes]) -> None:
        tries.append(lsn)
        if len(tries) == 1:
            sys.exit(3)
        assert b"".join(chunks) == b"all"

    site.options["snapshot"] = lambda: (site.primary.current_logical_lsn, [b"all"])
    site.stop()
    site.serve()
    site.primary.prune_retained_wal_through(site.write(20) - 5)
    with follower(site, tmp_path, load_snapshot=load) as one:
        assert one.wait_for(site.primary.current_logical_lsn, PATIENCE_S)
        assert (len(tries), one.status().bootstraps) == (2, 1)


def test_an_acknowledgement_that_fails_in_an_odd_way_is_said_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with follower(site, tmp_path) as one:
        same(one, site)
        pulling = one._pulling
        assert pulling is not None
        with monkeypatch.context() as patch:
            patch.setattr(pulling._acks, "call", lambda *_: 1 // 0)
            site.write(1)
            eventually(one, lambda status: "ZeroDivisionError" in str(status.error))
        site.write(1, ack=1)
