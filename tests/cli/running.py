"""Verbs that go on until they are told to end, as processes of their own."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Running", "running"]

PATIENCE_S = 60


class Running:
    """One of them. ``said``: its first line, unless it is ``silent``."""

    def __init__(self, *arguments: str | Path, silent: bool = False, **options: Any) -> None:
        line = [sys.executable, "-W", "error", "-m", "walspool.cli", *map(str, arguments)]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        assert self.process.stdout is not None
        self.said = "" if silent else self.process.stdout.readline().decode()
        self.rest = self.errors = ""
        self.ended = False

    @property
    def url(self) -> str:
        """Where it listens."""
        found = re.search(r" at (https?://\S+) ", self.said)
        assert found, (self.said, self.end())
        return found[1]

    @property
    def port(self) -> int:
        """Of that address."""
        return int(self.url.rpartition(":")[2])

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def write(self, count: int) -> None:
        """Append so many records."""
        for number in range(count):
            assert self.ask("POST", "/v1/records", b"record %d" % number)[0] == 200

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it, and wait for its exit code."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        out, errors = self.process.communicate(timeout=PATIENCE_S)
        self.rest, self.errors, self.ended = out.decode(), errors.decode(), True
        return self.process.returncode


@contextmanager
def running(*arguments: str | Path, **options: Any) -> Iterator[Running]:
    """One that is killed at the end, if it runs then."""
    found = Running(*arguments, **options)
    try:
        yield found
    finally:
        if not found.ended:
            found.end(signal.SIGKILL)
