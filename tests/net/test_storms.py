"""Real connections through a proxy that does its worst: the logs become equal, and no acknowledged record is lost.

``WALSPOOL_STORMS``: how many of them; of each kind; 1 by default.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import walspool
from tests.net.kit import PATIENCE_S
from tests.net.proxy import Faults, Proxy
from tests.net.site import SMALL, Site, same, sites
from walspool.net import Follower

STORMS = int(os.environ.get("WALSPOOL_STORMS", "1"))
COMMITS = 60
#: How long a commit waits for its copy.
COPY_S = 0.5
KINDS = {
    "cut": Faults(cut=0.05),
    "delay": Faults(delay_s=0.02, hold_s=0.1),
    "double": Faults(double=0.3),
    "reorder": Faults(hold_s=0.3, double=0.2, double_s=1.0, cut=0.02),
    "flip": Faults(flip=0.03),
    "all": Faults(cut=0.02, delay_s=0.005, double=0.1, hold_s=0.05, flip=0.02),
}


class Writer:
    """Commits records with a copy elsewhere, from two threads; keeps those that were acknowledged."""

    def __init__(self, site: Site, raged: Callable[[], bool]) -> None:
        self._site = site
        self._raged = raged
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(2)]
        self.acknowledged: dict[int, bytes] = {}
        #: So many are, and the storm has raged.
        self.enough = threading.Event()
        for each in self._threads:
            each.start()

    def _write(self, number: int) -> None:
        count = 0
        while True:
            count += 1
            payload = b"%d of writer %d " % (count, number) + os.urandom(random.randrange(300))
            try:
                done = self._site.primary.commit(payload, ack=1, timeout=COPY_S)
            except walspool.CommitError:  # it is in the log, and nobody was told that it stays
                continue
            except walspool.SpoolClosed:  # the machine is gone
                return
            self.acknowledged[done.lsn] = payload
            if len(self.acknowledged) >= COMMITS and self._raged():
                self.enough.set()

    def join(self) -> None:
        """Behind the end of the primary."""
        for each in self._threads:
            each.join(PATIENCE_S)
            assert not each.is_alive()


def raged(faults: Faults, proxies: list[Proxy]) -> bool:
    """Whether everything has happened that may: a storm in which nothing does would prove nothing."""
    happened = proxies[0].counts + proxies[1].counts
    wanted = {"cut": faults.cut, "double": faults.double, "flip": faults.flip}
    return all(happened[name] for name, often in wanted.items() if often)


def snapshot_of(site: Site) -> tuple[int, Iterable[bytes]]:
    """A snapshot without content, as of now."""
    return site.primary.current_logical_lsn, (b"nothing",)


def load(lsn: int, chunks: Iterable[bytes]) -> None:
    """Take all of it."""
    for _ in chunks:
        pass


def holds(log: walspool.LogicalWalSpool, acknowledged: dict[int, bytes]) -> None:
    """No acknowledged record may be missing."""
    found = {entry.lsn: entry.payload for entry in log.entries()}
    missing = {lsn for lsn, payload in acknowledged.items() if found.get(lsn) != payload}
    assert not missing


@pytest.mark.parametrize("seed", range(STORMS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_storm(tmp_path: Path, kind: str, seed: int) -> None:
    site: Site = Site(tmp_path / "p" / "app.db", SMALL, snapshot=lambda: snapshot_of(site))
    site.write(10)
    proxies = [Proxy(site.port, seed * 2 + number) for number in range(2)]
    followers = [
        Follower(proxy.url, name, tmp_path / name / "app.db", load_snapshot=load, segment_bytes=500, wait_ms=1_000)
        for name, proxy in zip("ab", proxies, strict=True)
    ]
    with sites(site), proxies[0], proxies[1], followers[0], followers[1]:
        for each in followers:
            same(each, site)
        for proxy in proxies:
            proxy.faults = KINDS[kind]
        writer = Writer(site, lambda: raged(KINDS[kind], proxies))
        assert writer.enough.wait(PATIENCE_S)
        for proxy in proxies:  # the primary's machine is lost in the middle of it
            proxy.target = None
            proxy.cut_all()
        site.stop()
        writer.join()
        survivor, other = sorted(followers, key=lambda each: each.status().durable_lsn, reverse=True)
        holds(survivor.spool, writer.acknowledged)
        path = tmp_path / survivor.status().replica_id / "app.db"
        promoted = Site(path, SMALL, primary=survivor.promote())
        with sites(promoted):
            holds(promoted.log, writer.acknowledged)
            proxies[followers.index(other)].target = promoted.port
            promoted.write(10)
            for proxy in proxies:
                proxy.faults = Faults()
            promoted.write(10)
            same(other, promoted)
