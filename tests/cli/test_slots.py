"""slots list, drop, reset."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import walspool
from tests.cli.shell import Command, damage, everything_below, process

NOW_MS = 1_700_000_000_123
MOMENT = "2023-11-14T22:13:20.123Z"


def slot_file(data_path: Path) -> Path:
    return walspool.PrimaryReplication.slot_path_for(data_path)


def spool_file(data_path: Path) -> Path:
    return walspool.LogicalWalSpool.path_for(data_path)


def stored(data_path: Path) -> dict[str, Any]:
    return {each["id"]: each for each in json.loads(slot_file(data_path).read_bytes())["slots"]}


@pytest.fixture
def primary_path(data_path: Path) -> Path:
    """Eleven records of which one is pruned; slots that lag by one and by four, and an invalid one."""
    config = walspool.ReplicationConfig(slot_retention_max_lag_lsn=8)
    with walspool.PrimaryReplication(data_path, config, clock=lambda: NOW_MS) as primary:
        primary.register_replica("dead")
        for _ in range(10):
            primary.commit(b"payload")
        primary.register_replica("ahead")
        primary.register_replica("behind")
        primary.enforce_retention_limits()
        primary.reset_slot("behind", 7)
        primary.prune_retained_wal_through(1)
        primary.commit(b"payload")
    return data_path


def test_list_for_people(command: Command, primary_path: Path) -> None:
    answer = command("slots", "list", primary_path)
    assert (answer.code, answer.err) == (0, "")
    assert [each.split("  ") for each in _narrow(answer.lines)] == [
        ["id", "status", "restart LSN", "confirmed LSN", "holds", "last seen"],
        ["ahead", "reserved", "10", "10", "1 record, 44 bytes", MOMENT],
        ["behind", "reserved", "7", "7", "4 records, 176 bytes", MOMENT],
        ["dead", f"lost: horizon since {MOMENT}", "0", "0", "nothing", MOMENT],
    ]


def _narrow(lines: list[str]) -> list[str]:
    return ["  ".join(part.strip() for part in each.split("  ") if part.strip()) for each in lines]


def test_list_as_json(command: Command, primary_path: Path) -> None:
    answer = command("slots", "list", primary_path, "--json")
    assert answer.code == 0
    assert answer.document["path"] == str(slot_file(primary_path))
    assert [each["id"] for each in answer.document["slots"]] == ["ahead", "behind", "dead"]
    assert answer.document["slots"][1:] == [
        {
            "id": "behind",
            "restart_lsn": 7,
            "confirmed_lsn": 7,
            "last_seen_at_unix_ms": NOW_MS,
            "invalidation_reason": None,
            "invalidated_at_unix_ms": None,
            "wal_status": "reserved",
            "retained_records": 4,
            "retained_bytes": 176,
        },
        {
            "id": "dead",
            "restart_lsn": 0,
            "confirmed_lsn": 0,
            "last_seen_at_unix_ms": NOW_MS,
            "invalidation_reason": "horizon",
            "invalidated_at_unix_ms": NOW_MS,
            "wal_status": "lost",
            "retained_records": 0,
            "retained_bytes": 0,
        },
    ]


def test_list_changes_nothing_and_needs_no_lock(command: Command, primary_path: Path) -> None:
    before = everything_below(primary_path.parent)
    with_nobody = command("slots", "list", primary_path)
    assert everything_below(primary_path.parent) == before
    with walspool.PrimaryReplication(primary_path, clock=lambda: NOW_MS):
        beside = process("slots", "list", primary_path)
    assert (beside.code, beside.out) == (0, with_nobody.out)


@pytest.mark.parametrize("content", [None, b'{"slots": []}'])
def test_list_without_slots(command: Command, log: Path, content: bytes | None) -> None:
    if content is not None:
        slot_file(log).write_bytes(content)
    answer = command("slots", "list", log)
    assert (answer.code, answer.out) == (0, "no slots\n")
    assert command("slots", "list", log, "--json").document == {"path": str(slot_file(log)), "slots": []}


@pytest.mark.parametrize("content", [b"", b'{"slots": [', b"[]", b"\xff", bytes(100)])
@pytest.mark.parametrize("verb", [["list"], ["drop", "behind"], ["reset", "behind", "9"]])
def test_a_damaged_slot_file_is_damage(command: Command, primary_path: Path, content: bytes, verb: list[str]) -> None:
    slot_file(primary_path).write_bytes(content)
    before = everything_below(primary_path.parent)
    answer = command("slots", verb[0], primary_path, *verb[1:])
    assert (answer.code, answer.out) == (1, "")
    assert answer.says(str(slot_file(primary_path)), f"{slot_file(primary_path)}.previous")
    after = everything_below(primary_path.parent)
    assert {name for name in before if before[name] != after[name]} <= {f"{spool_file(primary_path).name}.lock"}


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [("directory", 3, "directory"), ("fifo", 1, "not a regular file"), ("link", 1, "a symbolic link to nothing")],
)
def test_an_odd_slot_file(command: Command, log: Path, kind: str, code: int, words: str) -> None:
    path = slot_file(log)
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    answer = command("slots", "list", log)
    assert (answer.code, answer.out) == (code, "")
    assert answer.says(str(path), words)


def test_list_of_a_damaged_log_shows_the_slots_all_the_same(command: Command, primary_path: Path) -> None:
    damage(spool_file(primary_path), 40)
    answer = command("slots", "list", primary_path, "--json")
    assert answer.code == 1
    assert answer.says("damage", "walspool repair")
    assert [each["id"] for each in answer.document["slots"]] == ["ahead", "behind", "dead"]


def test_list_of_a_log_that_can_not_be_opened(command: Command, primary_path: Path) -> None:
    spool_file(primary_path).with_name(spool_file(primary_path).name + ".state").write_bytes(b"no state")
    answer = command("slots", "list", primary_path, "--json")
    assert answer.code == 1
    assert answer.says(".state")
    assert [each["retained_bytes"] for each in answer.document["slots"]] == [None, None, 0]
    people = command("slots", "list", primary_path)
    assert people.code == 1
    assert _narrow(people.lines)[2] == f"behind  reserved  7  7  ?  {MOMENT}"


def test_list_of_slots_without_their_log(command: Command, data_path: Path) -> None:
    slot_file(data_path).write_text(json.dumps({"slots": [{"id": "eu-1", "restart_lsn": 3, "confirmed_lsn": 4}]}))
    answer = command("slots", "list", data_path)
    assert answer.code == 3
    assert answer.says("no such log")
    assert answer.lines[1].startswith("eu-1")
    assert list(everything_below(data_path.parent)) == [slot_file(data_path).name]


def test_an_id_that_is_no_text_for_a_terminal(command: Command, log: Path) -> None:
    odd = "a\n\x1b[31m"
    slot_file(log).write_text(json.dumps({"slots": [{"id": odd, "restart_lsn": 3, "confirmed_lsn": 4}]}))
    answer = command("slots", "list", log)
    assert answer.lines[1].startswith("a\\n\\x1b[31m")
    dropped = command("slots", "drop", log, odd)
    assert (dropped.code, dropped.lines) == (0, ["slot a\\n\\x1b[31m dropped; no valid slot holds the log"])


def test_drop(command: Command, primary_path: Path) -> None:
    answer = command("slots", "drop", primary_path, "behind")
    assert (answer.code, answer.out) == (0, "slot behind dropped; slots hold the log above LSN 10\n")
    assert list(stored(primary_path)) == ["ahead", "dead"]
    answer = command("slots", "drop", primary_path, "ahead", "--json")
    assert answer.document == {"dropped": "ahead", "retention_floor_lsn": None}
    assert list(stored(primary_path)) == ["dead"]


def test_reset(command: Command, primary_path: Path) -> None:
    answer = command("slots", "reset", primary_path, "dead", "4")
    assert answer.code == 0
    assert answer.out == "slot dead is valid and goes on behind LSN 4; slots hold the log above LSN 4\n"
    made = stored(primary_path)["dead"]
    assert (made["restart_lsn"], made["confirmed_lsn"], made.get("invalidation_reason")) == (4, 4, None)
    answer = command("slots", "reset", primary_path, "dead", "9", "--json")
    assert answer.document == {"reset": "dead", "restart_lsn": 9, "retention_floor_lsn": 7}
    with walspool.PrimaryReplication(primary_path, clock=lambda: NOW_MS) as primary:
        assert primary.plan_replica_resume("dead", 0) == walspool.PartialResync(9)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (["drop", "nobody"], ["no slot", "'nobody'", "walspool slots list"]),
        (["reset", "nobody", "5"], ["no slot", "'nobody'", "walspool slots list"]),
        (["reset", "dead", "0"], ["LSN 0", "pruned through LSN 1"]),
        (["reset", "dead", "12"], ["LSN 12", "the end of the log at 11"]),
    ],
)
def test_what_can_not_be_is_one_line_and_changes_nothing(
    command: Command, primary_path: Path, verb: list[str], words: list[str]
) -> None:
    before = slot_file(primary_path).read_bytes()
    answer = command("slots", verb[0], primary_path, *verb[1:])
    assert (answer.code, answer.out) == (3, "")
    assert answer.says(*words)
    assert slot_file(primary_path).read_bytes() == before


@pytest.mark.parametrize("verb", [["drop", "behind"], ["reset", "behind", "9"]])
def test_a_running_primary_is_named(primary_path: Path, verb: list[str]) -> None:
    with walspool.PrimaryReplication(primary_path, clock=lambda: NOW_MS):
        before = stored(primary_path)
        answer = process("slots", verb[0], primary_path, *verb[1:])
        assert (answer.code, answer.out) == (3, "")
        assert answer.says("locked", str(os.getpid()))
        assert stored(primary_path) == before


@pytest.mark.parametrize("verb", [["drop", "behind"], ["reset", "behind", "9"]])
def test_a_damaged_log_is_refused(command: Command, primary_path: Path, verb: list[str]) -> None:
    damage(spool_file(primary_path), 40)
    before = slot_file(primary_path).read_bytes(), spool_file(primary_path).read_bytes()
    answer = command("slots", verb[0], primary_path, *verb[1:])
    assert (answer.code, answer.out) == (1, "")
    assert answer.says("walspool repair")
    assert (slot_file(primary_path).read_bytes(), spool_file(primary_path).read_bytes()) == before


@pytest.mark.parametrize("verb", [["drop", "eu-1"], ["reset", "eu-1", "3"]])
def test_a_mistyped_path_makes_no_log(command: Command, tmp_path: Path, verb: list[str]) -> None:
    answer = command("slots", verb[0], tmp_path / "typo.db", *verb[1:])
    assert (answer.code, answer.out) == (3, "")
    assert answer.says("no such log", "typo.db")
    assert everything_below(tmp_path) == {}


@pytest.mark.parametrize("verb", ["list", "drop", "reset"])
def test_help_has_an_example(command: Command, verb: str) -> None:
    answer = command("slots", verb, "--help")
    assert answer.code == 0
    assert f"walspool slots {verb} app.db" in answer.out[answer.out.index("Example") :]


def test_help_says_that_the_list_may_lag(command: Command) -> None:
    assert "may lag that primary by 100 ms" in " ".join(command("slots", "list", "--help").out.split())


def test_the_library_reads_slots_beside_a_primary(primary_path: Path) -> None:
    with walspool.PrimaryReplication(primary_path, clock=lambda: NOW_MS) as primary:
        listed = walspool.PrimaryReplication.read_slots(primary_path)
        assert [(each.id, each.wal_status, each.restart_lsn) for each in listed] == [
            (each.id, each.wal_status, each.restart_lsn) for each in primary.slot_snapshots()
        ]
    assert walspool.PrimaryReplication.read_slots(primary_path.parent / "other") == []
