"""dump, tail, info, verify."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import walspool
from tests.cli.shell import Command, damage, everything_below


def test_dump_for_people(command: Command, log: Path) -> None:
    answer = command("dump", log)
    assert answer.code == 0
    assert answer.lines[:4] == [
        "1\t1\t2023-11-14T22:13:20.123Z\tone",
        "2\t1\t2023-11-14T22:13:20.123Z\ttwo\\nlines\\\\",
        "3\t1\t2023-11-14T22:13:20.123Z\t\\xff\\x00",
        "4\t1\t2023-11-14T22:13:20.123Z\t",
    ]
    assert answer.lines[4].startswith('5\t1\t2023-11-14T22:13:20.123Z\t{"collection":"orders"')


def test_dump_as_json_keeps_every_byte(command: Command, log: Path) -> None:
    objects = command("dump", log, "--json").objects
    assert [each["lsn"] for each in objects] == [1, 2, 3, 4, 5]
    assert objects[1] == {
        "lsn": 2,
        "term": 1,
        "timestamp_ms": 1_700_000_000_123,
        "version": 3,
        "bytes": 10,
        "payload": "two\nlines\\",
    }
    assert "payload" not in objects[2]
    assert base64.b64decode(objects[2]["payload_base64"]) == b"\xff\x00"
    assert objects[3]["payload"] == ""


def test_dump_in_hexadecimal(command: Command, log: Path) -> None:
    assert command("dump", log, "--hex").lines[2].endswith("\tff00")
    assert command("dump", log, "--hex", "--json").objects[0]["payload_hex"] == b"one".hex()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], range(1, 101)),
        (["--since", "97"], range(98, 101)),
        (["--until", "2"], range(1, 3)),
        (["--since", "40", "--until", "45"], range(41, 46)),
        (["--since", "100"], []),
        (["--until", "0"], []),
        (["--since", str(2**64 - 1)], []),
    ],
)
def test_dump_of_a_range(command: Command, long_log: Path, options: list[str], expected: range | list[int]) -> None:
    answer = command("dump", long_log, *options, "--json")
    assert answer.code == 0
    assert [each["lsn"] for each in answer.objects] == list(expected)


def test_a_record_without_time_and_one_beyond_the_calendar(command: Command, data_path: Path) -> None:
    with walspool.open(data_path) as spool:
        spool.append(1, b"a", timestamp_ms=0)
        spool.append(2, b"b", timestamp_ms=2**64 - 1)
    assert command("dump", data_path).lines == ["1\t1\t-\ta", f"2\t1\t{2**64 - 1}ms\tb"]


@pytest.mark.parametrize("number", [0, 1, 7, 100, 1000])
def test_tail(command: Command, long_log: Path, number: int) -> None:
    lsns = [each["lsn"] for each in command("tail", long_log, "-n", str(number), "--json").objects]
    assert lsns == list(range(1, 101))[max(100 - number, 0) :]


def test_tail_where_lsns_have_holes(command: Command, data_path: Path) -> None:
    given = [1, 2, 1000, 10**6, 10**12, 2**63]
    with walspool.open(data_path) as spool:
        spool.append_many([(lsn, b"x") for lsn in given])
    for number in range(1, 8):
        lsns = [each["lsn"] for each in command("tail", data_path, "-n", str(number), "--json").objects]
        assert lsns == given[-number:]


def test_tail_follows_a_live_writer_until_interrupted(long_log: Path) -> None:
    line = [sys.executable, "-m", "walspool.cli", "tail", str(long_log), "-f", "-n", "1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline().endswith("\trecord 100\n")
        with walspool.open(long_log, segment_bytes=500) as spool:
            for number in range(101, 131):
                spool.append(number, b"record %d" % number)
                assert follower.stdout.readline().endswith(f"\trecord {number}\n")
            spool.prune_through(120)
            spool.append(131, b"last")
            assert follower.stdout.readline().endswith("\tlast\n")
        follower.send_signal(signal.SIGINT)
        assert follower.wait() == 130
        assert follower.stderr.read() == ""


def test_a_follower_that_a_prune_overtakes_says_so(long_log: Path) -> None:
    line = [sys.executable, "-m", "walspool.cli", "tail", str(long_log), "-f", "-n", "1"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline().endswith("\trecord 100\n")
        follower.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, follower.pid, os.WSTOPPED | os.WNOWAIT)
        with walspool.open(long_log, segment_bytes=500) as spool:
            spool.append_many([(lsn, b"x") for lsn in range(101, 121)])
            spool.prune_through(110)
        follower.send_signal(signal.SIGCONT)
        assert follower.wait() == 3
        assert follower.stdout.read() == ""
        error = follower.stderr.read()
    assert error.startswith("walspool: records above LSN 100 were pruned through LSN 110")
    assert error.count("\n") == 1


def test_info_tells_lsns_segments_and_files(command: Command, long_log: Path) -> None:
    facts = command("info", long_log, "--json").document
    assert facts["records"] == 100
    assert (facts["oldest_lsn"], facts["current_lsn"], facts["durable_lsn"]) == (1, 100, 100)
    assert facts["recovery"]["verdict"] == "clean"
    assert sum(each["records"] for each in facts["segments"]) == 100
    assert [each["sealed"] for each in facts["segments"]] == [True] * (len(facts["segments"]) - 1) + [False]
    assert {each["name"] for each in facts["files"]} == set(everything_below(long_log.parent))
    text = command("info", long_log).out
    assert "from 1 to 100" in text
    assert "clean" in text


def test_info_of_a_log_pruned_to_nothing(command: Command, log: Path) -> None:
    with walspool.open(log) as spool:
        spool.prune_through(5)
    facts = command("info", log, "--json").document
    assert (facts["oldest_lsn"], facts["current_lsn"], facts["pruned_through"]) == (None, 5, 5)
    assert "none retained; durable through 5" in command("info", log).out


def test_looking_changes_nothing(command: Command, log: Path) -> None:
    with open(log.with_name(log.name + ".logical.wal"), "ab") as file:
        file.write(b"RDLW\x03half a fra")
    before = everything_below(log.parent)
    for verb in ("dump", "tail", "info", "verify"):
        assert command(verb, log).code == 0
    assert command("diff", log, log).code == 0
    command("repair", log, "--dry-run")
    assert everything_below(log.parent) == before


def test_verify_of_a_good_log(command: Command, long_log: Path) -> None:
    report = command("verify", long_log, "--json").document
    assert (report["ok"], report["records"], report["problems"]) == (True, 100, [])
    answer = command("verify", long_log)
    assert answer.code == 0
    assert answer.out.startswith("100 records, ")
    assert answer.out.endswith(": ok\n")


def test_verify_finds_a_flipped_bit_and_names_the_place(command: Command, long_log: Path) -> None:
    sealed = sorted(long_log.parent.glob("*.logical.wal." + "[0-9]" * 20))[1]
    damage(sealed, 100)
    answer = command("verify", long_log, "--json")
    assert answer.code == 1
    (problem,) = (each for each in answer.document["problems"] if each["path"] == str(sealed))
    assert problem["offset"] is not None
    assert problem["first_lsn"] <= problem["last_lsn"]
    answer = command("verify", long_log)
    assert answer.code == 1
    assert "DAMAGED" in answer.lines[0]
    assert any(sealed.name in each and str(problem["offset"]) in each for each in answer.lines[1:])


def test_every_verb_that_looks_says_that_acknowledged_records_are_damaged(command: Command, log: Path) -> None:
    damage(log.with_name(log.name + ".logical.wal"), 45)
    for verb in (["dump"], ["dump", "--json"], ["tail"], ["info"], ["info", "--json"]):
        answer = command(*verb, log)
        assert answer.code == 1, verb
        assert answer.says("damage", "walspool repair")


def test_verify_of_a_log_that_can_not_be_opened(command: Command, log: Path) -> None:
    log.with_name(log.name + ".logical.wal.state").write_bytes(b"no state")
    answer = command("verify", log, "--json")
    assert answer.code == 1
    assert [Path(each["path"]).name for each in answer.document["problems"]] == [log.name + ".logical.wal.state"]
