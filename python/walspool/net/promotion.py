"""Making a replica's log a primary's: who must learn of it is noted first, then the new term is durable."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

from walspool.errors import ProtocolError
from walspool.net.applying import AppliedFile
from walspool.net.identity import Identity
from walspool.net.sink import Sink
from walspool.spool.files import SpoolFiles
from walspool.spool.log import SEGMENT_BYTES, LogicalWalSpool

__all__ = ["Promotion", "promote", "promote_log"]

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Promotion:
    """What a promotion came to."""

    #: The term of the new primary.
    term: int
    #: The last record of its log.
    lsn: int
    #: The address of the primary that it has followed, which must learn of the term.
    former: str


def promote(data_path: StrPath, *, unapplied: bool = False) -> Promotion:
    """Promote the log of a replica that no program follows with. ``walspool.net.present_term`` then tells the former.

    ``ProtocolError``: it may not be promoted, never followed anybody, or (without ``unapplied``) ``apply`` has not had
    every record. ``SpoolLocked`` where a program has the log; ``OSError``.
    """
    identity = Identity.load(data_path)
    if identity.upstream is None:
        raise ProtocolError(f"{os.fspath(data_path)!s} is no replica's: it has never followed a primary")
    name = identity.upstream.replica_id
    sink = Sink(data_path, name, identity.instance(data_path), random=random.random, segment_bytes=SEGMENT_BYTES)
    try:
        with sink.lock:
            lsn = sink.own.last.lsn
            applied = AppliedFile.read(SpoolFiles(LogicalWalSpool.path_for(data_path)).applied)
            if applied is not None and applied < lsn and not unapplied:
                words = f"the application has had the records through LSN {applied}, and the log ends at {lsn}"
                raise ProtocolError(
                    f"this replica can't be promoted yet: {words}; follow with --apply until it has them, which works "
                    "without the primary too, or promote with --unapplied"
                )
            return Promotion(promote_log(sink, data_path), lsn, identity.upstream.url)
    finally:
        sink.close()


def promote_log(sink: Sink, data_path: StrPath) -> int:
    """The new term, which is durable. The log is closed. ``ProtocolError``, ``OSError``: it is a replica's still."""
    identity = Identity.load(data_path)
    sink.check_promotable()
    if identity.upstream is not None:  # first: a term that nobody is told of would fence nobody
        identity.with_untold(identity.upstream).save(data_path)
    return sink.promote()
