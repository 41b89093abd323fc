"""The demo of one log, ``demo --local``: what it claims, what it leaves, and that it would notice a difference."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import walspool
from tests.cli.shell import Command
from walspool.cli.demo import steps
from walspool.cli.demo.tree import DemoFailed, Tree, rebuild


@pytest.fixture
def small_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A tree large enough for the kills, in place of the standard library."""
    root = tmp_path / "source"
    names = [f"folder{number % 7}/file{number}" for number in range(600)]
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * (number * 7))
    tree = Tree(str(root), names, sum(number * 7 for number in range(600)))
    monkeypatch.setattr(Tree, "of_standard_library", lambda largest=0: tree)
    monkeypatch.setattr("walspool.cli.demo.figures.SECONDS", 0.05)
    return tree


def test_what_it_finds(command: Command, small_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "below"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    answer = command("demo", "--local", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.document
    assert facts["ok"] is True
    assert facts["files_identical"] == facts["records"] > 100
    assert facts["source_bytes"] == sum(number * 7 for number in range(600))
    assert facts["kills_survived"] == len(facts["kills"]) >= 3
    assert sum(each["half_frame_bytes"] > 0 for each in facts["kills"]) == 1
    for each in facts["kills"]:
        assert each["current_lsn"] >= each["acknowledged_lsn"]
        assert each["recovery"]["verdict"] in ("clean", "torn", "unfinished-batch")
    assert facts["pruned"]["records"] == facts["records"] // 2
    assert facts["pruned"]["next_lsn"] == facts["records"] + 1
    assert facts["replay_records_per_s"] > 0
    assert list(folder.iterdir()) == []


def test_plain_lines_and_the_table(command: Command, small_tree: Tree, tmp_path: Path) -> None:
    answer = command("demo", "--local", "--dir", tmp_path / "work")
    assert (answer.code, answer.err) == (0, "")
    steps = [each.split("  ")[0].strip() for each in answer.lines]
    kills = [each for each in steps if each.startswith("kill ")]
    assert len(kills) >= 3
    table = ["records", "MB", "durable appends/s, 1 thread", "durable appends/s, 32 threads", "batch records/s"]
    table += ["replay records/s", "replay MB/s", "time to reopen", "kills survived", "files identical"]
    assert steps == ["source", "log", *kills, "written", "rebuilt", "pruned", "goes on", *table]
    assert any("half a frame" in each for each in answer.lines)
    assert "600 of 600" in answer.lines[-1]
    with walspool.open(tmp_path / "work" / "tree", read_only=True) as spool:
        assert (spool.oldest_lsn, spool.current_lsn) == (301, 601)


def test_a_folder_that_is_in_use_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    answer = command("demo", "--local", "--dir", tmp_path)
    assert answer.code == 2
    assert answer.says("not empty")
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_keep_says_where(command: Command, small_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    answer = command("demo", "--local", "--keep", "--json")
    assert answer.code == 0
    (kept,) = tmp_path.glob("walspool-demo-*")
    assert answer.says(str(kept))
    assert (kept / "rebuilt").is_dir()


def lose(folder: Path) -> None:
    (folder / "folder1" / "file1").unlink()


def change(folder: Path) -> None:
    (folder / "folder1" / "file1").write_bytes(b"other")


def invent(folder: Path) -> None:
    (folder / "folder1" / "file1x").write_bytes(b"")


@pytest.mark.parametrize(("harm", "name"), [(lose, "file1"), (change, "file1"), (invent, "file1x")])
def test_a_difference_is_exit_code_1_and_named(
    command: Command,
    small_tree: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
    name: str,
) -> None:
    def spoilt(spool: walspool.LogicalWalSpool, target: Path) -> int:
        files = rebuild(spool, target)
        harm(target)
        return files

    monkeypatch.setattr(steps, "rebuild", spoilt)
    answer = command("demo", "--local", "--dir", tmp_path / "work", "--json")
    assert answer.code == 1
    assert answer.says("first differing file: folder1/" + name)
    assert answer.document == {"ok": False, "failure": answer.err.removeprefix("walspool: ").rstrip("\n")}


def test_a_record_that_points_elsewhere_is_not_written(tmp_path: Path) -> None:
    for number, name in enumerate(("../outside", "/outside", 7)):
        with walspool.open(tmp_path / f"log{number}") as spool:
            record = walspool.ChangeRecord(
                term=1,
                lsn=1,
                timestamp=0,
                operation=walspool.ChangeOperation.INSERT,
                collection="",
                entity_id=1,
                entity_kind="document",
                entity_bytes=b"x",
                metadata={"path": name},
            )
            spool.append_next(record.encode())
            with pytest.raises(DemoFailed):
                rebuild(spool, tmp_path / "target")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    line = [sys.executable, "-m", "walspool.cli", "demo", "--local"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, env={**os.environ, "TMPDIR": str(tmp_path)}, **options) as demo:  # type: ignore[call-overload]
        for each in demo.stdout:
            if each.startswith("kill 1"):
                demo.send_signal(sent)
                break
        out, err = demo.communicate()
    assert (demo.returncode, err) == (code, "")
    assert "files identical" not in out
    assert list(tmp_path.iterdir()) == []
