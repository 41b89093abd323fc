"""diff: the first LSN where two logs differ."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import walspool
from tests.cli.shell import Command

Record = tuple[int, bytes]
FIVE: list[Record] = [(lsn, b"payload %d" % lsn) for lsn in range(1, 6)]


def make(path: Path, records: list[Record], **options: Any) -> Path:
    path.parent.mkdir()
    with walspool.open(path) as spool:
        for lsn, payload in records:
            spool.append(lsn, payload, **options)
    return path


@pytest.mark.parametrize(
    ("other", "lsn", "what", "compared"),
    [
        ([*FIVE[:2], (3, b"other"), *FIVE[3:]], 3, "different payload", 2),
        (FIVE[:4], 5, "only in A", 4),
        ([*FIVE, (6, b"more")], 6, "only in B", 5),
        (FIVE[:2] + FIVE[3:], 3, "only in A", 2),
        (FIVE[1:], 1, "only in A", 0),
        ([], 1, "only in A", 0),
    ],
)
def test_the_first_difference(
    command: Command, tmp_path: Path, other: list[Record], lsn: int, what: str, compared: int
) -> None:
    a, b = make(tmp_path / "a" / "log", FIVE), make(tmp_path / "b" / "log", other)
    answer = command("diff", a, b, "--json")
    assert answer.code == 1
    found = answer.document
    assert (found["same"], found["lsn"], found["difference"], found["compared"]) == (False, lsn, what, compared)
    for name, records in (("a", FIVE), ("b", other)):
        there = dict(records).get(lsn)
        assert (found[name]["payload"].encode() if found[name] else None) == there
    text = command("diff", a, b)
    assert text.code == 1
    assert f"first difference at LSN {lsn}: {what}" in text.out


def test_the_term_counts_and_the_timestamp_does_not(command: Command, tmp_path: Path) -> None:
    a = make(tmp_path / "a" / "log", FIVE, term=1, timestamp_ms=1000)
    same = make(tmp_path / "same" / "log", FIVE, term=1, timestamp_ms=2000)
    newer = make(tmp_path / "newer" / "log", FIVE, term=2)
    answer = command("diff", a, same)
    assert (answer.code, answer.out) == (0, "same: 5 records compared\n")
    assert command("diff", a, newer, "--json").document["difference"] == "different term"


@pytest.mark.parametrize("through", [3, 100])
def test_what_one_log_has_pruned_is_left_out(command: Command, long_log: Path, through: int) -> None:
    copy = long_log.parent / "copy"
    shutil.copytree(long_log.parent, copy, ignore=shutil.ignore_patterns("copy"))
    with walspool.open(copy / long_log.name) as spool:
        spool.prune_through(through)
    for pair in ((long_log, copy / long_log.name), (copy / long_log.name, long_log)):
        answer = command("diff", *pair, "--json")
        assert answer.code == 0
        assert answer.document["compared"] == 100 - through
        assert sorted(answer.document["skipped"].values()) == [0, through]
    assert f"{through} records only in A" in command("diff", long_log, copy / long_log.name).out


def test_a_pruned_log_with_another_history_differs(command: Command, tmp_path: Path) -> None:
    a = make(tmp_path / "a" / "log", FIVE)
    b = make(tmp_path / "b" / "log", [(lsn, b"other %d" % lsn) for lsn in range(1, 4)] + FIVE[3:])
    with walspool.open(b) as spool:
        spool.prune_through(3)
    answer = command("diff", a, b, "--json")
    assert (answer.code, answer.document["lsn"], answer.document["difference"]) == (1, 1, "only in A")


def test_the_live_log_and_itself(command: Command, log: Path) -> None:
    with walspool.open(log):
        assert command("diff", log, log).code == 0


def test_a_missing_log(command: Command, log: Path) -> None:
    answer = command("diff", log, log.with_name("missing"))
    assert answer.code == 3
    assert answer.says("missing")
