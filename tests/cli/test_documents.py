"""The documents link to what is there, and the examples work as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def program(*arguments: str | Path) -> str:
    line = [sys.executable, "-W", "error", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_file_that_the_documents_link_to_is_there() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


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
