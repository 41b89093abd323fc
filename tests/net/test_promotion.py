"""A replica becomes a primary, and the former one learns of it."""

from __future__ import annotations

import json
import random
import ssl
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.net.kit import PATIENCE_S
from tests.net.site import SMALL, Site, eventually, same, sites
from walspool import PrimaryReplication
from walspool.net import Follower, TokenAuth, present_term, promote
from walspool.net.identity import Identity, Upstream
from walspool.net.messages import StreamHead
from walspool.net.presenting import Presenting
from walspool.net.protocol import ORIGIN, Problem

TOKEN = "a-token-of-a-replica"


def fenced(site: Site, term: int) -> None:
    """Wait until a primary has been told."""
    for _ in range(PATIENCE_S * 100):
        if site.primary.fenced_by == term:
            return
        site.thread.join(0.01)
    raise AssertionError("nobody told it")


def test_the_former_primary_is_fenced_and_refused_as_diverged(core: ModuleType, tmp_path: Path) -> None:
    with sites(Site(tmp_path / "p" / "app.db")) as (site,):
        site.write(10)
        with Follower(site.url, "a", tmp_path / "a" / "app.db") as one:
            same(one, site)
            site.stop()
            promoted = one.promote(SMALL)
        assert promoted.term == 2
        with sites(Site(tmp_path / "a" / "app.db", primary=promoted)) as (new,):
            new.write(3)
            # the former one comes back, has appended what nobody has, and is told
            with PrimaryReplication(site.path, SMALL) as alone:
                alone.commit(b"a tail that nobody has")
            site.serve()
            fenced(site, 2)
            with pytest.raises(walspool.StaleTermError):
                site.primary.commit(b"more")
            site.stop()
            with Follower(new.url, "p", site.path) as back:
                eventually(back, lambda status: status.state == "stopped")
                with pytest.raises(walspool.Diverged) as error:
                    back.wait_for(13, PATIENCE_S)
                assert (error.value.ours.term, error.value.ours.lsn) == (1, 11)
                assert (error.value.theirs.term, error.value.theirs.lsn) == (2, 11)
                # a person decides
                back.start_again()
                same(back, new)
                assert back.status().bootstraps == 1


def test_a_bootstrap_that_is_asked_for_meanwhile_leaves_it_a_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sites(Site(tmp_path / "p" / "app.db")) as (site,):
        site.write(3)
        with Follower(site.url, "a", tmp_path / "a" / "app.db") as one:
            same(one, site)

            def answered(_: float) -> None:
                assert one._sink is not None
                facts = {"cause": "horizon", "comparable": True}
                one._sink.following.refused(Problem(410, "rebootstrap-required", "x", facts), 0.0)

            monkeypatch.setattr(one, "_drain", answered)
            with pytest.raises(walspool.ProtocolError, match="loading a snapshot"):
                one.promote()
            site.write(1)
            assert one.wait_for(4, PATIENCE_S)


def test_what_is_not_told_yet_is_told_behind_a_restart(tmp_path: Path) -> None:
    with sites(Site(tmp_path / "p" / "app.db", auth=TokenAuth([(TOKEN, ["replica:a"])]))) as (site,):
        site.write(3)
        path = tmp_path / "a" / "app.db"
        with Follower(site.url, "a", path, token=TOKEN) as one:
            same(one, site)
        site.stop()
        done = promote(path)
        assert (done.term, done.lsn, done.former) == (2, 3, site.url)
        assert Identity.load(path).untold == (Upstream(site.url, "a"),)
        for each in path.parent.iterdir():
            assert TOKEN.encode() not in each.read_bytes()
        site.serve()
        with PrimaryReplication(path) as new:
            present_term(new, path, token=TOKEN)
            fenced(site, 2)
            while Identity.load(path).untold:
                site.thread.join(0.01)
        with pytest.raises(walspool.ProtocolError, match="never followed"):
            promote(tmp_path / "p" / "app.db")


def test_apply_has_everything_before_a_promotion(tmp_path: Path) -> None:
    with sites(Site(tmp_path / "p" / "app.db")) as (site,):
        site.write(3)
        path = tmp_path / "a" / "app.db"

        def failing(entry: walspool.Entry) -> None:
            raise RuntimeError("not today")

        with Follower(site.url, "a", path, apply=failing) as one:
            same(one, site)
            with pytest.raises(walspool.ProtocolError, match="through LSN 0, and the log ends at 3"):
                one.promote(timeout=0)
            # it follows as before
            site.write(2)
            same(one, site)
        seen: list[int] = []
        with Follower(site.url, "a", path, apply=lambda entry: seen.append(entry.lsn)) as one:
            one.promote().close()
        assert seen == [1, 2, 3, 4, 5]
        with pytest.raises(walspool.SpoolClosed):
            one.status()


def test_a_log_that_was_not_applied_is_not_promoted_unasked(tmp_path: Path) -> None:
    with sites(Site(tmp_path / "p" / "app.db")) as (site,):
        site.write(3)
        path = tmp_path / "a" / "app.db"
        with Follower(site.url, "a", path, apply=lambda entry: 1 / (3 - entry.lsn)) as one:
            same(one, site)
            assert one.wait_for(2, PATIENCE_S, applied=True)
        with pytest.raises(walspool.ProtocolError, match="through LSN 2, and the log ends at 3"):
            promote(path)
        assert promote(path, unapplied=True).term == 2


def test_the_identity_is_kept_and_a_copy_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a" / "app.db"
    found = Identity.load(path)
    assert (found.upstream, found.untold) == (None, ())
    known = Upstream("http://db-1", "a")
    found.with_untold(known, known).save(path)
    again = Identity.load(path)
    assert again.untold == (known,)
    assert again.instance(path) == found.instance(path) != found.instance(tmp_path / "b" / "app.db")
    assert again.told(known).untold == ()
    file = path.with_name("app.db.logical.wal.follower")
    for text in ("", "[]", "{}", '{"key": "x", "upstream": {"url": 5, "replica_id": "a"}, "untold": []}'):
        file.write_text(text)
        with pytest.raises(walspool.SpoolCorrupt, match="remove it"):
            Identity.load(path)


NEWER = Problem(409, "newer-term", "x", {"term": 1, "newer": 2})


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (NEWER, True),
        (Problem(409, "newer-term", "x", {"term": 1, "newer": 1}), False),
        (Problem(409, "diverged", "x"), True),
        (Problem(410, "rebootstrap-required", "x"), True),
        (Problem(409, "old-session", "x"), True),
        (Problem(409, "beyond-wal", "x"), True),
        (Problem(401, "unauthorized", "x"), False),
        (Problem(503, "ending", "x"), False),
    ],
)
def test_which_answers_end_the_telling(problem: Problem, told: bool) -> None:
    presenting = Presenting("a", 2, random=lambda: 1.0)
    assert presenting.request().term == 2
    presenting.refused(problem)
    assert presenting.told is told


def test_a_stream_tells_its_term() -> None:
    for term, told, newer in ((1, False, None), (2, True, None), (3, True, 3)):
        presenting = Presenting("a", 2, random=random.random)
        presenting.answered(StreamHead(term, 5, 1, ORIGIN))
        assert (presenting.told, presenting.newer) == (told, newer)
    pauses = [Presenting("a", 2, random=lambda: 1.0)]
    assert [pauses[0].pause_s() for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate of its own for localhost, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    line = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    about = ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*line, *about, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


def test_over_tls_with_a_token(tmp_path: Path) -> None:
    ours, theirs = certificate(tmp_path, "ours"), certificate(tmp_path, "theirs")
    site = Site(tmp_path / "p" / "app.db", tls=ours, auth=TokenAuth([(TOKEN, ["replica:a"])]))
    with sites(site):
        site.write(10)
        site.primary.commit(bytes(6 << 20))
        path = tmp_path / "a" / "app.db"
        context = ssl.create_default_context(cafile=str(ours[0]))
        with Follower(site.url, "a", path, token=TOKEN, ssl_context=context) as one:
            same(one, site)
            site.write(3, ack=1)
            same(one, site)
        wrong = ssl.create_default_context(cafile=str(theirs[0]))
        with Follower(site.url, "a", path, token=TOKEN, ssl_context=wrong) as one:
            assert "CERTIFICATE_VERIFY_FAILED" in (eventually(one, lambda status: status.error).error or "")
        with Follower(site.url, "a", path, token="another-token-of-one", ssl_context=context) as one:
            assert "known token" in (eventually(one, lambda status: status.error).error or "")
        # a promoted one tells the former over TLS, too
        with Follower(site.url, "a", path, token=TOKEN, ssl_context=context) as one:
            one.promote().close()
        with PrimaryReplication(path) as new:
            present_term(new, path, token=TOKEN, ssl_context=context)
            fenced(site, 2)


def test_what_is_acknowledged_is_what_was_applied(tmp_path: Path) -> None:
    fail = {2: 3, 4: 1}
    seen: list[int] = []

    def apply(entry: walspool.Entry) -> None:
        if fail.get(entry.lsn, 0):
            fail[entry.lsn] -= 1
            raise ValueError("later")
        seen.append(entry.lsn)

    with sites(Site(tmp_path / "p" / "app.db")) as (site,):
        site.write(5)
        with Follower(site.url, "a", tmp_path / "a" / "app.db", apply=apply) as one:
            assert one.wait_for(5, PATIENCE_S, applied=True)
            status = one.status()
            assert (seen, status.apply_errors, status.apply_error) == ([1, 2, 3, 4, 5], 4, None)
            for _ in range(PATIENCE_S * 100):
                (replica,) = site.primary.replica_snapshots()
                if replica.last_acked_lsn == 5:
                    break
                site.thread.join(0.01)
            assert (replica.last_acked_lsn, replica.apply_error_count) == (5, 4)
        with Follower(site.url, "a", tmp_path / "a" / "app.db", apply=apply) as one:
            site.write(2)
            assert one.wait_for(7, PATIENCE_S, applied=True)
        assert seen == [1, 2, 3, 4, 5, 6, 7]
        assert json.loads((tmp_path / "a" / "app.db.logical.wal.follower").read_text())["upstream"]["url"] == site.url
