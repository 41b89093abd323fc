"""append: lines in, LSNs out."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import walspool
from tests.cli.shell import Command, everything_below, process


def payloads(data_path: Path) -> list[bytes]:
    with walspool.open(data_path, read_only=True) as spool:
        return [payload for _, payload in spool.tuples()]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"", []),
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\ntwo", [b"one", b"two"]),
        (b"\n\n", [b"", b""]),
        (b"carriage\r\n\xff\x00\x1b\n", [b"carriage\r", b"\xff\x00\x1b"]),
        (b"x" * 3_000_000 + b"\n" + b"y" * 3_000_000, [b"x" * 3_000_000, b"y" * 3_000_000]),
    ],
)
def test_each_line_is_a_record(data_path: Path, given: bytes, expected: list[bytes]) -> None:
    answer = process("append", data_path, stdin=given)
    assert (answer.code, answer.err) == (0, "")
    assert answer.lines == [str(lsn) for lsn in range(1, len(expected) + 1)]
    assert payloads(data_path) == expected


def test_many_lines_of_a_file(command: Command, tmp_path: Path, data_path: Path) -> None:
    lines = [b"line %d" % number for number in range(200_000)]
    source = tmp_path / "lines"
    source.write_bytes(b"\n".join(lines))
    answer = command("append", data_path, source)
    assert answer.code == 0
    assert answer.lines == [str(lsn) for lsn in range(1, 200_001)]
    assert payloads(data_path) == lines


def test_answers_as_json(command: Command, tmp_path: Path, log: Path) -> None:
    (tmp_path / "lines").write_bytes(b"six\nseven\n")
    assert command("append", log, tmp_path / "lines", "--json").objects == [{"lsn": 6}, {"lsn": 7}]


def test_a_dash_is_standard_input(data_path: Path) -> None:
    assert process("append", data_path, "-", stdin=b"one\n").out == "1\n"


def test_a_slow_input_is_answered_line_by_line(data_path: Path) -> None:
    line = [sys.executable, "-m", "walspool.cli", "append", str(data_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        for number in range(1, 6):
            writer.stdin.write(b"line %d\n" % number)
            writer.stdin.flush()
            assert writer.stdout.readline() == b"%d\n" % number
            assert payloads(data_path)[-1] == b"line %d" % number
        writer.stdin.close()
        assert writer.wait() == 0


def test_an_interrupt_ends_it_without_losing_what_was_answered(data_path: Path) -> None:
    line = [sys.executable, "-m", "walspool.cli", "append", str(data_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdin.write(b"one\nhalf a line")
        writer.stdin.flush()
        assert writer.stdout.readline() == b"1\n"
        writer.send_signal(signal.SIGINT)
        assert writer.wait() == 130
        assert writer.stderr.read() == b""
    assert payloads(data_path) == [b"one"]


def test_lines_with_lsns(command: Command, tmp_path: Path, data_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"7\tseven\n10\t\tten\n18446744073709551615\t")
    answer = command("append", data_path, tmp_path / "lines", "--with-lsn")
    assert (answer.code, answer.lines) == (0, ["7", "10", str(2**64 - 1)])
    with walspool.open(data_path, read_only=True) as spool:
        assert spool.read_since(0) == [(7, b"seven"), (10, b"\tten"), (2**64 - 1, b"")]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"no number", "not an LSN"),
        (b"8 eight", "not an LSN"),
        (b"-8\teight", "not an LSN"),
        (b"18446744073709551616\tx", "not an LSN"),
        (b"6\tsix", "LSN 6 is not above"),
        (b"0\tzero", "LSN 0 is not above"),
    ],
)
def test_a_bad_line_is_named_and_the_lines_before_it_count(
    command: Command, tmp_path: Path, data_path: Path, bad: bytes, words: str
) -> None:
    (tmp_path / "lines").write_bytes(b"5\tfive\n6\tsix\n" + bad + b"\n9\tnine\n")
    answer = command("append", data_path, tmp_path / "lines", "--with-lsn")
    assert (answer.code, answer.lines) == (3, ["5", "6"])
    assert answer.says("line 3", words)
    assert payloads(data_path) == [b"five", b"six"]


def test_a_line_above_the_limit_is_refused(data_path: Path) -> None:
    line = 'printf "one\\n"; head -c 268435457 /dev/zero; printf "\\nthree\\n"'
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE) as source:
        append = [sys.executable, "-m", "walspool.cli", "append", str(data_path)]
        done = subprocess.run(append, stdin=source.stdout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "1\n")
    assert done.stderr.startswith("walspool: line 2: a payload of ")
    assert done.stderr.count("\n") == 1
    assert payloads(data_path) == [b"one"]


@pytest.mark.parametrize("source", ["missing", "."])
def test_an_input_that_can_not_be_read_makes_no_log(command: Command, data_path: Path, source: str) -> None:
    answer = command("append", data_path, data_path.parent / source)
    assert (answer.code, answer.out) == (3, "")
    assert answer.says(str(data_path.parent / source))
    assert everything_below(data_path.parent) == {}


def test_a_damaged_log_is_refused_and_untouched(command: Command, tmp_path: Path, log: Path) -> None:
    spool_file = log.with_name(log.name + ".logical.wal")
    content = bytearray(spool_file.read_bytes())
    content[45] ^= 1
    spool_file.write_bytes(content)
    answer = command("append", log, "/dev/null")
    assert answer.code == 1
    assert answer.says("damage", "walspool repair")
    assert spool_file.read_bytes() == content


def test_what_recovery_cut_is_told_on_one_line(command: Command, log: Path) -> None:
    with open(log.with_name(log.name + ".logical.wal"), "ab") as file:
        file.write(b"RDLW\x03half a fra")
    answer = command("append", log, "/dev/null")
    assert answer.code == 0
    assert answer.says("warning", "torn", "5 records kept")
