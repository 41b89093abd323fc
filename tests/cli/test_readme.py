"""What the README and the examples say works as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def program(*arguments: str | Path, **options: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload]
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout)


@pytest.mark.parametrize(
    "command",
    [
        "python3 -m venv .venv && .venv/bin/pip install '.[all]' && .venv/bin/walspool demo",
        "python3 -m venv .venv && .venv/bin/pip install '.[all,test]' && .venv/bin/pytest",
    ],
)
def test_each_set_up_command_is_one_line_in_a_block_of_its_own(command: str) -> None:
    assert [code for _, code in BLOCKS].count(command + "\n") == 1


def test_the_first_program_has_ten_lines_and_runs(tmp_path: Path) -> None:
    (code,) = (code for language, code in BLOCKS if language == "python")
    assert len(code.splitlines()) == 10
    (tmp_path / "first.py").write_text(code, encoding="utf-8")
    out = program("first.py", cwd=tmp_path)
    assert out == "2 b'order 2 paid'\n3 b'order 3 shipped'\noldest 1 last 3\n"


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
