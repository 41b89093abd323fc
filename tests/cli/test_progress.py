"""Progress bars: on a terminal, after a while, and never in the way."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.shell import process
from walspool.cli import progress

SOON = "import sys\nfrom walspool.cli import progress\nprogress.PATIENCE = 0\n"


def on_a_terminal(program: str, *arguments: str | Path) -> tuple[subprocess.Popen[bytes], int]:
    """Run a program whose standard error is a terminal, and the other end of that."""
    master, terminal = pty.openpty()
    line = [sys.executable, "-c", program, *map(str, arguments)]
    child = subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(terminal)
    return child, master


def read_until(master: int, words: bytes) -> None:
    seen = b""
    while words not in seen:
        seen += os.read(master, 4096)


@pytest.mark.parametrize("known", [True, False])
def test_a_long_append_shows_a_bar(tmp_path: Path, data_path: Path, known: bool) -> None:
    source = tmp_path / "lines"
    source.write_bytes(b"x" * 9_000_000 + b"\none\n")
    program = SOON + "from walspool.cli.running import end, run\nend(run(sys.argv[1:]))"
    child, master = on_a_terminal(program, "append", data_path, *([source] if known else []))
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        if not known:
            child.stdin.write(source.read_bytes())
            child.stdin.flush()
        read_until(master, b"appending")
        child.stdin.close()
        assert child.stdout.read() == b"1\n2\n"
    assert child.returncode == 0
    os.close(master)


def test_a_single_long_call_shows_that_it_is_at_work() -> None:
    child, master = on_a_terminal(SOON + "with progress.waiting('thinking'): sys.stdin.read()")
    with child:
        read_until(master, b"thinking")
    assert child.returncode == 0
    os.close(master)


def test_a_bar_over_measured_work_has_no_thread_beside_it() -> None:
    program = (
        "import threading\nwith progress.Bar('timing', 2, measuring=True) as bar:\n"
        "    bar.step(1)\n    bar.step(1)\n    assert threading.active_count() == 1\n    sys.stdin.read()"
    )
    child, master = on_a_terminal(SOON + program)
    with child:
        read_until(master, b"timing")
    assert child.returncode == 0
    os.close(master)


def test_short_work_shows_nothing(long_log: Path) -> None:
    program = "import sys\nfrom walspool.cli.running import end, run\nend(run(sys.argv[1:]))"
    child, master = on_a_terminal(program, "dump", long_log)
    with child:
        out, _ = child.communicate()
    assert (child.returncode, out.count(b"\n")) == (0, 100)
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        assert os.read(master, 1) == b"", "something was shown"
    os.close(master)


def test_no_terminal_no_bar(tmp_path: Path, data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0)
    with progress.Bar("working", 10) as bar, progress.waiting("working"):
        bar.step(5)
    assert list(progress.tracked(range(1000), 1000, "working")) == list(range(1000))
    assert process("append", data_path, stdin=b"one\n").err == ""
