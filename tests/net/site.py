"""A primary that is served, stopped, written to and served again at the same address, as a machine would be."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import walspool
from tests.net.kit import PATIENCE_S, _Server
from walspool import PrimaryReplication, ReplicationConfig
from walspool.net import Follower, FollowerStatus, create_app
from walspool.net.running import config

__all__ = ["Site", "eventually", "frames", "same", "sites"]

#: Files small enough that a prune removes some.
SMALL = ReplicationConfig(segment_bytes=500)


class Site:
    """One machine with a primary. ``options`` as for ``create_app``; ``tls``: certificate and key."""

    def __init__(
        self,
        path: Path,
        settings: ReplicationConfig = SMALL,
        *,
        tls: tuple[Path, Path] | None = None,
        primary: PrimaryReplication | None = None,
        **options: Any,
    ) -> None:
        self.path = path
        self.settings = settings
        self.options = options
        self.tls = tls
        self.primary = PrimaryReplication(path, settings, recovery="strict") if primary is None else primary
        self.port = 0
        self.serve()

    def serve(self) -> None:
        """Listen, at the same port as before."""
        if self.primary.closed:
            self.primary = PrimaryReplication(self.path, self.settings, recovery="strict")
        self.socket = socket.create_server(("127.0.0.1", self.port))
        self.port = self.socket.getsockname()[1]
        cert, key = self.tls or (None, None)
        self.server = _Server(config(create_app(self.primary, **self.options), tls_cert=cert, tls_key=key))
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],))
        self.thread.start()
        assert self.server.listening.wait(PATIENCE_S)

    def stop(self) -> None:
        """Be gone from the network, and close the log. Twice does no harm."""
        self.server.should_exit = True
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.socket.close()
        self.primary.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    def write(self, count: int, ack: int = 0) -> int:
        """Commit so many records; the last LSN."""
        for _ in range(count):
            lsn = self.primary.current_logical_lsn + 1
            self.primary.commit(b"record %d of term %d" % (lsn, self.primary.term), ack=ack, timeout=PATIENCE_S)
        return self.primary.current_logical_lsn

    @property
    def log(self) -> walspool.LogicalWalSpool:
        """Its log."""
        assert self.primary.logical_wal_spool is not None
        return self.primary.logical_wal_spool


@contextmanager
def sites(*made: Site) -> Iterator[tuple[Site, ...]]:
    """Stop them at the end."""
    try:
        yield made
    finally:
        for each in made:
            each.stop()


def frames(log: walspool.LogicalWalSpool, since_lsn: int = 0) -> bytes:
    """The bytes of a log's frames."""
    parts = []
    while (batch := log.read_frames(since_lsn)).records:
        parts.append(bytes(batch.data))
        since_lsn = batch.last_lsn or 0
    return b"".join(parts)


def same(follower: Follower, site: Site, since_lsn: int = 0) -> None:
    """Both logs must be equal, once the follower is there."""
    assert follower.wait_for(site.primary.current_logical_lsn, PATIENCE_S)
    assert frames(follower.spool, since_lsn) == frames(site.log, since_lsn)


def eventually(follower: Follower, holds: Callable[[FollowerStatus], object]) -> FollowerStatus:
    """The status once something holds of it."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(status := follower.status()):
        assert time.monotonic() < deadline, status
        pulling = follower._pulling
        assert pulling is not None
        with pulling.changed:
            pulling.changed.wait(0.02)
    return status
