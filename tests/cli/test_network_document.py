"""What docs/network.md shows of both ends happens; only the ports are others, since somebody may have those."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_documents import ROOT, blocks
from tests.cli.test_follow import payloads

SHELL = [text for language, text in blocks(ROOT / "docs" / "network.md") if language == "shell"]
PYTHON = [text for language, text in blocks(ROOT / "docs" / "network.md") if language == "py"]


def on_free_ports(text: str) -> str:
    """The same at ports that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = {"4646": str(one.getsockname()[1]), "4647": str(two.getsockname()[1])}
    return re.sub("464[67]", lambda found: ports[found[0]], text)


def shell(text: str, folder: Path) -> str:
    """Run it as a person would; nothing of it is left."""
    if shutil.which("curl") is None:
        pytest.fail("this needs curl: install it")
    command = folder / "bin" / "walspool"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -W error -m walspool.cli "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    # as in a terminal: jobs have numbers, and end with it
    line = ["bash", "-euo", "pipefail", "-c", "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n" + on_free_ports(text)]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    return done.stdout


def test_the_life_of_a_replica_from_the_shell(tmp_path: Path) -> None:
    printed = shell(SHELL[0], tmp_path)
    assert "is a primary's log of term 2 now" in printed
    assert payloads(tmp_path / "app.db") == payloads(tmp_path / "replica.db") == [b"order 1 paid", b"order 1 shipped"]


def test_curl_follows_and_appends(tmp_path: Path) -> None:
    printed = shell(SHELL[1], tmp_path)
    assert '{"lsns": [1], "acks": 0}' in printed
    assert '"payload": "order 2 paid"' in printed
    assert len((tmp_path / "frames").read_bytes()) == 37 + len("order 2 paid")


def test_the_life_of_a_replica_from_python(tmp_path: Path) -> None:
    (text,) = PYTHON
    assert len(text.splitlines()) < 15
    line = [sys.executable, "-W", "error", "-c", on_free_ports(text)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "b'paid'\nCommitResult(lsn=2, acks=0) 2\n"
