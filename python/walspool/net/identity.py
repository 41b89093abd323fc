"""What a replica keeps beside its log: who it is, whom it follows, and who has yet to learn that it is a primary now.

One file of JSON, replaced whole and durably; never a token in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from walspool.errors import SpoolCorrupt
from walspool.records import check_replica_id
from walspool.spool import files as fs
from walspool.spool.files import SpoolFiles
from walspool.spool.log import LogicalWalSpool

__all__ = ["Identity", "Upstream"]

_MAX_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Upstream:
    """A primary, and the id under which it is followed."""

    url: str
    replica_id: str


@dataclass(frozen=True)
class Identity:
    """The file ``NAME.logical.wal.follower``."""

    #: Made once for each log.
    key: str
    #: Whom it follows; ``None`` for a log that never did.
    upstream: Upstream | None = None
    #: Former primaries to which the term of this one has not been presented yet.
    untold: tuple[Upstream, ...] = ()

    @classmethod
    def load(cls, data_path: str | os.PathLike[str]) -> Identity:
        """The one beside a log; a new one, not written yet, where there is none. ``SpoolCorrupt``, ``OSError``."""
        path = _path(data_path)
        if fs.refuse_odd_file(path) is None:
            return cls(secrets.token_hex(16))
        fd = fs.open_regular(path)
        try:
            data = fs.pread_exactly(fd, _MAX_BYTES, 0, path)
        finally:
            os.close(fd)
        try:
            given = json.loads(data)
            upstream = None if given["upstream"] is None else _upstream(given["upstream"])
            return cls(str(given["key"]), upstream, tuple(map(_upstream, given["untold"])))
        except (ValueError, KeyError, TypeError) as error:
            words = f"it can't be read ({error}); remove it, and say again whom to follow, or whom to tell (--former)"
            raise SpoolCorrupt(path=path, reason=words) from None

    def save(self, data_path: str | os.PathLike[str]) -> None:
        """Write it, durably. ``OSError``."""
        given = {
            "key": self.key,
            "upstream": None if self.upstream is None else vars(self.upstream),
            "untold": [vars(each) for each in self.untold],
        }
        path = _path(data_path)
        fs.make_directories(path.parent)
        fs.replace(path, json.dumps(given, indent=2).encode() + b"\n")

    def instance(self, data_path: str | os.PathLike[str]) -> str:
        """What tells this replica from a copy of its files: the key, and on which machine in which folder they lie.

        Behind a restart it is the same, so that nobody waits for the one before to be forgotten.
        """
        path = _path(data_path)
        fs.make_directories(path.parent)
        folder = os.stat(path.parent)
        words = f"{self.key} {socket.gethostname()} {folder.st_dev} {folder.st_ino} {os.fsencode(path.name)!r}"
        return hashlib.sha256(words.encode()).hexdigest()[:32]

    def with_untold(self, *upstreams: Upstream) -> Identity:
        """The same, with more to tell."""
        return replace(self, untold=tuple(dict.fromkeys((*self.untold, *upstreams))))

    def told(self, upstream: Upstream) -> Identity:
        """The same, with one less to tell."""
        return replace(self, untold=tuple(each for each in self.untold if each != upstream))


def _path(data_path: str | os.PathLike[str]) -> Path:
    return SpoolFiles(LogicalWalSpool.path_for(data_path)).follower


def _upstream(given: Any) -> Upstream:
    if not isinstance(given["url"], str):
        raise TypeError("a URL is a text")
    return Upstream(given["url"], check_replica_id(given["replica_id"]))
