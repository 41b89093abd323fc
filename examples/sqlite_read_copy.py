"""A read copy of the accounts of ``sqlite_service.py``, in a database of its own, beside the running service or after.

    python examples/sqlite_read_copy.py DIR COPY.db             bring the copy up to date
    python examples/sqlite_read_copy.py DIR COPY.db --follow    and keep it so, until Ctrl-C

Why it is safe: the log is only read, and of it only what is durable. The changes come in order and at least once, from
the LSN on that the copy holds. That LSN is committed together with the change, so a kill costs at most a repetition,
and a repetition has no effect. The service's own database is never looked at. As long as nothing is pruned from the
log, a copy can be thrown away and made anew.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from sqlite_service import open_accounts


def main() -> None:
    """Make or update a copy, and show it."""
    folder, copy, *options = sys.argv[1:]
    with open_accounts(Path(folder), Path(copy), read_only=True) as accounts, contextlib.suppress(KeyboardInterrupt):

        def show(lsn: int) -> None:
            print(f"change {lsn}: {accounts.refusal(lsn) or accounts.balances()}", flush=True)

        show(accounts.applied_lsn())
        if "--follow" in options:
            accounts.catch_up(timeout=None, seen=show)


if __name__ == "__main__":
    main()
