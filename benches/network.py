"""What following costs, each figure beside its limit: ``python benches/network.py --dir /var/tmp``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from types import TracebackType
from typing import Any, Self

from network_ends import PAYLOAD_BYTES
from place import DEFAULT_FOLDER, NotADisk, own_folder, place_of, scratch

import walspool

__all__ = ["CASES"]

ENDS = Path(__file__).with_name("network_ends.py")
LOG_BYTES = 128 << 20
COMMITS = 300
SECONDS = 2.0


class End:
    """One process of ``network_ends.py``."""

    def __init__(self, role: str, *arguments: object) -> None:
        command = [sys.executable, os.fspath(ENDS), role, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def read(self) -> dict[str, Any]:
        """Its next answer."""
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def ask(self, order: str) -> dict[str, Any]:
        """What it answers to an order."""
        self.tell(order)
        return self.read()

    def tell(self, order: str) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for each in (self._process.stdin, self._process.stdout):
            assert each is not None
            each.close()

    @property
    def memory_kib(self) -> int:
        """Its resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(each.split()[1]) for each in lines if each.startswith("VmRSS:"))


@contextlib.contextmanager
def _primary(folder: Path) -> Iterator[tuple[End, str, int]]:
    """A primary, its URL, and where its log ends."""
    with End("primary", folder / "primary" / "app.db") as found:
        ready = found.read()
        yield found, f"http://127.0.0.1:{ready['port']}", ready["lsn"]


@contextlib.contextmanager
def _followers(folder: Path, primary: End, url: str, count: int) -> Iterator[list[End]]:
    """So many of them, with all that the primary has."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(End("follower", url, f"r{n}", folder / f"r{n}" / "app.db")) for n in range(count)]
        for each in found:
            each.read()
        lsn = primary.ask("commit 1 0")["lsn"]
        for each in found:
            each.tell(f"until {lsn}")
        for each in found:
            each.read()
        yield found


def _line(name: str, figure: str, limit: str = "") -> None:
    print(f"{name:44} {figure:>24}   {limit}".rstrip(), flush=True)


# -- the figures -------------------------------------------------------------------------------------------------------


def catch_up(disk: Path) -> None:
    """A fresh follower and all of a log, durable there."""
    for size in (256, 4096):
        with own_folder(disk) as folder:
            path = folder / "primary" / "app.db"
            with walspool.open(path, segment_bytes=None) as log:
                payload, left = os.urandom(size), LOG_BYTES // (size + 37)
                while left > 0:
                    log.append_next_many([payload] * min(left, 8192))
                    left -= 8192
            file = walspool.LogicalWalSpool.path_for(path)
            with _primary(folder) as (_, url, lsn), End("follower", url, "r", folder / "r" / "app.db") as follower:
                follower.read()
                ours = follower.ask(f"until {lsn}")["seconds"]
            with End("sender", file) as sender, End("receiver", sender.read()["port"], folder / "plain") as receiver:
                plain = receiver.read()
        rate, limit = (plain["bytes"] / seconds / 1e6 for seconds in (ours, plain["seconds"]))
        words = f"{rate / limit:.2f} of {limit:,.0f} MB/s through a plain socket into a synced file (goal 0.5)"
        _line(f"catch-up, records of {size} B", f"{rate:,.0f} MB/s", words)


def commit(disk: Path) -> None:
    """``commit(ack=1)``, one after the other."""
    with own_folder(disk) as folder, _primary(folder) as (primary, url, _), _followers(folder, primary, url, 1):
        primary.ask("commit 50 1")
        ours = primary.ask(f"commit {COMMITS} 1")["seconds"]
        with End("echo", "-") as echo, End("two_syncs", echo.read()["port"], folder, COMMITS) as plain:
            limit = plain.read()["seconds"]
    for name, of in (("p50", median), ("p99", lambda found: quantiles(found, n=100)[98])):
        words = f"{of(ours) / of(limit):.2f} of {of(limit) * 1e3:.2f} ms: two syncs and a round trip"
        _line(f"commit(ack=1) {name}", f"{of(ours) * 1e3:.2f} ms", words + (" (goal 2)" if name == "p50" else ""))


def committers(disk: Path) -> None:
    """``commit(ack=1)`` of many threads."""
    with own_folder(disk) as folder, _primary(folder) as (primary, url, _), _followers(folder, primary, url, 1):
        for count in (1, 16, 64):
            local = primary.ask(f"commits {count} {SECONDS} 0")["rate"]
            rate = primary.ask(f"commits {count} {SECONDS} 1")["rate"]
            _line(
                f"commit(ack=1), {count} threads",
                f"{rate:,.0f} /s",
                f"{rate / local:.2f} of {local:,.0f} /s with no copy",
            )


def appends(disk: Path) -> None:
    """What followers take from the primary's appends."""
    alone = 0.0
    for count in (0, 1, 4, 16):
        with (
            own_folder(disk) as folder,
            _primary(folder) as (primary, url, _),
            _followers(folder, primary, url, count),
        ):
            rate = primary.ask(f"commits 1 {SECONDS} 0")["rate"]
        alone = alone or rate
        _line(f"appends of 1 thread, {count} followers", f"{rate:,.0f} /s", f"{rate / alone:.2f} of those without")


def memory(disk: Path) -> None:
    """What a follower costs the primary in memory."""
    count = 16
    with own_folder(disk) as folder, _primary(folder) as (primary, url, _):
        primary.ask("commits 64 1 0")
        before = primary.memory_kib
        with _followers(folder, primary, url, count):
            idle = primary.memory_kib
    _line(
        "memory of the primary, an idle follower",
        f"{(idle - before) / count:,.0f} KiB",
        f"{before / 1024:.0f} MiB before",
    )
    with own_folder(disk) as folder, _primary(folder) as (primary, url, _):
        primary.ask("commits 64 1 0")
        with walspool.open(folder / "primary" / "app.db", read_only=True) as log:
            size = log.size_bytes
        before, port = primary.memory_kib, int(url.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(_slow(port))
            time.sleep(1.0)
            slow = primary.memory_kib
    words = f"16 that ask for {size / 1e6:.1f} MB and take nothing"
    _line("memory of the primary, a slow follower", f"{(slow - before) / count:,.0f} KiB", words)


def _slow(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.connect(("127.0.0.1", port))
    found.sendall(b"GET /v1/wal?since_lsn=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return found


def restart(disk: Path) -> None:
    """From the start of a follower's process to the acknowledgement of a record that it did not have."""
    found = []
    with own_folder(disk) as folder, _primary(folder) as (primary, url, _):
        for _ in range(5):
            with _followers(folder, primary, url, 1):
                pass  # killed
            lsn = primary.ask("commit 1 0")["lsn"]
            before = time.monotonic()
            with End("follower", url, "r0", folder / "r0" / "app.db") as follower:
                follower.tell(f"until {lsn}")
                found.append(primary.ask(f"wait {lsn}")["at"] - before)
    _line("a killed follower starts, to its first record", f"{median(found) * 1e3:,.0f} ms", "with the start of Python")


CASES: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (catch_up, commit, committers, appends, memory, restart)
}


def main() -> int:
    """Measure, and print each figure beside its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, help="a folder on the disk to be measured")
    parser.add_argument("--case", default="", help="only those whose name holds this word")
    given = parser.parse_args()
    try:
        place = place_of(given.dir)
    except NotADisk as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{place}\nrecords of {PAYLOAD_BYTES} bytes where nothing else is said; both ends on this machine\n")
    with scratch(given.dir) as disk:
        for name, case in CASES.items():
            if given.case in name:
                case(disk)
    return 0


if __name__ == "__main__":
    sys.exit(main())
