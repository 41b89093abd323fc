"""What the README shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import walspool
from tests.package.sources import CLONE
from tests.spool.kit import contents, environment

README = (CLONE / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_set_up_commands_stand_alone() -> None:
    commands = [
        "python3 -m venv .venv && .venv/bin/pip install '.[all]' && .venv/bin/walspool demo\n",
        "python3 -m venv .venv && .venv/bin/pip install '.[all,test]' && .venv/bin/pytest -n 2\n",
    ]
    assert [each for each in _blocks("sh") if "venv" in each] == commands


def _printed(program: str, core: ModuleType, folder: Path) -> str:
    """What a program prints; nothing may go to standard error."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment(core.name),
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
    return run.stdout


def test_the_first_program_runs_as_it_stands(core: ModuleType, tmp_path: Path) -> None:
    program, _ = _blocks("python")
    assert len(program.splitlines()) == 10
    assert _printed(program, core, tmp_path) == "2 b'order 2 paid'\n3 b'order 3 shipped'\noldest 1 last 3\n"


def test_the_replication_program_runs_as_it_stands(core: ModuleType, tmp_path: Path) -> None:
    section = README.partition("\n## Replication\n")[2].partition("\n## ")[0]
    assert 1 < len(section.splitlines()) < 25
    _, program = _blocks("python")
    assert program in section
    assert _printed(program, core, tmp_path) == (
        "pruned through 1\neu-1 holds 1 records (49 bytes) above LSN 1; a prune now would free 0 records (0 bytes).\n"
    )


def test_every_file_of_a_log_is_described(core: ModuleType, tmp_path: Path) -> None:
    documented = README + (CLONE / "docs" / "format.md").read_text(encoding="utf-8")
    with walspool.open(tmp_path / "NAME", segment_bytes=100) as log:
        log.append(1, bytes(200))
        log.append(2, b"x")
    with walspool.PrimaryReplication(tmp_path / "NAME") as primary:
        primary.register_replica("eu-1")
        primary.register_replica("us-1")
        names = set(contents(tmp_path))
    assert len(names) == 9
    for name in names:
        shown = re.sub(r"\d{20}", "<first lsn, 20 digits>", name.removesuffix(".idx"))
        assert f"`{shown}`" in documented, name
        assert not name.endswith(".idx") or "`….idx`" in documented
    frame = core.encode_frame(1, b"payload")
    assert len(frame) - len(b"payload") == 37
    assert "37 bytes longer than its payload" in README
