"""What else might keep the records, each as its own users would tune it, each synced before it answers."""

from __future__ import annotations

import importlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from append_cases import ALONE, ALONE_4K, SYNCS, THREADS_8, together
from logs import PAYLOAD_BYTES, RECORDS
from model import Case, Contender, Run
from read_cases import ENTRIES, TUPLES

__all__ = [
    "ALONE_4K_AND_PEERS",
    "ALONE_AND_PEERS",
    "BEST_OF",
    "CROWD_AND_PLYVEL",
    "ENTRIES_AND_PEERS",
    "PEER_CASES",
    "TUPLES_AND_PEERS",
    "versions",
]

#: The peers that do not come with Python, and their modules.
MODULES = {name: name for name in ("lmdb", "rocksdict", "plyvel")}
#: ``sqlite exclusive`` is shown, but not among them: it locks out readers in other processes, which walspool lets in.
BEST_OF = ("sqlite", "lmdb", "rocksdict", "plyvel")

#: Makes one record durable.
Append = Callable[[bytes], object]
Store = Callable[[Path], AbstractContextManager[Append]]

THREADS = 8
MAP_BYTES = 4 << 30
#: Records that are inserted, and then checkpointed, so that SQLite's log is a file that no longer grows.
SQLITE_WARM_UP = 30_000


def _key(lsn: int) -> bytes:
    return lsn.to_bytes(8, "big")


@contextmanager
def _sqlite_table(folder: Path, *, exclusive: bool = False) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "sqlite.db", isolation_level=None)) as connection:
        if exclusive:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE log (lsn INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
        yield connection


def _sqlite_fill(connection: sqlite3.Connection, records: int) -> None:
    connection.execute("BEGIN")
    payload = os.urandom(PAYLOAD_BYTES)
    connection.executemany("INSERT INTO log (payload) VALUES (?)", ((payload,) for _ in range(records)))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(RESTART)")


def _sqlite(*, exclusive: bool) -> Store:
    @contextmanager
    def ready(folder: Path) -> Iterator[Append]:
        with _sqlite_table(folder, exclusive=exclusive) as connection:
            _sqlite_fill(connection, SQLITE_WARM_UP)
            yield lambda payload: connection.execute("INSERT INTO log (payload) VALUES (?)", (payload,))

    return ready


@contextmanager
def _lmdb_environment(folder: Path) -> Iterator[Any]:
    lmdb: Any = importlib.import_module("lmdb")
    with lmdb.open(str(folder), map_size=MAP_BYTES, sync=True, metasync=True) as environment:
        yield environment


@contextmanager
def _lmdb(folder: Path) -> Iterator[Append]:
    lsns = count(1)
    with _lmdb_environment(folder) as environment:

        def append(payload: bytes) -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(_key(next(lsns)), payload, append=True)

        yield append


@contextmanager
def _rocksdict(folder: Path) -> Iterator[Append]:
    rocksdict: Any = importlib.import_module("rocksdict")
    options = rocksdict.Options(raw_mode=True)
    options.set_recycle_log_file_num(4)  # a log file that is there already needs no new blocks at a sync
    write_options = rocksdict.WriteOptions()
    write_options.sync = True
    lsns = count(1)
    with closing(rocksdict.Rdict(str(folder), options)) as store:
        yield lambda payload: store.put(_key(next(lsns)), payload, write_options)


@contextmanager
def _plyvel(folder: Path) -> Iterator[Append]:
    plyvel: Any = importlib.import_module("plyvel")
    lsns = count(1)
    with closing(plyvel.DB(str(folder), create_if_missing=True, write_buffer_size=64 << 20)) as store:
        yield lambda payload: store.put(_key(next(lsns)), payload, sync=True)


def _one_by_one(store: Store, size: int) -> Contender:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(size)
        with store(folder) as append:

            def run() -> None:
                for _ in range(SYNCS):
                    append(payload)

            yield Run(SYNCS, run)

    return ready


def _crowded(store: Store, threads: int) -> Contender:
    @contextmanager
    def ready(folder: Path) -> Iterator[Run]:
        payload = os.urandom(PAYLOAD_BYTES)
        with store(folder) as append:
            prepare, run = together(threads, SYNCS, lambda: append(payload))
            yield Run(threads * SYNCS, run, prepare)

    return ready


@contextmanager
def _lmdb_cursor(folder: Path) -> Iterator[Run]:
    payload = os.urandom(PAYLOAD_BYTES)
    with _lmdb_environment(folder) as environment:
        with environment.begin(write=True) as transaction:
            for lsn in range(1, RECORDS + 1):
                transaction.put(_key(lsn), payload, append=True)

        def run() -> None:
            found = 0
            with environment.begin() as transaction, transaction.cursor() as cursor:
                for _lsn, _payload in cursor:
                    found += 1
            assert found == RECORDS

        yield Run(RECORDS, run)


@contextmanager
def _sqlite_select(folder: Path) -> Iterator[Run]:
    with _sqlite_table(folder) as connection:
        _sqlite_fill(connection, RECORDS)

        def run() -> None:
            last = 0
            for last, _payload in connection.execute("SELECT lsn, payload FROM log ORDER BY lsn"):  # noqa: B007
                pass
            assert last == RECORDS

        yield Run(RECORDS, run)


def _durable(case: Case, size: int) -> Case:
    stores: dict[str, Store] = {
        "sqlite": _sqlite(exclusive=False),
        "sqlite exclusive": _sqlite(exclusive=True),
        "lmdb": _lmdb,
        "rocksdict": _rocksdict,
        "plyvel": _plyvel,
    }
    return case.beside({label: _one_by_one(store, size) for label, store in stores.items()}, MODULES)


def versions() -> dict[str, str]:
    """What is installed of them."""
    found = {"sqlite": sqlite3.sqlite_version}
    for name in (*MODULES.values(), "polars", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


_REPLAYS: dict[str, Contender] = {"lmdb cursor": _lmdb_cursor, "sqlite select": _sqlite_select}
_REPLAY_NEEDS = {"lmdb cursor": "lmdb"}

ALONE_AND_PEERS = _durable(ALONE, PAYLOAD_BYTES)
ALONE_4K_AND_PEERS = _durable(ALONE_4K, 4096)
CROWD_AND_PLYVEL = THREADS_8.beside({"plyvel, 8 threads": _crowded(_plyvel, THREADS)}, {"plyvel, 8 threads": "plyvel"})
TUPLES_AND_PEERS = TUPLES.beside(_REPLAYS, _REPLAY_NEEDS)
ENTRIES_AND_PEERS = ENTRIES.beside(_REPLAYS, _REPLAY_NEEDS)

PEER_CASES = [ALONE_AND_PEERS, ALONE_4K_AND_PEERS, CROWD_AND_PLYVEL, TUPLES_AND_PEERS, ENTRIES_AND_PEERS]
