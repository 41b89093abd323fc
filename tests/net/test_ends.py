"""Both ends over real logs, without a network between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.net.feed import feed
from walspool import Position, PrimaryReplication
from walspool.net.following import State
from walspool.net.messages import Ack, Registration, WalRequest
from walspool.net.protocol import ORIGIN, Refused
from walspool.net.serving import Wait
from walspool.net.sink import Sink
from walspool.net.source import Pull, Source


class Ends:
    """A primary with its source, and a follower's sink, that are called one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = walspool.ReplicationConfig(segment_bytes=500)
        self.primary = PrimaryReplication(folder / "p" / "app.db", self.config)
        self.source = Source(self.primary, first_session=100, chunk_bytes=200)
        self.sink = self.open_sink()
        self.now_s = 0.0

    def open_sink(self) -> Sink:
        """The follower starts."""
        return Sink(self.folder / "f" / "app.db", "a", "i-1", random=lambda: 1.0)

    def snapshots(self, lsn: int) -> None:
        """From now on there are snapshots, for this LSN."""
        self.source = Source(self.primary, first_session=200, snapshot=lambda: (lsn, [b"x", b"y"]))

    def write(self, count: int) -> None:
        """Append so many records."""
        for _ in range(count):
            self.primary.commit(b"record %d" % (self.primary.current_logical_lsn + 1))

    def register(self) -> None:
        """The follower registers."""
        reply = self.source.register(self.sink.following.registration(), self.now_s)
        self.sink.following.registered(reply["session"])

    def pull(self) -> Pull:
        """The follower asks, and takes the head."""
        request = WalRequest.parse(self.sink.following.request(self.sink.own).query().encode() + b"&wait_ms=0", None)
        return self.source.pull(request, self.sink.following.session, self.now_s)

    def catch_up(self) -> int:
        """One whole response; how many chunks."""
        request = self.sink.following.request(self.sink.own)
        pull = self.source.pull(request, self.sink.following.session, self.now_s)
        assert self.sink.begin(pull.head, self.now_s)
        count = 0
        while not isinstance(step := pull.step(self.now_s), Wait) and step is not None:
            count += 1
            assert feed(self.sink, bytes(step), self.now_s)
        pull.close(self.now_s)
        self.sink.end()
        self.sink.following.ended()
        return count

    def acknowledge(self) -> Ack | None:
        """What is due."""
        ack = self.sink.following.next_ack()
        if ack is not None:
            self.source.acknowledge("a", self.sink.following.session, ack, self.now_s)
            self.sink.following.ack_returned()
        return ack

    def load(self) -> Position:
        """A whole bootstrap."""
        self.sink.begin_load()
        request = self.sink.following.load_request(self.sink.own)
        snapshot = self.source.load(request, self.sink.following.session, self.now_s)
        assert self.sink.load(snapshot.term, snapshot.comparable, self.now_s)
        self.sink.finish_load(snapshot.position, snapshot.term, snapshot.reach_lsn)
        return snapshot.position

    def close(self) -> None:
        """Both end."""
        self.primary.close()
        self.sink.close()


@pytest.fixture
def ends(core: ModuleType, tmp_path: Path) -> Iterator[Ends]:
    """A primary with ten records, and a follower with none."""
    found = Ends(tmp_path)
    found.write(10)
    yield found
    found.close()


def frames(log: walspool.LogicalWalSpool | None) -> bytes:
    """All frames of a log."""
    assert log is not None
    return bytes(log.read_frames(0, 1 << 20).data) if len(log.segments) == 1 else b"".join(_parts(log))


def _parts(log: walspool.LogicalWalSpool) -> Iterator[bytes]:
    since = 0
    while (batch := log.read_frames(since)).records:
        yield bytes(batch.data)
        since = batch.last_lsn or 0


def kind(error: pytest.ExceptionInfo[Refused]) -> tuple[int, str]:
    """Of a refusal."""
    return error.value.problem.status, error.value.problem.kind


def test_a_follower_catches_up_and_acknowledges(ends: Ends) -> None:
    ends.register()
    assert ends.catch_up() >= 2
    assert frames(ends.sink.spool) == frames(ends.primary.logical_wal_spool)
    ack = ends.acknowledge()
    assert ack is not None
    assert ack.position == ends.primary.logical_wal_spool.position(10)  # type: ignore[union-attr]
    slot = ends.primary.find_slot("a")
    assert slot is not None
    assert (slot.restart_lsn, ends.primary.replica_snapshots()[0].last_sent_lsn) == (10, 10)
    ends.write(3)
    ends.catch_up()
    assert frames(ends.sink.spool) == frames(ends.primary.logical_wal_spool)
    assert ends.sink.own.last.lsn == 13


def test_frames_that_come_in_pieces(ends: Ends) -> None:
    ends.register()
    pull = ends.source.pull(ends.sink.following.request(ends.sink.own), 100, 0.0)
    assert ends.sink.begin(pull.head, 0.0)
    while not isinstance(step := pull.step(0.0), Wait):
        assert step is not None
        for at in range(len(step)):
            assert feed(ends.sink, bytes(step[at : at + 1]), 0.0)
    assert ends.sink.own.last.lsn == 10
    # what is cut off counts for nothing
    ends.write(1)
    step = pull.step(0.0)
    assert isinstance(step, bytes | memoryview)
    assert feed(ends.sink, bytes(step[:-1]), 0.0)
    ends.sink.end()
    assert ends.sink.own.last.lsn == 10
    ends.catch_up()
    assert ends.sink.own.last.lsn == 11


@pytest.mark.parametrize("at", [0, 5, 40, 60])
def test_a_flipped_bit_in_a_frame_ends_the_response(ends: Ends, at: int) -> None:
    ends.register()
    pull = ends.source.pull(ends.sink.following.request(ends.sink.own), 100, 0.0)
    assert ends.sink.begin(pull.head, 0.0)
    step = pull.step(0.0)
    assert isinstance(step, bytes | memoryview)
    data = bytearray(step)
    data[at] ^= 1
    assert not feed(ends.sink, bytes(data), 0.0)
    assert not feed(ends.sink, bytes(step), 0.0)
    assert ends.sink.following.state is State.WAITING
    assert ends.sink.own.last == ORIGIN


def test_frames_twice_are_taken_once(ends: Ends) -> None:
    ends.register()
    pull = ends.source.pull(ends.sink.following.request(ends.sink.own), 100, 0.0)
    assert ends.sink.begin(pull.head, 0.0)
    step = pull.step(0.0)
    assert isinstance(step, bytes | memoryview)
    assert feed(ends.sink, bytes(step), 0.0)
    held = frames(ends.sink.spool)
    assert not feed(ends.sink, bytes(step), 0.0)
    assert isinstance(ends.sink.following.error, walspool.ProtocolError)
    assert frames(ends.sink.spool) == held


def test_a_follower_takes_no_records_of_its_own(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    assert ends.sink.spool is not None
    assert ends.sink.spool.fenced_term == 1
    with pytest.raises(walspool.StaleTermError):
        ends.sink.spool.append_next(b"own")


def test_promotion_and_the_way_of_the_former_primary(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    ends.write(2)  # which nobody else has
    assert ends.sink.promote() == 2
    with PrimaryReplication(ends.folder / "f" / "app.db", ends.config) as promoted:
        assert (promoted.term, promoted.fenced_by) == (2, None)
        promoted.commit(b"of the new term")
        source = Source(promoted, first_session=1)
        with pytest.raises(Refused) as caught:
            ends.source.pull(WalRequest(since_lsn=0, term=2), None, 0.0)
        assert kind(caught) == (409, "newer-term")
        assert ends.primary.fenced_by == 2
        with pytest.raises(walspool.StaleTermError):
            ends.primary.commit(b"too late")
        ends.primary.close()
        former = Sink(ends.folder / "p" / "app.db", "p", "i-2", random=lambda: 1.0)
        former.following.registered(source.register(former.following.registration(), 0.0)["session"])
        with pytest.raises(Refused) as caught:
            source.pull(former.following.request(former.own), former.following.session, 0.0)
        former.following.refused(caught.value.problem, 0.0)
        assert former.following.state is State.STOPPED
        assert isinstance(former.following.error, walspool.Diverged)
        assert (former.following.error.ours.lsn, former.following.error.theirs.lsn) == (12, 11)
        former.close()


def test_a_bootstrap_pins_the_log_first(ends: Ends) -> None:
    ends.register()
    ends.primary.drop_slot("a")
    ends.primary.prune_retained_wal_through(8)
    ends.snapshots(9)
    ends.register()
    with pytest.raises(Refused) as caught:
        ends.source.pull(ends.sink.following.request(ends.sink.own), ends.sink.following.session, 0.0)
    assert kind(caught) == (410, "rebootstrap-required")
    ends.sink.following.refused(caught.value.problem, 0.0)
    position = ends.load()
    assert position == ends.primary.logical_wal_spool.position(9)  # type: ignore[union-attr]
    slot = ends.primary.find_slot("a")
    assert slot is not None
    assert (slot.restart_lsn, ends.primary.replica_snapshots()[0].rebootstrapping) == (9, True)
    assert ends.primary.prune_retained_wal_through(10) == 9
    ends.register()
    ends.catch_up()
    assert not ends.primary.replica_snapshots()[0].rebootstrapping
    assert ends.sink.own.last.lsn == 10
    assert frames(ends.sink.spool) == frames(ends.primary.logical_wal_spool)


def test_a_bootstrap_that_is_broken_off_begins_again(ends: Ends) -> None:
    ends.sink.begin_load()
    ends.sink.close()
    ends.sink = ends.open_sink()
    ends.register()
    assert ends.sink.following.state is State.LOADING
    ends.snapshots(7)
    ends.register()
    ends.load()
    ends.sink.close()
    # the log begins below what may have been acknowledged before
    ends.sink = ends.open_sink()
    assert ends.sink.following.state is State.REGISTERING
    with pytest.raises(walspool.ProtocolError, match="not back at LSN 10"):
        ends.sink.promote()
    ends.register()
    ends.catch_up()
    ends.sink.close()
    ends.sink = ends.open_sink()
    assert ends.sink.promote() == 2


@pytest.mark.parametrize("words", ["", "loading", "reach", "reach x\n", "reach 5", "nonsense\n", "loading 1:2:x\n"])
def test_a_marker_that_was_cut_off_means_loading(ends: Ends, words: str) -> None:
    ends.sink.close()
    (ends.folder / "f" / "app.db.logical.wal.loading").write_text(words)
    ends.sink = ends.open_sink()
    ends.register()
    assert ends.sink.following.state is State.LOADING
    assert ends.sink.following.given_up is None


def test_what_was_given_up_is_remembered(ends: Ends) -> None:
    ends.sink.following.given_up = Position(1, 2, 3)
    ends.sink.begin_load()
    ends.sink.close()
    ends.sink = ends.open_sink()
    assert ends.sink.following.given_up == Position(1, 2, 3)


def test_a_corrupt_log_is_bootstrapped(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    ends.sink.close()
    log = ends.folder / "f" / "app.db.logical.wal"
    data = bytearray(sound := log.read_bytes())
    data[60] ^= 1
    log.write_bytes(data)
    ends.sink = ends.open_sink()
    assert ends.sink.spool is None
    assert isinstance(ends.sink.following.error, walspool.SpoolCorrupt)
    with pytest.raises(walspool.ProtocolError, match="without a readable log"):
        ends.sink.promote()
    assert not feed(ends.sink, b"x", 0.0)
    log.write_bytes(sound)  # it may look so behind a loss of power: that it was corrupt stands
    ends.sink = ends.open_sink()
    ends.register()
    assert ends.sink.following.state is State.LOADING
    assert ends.load() == ORIGIN  # the log of the primary is whole, so it begins there
    ends.register()
    ends.catch_up()
    assert frames(ends.sink.spool) == frames(ends.primary.logical_wal_spool)


def test_snapshots_that_can_not_be_used(ends: Ends) -> None:
    ends.register()
    ends.primary.drop_slot("a")
    ends.primary.prune_retained_wal_through(8)
    with pytest.raises(Refused) as caught:
        ends.source.load(WalRequest("a"), ends.sink.following.session, 0.0)
    assert kind(caught) == (501, "no-snapshot")
    for lsn in (7, 11):
        ends.snapshots(lsn)
        ends.register()
        with pytest.raises(Refused) as caught:
            ends.source.load(WalRequest("a"), ends.sink.following.session, 0.0)
        assert kind(caught) == (503, "snapshot-unusable")


def test_a_snapshot_is_compared_with_what_is_given_up_for_it(ends: Ends) -> None:
    ends.register()
    session = ends.sink.following.session
    for request, expected in (
        (WalRequest("a", 5, Position(1, 5, 0)), (409, "diverged")),
        (WalRequest("a", 11, Position(1, 11, 0)), (409, "diverged")),
        (WalRequest(), (400, "bad-request")),
        (WalRequest("a", term=2), (409, "newer-term")),
    ):
        with pytest.raises(Refused) as caught:
            ends.source.load(request, session, 0.0)
        assert kind(caught) == expected
    assert ends.primary.fenced_by == 2


def test_what_a_snapshot_costs_is_noted_first(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    ends.sink.following.load_request(ends.sink.own)
    assert ends.sink.load(1, False, 0.0)
    ends.sink.close()
    given_up = ends.sink.following.given_up
    ends.sink = ends.open_sink()
    assert given_up == ends.sink.following.given_up == ends.sink.own.last


def test_acknowledgements_of_an_earlier_session(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    ack = ends.sink.following.next_ack()
    assert ack is not None
    ends.register()
    for old in (100, None, 7):
        with pytest.raises(Refused) as caught:
            ends.source.acknowledge("a", old, ack, 0.0)
        assert kind(caught) == (409, "old-session")
    assert ends.primary.commit_waiter.snapshot() == []
    assert ends.source.acknowledge("a", 101, ack, 0.0) == {"term": 1, "current_lsn": 10}
    assert ends.primary.commit_waiter.snapshot() == [("a", 10)]


def test_an_acknowledgement_of_before_a_snapshot(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    ack = ends.sink.following.next_ack()
    assert ack is not None
    session = ends.sink.following.session
    ends.load()
    with pytest.raises(Refused) as caught:
        ends.source.acknowledge("a", session, ack, 0.0)
    assert kind(caught) == (409, "old-session")
    slot = ends.primary.find_slot("a")
    assert slot is not None
    assert slot.restart_lsn == 0
    assert ends.primary.commit_waiter.snapshot() == []


def test_an_acknowledgement_of_something_else_counts_for_nothing(ends: Ends) -> None:
    ends.register()
    for position, expected in ((Position(1, 11, 0), "ack-beyond-wal"), (Position(1, 5, 0), "diverged")):
        with pytest.raises(Refused) as caught:
            ends.source.acknowledge("a", 100, Ack(position, 0, position.lsn), 0.0)
        assert kind(caught) == (409, expected)
    with pytest.raises(Refused) as caught:
        ends.source.acknowledge("nobody", None, Ack(ORIGIN, 0, 0), 0.0)
    assert kind(caught) == (404, "unknown-replica")
    assert ends.primary.commit_waiter.snapshot() == []
    slot = ends.primary.find_slot("a")
    assert slot is not None
    assert slot.confirmed_lsn == 10  # where it began


def test_a_new_session_ends_the_stream_of_the_old_one(ends: Ends) -> None:
    ends.register()
    pull = ends.source.pull(WalRequest("a", 0), 100, 0.0)
    assert pull.step(0.0)
    ends.register()
    assert pull.step(0.0) is None
    pull.close(0.0)
    pull.close(0.0)


def test_a_prune_that_comes_past_a_stream_ends_it(ends: Ends) -> None:
    pull = ends.source.pull(WalRequest(None, 0), None, 0.0)
    assert pull.step(0.0)
    ends.primary.prune_retained_wal_through(8)
    assert pull.step(0.0) is None
    assert pull.since_lsn < 8


def test_registrations_are_bounded_by_the_slots(tmp_path: Path) -> None:
    with PrimaryReplication(tmp_path / "app.db", walspool.ReplicationConfig(max_slots=1)) as primary:
        source = Source(primary, first_session=1)
        assert source.register(Registration("a"), 0.0) == {
            "session": 1,
            "restart_lsn": 0,
            "term": 1,
            "current_lsn": 0,
        }
        with pytest.raises(Refused) as caught:
            source.register(Registration("b"), 0.0)
        assert kind(caught) == (409, "slot-limit")
        assert source.pull(WalRequest("b", 0), None, 0.0).step(0.0) == Wait(30.0)  # it has no session
        assert source.unregister("a")
        assert not source.unregister("a")
    with pytest.raises(ValueError, match="without a data path"), PrimaryReplication() as in_memory:
        Source(in_memory, first_session=1)


def test_where_a_log_was_is_looked_up_between_records(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db", segment_bytes=200) as log:
        assert log.position_through(5) is None
        for lsn in (3, 4, 8, 9, 15, 16, 20):
            log.append(lsn, b"record %d" % lsn + b"x" * 50)
        assert len(log.segments) > 2
        found = {lsn: log.position_through(lsn) for lsn in range(23)}
        expected = {lsn: max((each for each in (3, 4, 8, 9, 15, 16, 20) if each <= lsn), default=None) for lsn in found}
        assert found == {lsn: None if at is None else log.position(at) for lsn, at in expected.items()}
        boundary = log.position(15)
        log.prune_through(15)
        assert [log.position_through(lsn) for lsn in (14, 15, 16, 17)] == [
            None,
            boundary,
            log.position(16),
            log.position(16),
        ]
        with pytest.raises(ValueError, match="lsn"):
            log.position_through(-1)
