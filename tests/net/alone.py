"""A server in a process of its own, so that its memory can be measured: ``python -m tests.net.alone FOLDER``."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.net.kit import SCOPES
from walspool import PrimaryReplication
from walspool.net import create_app
from walspool.net.auth import TokenAuth
from walspool.net.running import Limits, Server, config

__all__ = ["Alone", "serving_alone"]

#: Connections that it serves at a time.
CONNECTIONS = 400
RECORDS, RECORD_BYTES = 200, 200_000


@dataclass(frozen=True)
class Alone:
    """A server's process."""

    port: int
    process: subprocess.Popen[bytes]

    def memory(self) -> int:
        """Bytes of memory that it has at most had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) << 10


@contextmanager
def serving_alone(folder: Path) -> Iterator[Alone]:
    """One with forty megabytes of log, whose standard error is told when it ends: it must be empty."""
    line = [sys.executable, "-W", "error", "-m", "tests.net.alone", str(folder)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield Alone(int(process.stdout.readline()), process)
        finally:
            process.terminate()
            said = process.stderr.read()
    assert b"Traceback" not in said, said


def _main(folder: Path) -> None:
    with PrimaryReplication(folder / "app.db") as primary:
        for _ in range(RECORDS):
            primary.commit(bytes(RECORD_BYTES))
        auth = TokenAuth([(token, [scope]) for token, scope in SCOPES.items()])
        limits = Limits(head_s=2.0, stall_s=1.0, connections=CONNECTIONS)
        with socket.create_server(("127.0.0.1", 0), backlog=1_024) as listening:
            print(listening.getsockname()[1], flush=True)
            Server(config(create_app(primary, auth=auth), limits=limits)).run([listening])


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
