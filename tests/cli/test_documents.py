"""The documents link to what is there; their programs, their commands and the examples work as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from walspool.replication.slot import decode_slots, encode_slots

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))


def blocks(document: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a document: language and text."""
    fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return fenced.findall(document.read_text(encoding="utf-8"))


def program(*arguments: str | Path) -> str:
    line = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_file_that_the_documents_link_to_is_there() -> None:
    for document in (ROOT / "README.md", *DOCUMENTS):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_programs_and_commands_of_a_document_run_in_order(document: Path, tmp_path: Path) -> None:
    command, folder = tmp_path / "bin" / "walspool", tmp_path / "work"
    command.parent.mkdir()
    folder.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -W error -m walspool.cli "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}
    printed = ""
    for language, text in blocks(document):
        assert language in ("python", "sh", "text", "json", "shell", "py"), language
        if language == "text":
            assert printed == text
        elif language in ("python", "sh"):
            line = [sys.executable, "-W", "error"] if language == "python" else ["bash", "-euo", "pipefail"]
            done = subprocess.run([*line, "-c", text], cwd=folder, env=environment, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), text
            printed = done.stdout


def test_the_slot_file_that_is_shown_is_one() -> None:
    (text,) = (text for language, text in blocks(ROOT / "docs" / "format.md") if language == "json")
    assert encode_slots(decode_slots(text.encode(), 0).values()).decode() == text.removesuffix("\n")


def test_the_outbox_goes_on_where_it_stopped(tmp_path: Path) -> None:
    example = ROOT / "examples" / "outbox.py"
    first = program(example, tmp_path / "shop.db")
    second = program(example, tmp_path / "shop.db")
    assert first.splitlines()[0] == "event 1: order 1 is paid"
    assert second.splitlines() == [
        "event 4: order 1 is paid",
        "event 5: order 2 is paid",
        "event 6: order 3 is paid",
        "3 events delivered",
    ]
