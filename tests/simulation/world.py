"""Three machines, a network, clients and an operator; one seed decides everything that happens to them."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import walspool
from tests.simulation.history import Broken, History, held
from tests.simulation.network import Clock, Faults, Network
from tests.simulation.node import Node
from tests.simulation.power import Disk
from walspool.errors import Diverged, ProtocolError
from walspool.net.following import State
from walspool.net.messages import WalRequest
from walspool.net.protocol import Problem

__all__ = ["World", "run"]

STORM_S = 30.0
CALM_S = 120.0


class World:
    """Everything, from one seed."""

    def __init__(self, seed: int, folder: Path, disk: Disk | None) -> None:
        #: Where power may be lost; ``None``: machines die as by SIGKILL.
        self.disk = disk
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.history = History()
        self.network = Network(self.clock, random.Random(self.rng.getrandbits(32)))
        self.max_lag_lsn = self.rng.choice((0, 6, 12, 40))
        self.segment_bytes = self.rng.choice((400, 2_000, 64 << 20))
        self.crash_in_load = self.rng.choice((0.0, 0.4))
        #: How often the operator promotes a replica that has just begun again.
        self.hasty = self.rng.choice((0.0, 0.3))
        #: How often a machine that dies loses its power.
        self.power_losses = self.rng.choice((0.0, 0.5, 1.0))
        self.nodes = {name: Node(self, name, folder) for name in "abc"}
        for name in "bc":
            self.nodes[name].upstream = "a"
        self._stormy = True
        self._count = 0
        self._lead = "a"

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """A storm, then calm, in which everything must come to rest with equal logs."""
        for node in self.nodes.values():
            node.start()
        self._weather()
        self._client()
        self._operator()
        self.clock.run_until(STORM_S)
        self._calm()
        self._check_rest()

    def close(self) -> None:
        """Let go of all files."""
        for node in self.nodes.values():
            if node.up:
                node.crash()

    def _weather(self) -> None:
        if not self._stormy:
            return
        rng = self.rng
        often = rng.choice((0.0, 0.02, 0.1))
        self.network.faults = Faults(
            lose=rng.random() * often,
            double=rng.choice((0.0, 0.2)),
            cut=rng.random() * often * 3,
            cross=rng.choice((0.0, 0.1, 0.4)),
            flip=rng.random() * often,
            slowest_s=rng.choice((0.01, 0.1, 2.0)),
        )
        pairs = [(one, other) for one in self.nodes for other in self.nodes if one != other]
        self.network.blocked = {pair for pair in pairs if rng.random() < rng.choice((0.0, 0.0, 0.3))}
        self.clock.after(rng.random() * 8, self._weather)

    def _client(self) -> None:
        """Clients write to whoever calls itself a primary."""
        if not self._stormy:
            return
        open_ones = [node for node in self.nodes.values() if node.primary is not None]
        if open_ones:
            self._count += 1
            self.rng.choice(open_ones).write(b"%d:" % self._count + b"x" * self.rng.choice((0, 5, 60, 400)))
        self.clock.after(self.rng.random() * 0.6, self._client)

    def _operator(self) -> None:
        if not self._stormy:
            return
        node = self.rng.choice(list(self.nodes.values()))
        chance = self.rng.random()
        if chance < 0.3 and node.up:
            self.crash(node)
        elif chance < 0.55:
            node.prune()
        elif chance < 0.7:
            self.promote(node)
        elif chance < 0.8:
            self._demote(node)
        elif chance < 0.85:
            self._misdirect(node)
        elif chance < 0.9:
            self._decide(node)
        elif node.upstream is not None and node.up:
            # with the power the mark may go, and then nothing tells a rotten bit from a torn write
            self.crash(node, keeps_power=True)
            node.rot()
        self.clock.after(self.rng.random() * 3, self._operator)

    def crash(self, node: Node, *, keeps_power: bool = False) -> None:
        """Kill a machine; it comes back after a while."""
        node.crash(keeps_power=keeps_power)
        self.clock.after(self.rng.random() * 4, lambda: None if node.up else node.start())

    def promote(self, node: Node) -> None:
        """Make a follower that knows of the newest term a primary."""
        sink = node.sink
        if sink is None or node.upstream is None or sink.own.term != max(self.history.lineages):
            return
        try:
            term = sink.promote()
        except ProtocolError as error:
            node.say(f"can't be promoted: {error}")
            return
        node.say(f"promoted to term {term}")
        self.history.check_commits(node.name, node.records)
        former = node.upstream
        node.crash()
        node.upstream = None
        self._lead = node.name
        node.start()
        if node.term != term:
            raise Broken(f"{node.name} was promoted to term {term} and is in {node.term}")
        self._herald(node, self.nodes[former])

    def _herald(self, node: Node, former: Node) -> None:
        """Present the new term to the former primary until that answers."""
        life, term = node.life, node.term
        request = WalRequest(since_lsn=0, term=term, wait_ms=0)

        def again() -> None:
            if node.life == life and node.upstream is None and former.upstream is None and not heard:
                self._herald(node, former)

        def refused(problem: Problem) -> None:
            heard.append(problem.kind == "newer-term")

        heard: list[bool] = []
        calls = node._calls()
        calls.failed, calls.refused, calls.done = lambda _: None, refused, lambda _: None
        self.network.pull(node, former, None, request, calls)
        self.clock.after(5.0, again)

    def _demote(self, node: Node) -> None:
        """A former primary, or a follower of one, is told to follow the newest one."""
        if node.name == self._lead:
            return
        if node.up:
            node.crash()
        node.upstream = self._lead
        node.start()

    def _misdirect(self, node: Node) -> None:
        """A follower is told to follow whoever calls itself a primary, perhaps one that was replaced."""
        others = [name for name, each in self.nodes.items() if each.upstream is None and each is not node]
        if node.upstream is not None and others:
            if node.up:
                node.crash()
            node.upstream = self.rng.choice(others)
            node.start()

    def _decide(self, node: Node) -> None:
        """A person gives up the tail of a diverged log."""
        if node.sink is not None and node.sink.following.state is State.STOPPED:
            node.say("gives way to a snapshot")
            self.history.forget(node.name)
            node.sink.following.start_again()
            node.drive()

    # -- at the end ----------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """The network heals; everybody follows the newest primary."""
        self._stormy = False
        self.network.faults, self.network.blocked = Faults(), set()
        self.crash_in_load = self.hasty = 0.0
        self.history.note(self.clock.now_s, "calm")
        lead = self.nodes[self._lead]
        for node in self.nodes.values():
            if node is not lead and node.upstream != self._lead:
                self._demote(node)
        for node in self.nodes.values():
            if not node.up:
                node.start()
        self.clock.run_until(STORM_S + CALM_S / 2)
        self._refusals()
        lead.write(b"the last one")
        self.clock.run_until(STORM_S + CALM_S)

    def _refusals(self) -> None:
        """By now every log that is no prefix is refused by name, and none that is one."""
        newest = self.history.lineages[self.nodes[self._lead].term]
        for node in self.nodes.values():
            if node.sink is None:
                continue
            prefix = all(newest.get(lsn) == record for lsn, record in node.records.items())
            refused = isinstance(node.sink.following.error, Diverged) and node.sink.following.state is State.STOPPED
            if prefix is refused:
                raise Broken(f"{node.name} is {'' if prefix else 'no '}prefix, and {node.sink.following.error}")
            if refused:
                self._decide(node)

    def _check_rest(self) -> None:
        lead = self.nodes[self._lead]
        for node in self.nodes.values():
            if node.records != lead.records:
                error = None if node.sink is None else (node.sink.following.state, node.sink.following.error)
                raise Broken(f"{node.name} ends at {max(node.records, default=0)}, {lead.name} elsewhere: {error}")
            held(node.log, node.records)
        self.history.check_commits(lead.name, lead.records)


def run(seed: int, folder: Path) -> History:
    """One seed from beginning to end; ``Broken`` where an invariant does not hold."""
    # not in the main thread: there each change of files would be made by a thread of its own
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_run, seed, folder).result()


def _run(seed: int, folder: Path) -> History:
    folder.mkdir(parents=True)
    disk = Disk() if walspool.core.name == "python" else None
    with nullcontext() if disk is None else disk.watched():
        world = World(seed, folder, disk)
        try:
            world.run()
        except Broken as error:
            events = "\n".join(world.history.events[-60:])
            raise Broken(f"seed {seed} on the {walspool.core.name} core: {error}\n{events}") from error
        finally:
            world.close()
            shutil.rmtree(folder)
    return world.history
