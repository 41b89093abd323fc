"""prune and repair."""

from __future__ import annotations

from pathlib import Path

import walspool
from tests.cli.shell import Command, damage, everything_below


def test_prune(command: Command, long_log: Path) -> None:
    answer = command("prune", long_log, "--through", "60", "--json")
    assert answer.code == 0
    report = answer.document
    assert (report["records"], report["oldest_lsn"]) == (60, 61)
    assert report["segments_removed"] > 0
    assert report["bytes_freed"] > 0
    assert [each["lsn"] for each in command("dump", long_log, "--json").objects] == list(range(61, 101))
    answer = command("prune", long_log, "--through", "100")
    assert answer.code == 0
    assert "40 records" in answer.out
    assert "no record is left" in answer.out
    with walspool.open(long_log) as spool:
        assert spool.append_next(b"goes on") == 101


def test_prune_through_nothing(command: Command, long_log: Path) -> None:
    answer = command("prune", long_log, "--through", "0", "--json")
    assert (answer.code, answer.document["records"], answer.document["oldest_lsn"]) == (0, 0, 1)


def test_prune_beyond_the_end_is_a_slip(command: Command, log: Path) -> None:
    answer = command("prune", log, "--through", "6")
    assert (answer.code, answer.out) == (2, "")
    assert answer.says("6", "last LSN 5")
    assert len(command("dump", log).lines) == 5


def test_prune_keeps_what_a_replica_needs(command: Command, log: Path) -> None:
    with walspool.PrimaryReplication(log) as primary:
        for name, lsn in (("eu-1", 3), ("eu-2", 4)):
            primary.register_replica(name)
            primary.reset_slot(name, lsn)
    answer = command("prune", log, "--through", "4")
    assert (answer.code, answer.out) == (2, "")
    assert answer.says("above LSN 3", "eu-1", "--ignore-slots")
    assert len(command("dump", log).lines) == 5
    assert command("prune", log, "--through", "3").code == 0
    assert len(command("dump", log).lines) == 2
    assert command("prune", log, "--through", "5", "--ignore-slots").code == 0
    assert command("dump", log).lines == []


def test_repair_of_a_good_log_does_nothing(command: Command, log: Path) -> None:
    before = everything_below(log.parent)
    for options in (["--dry-run"], []):
        answer = command("repair", log, *options)
        assert (answer.code, answer.out) == (0, "nothing to repair\n")
    assert everything_below(log.parent) == before


def test_repair_says_what_it_gives_up_and_then_does_it(command: Command, log: Path) -> None:
    damage(log.with_name(log.name + ".logical.wal"), 45)
    before = everything_below(log.parent)
    plan = command("repair", log, "--dry-run", "--json")
    assert plan.code == 1
    assert plan.document["dry_run"] is True
    assert plan.document["changed"] is True
    assert plan.document["lsn_floor"] == 5
    assert everything_below(log.parent) == before
    assert all(each.startswith("would: ") for each in command("repair", log, "--dry-run").lines)
    done = command("repair", log)
    assert done.code == 0
    assert "corrupt" in done.out
    assert "quarantine" in done.out
    assert list(log.parent.glob("*.quarantine-*"))
    with walspool.open(log, recovery="strict") as spool:
        assert spool.append_next(b"after") == 6


def test_repair_with_a_lower_floor(command: Command, log: Path) -> None:
    damage(log.with_name(log.name + ".logical.wal"), 45)
    answer = command("repair", log, "--lsn-floor", "2", "--json")
    assert answer.code == 0
    assert any("Given up: LSNs 3 to 5" in each for each in answer.document["actions"])
    with walspool.open(log, recovery="strict") as spool:
        assert spool.append_next(b"again") == 3


def test_a_floor_below_what_the_log_holds_is_refused(command: Command, log: Path) -> None:
    answer = command("repair", log, "--lsn-floor", "4")
    assert answer.code == 3
    assert answer.says("LSN floor 4", "LSN 5")


def test_repair_rebuilds_an_unreadable_state(command: Command, log: Path) -> None:
    state = log.with_name(log.name + ".logical.wal.state")
    state.write_bytes(b"")
    answer = command("append", log, "/dev/null")
    assert answer.code == 1
    assert answer.says(state.name, "walspool repair")
    assert command("repair", log, "--dry-run").code == 1
    answer = command("repair", log)
    assert answer.code == 0
    assert "rebuilt" in answer.out
    assert command("verify", log).code == 0
    assert len(command("dump", log).lines) == 5
