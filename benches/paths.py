"""Instructions per record of each path from Python to the bytes and back, counted by valgrind.

``python benches/paths.py [--path WORD]`` counts the walspool that is installed, whatever its version: install another
and run it again to compare. ``WALSPOOL_CORE`` chooses the core. Records are 256 bytes; starting up counts nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from callgrind import instructions

import walspool

__all__ = ["PATHS", "main"]

FEW, MANY = 2_000, 8_000
PAYLOAD = bytes(range(256))
CHANGE = walspool.ChangeRecord(
    term=1,
    lsn=7,
    timestamp=1_700_000_000_000,
    operation=walspool.ChangeOperation.INSERT,
    collection="users",
    entity_id=42,
    entity_kind="row",
    entity_bytes=b"hello",
).encode()


def _filled(path: Path, records: int, payload: bytes = PAYLOAD) -> walspool.LogicalWalSpool:
    log = walspool.open(path)
    log.append_next_many([payload] * records)
    return log


def _append(path: Path, records: int) -> None:
    with walspool.open(path) as log:
        for _ in range(records):
            log.append_next(PAYLOAD)


def _append_many(path: Path, records: int) -> None:
    with walspool.open(path) as log:
        for start in range(0, records, 1_000):
            log.append_many([(lsn, PAYLOAD) for lsn in range(start + 1, start + 1_001)])


def _only_filled(path: Path, records: int) -> None:
    _filled(path, records).close()


def _append_frames(path: Path, records: int) -> None:
    with _filled(path, records) as log, walspool.open(path.with_name("copy")) as copy:
        at = 0
        while at < records:
            at = copy.append_frames(log.read_frames(at).data).last_lsn or records


def _read_frames(path: Path, records: int) -> None:
    with _filled(path, records) as log:
        at = 0
        while at < records:
            at = log.read_frames(at).last_lsn or records


def _tuples(path: Path, records: int) -> None:
    with _filled(path, records) as log:
        for _ in log.tuples():
            pass


def _entries(path: Path, records: int) -> None:
    with _filled(path, records) as log:
        for _ in log.entries():
            pass


def _changes(path: Path, records: int) -> None:
    with _filled(path, records, CHANGE) as log:
        log.read_since(0)


def _changes_filled(path: Path, records: int) -> None:
    _filled(path, records, CHANGE).close()


def _open_killed(path: Path, records: int) -> None:
    child = os.fork()
    if child == 0:
        _filled(path, records)
        os._exit(0)
    os.waitpid(child, 0)
    walspool.open(path, read_only=True).close()


#: What is counted, and what falls out of it as a preparation.
PATHS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path, int], None] | None]] = {
    "append_next": (_append, None),
    "append_many, 1,000": (_append_many, None),
    "append_frames": (_append_frames, _read_frames),
    "read_frames": (_read_frames, _only_filled),
    "tuples": (_tuples, _only_filled),
    "entries": (_entries, _only_filled),
    "read_since, changes": (_changes, _changes_filled),
    "open after a kill": (_open_killed, None),
}


def _each(name: str, prepared: bool) -> float:
    command = [sys.executable, __file__, "--run", name, *(["--prepared"] if prepared else [])]
    few, many = (instructions([*command, "--records", str(records)]) for records in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def main(arguments: list[str] | None = None) -> int:
    """Count, one line for each path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="", help="only the paths whose name holds this")
    parser.add_argument("--run", choices=PATHS, help=argparse.SUPPRESS)
    parser.add_argument("--records", type=int, default=FEW, help=argparse.SUPPRESS)
    parser.add_argument("--prepared", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.run:
        work, prepare = PATHS[given.run]
        with tempfile.TemporaryDirectory() as folder:
            (prepare if given.prepared and prepare else work)(Path(folder) / "log", given.records)
        return 0
    if shutil.which("valgrind") is None:
        parser.error("install valgrind first")
    for name, (_, prepare) in PATHS.items():
        if given.path in name:
            count = _each(name, False) - (_each(name, True) if prepare else 0.0)
            print(f"{name:<20} {count:>8.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
