"""A primary and a replica on machines of their own, with tokens and TLS, while the network between them fails.

Needs root, and iproute2, nftables and openssl.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import walspool
from tests.net.namespaces import ADDRESSES, Wire

pytestmark = pytest.mark.root

URL = f"https://{ADDRESSES['a']}:4646"
TOKENS = {"append": "a" * 16, "replica:r": "r" * 16}
WALSPOOL = [sys.executable, "-m", "walspool.cli"]
#: Appends with a copy elsewhere; says of each record whether that is there.
WRITER = """
import http.client, itertools, json, ssl, sys
host, authority, token = sys.argv[1:]
there = http.client.HTTPSConnection(host, 4646, context=ssl.create_default_context(cafile=authority))
for number in itertools.count():
    payload = "record %d" % number + "." * 500
    there.request("POST", "/v1/records?ack=1", payload, {"authorization": "Bearer " + token})
    answer = there.getresponse()
    found = json.loads(answer.read())
    print(answer.status, *found["lsns"], payload, flush=True)
"""


@contextmanager
def running(command: list[str], ending: signal.Signals = signal.SIGKILL) -> Iterator[subprocess.Popen[str]]:
    """A process, ended at the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(ending)
            process.wait()


def line(process: subprocess.Popen[str]) -> str:
    """What it says next."""
    assert process.stdout is not None
    found = process.stdout.readline()
    assert found, f"it ended: {process.args!r}"
    return found


class Ends:
    """A primary on ``a``, a replica on ``b``, and what was acknowledged."""

    def __init__(self, wire: Wire, folder: Path) -> None:
        self.wire = wire
        self.primary, self.replica = folder / "p" / "app.db", folder / "r" / "app.db"
        self._cert, self._key, self._tokens, self._token = (folder / each for each in ("cert", "key", "all", "one"))
        made = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=a -keyout {self._key} "
        made += f"-out {self._cert} -addext subjectAltName=IP:{ADDRESSES['a']}"
        subprocess.run(["openssl", *made.split()], check=True, capture_output=True)
        self._tokens.write_text("".join(f"{token} {scope}\n" for scope, token in TOKENS.items()))
        self._token.write_text(TOKENS["replica:r"])
        for each in (self._tokens, self._token, self._key):
            each.chmod(0o600)
        self.acknowledged: dict[int, str] = {}

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The primary, until it is killed."""
        options = f"--host {ADDRESSES['a']} --tokens {self._tokens} --tls-cert {self._cert} --tls-key {self._key}"
        with running(self.wire.command("a", *WALSPOOL, "serve", str(self.primary), *options.split())) as process:
            assert URL in line(process)
            yield

    def follow(self, *more: str) -> list[str]:
        """The command of the replica."""
        options = f"--id r --token-file {self._token} --tls-ca {self._cert}"
        return self.wire.command("b", *WALSPOOL, "follow", URL, str(self.replica), *options.split(), *more)

    @contextmanager
    def writing(self) -> Iterator[Callable[[int, str], None]]:
        """A writer beside the primary: wait for so many answers of one status."""
        command = [sys.executable, "-c", WRITER, ADDRESSES["a"], str(self._cert), TOKENS["append"]]
        with running(self.wire.command("a", *command)) as process:

            def wait(count: int, wanted: str) -> None:
                while count:
                    status, lsn, payload = line(process).rstrip("\n").split(" ", 2)
                    count -= status == wanted
                    if status == "200":
                        self.acknowledged[int(lsn)] = payload

            yield wait

    def check_survivor(self) -> None:
        """No acknowledged record is missing at the replica."""
        with walspool.open(self.replica, read_only=True) as log:
            held = {entry.lsn: entry.payload.decode() for entry in log.entries()}
        assert {lsn: held.get(lsn) for lsn in self.acknowledged} == self.acknowledged


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    """Both machines."""
    with Wire() as wire:
        yield Ends(wire, tmp_path)


def partition(wire: Wire) -> None:
    """Nothing passes."""
    wire.deafen("a")
    wire.deafen("b")


def lost_acknowledgements(wire: Wire) -> None:
    """What the replica says does not arrive."""
    wire.deafen("a")


def lost_records(wire: Wire) -> None:
    """What the primary says does not arrive."""
    wire.deafen("b")


@pytest.mark.parametrize("weather", [partition, lost_acknowledgements, lost_records])
def test_what_was_acknowledged_is_on_the_survivor(ends: Ends, weather: Callable[[Wire], None]) -> None:
    with ends.serving(), running(ends.follow(), signal.SIGTERM) as follower:
        assert "following" in line(follower)
        with ends.writing() as wait:
            wait(20, "200")
            weather(ends.wire)
            wait(1, "503")
    ends.check_survivor()
    ends.wire.heal()
    with ends.serving():
        subprocess.run(ends.follow("--once"), check=True)
    compare(ends)


def test_a_slow_link(ends: Ends) -> None:
    with ends.serving(), running(ends.follow(), signal.SIGTERM) as follower:
        assert "following" in line(follower)
        with ends.writing() as wait:
            wait(5, "200")
            ends.wire.slow("a")
            wait(20, "200")
    ends.check_survivor()
    with ends.serving():
        subprocess.run(ends.follow("--once"), check=True)
    compare(ends)


def test_a_stranger_gets_nothing(ends: Ends) -> None:
    with ends.serving():
        command = ends.follow("--once")
        at = command.index("--token-file")
        other = ends.replica.parent.parent / "other"
        other.write_text("x" * 16)
        other.chmod(0o600)
        command[at + 1] = str(other)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as refused:
            assert refused.stderr is not None
            assert "known token" in refused.stderr.readline()
            refused.terminate()


def compare(ends: Ends) -> None:
    """Both logs hold the same frames."""
    with walspool.open(ends.primary, read_only=True) as one, walspool.open(ends.replica, read_only=True) as other:
        assert bytes(one.read_frames(0).data) == bytes(other.read_frames(0).data)
        assert one.current_lsn == other.current_lsn
