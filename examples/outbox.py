"""An outbox: events are durable before anybody acts on them, and each is delivered at least once, in order.

Run it twice: the second run goes on where the first stopped.

    python examples/outbox.py /tmp/shop.db
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import walspool


class Outbox:
    """Publishes events into a log and delivers them from there."""

    def __init__(self, data_path: Path) -> None:
        self._log = walspool.open(data_path)
        self._cursor = data_path.with_name(data_path.name + ".delivered")

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def publish(self, event: dict[str, Any]) -> int:
        """Keep one event; when this returns, it will be delivered, whatever happens next."""
        return self._log.append_next(json.dumps(event).encode())

    def deliver(self, send: Callable[[int, dict[str, Any]], None]) -> int:
        """Send everything that has not been sent yet, and remove what nobody needs any more; how many were sent."""
        delivered = int(self._cursor.read_text()) if self._cursor.exists() else 0
        sent = 0
        for entry in self._log.entries(since_lsn=delivered):
            send(entry.lsn, json.loads(entry.payload))
            self._remember(entry.lsn)  # a crash before this line sends the event once more
            delivered, sent = entry.lsn, sent + 1
        self._log.prune_through(delivered)
        return sent

    def _remember(self, lsn: int) -> None:
        """Replace the cursor in one step. It may lag after a power loss, which repeats events and loses none."""
        spare = self._cursor.with_name(self._cursor.name + ".tmp")
        spare.write_text(str(lsn))
        os.replace(spare, self._cursor)


def main() -> None:
    """Publish three orders, and deliver what is due by printing it."""
    with Outbox(Path(sys.argv[1])) as outbox:
        for number in range(1, 4):
            outbox.publish({"order": number, "state": "paid"})
        sent = outbox.deliver(lambda lsn, event: print(f"event {lsn}: order {event['order']} is {event['state']}"))
        print(f"{sent} events delivered")


if __name__ == "__main__":
    main()
