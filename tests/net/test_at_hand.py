"""What was appended or sent just now is given and judged without a look at the disk, which needs a thread."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from tests.net.kit import Served, serving
from tests.net.test_ends import Ends, ends
from walspool import LogicalWalSpool
from walspool.net import source
from walspool.net.lanes import Lane, Lanes
from walspool.net.serving import Wait
from walspool.net.source import Pull

__all__ = ["ends"]


def given(pull: Pull) -> list[bool]:
    """All steps up to the first that waits: whether each was at hand."""
    found = []
    while True:
        found.append(pull.is_at_hand)
        step = pull.step(0.0)
        assert step is not None
        if isinstance(step, Wait):
            return found


def test_what_comes_behind_the_end_is_at_hand(ends: Ends) -> None:
    ends.register()
    pull = ends.source.pull(ends.sink.following.request(ends.sink.own), 100, 0.0)
    first = given(pull)
    assert len(first) > 2
    assert first == [False] * (len(first) - 1) + [True]  # what came before may lie on the disk
    ends.write(1)
    assert given(pull) == [True, True]


@pytest.mark.parametrize(("size", "at_hand"), [(200 - 37, True), (200 - 36, False)])
def test_more_than_a_chunk_is_not_at_hand(ends: Ends, size: int, at_hand: bool) -> None:
    ends.register()
    pull = ends.source.pull(ends.sink.following.request(ends.sink.own), 100, 0.0)
    given(pull)
    ends.primary.commit(bytes(size))
    assert pull.is_at_hand == at_hand


def test_an_acknowledgement_of_what_was_sent_needs_no_look_at_the_log(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends.register()
    assert ends.source.remembered(10) is None
    ends.catch_up()
    log = ends.primary.logical_wal_spool
    assert log is not None
    expected = log.position(10)

    def looked(self: LogicalWalSpool, lsn: int | None = None) -> None:
        raise AssertionError(lsn)

    monkeypatch.setattr(LogicalWalSpool, "position_through", looked)
    ack = ends.sink.following.next_ack()
    assert ack is not None
    known = ends.source.remembered(10)
    assert known == ack.position == expected
    ends.source.acknowledge("a", 100, ack, 0.0, known)
    assert ends.primary.replica_snapshots()[0].last_durable_lsn == 10


def test_no_more_than_some_are_remembered(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_REMEMBERED", 3)
    ends.register()
    for _ in range(5):
        ends.write(1)
        ends.catch_up()
    assert [lsn for lsn in range(20) if ends.source.remembered(lsn)] == [13, 14, 15]


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> list[Lane]:
    """Whatever was given to a thread."""
    found: list[Lane] = []
    run = Lanes.run

    async def noted(self: Lanes, lane: Lane, *arguments: Any, **options: Any) -> Any:
        found.append(lane)
        return await run(self, lane, *arguments, **options)

    monkeypatch.setattr(Lanes, "run", noted)
    return found


@pytest.fixture
def served(tmp_path: Any) -> Any:
    """A primary with ten records."""
    with serving(tmp_path) as found:
        yield found


@pytest.mark.parametrize(("size", "threads"), [(10, 0), (1 << 20, 1)])
def test_a_live_record_costs_no_thread_unless_it_is_large(
    served: Served, lanes: list[Lane], size: int, threads: int
) -> None:
    response = served.pull("since_lsn=9")
    assert len(response.read(37 + len(b"record 10")))
    before = lanes.count(Lane.STREAM)
    served.primary.commit(bytes(size))
    assert len(response.read(37 + size)) == 37 + size
    served.end_streams()
    response.read()
    assert lanes.count(Lane.STREAM) - before == threads


def test_what_is_pruned_is_not_remembered(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    ends.write(20)
    ends.catch_up()
    ends.acknowledge()
    assert ends.primary.prune_retained_wal_through(20) is not None
    log = ends.primary.logical_wal_spool
    assert log is not None
    assert log.pruned_through > 10
    assert ends.source.remembered(10) is None
    assert ends.source.remembered(30)


def test_a_stream_that_can_not_wait_leaves_nothing_behind(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: source.Source) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    session = served.register("a")
    with monkeypatch.context() as patch:
        patch.setattr(source.Source, "waiter", full)
        assert served.pull("replica_id=a", session).status == 500
    assert served.app.counters().streams == 0
