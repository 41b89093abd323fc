"""A service that keeps accounts in SQLite, and that a kill at any moment does no harm.

    python examples/sqlite_service.py DIR                    three transfers to look at, the last one refused
    python examples/sqlite_service.py DIR FROM TO AMOUNT     one transfer; "-" is the world outside

Why it is safe: the log is the truth, and the database is what comes of replaying it. A change is appended to the log
first and is durable from then on. It is then applied in one transaction with the LSN up to which the database has
come: a crash leaves the database at some LSN of the log, no change half done or done twice, and the next start replays
the rest. There is one way into the database, ``_apply``, and what it does follows from the change and the rows alone:
what a constraint refuses after the log has it is refused again in every replay (``sqlite_read_copy.py`` is another).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import walspool

LIMIT = 1_000_000_000_000
# What SQLite forgets in a power failure the log still has: NORMAL will do, and a change costs one sync, the log's.
SCHEMA = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, balance INTEGER NOT NULL,
    CONSTRAINT covered CHECK (abs(balance) <= {LIMIT} AND (balance >= 0 OR name = '-')));
CREATE TABLE IF NOT EXISTS refused (lsn INTEGER PRIMARY KEY, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS applied (only INTEGER PRIMARY KEY CHECK (only = 1), lsn INTEGER NOT NULL);
INSERT OR IGNORE INTO applied VALUES (1, 0);
"""


class Accounts:
    """Accounts in a database that follows a log; the service, where the log is open for writing. For one thread."""

    def __init__(self, log: walspool.LogicalWalSpool, database: sqlite3.Connection) -> None:
        self._log, self._sql = log, database
        self._sql.executescript(SCHEMA)
        self.catch_up()

    def transfer(self, source: str, target: str, amount: int) -> int:
        """Move an amount; the change's LSN, or ``sqlite3.IntegrityError`` for a change that is refused, for good.

        After any other error, of a full disk say, the change may be in the log, and is then applied before the next.
        """
        # what SQLite could not even try must not get into the log: it would stop every replay
        if not (isinstance(source, str) and isinstance(target, str) and type(amount) is int and 0 < amount <= LIMIT):
            raise ValueError(f"a transfer is between two names, of an amount from 1 to {LIMIT}")
        change = json.dumps({"from": source, "to": target, "amount": amount}, ensure_ascii=False)
        lsn = self._log.append_next(change.encode())
        self.catch_up()
        if (reason := self.refusal(lsn)) is not None:
            raise sqlite3.IntegrityError(reason)
        return lsn

    def catch_up(self, timeout: float | None = 0, seen: Callable[[int], None] = lambda lsn: None) -> None:
        """Apply what the log has and the database has not, until ``timeout`` seconds bring nothing new."""
        if (applied := self.applied_lsn()) > self._log.durable_lsn:
            raise RuntimeError(f"the database is at LSN {applied}, past the log's end: it belongs to another log")
        for entry in self._log.follow(applied, timeout=timeout):
            self._apply(entry.lsn, json.loads(entry.payload))
            seen(entry.lsn)

    def _apply(self, lsn: int, change: dict[str, Any]) -> None:
        with self._sql:  # commits, or rolls back on any error
            self._sql.execute("BEGIN IMMEDIATE")
            if self._sql.execute("UPDATE applied SET lsn = ? WHERE lsn < ?", (lsn, lsn)).rowcount == 0:
                return  # delivered before
            self._sql.execute("SAVEPOINT change")
            try:
                for name, amount in ((change["to"], change["amount"]), (change["from"], -change["amount"])):
                    self._sql.execute("INSERT OR IGNORE INTO accounts VALUES (?, 0)", (name,))
                    self._sql.execute("UPDATE accounts SET balance = balance + ? WHERE name = ?", (amount, name))
            except sqlite3.IntegrityError as error:
                self._sql.execute("ROLLBACK TO change")
                self._sql.execute("INSERT INTO refused VALUES (?, ?)", (lsn, str(error)))

    def applied_lsn(self) -> int:
        """The change up to which the database has come."""
        return int(self._sql.execute("SELECT lsn FROM applied").fetchone()[0])

    def refusal(self, lsn: int) -> str | None:
        """Why the change ``lsn`` was refused; ``None`` when it was not."""
        found = self._sql.execute("SELECT reason FROM refused WHERE lsn = ?", (lsn,)).fetchone()
        return None if found is None else str(found[0])

    def balances(self) -> dict[str, int]:
        """Every account by its name; they add up to zero."""
        return dict(self._sql.execute("SELECT name, balance FROM accounts ORDER BY name"))


@contextlib.contextmanager
def open_accounts(folder: Path, database: Path, *, read_only: bool = False) -> Iterator[Accounts]:
    """The accounts of the log in ``folder``. Damage to the log is for a person to decide on: hence strict."""
    log = walspool.open(folder / "accounts.db", recovery="strict", read_only=read_only)
    with log, contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield Accounts(log, connection)


def main() -> None:
    """Do the transfers asked for, and show the accounts."""
    folder, *order = sys.argv[1:]
    with open_accounts(Path(folder), Path(folder, "accounts.db")) as accounts:
        for source, target, amount in [order] if order else [("-", "ann", 100), ("ann", "bob", 30), ("bob", "ann", 99)]:
            try:
                print(f"change {accounts.transfer(source, target, int(amount))}: {amount} from {source} to {target}")
            except sqlite3.IntegrityError as error:
                print(f"{amount} from {source} to {target} refused: {error}")
        print(accounts.balances())


if __name__ == "__main__":
    main()
