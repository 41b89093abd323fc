"""``follow``: a replica's life from the shell, with programs of the user's."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import walspool
from tests.cli.running import PATIENCE_S, Running, running
from tests.cli.shell import Command, process
from walspool.cli.follow_verb import _stopping
from walspool.cli.programs import ApplyProgram
from walspool.net import Follower

APPLY = """
while IFS="$(printf '\\t')" read -r lsn term time payload; do
  printf '%s:%s\\n' "$lsn" "$(printf %s "$payload" | base64 -d)" >>applied
  echo "$lsn"
done
"""
LOAD = 'cat >loaded && echo "$WALSPOOL_LSN" >loaded.lsn'
#: A program that is cut off before the end must not have seen one.
SNAPSHOT = """
walspool() { "$PYTHON" -m walspool.cli "$@"; }
walspool info "$WALSPOOL_DATA_PATH" --json | "$PYTHON" -c 'import json,sys; print(json.load(sys.stdin)["current_lsn"])'
printf 'all of it'
"""


def script(folder: Path, name: str, text: str) -> str:
    """A shell script, and how it is called."""
    path = folder / name
    path.write_text(text)
    return f"sh {path}"


def until(answers: Callable[[], object]) -> None:
    """Ask a server, which each time takes its answer, until it answers so."""
    deadline = time.monotonic() + PATIENCE_S
    while not answers():
        assert time.monotonic() < deadline


class Told:
    """A pipe, into which programs say what they have done, a line each."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # for writing, too, so that it never ends
        self._lines: list[str] = []
        self._rest = ""

    def line(self) -> str:
        """The next line, once it is there."""
        while not self._lines:
            assert select.select([self._pipe], [], [], PATIENCE_S)[0], "nothing was told"
            *self._lines, self._rest = (self._rest + os.read(self._pipe, 1 << 16).decode()).split("\n")
        return self._lines.pop(0)

    def until(self, line: str) -> None:
        """Wait for this very line."""
        while self.line() != line:
            pass

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pipe)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    """``told`` in the test's folder."""
    pipe = Told(tmp_path / "told")
    yield pipe
    pipe.close()


def applied(folder: Path) -> list[str]:
    """What the program of ``--apply`` has written so far."""
    path = folder / "applied"
    return path.read_text().splitlines() if path.exists() else []


def payloads(path: Path) -> list[bytes]:
    """What a log holds."""
    with walspool.open(path, read_only=True) as log:
        return [each.payload for each in log]


def test_the_whole_life_of_a_replica(tmp_path: Path) -> None:
    p, f = tmp_path / "p.db", tmp_path / "f.db"
    snapshot = script(tmp_path, "snapshot", SNAPSHOT)
    given = ["--apply", script(tmp_path, "apply", APPLY), "--snapshot", script(tmp_path, "load", LOAD), "--once"]
    environment = {**os.environ, "PYTHON": sys.executable}
    serve: list[str | Path] = ["serve", p, "--snapshot", snapshot, "--keep", "0", "--max-lag-lsn", "5"]

    def follow(primary: Running) -> str:
        done = process("follow", primary.url, f, "--id", "eu-1", *given, cwd=tmp_path)
        assert done.code == 0, done
        return done.out

    with running(*serve, "--port", "0", env=environment) as server:
        # its slot comes first: what no replica needs is pruned at any moment, before a new one finds it
        assert follow(server).endswith("LSN 0\n")
        server.write(3)
        assert follow(server).endswith("LSN 3\n")
        assert (tmp_path / "applied").read_text() == "1:record 0\n2:record 1\n3:record 2\n"
        server.write(2)
        follow(server)
        assert (tmp_path / "applied").read_text().endswith("4:record 0\n5:record 1\n")
        assert not (tmp_path / "loaded").exists()
        # it falls behind the cap, and starts again by itself
        server.write(20)
        until(lambda: server.ask("GET", "/v1/slots")[1]["slots"][0]["wal_status"] == "lost")
        follow(server)
        assert ((tmp_path / "loaded").read_text(), (tmp_path / "loaded.lsn").read_text()) == ("all of it", "25\n")
        server.write(1)
        follow(server)
        assert (tmp_path / "applied").read_text().endswith("5:record 1\n26:record 0\n")
        port = server.port
        server.end(signal.SIGKILL)
    assert process("promote", f).out.startswith(f"{f} is a primary's log of term 2 now, and ends at LSN 26\n")
    with running("serve", f, "--port", "0") as new, running("serve", p, "--port", str(port)) as former:
        new.write(1)
        until(lambda: former.ask("GET", "/primary")[0] == 503)
        assert former.ask("POST", "/v1/records", b"too late")[0] == 409
        former.end()
        done = process("follow", new.url, p, "--id", "p", "--once")
        assert done.code == 0
        assert payloads(p)[-1:] == payloads(f)[-1:] == [b"record 0"]


def test_it_goes_on_behind_a_kill_of_either(tmp_path: Path, told: Told) -> None:
    p, f = tmp_path / "p.db", tmp_path / "f.db"
    apply = script(tmp_path, "apply", APPLY.replace("  echo", '  echo "$lsn" >told\n  echo'))
    with running("serve", p, "--port", "0") as server:
        server.write(2)
        with running("follow", server.url, f, "--id", "a", "--apply", apply, cwd=tmp_path) as replica:
            assert replica.said.startswith(f"following {server.url} as a, LSN ")
            told.until("2")
            replica.end(signal.SIGKILL)
        server.write(2)
        port = server.port
        with running("follow", server.url, f, "--id", "a", "--apply", apply, cwd=tmp_path) as replica:
            server.end(signal.SIGKILL)
            with running("serve", p, "--port", str(port)) as again:
                again.write(2)
                told.until("6")
                assert replica.end() == 0
    lsns = [int(each.partition(":")[0]) for each in applied(tmp_path)]
    # every record, in order; the one under way at the kill may come twice
    assert list(dict.fromkeys(lsns)) == [1, 2, 3, 4, 5, 6]
    assert payloads(p) == payloads(f)


def test_programs_that_fail_are_told_and_tried_again(tmp_path: Path) -> None:
    apply = script(tmp_path, "apply", 'test -e there || exit 7; while read -r lsn rest; do echo "$lsn"; done')
    with running("serve", tmp_path / "p.db", "--port", "0") as server:
        server.write(1)
        with running(
            "follow", server.url, tmp_path / "f.db", "--id", "a", "--once", "--apply", apply, cwd=tmp_path
        ) as replica:
            assert replica.process.stderr is not None
            line = replica.process.stderr.readline().decode()
            assert "did not answer for LSN 1: it ended with exit code 7" in line
            (tmp_path / "there").touch()
            assert replica.process.wait(PATIENCE_S) == 0


def test_a_snapshot_that_breaks_off_is_never_seen_to_end(tmp_path: Path, told: Told) -> None:
    p = tmp_path / "p.db"
    snapshot = 'echo 3; printf "half of"; test -e whole || exit 1; printf " it"'
    with running("serve", p, "--port", "0", "--snapshot", snapshot, "--keep", "0", cwd=tmp_path) as server:
        server.write(3)
        until(lambda: server.ask("GET", "/v1/status")[1]["pruned_through"] == 3)
        load = ["--snapshot", "echo loading >told; cat >loading && mv loading loaded", "--once"]
        replica_of = ("follow", server.url, tmp_path / "f.db", "--id", "a")
        with running(*replica_of, *load, cwd=tmp_path, silent=True) as replica:
            told.until("loading")
            assert not (tmp_path / "loaded").exists()
            (tmp_path / "whole").touch()
            assert replica.process.wait(PATIENCE_S) == 0
        assert (tmp_path / "loaded").read_text() == "half of it"


def test_what_a_person_has_to_decide_ends_it(command: Command, tmp_path: Path) -> None:
    p, other = tmp_path / "p.db", tmp_path / "other.db"
    for path, payload in ((p, b"this"), (other, b"that")):
        with walspool.open(path) as log:
            log.append(1, payload)
    with running("serve", p, "--port", "0") as server:
        answer = command("follow", server.url, other, "--id", "a")
        assert (answer.code, answer.says("diverged", "lsn=1")) == (3, True)
        assert command("follow", server.url, other, "--id", "a", "--start-again", "--once").code == 0
        assert payloads(other) == [b"this"]
        answer = command("follow", server.url, other, "--id", "a b")
        assert (answer.code, answer.says("no replica id")) == (2, True)
        assert command("follow", "db-1:4646", other, "--id", "a").code == 2
    answer = command("follow", "http://db-1:4646", other, "--id", "a", "--token-file", tmp_path / "missing")
    assert (answer.code, answer.says("missing")) == (3, True)


def test_a_program_that_hangs_does_not_hold_it_up_for_ever(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("walspool.cli.follow_verb._PATIENCE_S", 0.05)
    program = ApplyProgram(f"echo $$ >{tmp_path / 'told'}; exec sleep 1000")
    with running("serve", tmp_path / "p.db", "--port", "0") as server:
        server.write(1)
        follower = Follower(server.url, "a", tmp_path / "f.db", apply=program)
        with _stopping(follower, [program]):
            follower.start()
            pid = told.line()
        assert not Path(f"/proc/{pid}").exists()
