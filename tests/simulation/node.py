"""One machine: a primary or a follower over a real log, killed and started again at will."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import walspool
from tests.net.feed import feed
from tests.simulation.history import Broken, Commit, Records, held
from tests.simulation.network import Calls
from walspool.errors import SpoolError, WalspoolError
from walspool.net.following import State
from walspool.net.messages import Ack, StreamHead
from walspool.net.protocol import Problem
from walspool.net.sink import Sink
from walspool.net.source import Snapshot, Source

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Node"]

#: A slot file that is only written when it must be: it lags as far as it may.
FOREVER_MS = 10**9
START_MS = 1_700_000_000_000


class Node:
    """A machine with a disk. ``life`` tells what was scheduled in an earlier life of it."""

    def __init__(self, world: World, name: str, folder: Path) -> None:
        self.world = world
        self.name = name
        self.rng = random.Random(world.rng.getrandbits(32))
        self.life = 0
        #: Whom it follows; ``None`` for a primary.
        self.upstream: str | None = None
        self.primary: walspool.PrimaryReplication | None = None
        self.source: Source | None = None
        self.sink: Sink | None = None
        #: What its log must hold, also below where the real one begins.
        self.records: Records = {}
        self.term = 0
        #: The newest term that was presented to it.
        self.met = 0
        #: Whether its log can't be read.
        self.corrupt = False
        #: Whether the data of a snapshot is in place, and the log of before.
        self.half_loaded = False
        #: Whose snapshot it began again from.
        self._loaded_term = 0
        self._path = folder / name / "app.db"
        self._pulling: Calls | None = None
        self._waiting: list[tuple[int, bytes]] = []
        #: Called once when it appends or dies.
        self.watchers: list[Callable[[], None]] = []

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self.primary is not None or self.sink is not None

    def say(self, words: str) -> None:
        """Note what happened."""
        self.world.history.note(self.world.clock.now_s, f"{self.name}: {words}")

    @property
    def log(self) -> walspool.LogicalWalSpool:
        """The real log of a node that is up."""
        found = self.sink.spool if self.sink is not None else self.primary and self.primary.logical_wal_spool
        assert isinstance(found, walspool.LogicalWalSpool)
        return found

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start as whatever it is."""
        try:
            if self.upstream is None:
                self._start_primary()
            else:
                self._start_follower()
        except SpoolError as error:
            raise Broken(f"{self.name} can't start: {error}") from error

    def _start_primary(self) -> None:
        config = walspool.ReplicationConfig(
            slot_flush_interval_ms=FOREVER_MS,
            slot_retention_max_lag_lsn=self.world.max_lag_lsn,
            segment_bytes=self.world.segment_bytes,
        )
        self.primary = walspool.PrimaryReplication(
            self._path, config, recovery="strict", clock=lambda: START_MS + int(self.world.clock.now_s * 1000)
        )
        self.term = self.primary.term
        held(self.log, self.records)
        if self.term not in self.world.history.lineages:
            self.world.history.begin(self.term, self.records)
        self.source = Source(
            self.primary, first_session=self.rng.getrandbits(32), snapshot=self._snapshot, chunk_bytes=300
        )
        self.say(
            f"primary of term {self.term} at {self.primary.current_logical_lsn}, fenced by {self.primary.fenced_by}"
        )

    def _start_follower(self) -> None:
        self.sink = Sink(
            self._path, self.name, f"i-{self.name}", random=self.rng.random, segment_bytes=self.world.segment_bytes
        )
        if self.sink.spool is None:
            self.corrupt = True
        elif not self.corrupt:  # one that was corrupt may read otherwise behind a loss of power, and is loading still
            held(self.log, self.records)
        self.say(f"follower at {self.sink.own.last.lsn}{', corrupt' if self.corrupt else ''}")
        self.drive()

    def crash(self, *, keeps_power: bool = False) -> None:
        """Die as by SIGKILL: what was not written is lost, what was written stays. Or by a loss of power."""
        self.say("killed")
        self.life += 1
        self._tell_watchers()
        self._waiting = []
        if self._pulling is not None:
            self._pulling.over, self._pulling = True, None
        if self.primary is not None:
            store = self.primary._slots
            store.abandon()
            store._stop.set()
            store._dirty.set()
            self.primary._forgotten.detach()
            assert self.primary.logical_wal_spool is not None
            self.primary.logical_wal_spool._abandon()
        if self.sink is not None and self.sink.spool is not None:
            self.sink.spool._abandon()
        self.primary = self.source = self.sink = None
        disk = self.world.disk
        if disk is not None and not keeps_power and self.rng.random() < self.world.power_losses:
            disk.cut(self._path.parent, self.rng)
            self.say("powerless")

    def _tell_watchers(self) -> None:
        watchers, self.watchers = self.watchers, []
        for each in watchers:
            each()

    def rot(self) -> None:
        """A bit of the log's file flips while the machine is down."""
        path = walspool.LogicalWalSpool.path_for(self._path)
        data = bytearray(path.read_bytes()) if path.exists() else bytearray()
        if data.rstrip(b"\0"):
            at = self.rng.randrange(len(data.rstrip(b"\0")) * 8)
            data[at // 8] ^= 1 << at % 8
            path.write_bytes(data)
            self.say("has a rotten bit")

    def open_source(self) -> Source:
        """Its side of the network; a refused connection where nobody listens."""
        if self.source is None:
            raise ConnectionRefusedError(f"nobody listens on {self.name}")
        return self.source

    # -- as a primary --------------------------------------------------------------------------------------------------

    def _snapshot(self) -> tuple[int, Iterable[bytes]]:
        assert self.primary is not None
        # what the application has done lags the log a little
        done = self.primary.current_logical_lsn
        spool = self.primary.logical_wal_spool
        assert spool is not None
        lagging = max(done - self.rng.randrange(20), spool.pruned_through)
        position = spool.position_through(lagging)
        return (0 if position is None else position.lsn), ()

    def write(self, payload: bytes) -> None:
        """A client writes here."""
        assert self.primary is not None
        lsn = self.primary.current_logical_lsn + self.rng.choice((1, 1, 1, 3))
        fenced = self.primary.fenced_by
        try:
            self.primary.append_logical_record(lsn, payload)
        except walspool.StaleTermError:
            if fenced is None:
                raise Broken(f"{self.name} refuses an append and is not fenced") from None
            self.say("refuses an append")
            return
        if self.met > self.term:
            raise Broken(f"{self.name} appends in term {self.term}, and has met term {self.met}")
        self.world.history.appended(self.term, lsn, payload)
        self.records[lsn] = (self.term, payload)
        self._waiting.append((lsn, payload))
        self.say(f"appends {lsn}")
        self._tell_watchers()

    def prune(self) -> None:
        """The application needs no log any more."""
        if self.primary is not None:
            through = self.primary.prune_retained_wal_through(self.primary.current_logical_lsn)
            self.say(f"prunes through {through}")

    def acknowledged(self, replica: Node, ack: Ack) -> None:
        """An acknowledgement has counted: the replica's disk must hold what it says."""
        assert self.primary is not None
        if replica.upstream != self.name:  # it was true when it was said, and since then a person has decided otherwise
            return
        for lsn, record in self.world.history.through(self.term, ack.durable_lsn).items():
            if replica.records.get(lsn) != record:
                raise Broken(f"{replica.name} has acknowledged LSN {lsn} to {self.name} and does not hold it")
        acks = dict(self.primary.commit_waiter.snapshot())
        done = [each for each in self._waiting if any(lsn >= each[0] for lsn in acks.values())]
        self._waiting = self._waiting[len(done) :]
        for lsn, payload in done:
            nodes = self.world.nodes
            holders = frozenset(
                name for name, durable in acks.items() if durable >= lsn and nodes[name].upstream == self.name
            )
            self.world.history.commits.append(Commit(lsn, payload, holders))
        self.say(f"counts {ack.durable_lsn} of {replica.name}, {len(done)} commits done")

    # -- as a follower -------------------------------------------------------------------------------------------------

    def drive(self) -> None:
        """Do what its state asks for."""
        sink, now_s = self.sink, self.world.clock.now_s
        if sink is None or self.upstream is None:
            return
        following = sink.following
        following.tick(now_s)
        if self._pulling is not None and following.state is not State.PULLING:
            self._pulling.over, self._pulling = True, None
        if following.state is State.WAITING:
            self._later(following.wait_until_s - now_s, self.drive)
        elif following.state is not State.STOPPED and self._pulling is None:
            self._ask()
        self._acknowledge()

    def _ask(self) -> None:
        sink = self.sink
        assert sink is not None
        assert self.upstream is not None
        target, following = self.world.nodes[self.upstream], sink.following
        calls = self._calls()
        self._pulling = calls
        if following.state is State.REGISTERING:
            calls.done = self._behind(calls, lambda reply: following.registered(reply["session"]))
            self.world.network.register(self, target, following.registration(), calls)
        elif following.state is State.LOADING:
            sink.begin_load()
            calls.done = self._behind(calls, lambda snapshot: self._load(target, snapshot))
            self.world.network.load(self, target, following.session, following.load_request(sink.own), calls)
        else:
            calls.done = self._behind(calls, lambda _: following.ended())
            calls.head = lambda head: self._head(target, calls, head)
            calls.chunk = lambda data: self._chunk(calls, data)
            self.world.network.pull(self, target, following.session, sink.following.request(sink.own), calls)

    def _calls(self) -> Calls:
        calls = Calls(lambda error: None, lambda problem: None, lambda result: None)
        calls.failed = self._behind(calls, self._failed)
        calls.refused = self._behind(calls, self._refused)
        return calls

    def _behind(self, calls: Calls, act: Callable[[Any], None]) -> Callable[[Any], None]:
        """``act``, unless another life or request has begun; then go on."""
        life = self.life

        def call(given: Any) -> None:
            if self.life == life and self._pulling is calls:
                if self.sink is not None:
                    self.sink.end()
                act(given)
                self._pulling = None
                self.drive()

        return call

    def _failed(self, error: Exception) -> None:
        assert self.sink is not None
        known = error if isinstance(error, WalspoolError) else walspool.ProtocolError(reason=str(error))
        self.sink.following.failed(known, self.world.clock.now_s)

    def _refused(self, problem: Problem) -> None:
        assert self.sink is not None
        self.say(f"is refused: {problem.kind}")
        self.sink.following.refused(problem, self.world.clock.now_s)

    def _head(self, target: Node, calls: Calls, head: StreamHead) -> None:
        if self.sink is None or self._pulling is not calls:
            return
        if self.sink.begin(head, self.world.clock.now_s):
            self.say(f"takes from {target.name} behind {head.previous.lsn} in term {head.term}")
            self._joins(head.term)
            self.term = head.term
            if self.corrupt:
                raise Broken(f"{self.name} was corrupt and goes on as if nothing had been")
            if self.half_loaded:
                raise Broken(f"{self.name} goes on with the data of a snapshot and the log of before")
            self.world.history.check_prefix(self.name, self.term, self.records)
        self.drive()

    def _chunk(self, calls: Calls, data: bytes) -> None:
        sink = self.sink
        if sink is None or sink.spool is None or self._pulling is not calls:
            return
        before = max(self.records, default=0)
        feed(sink, data, self.world.clock.now_s)
        for entry in sink.spool.entries(before):
            self.records[entry.lsn] = (entry.term, entry.payload)
        if len(self.records) and max(self.records) > before:
            self.say(f"holds {max(self.records)}")
            self.world.history.check_prefix(self.name, self.term, self.records)
        self.drive()

    def _load(self, target: Node, snapshot: Snapshot) -> None:
        sink = self.sink
        assert sink is not None
        if not sink.load(snapshot.term, snapshot.comparable, self.world.clock.now_s):
            return
        if self.rng.random() < self.world.crash_in_load:
            self.half_loaded = True
            self.world.crash(self)
            return
        self._joins(snapshot.term)
        sink.finish_load(snapshot.position, snapshot.term, snapshot.reach_lsn)
        self.term, self.half_loaded = snapshot.term, False
        self.records = self.world.history.through(snapshot.term, snapshot.position.lsn)
        if sink.following.given_up is not None:
            self.world.history.forget(self.name)
        self._loaded_term = snapshot.term
        if self.corrupt:  # what it held beside that lineage nobody could compare
            self.world.history.forget(self.name, but=self.world.history.lineages[self.term])
        self.corrupt = False
        if self.rng.random() < self.world.hasty:
            self._later(0.001, lambda: self.world.promote(self))
        self.say(f"starts behind the snapshot of {target.name} at {snapshot.position.lsn}")

    def _joins(self, term: int) -> None:
        """A person has sent a replica that is not back yet to another lineage: only what that holds counts on it."""
        if self.sink is not None and self.sink.following.reach_lsn and self._loaded_term != term:
            self.world.history.forget(self.name, but=self.world.history.lineages[term])
            self._loaded_term = term

    def _acknowledge(self) -> None:
        sink = self.sink
        if sink is None or self.upstream is None:
            return
        following = sink.following
        ack = following.next_ack()
        if ack is None:
            return
        life = self.life

        def mine(act: Callable[[], None]) -> None:
            if self.life == life and self.sink is sink:
                act()
                self.drive()

        def lost(error: Exception) -> None:
            following.ack_lost()
            self._failed(error)

        calls = Calls(
            failed=lambda error: mine(lambda: lost(error)),
            refused=lambda problem: mine(lambda: self._ack_refused(problem)),
            done=lambda _: mine(following.ack_returned),
        )
        self.world.network.acknowledge(self, self.world.nodes[self.upstream], following.session, ack, calls)

    def _ack_refused(self, problem: Problem) -> None:
        assert self.sink is not None
        self.say(f"has an acknowledgement refused: {problem.kind}")
        self.sink.following.ack_refused(problem, self.world.clock.now_s)

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        life = self.life
        self.world.clock.after(max(delay_s, 0.001), lambda: act() if self.life == life else None)
