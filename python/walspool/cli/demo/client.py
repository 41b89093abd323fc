"""The writer of the demo: appends the tree's files over HTTP, each on two disks when it is acknowledged."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

from walspool.cli.demo.processes import PATIENCE_S
from walspool.cli.demo.tree import DemoFailed, Tree

__all__ = ["LARGEST", "Client", "post"]

#: Of a file: as a record it is twice as long, and a body has at most 16 MiB.
LARGEST = 7 << 20
#: Files of one request, unless their records are larger together than this many bytes.
_GROUP = 8
_GROUP_BYTES = 1 << 18
_PAYLOADS = {"Content-Type": "application/vnd.walspool.payloads"}


def post(
    port: int,
    query: str,
    body: bytes,
    headers: dict[str, str] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> tuple[int, Any]:
    """Status and JSON of ``POST /v1/records``; ``meanwhile`` happens once the request is on its way.

    ``OSError``, ``HTTPException``: there is no answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("POST", f"/v1/records?{query}", body, headers or {})
        if meanwhile is not None:
            meanwhile()
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


class Client:
    """Appends the files in order. ``next_lsn``: the one that comes next; ``acknowledged``: what must never be lost."""

    def __init__(self, tree: Tree) -> None:
        self.next_lsn = 1
        self.acknowledged = 0
        #: Of the primary.
        self.term = 1
        self._tree = tree

    def write(self, port: int, through: int, at: int = 0, event: Callable[[], None] | None = None) -> bool:
        """Append through this LSN; ``False`` where an answer did not come: the primary may have the group, or not.

        ``event`` happens while the request with the LSN ``at`` is under way.
        """
        while self.next_lsn <= through:
            payloads = self._group(through)
            body = b"".join(len(each).to_bytes(4, "little") + each for each in payloads)
            lsns = list(range(self.next_lsn, self.next_lsn + len(payloads)))
            try:
                status, answer = post(port, "ack=1", body, _PAYLOADS, event if at in lsns else None)
            except (OSError, http.client.HTTPException):
                return False
            copied = status == 200
            if not copied and not (status == 503 and answer["type"] == "urn:walspool:copies-missing"):
                raise DemoFailed(f"the primary refused LSN {lsns[0]}: {answer}")
            if answer["lsns"] != lsns:
                raise DemoFailed(f"the primary gave the LSNs {answer['lsns']}, not {lsns}")
            self.next_lsn += len(lsns)
            if copied:
                self.acknowledged = lsns[-1]
        return True

    def _group(self, through: int) -> list[bytes]:
        payloads: list[bytes] = []
        size = 0
        while self.next_lsn + len(payloads) <= through and len(payloads) < _GROUP and size < _GROUP_BYTES:
            payloads.append(self._tree.change(self.next_lsn + len(payloads) - 1, self.term).encode())
            size += len(payloads[-1])
        return payloads
