"""The new primary presents its term to the former ones, each until it has answered; also behind a restart."""

from __future__ import annotations

import http.client
import logging
import os
import random
import ssl
import threading
import weakref
from typing import Final

from walspool.errors import SpoolClosed, WalspoolError
from walspool.net.connection import Address, Connection, Refusal
from walspool.net.identity import Identity, Upstream
from walspool.net.messages import StreamHead
from walspool.net.presenting import Presenting
from walspool.net.protocol import CHECKSUM, checksum
from walspool.replication.primary import PrimaryReplication
from walspool.spool.interrupt import SIGNALS_S

__all__ = ["present_term"]

log = logging.getLogger("walspool")

_ANSWER_S: Final = 10.0


def present_term(
    primary: PrimaryReplication,
    data_path: str | os.PathLike[str],
    *,
    token: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    insecure: bool = False,
) -> None:
    """Tell the former primaries that have yet to learn of this one's term, in a thread, until the primary is closed.

    ``Follower.promote`` does so by itself; a program that opens a promoted log again calls this. ``token``: as a
    replica of theirs. Nothing happens where nobody is to be told, or this primary was replaced itself.
    """
    identity = Identity.load(data_path)
    if primary.fenced_by is not None:
        return
    teller = _Teller(weakref.ref(primary), data_path, threading.Lock())
    for each in identity.untold:
        # the URL was one when it was written; where a token may not go, this one is told without it
        address = Address.parse(each.url)
        connection = Connection(address, token if address.protected or insecure else None, ssl_context)
        presenting = Presenting(each.replica_id, primary.term, random=random.random)
        arguments = (each, presenting, connection)
        threading.Thread(target=teller.run, args=arguments, name="walspool-present", daemon=True).start()


class _Teller:
    """Holds the primary weakly: one that nobody uses any more tells nobody anything."""

    def __init__(
        self, primary: weakref.ref[PrimaryReplication], data_path: str | os.PathLike[str], lock: threading.Lock
    ) -> None:
        self._primary = primary
        self._data_path = data_path
        self._lock = lock

    def run(self, upstream: Upstream, presenting: Presenting, connection: Connection) -> None:
        """Tell one of them, until it has answered or the primary is closed."""
        words = ""
        while self._open() is not None and not presenting.told:
            before, words = words, self._tell(presenting, connection)
            if presenting.told or self._open() is None:
                break
            if words != before:
                log.warning("%s has yet to learn of term %d: %s", ascii(upstream.url), presenting.term, words)
            self._wait(presenting.pause_s())
        connection.drop()
        if presenting.told:
            self._note(upstream, presenting)

    def _open(self) -> PrimaryReplication | None:
        primary = self._primary()
        return None if primary is None or primary.closed else primary

    def _wait(self, seconds: float) -> None:
        """Wait, in pieces, so that the primary's end is seen soon."""
        pieces = threading.Event()
        while seconds > 0 and self._open() is not None:
            pieces.wait(min(seconds, SIGNALS_S))
            seconds -= SIGNALS_S

    def _tell(self, presenting: Presenting, connection: Connection) -> str:
        query = presenting.request().query()
        try:
            body = connection.stream(f"/v1/wal?{query}", {CHECKSUM: checksum(query)}, _ANSWER_S)
            presenting.answered(StreamHead.parse(body.headers))
            return "it is of an older term, and did not say so"
        except Refusal as refusal:
            presenting.refused(refusal.problem)
            return f"{refusal.problem.kind}: {refusal.problem.detail}"
        except (OSError, http.client.HTTPException, WalspoolError) as error:
            return str(error) or type(error).__name__
        finally:
            connection.drop()

    def _note(self, upstream: Upstream, presenting: Presenting) -> None:
        primary = self._open()
        if primary is None:
            return
        try:
            if presenting.newer is not None:
                log.error("this primary was replaced: %s is of term %d", ascii(upstream.url), presenting.newer)
                primary.fence(presenting.newer)
            with self._lock:
                Identity.load(self._data_path).told(upstream).save(self._data_path)
        except SpoolClosed:
            return
        except (OSError, WalspoolError) as error:  # it is told once more behind the next start
            log.error("that %s has learnt of term %d can't be noted: %s", ascii(upstream.url), presenting.term, error)
