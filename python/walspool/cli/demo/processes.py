"""The processes that the demo starts, and ends: ``walspool`` itself, by the Python that runs this."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import walspool
from walspool.cli.demo.tree import DemoFailed

__all__ = ["PATIENCE_S", "Machine", "python_environment", "python_line", "until"]

#: How long anything may take before the demo has failed.
PATIENCE_S = 40.0
_END_S = 5.0
_LOOK_S = 0.02


def python_line(module: str, *arguments: str | Path) -> list[str]:
    """The command line that runs this module."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def python_environment() -> dict[str, str]:
    """The environment in which it finds this very package."""
    package_root = Path(walspool.__file__).parent.parent
    search = os.pathsep.join([str(package_root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": search}


def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait for what another process does; ``DemoFailed`` where that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {PATIENCE_S:.0f} s in vain: {what}")
        time.sleep(_LOOK_S)


class Machine:
    """One verb in a process of its own, which is ended with the block at the latest; its complaints are in a file."""

    def __init__(self, name: str, folder: Path, *arguments: str | Path) -> None:
        self.name = name
        self.said = ""
        self._told = folder / f"{name}.told"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self) -> None:
        """Start it, and wait for its first line."""
        self._start()
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        self.said = self._process.stdout.readline().decode() if ready else ""
        if not self.said:
            raise DemoFailed(f"{self.name} did not start: {self.last_words() or 'it said nothing'}")

    def run(self) -> int:
        """Run it to its end; its exit code."""
        self._start()
        assert self._process is not None
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"{self.name} has not ended: {self.last_words()}") from None
        self.end()
        return code

    def _start(self) -> None:
        # an interrupt must not come between the start of the process and the place where it is known
        with self._told.open("ab") as told, _signals_held():
            self._process = subprocess.Popen(
                python_line("walspool.cli", *self._arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=told,
                env=python_environment(),
                process_group=0,  # Ctrl-C is for the parent, which ends its processes
            )

    def last_words(self) -> str:
        """The last line that it complained with."""
        lines = self._told.read_text("utf-8", "replace").splitlines() if self._told.exists() else []
        return lines[-1].removeprefix("walspool: ") if lines else ""

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def end(self) -> None:
        """End it by SIGTERM, so that it ends its own programs, and by SIGKILL where that does not help."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
        self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """What arrives meanwhile comes behind the block. Blocking it instead would be handed on to the process."""
    came: list[int] = []
    before: dict[int, Any] = {
        number: signal.signal(number, lambda arrived, _: came.append(arrived))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)
