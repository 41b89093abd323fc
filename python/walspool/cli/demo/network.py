"""The demo over the network: a primary and two replicas, each broken in turn, and one of them promoted."""

from __future__ import annotations

import json
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import walspool
from walspool.cli import output
from walspool.cli.demo.client import LARGEST, Client, post
from walspool.cli.demo.comparing import same_frames
from walspool.cli.demo.processes import Machine, python_line, until
from walspool.cli.demo.programs import held
from walspool.cli.demo.relay import Relay
from walspool.cli.demo.steps import Tell
from walspool.cli.demo.tree import DemoFailed, Tree, put
from walspool.net import fetch_status

__all__ = ["Outcome", "Replica", "replicated"]

FIRST, EU, US = "first", "eu-1", "us-1"


@dataclass(slots=True)
class Outcome:
    """What a run came to; LSNs, but for the last four."""

    source: str
    records: int
    source_bytes: int
    replica_killed: dict[str, int] = field(default_factory=dict)
    primary_killed: dict[str, int] = field(default_factory=dict)
    connections_cut: int = 0
    started_again: dict[str, int] = field(default_factory=dict)
    promoted: dict[str, Any] = field(default_factory=dict)
    fenced: dict[str, Any] = field(default_factory=dict)
    records_compared: dict[str, int] = field(default_factory=dict)
    files_identical: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        """The result for JSON."""
        return {"ok": True, **output.plain(self)}

    def print_table(self) -> None:
        """The result for people."""
        logs = ", ".join(f"{number:,} of {name}" for name, number in self.records_compared.items())
        files = ", ".join(f"{number:,} at {name}" for name, number in self.files_identical.items())
        output.columns(
            [
                ("records", f"{self.records:,}"),
                ("processes killed", "3, each with SIGKILL"),
                ("connections cut", str(self.connections_cut)),
                ("acknowledged and lost", "0"),
                ("records identical", f"{logs}, to those of {self.promoted['id']}"),
                ("files identical", files),
                ("seconds", f"{self.seconds:.1f}"),
            ]
        )


class Replica:
    """One machine's files: its log, and the tree that its application keeps; and the process that follows."""

    def __init__(self, name: str, folder: Path, tree: Tree) -> None:
        self.name = name
        self.log = folder / f"{name}.db"
        self.tree = folder / f"{name}.tree"
        self._folder = folder
        self._files = tree

    def following(self, url: str, *options: str) -> Machine:
        """The process that keeps the log a copy, and the tree up to date."""
        programs = "--apply", _shell("apply", self.tree), "--snapshot", _shell("load", self.tree)
        return Machine(self.name, self._folder, "follow", url, self.log, "--id", self.name, *programs, *options)

    def end_lsn(self) -> int:
        """Of the log as it lies there."""
        with walspool.open(self.log, read_only=True) as log:
            return log.current_lsn

    def holds(self, lsn: int) -> bool:
        """Whether the tree has that record's file, and so all before it."""
        return lsn == 0 or (self.tree / self._files.names[lsn - 1]).exists()

    def settle(self, machine: Machine) -> int:
        """End the process, which has no primary any more, once the tree has the whole log; its last LSN."""
        lsn = self.end_lsn()
        until(f"{self.name} applies LSN {lsn}", lambda: self.holds(lsn))
        machine.end()
        if self.end_lsn() != lsn:  # a last sync came in between
            machine.start()
            return self.settle(machine)
        return lsn


def replicated(folder: Path, tell: Tell) -> Outcome:
    """All steps; ``DemoFailed`` at the first that comes out other than promised."""
    started = time.monotonic()
    every, tree = Tree.of_standard_library(), Tree.of_standard_library(LARGEST)
    left_out = len(every.names) - len(tree.names)
    larger = f", without {output.count(left_out, 'file')} larger than {output.size(LARGEST)}" if left_out else ""
    tell("source", f"{tree.root}: {output.count(len(tree.names), 'file')}, {output.size(tree.bytes)}{larger}")
    tree.save(folder / "files.json")
    with ExitStack() as stack:
        relay = stack.enter_context(Relay())
        story = _Story(folder, tree, tell, stack, relay)
        story.start()
        story.kill_a_replica()
        story.kill_the_primary()
        story.cut_the_network()
        story.fall_behind()
        story.promote()
        story.fence()
        story.take_back()
    story.compare()
    story.outcome.seconds = time.monotonic() - started
    return story.outcome


class _Story:
    """The steps, in order."""

    def __init__(self, folder: Path, tree: Tree, tell: Tell, stack: ExitStack, relay: Relay) -> None:
        self.outcome = Outcome(tree.root, len(tree.names), tree.bytes)
        self._folder, self._tree, self._tell, self._stack, self._relay = folder, tree, tell, stack, relay
        self._client = Client(tree)
        self._replicas = {name: Replica(name, folder, tree) for name in (FIRST, EU, US)}
        self._machines = {name: self._replicas[name].following(relay.url) for name in (EU, US)}
        self._primary = self._server(
            FIRST, Path(tree.root), "--keep", str(self._at(2)), "--max-lag-lsn", str(self._at(20))
        )
        for each in (self._primary, *self._machines.values()):
            stack.enter_context(each)
        self._port = 0

    def _at(self, percent: int) -> int:
        return len(self._tree.names) * percent // 100

    def _server(self, name: str, data: Path, *options: str) -> Machine:
        """What serves a log; ``data`` is what its application has."""
        snapshot = _shell("give", self._folder / "files.json", data)
        path = self._replicas[name].log
        return Machine(
            f"{name}.serve", self._folder, "serve", path, "--port", "0", "--json", "--snapshot", snapshot, *options
        )

    def _serve(self) -> dict[str, Any]:
        """Start the first primary, where the relay leads to; what it says of itself."""
        self._primary.start()
        said: dict[str, Any] = json.loads(self._primary.said)
        self._relay.target = self._port = int(said["url"].rpartition(":")[2])
        return said

    def _caught_up(self, *names: str) -> int:
        """Wait until these replicas have applied what the primary has, each from its own log; its last LSN."""
        lsn = self._client.next_lsn - 1
        for name in names:
            until(f"{name} applies LSN {lsn}", partial(self._replicas[name].holds, lsn))
        return lsn

    def start(self) -> None:
        """A primary, and two replicas."""
        said = self._serve()
        self._tell(
            "serve",
            f"{FIRST} is the primary, at {said['url']}; every record is acknowledged once a replica has it, too",
        )
        for name, each in self._machines.items():
            each.start()
            self._tell("follow", f"{name} follows it through a relay, and keeps a tree of files by its --apply program")
        self._write(self._at(12))
        self._tell("written", f"LSN {self._caught_up(EU, US)}, on three disks")

    def _write(self, through: int) -> None:
        if not self._client.write(self._port, through):
            raise DemoFailed(f"the primary did not answer behind LSN {self._client.acknowledged}")

    def kill_a_replica(self) -> None:
        """One of two, while records are written."""
        replica = self._machines[EU]
        self._client.write(self._port, self._at(24), self._at(16), replica.kill)
        lsn = self._replicas[EU].end_lsn()
        acknowledged = self._client.acknowledged
        replica.start()
        back = self._caught_up(EU)
        self.outcome.replica_killed = {"lsn": lsn, "acknowledged_lsn": acknowledged, "caught_up_lsn": back}
        self._tell(
            "kill 1", f"{EU} killed at LSN {lsn}, writing went on to LSN {acknowledged}; restarted, has LSN {back}"
        )

    def kill_the_primary(self) -> None:
        """In the middle of a request; what it has acknowledged must be there again."""
        self._kill_primary(self._at(30))
        said = self._serve()
        acknowledged, lsn = self._client.acknowledged, said["lsn"]
        if lsn < acknowledged:
            raise DemoFailed(f"LSN {acknowledged} was acknowledged, but the primary is back with LSN {lsn}")
        self._client.next_lsn = lsn + 1
        self._write(self._at(36))
        back = self._caught_up(EU, US)
        self.outcome.primary_killed = {"acknowledged_lsn": acknowledged, "lsn": lsn, "caught_up_lsn": back}
        self._tell(
            "kill 2",
            f"{FIRST} killed in a request behind LSN {acknowledged}; restarted with LSN {lsn}; all have LSN {back}",
        )

    def _kill_primary(self, lsn: int) -> None:
        if self._client.write(self._port, lsn + self._at(6), lsn, self._primary.kill):
            raise DemoFailed("everything was written before the kill reached the primary")

    def cut_the_network(self) -> None:
        """Every connection, in the middle of what passes."""

        def cut() -> None:
            self.outcome.connections_cut = self._relay.cut()

        self._client.write(self._port, self._at(45), self._at(38), cut)
        lsn = self._caught_up(EU, US)
        self._tell(
            "cut",
            f"{self.outcome.connections_cut} connections dropped while records passed; both go on, and have LSN {lsn}",
        )

    def fall_behind(self) -> None:
        """Further than the primary keeps its log: the replica starts again from a snapshot, by itself."""
        self._machines[US].kill()
        lsn = self._replicas[US].end_lsn()
        self._write(self._at(75))

        def gone() -> bool:
            return int(_status(self._port)["pruned_through"]) > lsn

        until(f"{FIRST} prunes what {US} would need", gone)
        pruned = _status(self._port)["pruned_through"]
        self._machines[US].start()
        self._caught_up(US)
        self._write(self._at(78))  # behind the snapshot, so that its log is there once it has applied this
        back = self._caught_up(US)
        with walspool.open(self._replicas[US].log, read_only=True) as log:
            snapshot = log.pruned_through
        if snapshot < pruned:
            raise DemoFailed(f"{US} has records that were pruned through LSN {pruned}, and no snapshot")
        self.outcome.started_again = {
            "lsn": lsn,
            "pruned_through": pruned,
            "snapshot_lsn": snapshot,
            "caught_up_lsn": back,
        }
        self._tell("kill 3", f"{US} killed at LSN {lsn}; {FIRST} gave up on it and pruned through LSN {pruned}")
        self._tell("snapshot", f"{US} restarted, took a snapshot of LSN {snapshot} by itself, and has LSN {back}")

    def promote(self) -> None:
        """The primary is lost; the replica with the longer log goes on."""
        self._kill_primary(self._at(84))
        self._relay.target = None
        ends = {name: self._replicas[name].settle(each) for name, each in self._machines.items()}
        name = max(ends, key=ends.__getitem__)
        if ends[name] < self._client.acknowledged:
            raise DemoFailed(f"LSN {self._client.acknowledged} was acknowledged, but {name} ends at LSN {ends[name]}")
        promoting = self._stack.enter_context(Machine("promote", self._folder, "promote", self._replicas[name].log))
        if promoting.run():
            raise DemoFailed(f"{name} was not promoted: {promoting.last_words()}")
        self.outcome.promoted = {
            "id": name,
            "lsn": ends[name],
            "acknowledged_lsn": self._client.acknowledged,
            "term": 2,
        }
        self._tell(
            "promote",
            f"{FIRST} killed, LSN {self._client.acknowledged} acknowledged; {name} is promoted at LSN {ends[name]}",
        )

    def fence(self) -> None:
        """The former primary comes back, appends what nobody else will have, and learns that it was replaced."""
        name = self.outcome.promoted["id"]
        self._primary.start()
        former = _port(self._primary)
        status, answer = post(former, "ack=local", b"a record that nobody else has")
        if status != 200:
            raise DemoFailed(f"{FIRST} refused an append before it was told: {answer}")
        tail = answer["lsns"][0]
        self._tell("back", f"{FIRST} comes back, knows nothing yet, and appends LSN {tail} to its own disk alone")
        new = self._stack.enter_context(self._server(name, self._replicas[name].tree))
        new.start()
        self._port = _port(new)
        self._relay.target = former
        until(f"{FIRST} is fenced", lambda: _status(former)["role"] == "fenced")
        status, answer = post(former, "ack=local", b"too late")
        if status != 409 or answer["type"] != "urn:walspool:newer-term":
            raise DemoFailed(f"{FIRST} was replaced, and answered an append with {status}: {answer}")
        self.outcome.fenced = {"tail_lsn": tail, "status": status, "detail": answer["detail"]}
        self._tell(
            "fenced",
            f"{name} serves term 2 and told {FIRST}, which answers an append with {status}: {answer['detail']}",
        )
        self._primary.end()

    def take_back(self) -> None:
        """Both others follow the new primary; the tail of the former one is refused, and given up."""
        name = self.outcome.promoted["id"]
        other = US if name == EU else EU
        url = f"http://127.0.0.1:{self._port}"
        follower = self._stack.enter_context(self._replicas[other].following(url))
        follower.start()
        self._client.next_lsn = self.outcome.promoted["lsn"] + 1
        self._client.term = self.outcome.promoted["term"]
        self._write(self._at(95))
        refused = self._stack.enter_context(self._replicas[FIRST].following(url, "--once"))
        if refused.run() != 3 or "diverged" not in refused.last_words():
            raise DemoFailed(f"the tail of {FIRST} was not refused: {refused.last_words()}")
        self.outcome.fenced["diverged"] = refused.last_words()
        self._tell("diverged", f"{FIRST} follows {name}, and is refused: {refused.last_words()}")
        self._stack.enter_context(self._replicas[FIRST].following(url, "--start-again")).start()
        self._write(len(self._tree.names))
        lsn = self._caught_up(FIRST, other)
        self._tell(
            "again", f"{FIRST} gave its tail up (--start-again); it and {other} follow {name}, and have LSN {lsn}"
        )
        # what a primary appends its own application writes itself
        for index in range(held(self._tree, self._replicas[name].tree), lsn):
            put(index + 1, self._tree.change(index), self._replicas[name].tree)

    def compare(self) -> None:
        """Every log with the promoted one's, every tree with the source."""
        name = self.outcome.promoted["id"]
        with walspool.open(self._replicas[name].log, read_only=True) as ours:
            if ours.current_lsn != len(self._tree.names):
                raise DemoFailed(f"the log of {name} ends at LSN {ours.current_lsn}, not {len(self._tree.names)}")
            for each in self._replicas.values():
                if each.name != name:
                    with walspool.open(each.log, read_only=True) as theirs:
                        self.outcome.records_compared[each.name] = same_frames(ours, theirs)
        compared = self.outcome.records_compared
        logs = ", ".join(f"{output.count(number, 'record')} of {each}" for each, number in compared.items())
        self._tell("logs", f"{logs} identical to those of {name}, byte by byte")
        for each in self._replicas.values():
            try:
                self._tree.compare(each.tree)
            except DemoFailed as error:
                raise DemoFailed(f"{error} at {each.name}") from error
            self.outcome.files_identical[each.name] = len(self._tree.names)
        self._tell(
            "trees", f"{output.count(len(self._tree.names), 'file')} at each of the three, all identical by SHA-256"
        )


def _shell(work: str, *paths: Path) -> str:
    return "exec " + shlex.join(python_line("walspool.cli.demo.programs", work, *paths))


def _port(server: Machine) -> int:
    return int(json.loads(server.said)["url"].rpartition(":")[2])


def _status(port: int) -> dict[str, Any]:
    return fetch_status(f"http://127.0.0.1:{port}")
