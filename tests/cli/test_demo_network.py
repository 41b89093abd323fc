"""The demo over the network: what it shows, what it leaves, and that it would notice a difference."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

import walspool
from tests.cli.shell import Command
from walspool.cli.demo import network
from walspool.cli.demo.network import EU, FIRST, US, Outcome, Replica, _Story
from walspool.cli.demo.relay import Relay
from walspool.cli.demo.steps import Tell
from walspool.cli.demo.tree import Tree, put

FILES = 400


@pytest.fixture
def small_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A tree large enough for the kills, in place of the standard library."""
    root = tmp_path / "source"
    names = [f"folder{number % 7}/file{number}" for number in range(FILES)]
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * number)
    tree = Tree(str(root), names, sum(range(FILES)))
    monkeypatch.setattr(Tree, "of_standard_library", lambda largest=0: tree)
    return tree


def test_three_machines_and_everything_that_happens_to_them(
    command: Command, small_tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "below"))
    answer = command("demo", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.document
    assert (facts["ok"], facts["records"]) == (True, FILES)
    assert facts["replica_killed"]["lsn"] < facts["replica_killed"]["caught_up_lsn"]
    assert facts["primary_killed"]["acknowledged_lsn"] <= facts["primary_killed"]["lsn"]
    assert facts["connections_cut"] >= 2
    again = facts["started_again"]
    assert again["lsn"] < again["pruned_through"] <= again["snapshot_lsn"] <= again["caught_up_lsn"]
    assert facts["promoted"]["acknowledged_lsn"] <= facts["promoted"]["lsn"]
    assert facts["fenced"]["status"] == 409
    assert f"lsn={facts['fenced']['tail_lsn']}" in facts["fenced"]["diverged"]
    assert len(facts["records_compared"]) == 2
    assert min(facts["records_compared"].values()) > 0
    assert facts["files_identical"] == {FIRST: FILES, EU: FILES, US: FILES}
    assert list((tmp_path / "below").iterdir()) == []


def command_lines() -> list[bytes]:
    """Of every process."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            found.append(each.read_bytes())
    assert found
    return found


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_no_file_and_no_process(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    line = [sys.executable, "-m", "walspool.cli", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for each in demo.stdout:
            if each.startswith("follow "):
                demo.send_signal(sent)
                break
        out, err = demo.communicate()
    assert (demo.returncode, err) == (code, "")
    assert "files identical" not in out
    assert list(tmp_path.iterdir()) == []
    assert not any(os.fsencode(tmp_path) in each for each in command_lines())


def test_without_the_extra_it_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walspool.cli.serve_verbs.find_spec", lambda name: None if name == "uvicorn" else name)
    answer = command("demo")
    assert answer.code == 3
    assert answer.says("uvicorn", "pip install 'walspool[server]'", "'walspool demo --local' needs nothing more")


def lose_a_file(replica: Replica) -> str:
    (replica.tree / "folder1" / "file1").unlink()
    return f"first differing file: folder1/file1 ({replica.tree / 'folder1/file1'} is missing) at us-1"


def change_a_file(replica: Replica) -> str:
    (replica.tree / "folder1" / "file1").write_bytes(b"other")
    return "first differing file: folder1/file1 (its SHA-256 is another) at us-1"


def invent_a_file(replica: Replica) -> str:
    (replica.tree / "folder1" / "file1x").touch()
    return "first differing file: folder1/file1x (only in the rebuilt tree) at us-1"


def lose_a_frame(replica: Replica) -> str:
    records(replica, range(FILES - 1))
    return "first differing record: LSN 400 of eu-1.db.logical.wal and us-1.db.logical.wal"


def change_a_frame(replica: Replica) -> str:
    records(replica, range(FILES), timestamp_ms=1)
    return "first differing record: LSN 1 of eu-1.db.logical.wal and us-1.db.logical.wal"


def invent_a_frame(replica: Replica) -> str:
    with walspool.open(replica.log) as log:
        log.append_next(b"one more")
    return "first differing record: LSN 401 of eu-1.db.logical.wal and us-1.db.logical.wal"


def records(replica: Replica, indexes: range, timestamp_ms: int = 7) -> None:
    for each in replica.log.parent.glob(f"{replica.log.name}.*"):
        each.unlink()
    with walspool.open(replica.log) as log:
        log.append_many([(index + 1, b"record %d" % index) for index in indexes], timestamp_ms=timestamp_ms)


@pytest.mark.parametrize(
    "harm", [lose_a_file, change_a_file, invent_a_file, lose_a_frame, change_a_frame, invent_a_frame]
)
def test_a_difference_is_exit_code_1_and_named(
    command: Command,
    small_tree: Tree,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Replica], str],
) -> None:
    expected = []

    def spoilt(folder: Path, tell: Tell) -> Outcome:
        with ExitStack() as stack:
            story = _Story(folder, small_tree, tell, stack, stack.enter_context(Relay()))
        story.outcome.promoted["id"] = EU
        for each in story._replicas.values():
            records(each, range(FILES))
            for index in range(FILES):
                put(index + 1, small_tree.change(index), each.tree)
        expected.append(harm(story._replicas[US]))
        story.compare()
        return story.outcome

    monkeypatch.setattr(network, "replicated", spoilt)
    answer = command("demo", "--json")
    assert answer.code == 1
    assert answer.document == {"ok": False, "failure": expected[0]}
