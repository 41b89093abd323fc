"""What a follower keeps beside its log, and what it does with the bytes that come, over real logs."""

from __future__ import annotations

from typing import Any

import pytest

import walspool
from tests.net.feed import feed
from tests.net.test_ends import Ends, ends, kind
from walspool import LogicalWalSpool, Position, PrimaryReplication
from walspool.net.following import State
from walspool.net.protocol import ORIGIN, Refused
from walspool.net.serving import Wait

__all__ = ["ends"]


def test_what_a_person_has_decided_outlives_a_crash(ends: Ends) -> None:
    ends.sink.close()
    with PrimaryReplication(ends.folder / "f" / "app.db") as other:
        other.commit(b"of another history")
    ends.sink = ends.open_sink()
    ends.register()
    with pytest.raises(Refused) as caught:
        ends.source.pull(ends.sink.following.request(ends.sink.own), ends.sink.following.session, 0.0)
    assert kind(caught) == (409, "diverged")
    ends.sink.following.refused(caught.value.problem, 0.0)
    ends.sink.following.start_again()
    for _ in range(2):  # before each of them the marker is written, and then the process is killed
        ends.register()
        assert ends.sink.following.state is State.LOADING
        ends.sink.begin_load()
        ends.sink.close()
        ends.sink = ends.open_sink()
        assert ends.sink.following.gives_way
    ends.register()
    assert ends.load() == ORIGIN
    ends.sink.close()
    ends.sink = ends.open_sink()
    assert not ends.sink.following.gives_way
    ends.register()
    ends.catch_up()
    assert ends.sink.own.last.lsn == 10


@pytest.mark.parametrize("words", ["loading gives-way\n", "loading 1:2:00000003 gives-way\n"])
def test_the_marker_of_a_log_that_gives_way(ends: Ends, words: str) -> None:
    ends.sink.close()
    path = ends.folder / "f" / "app.db.logical.wal.loading"
    path.write_text(words)
    ends.sink = ends.open_sink()
    ends.register()
    assert (ends.sink.following.state, ends.sink.following.gives_way) == (State.LOADING, True)
    ends.sink.begin_load()
    assert path.read_text() == words


@pytest.mark.parametrize("state", ["whole", "damaged", "gone"])
def test_a_corrupt_log_takes_no_snapshot_of_a_replaced_primary(ends: Ends, state: str) -> None:
    ends.register()
    ends.catch_up()
    assert ends.sink.spool is not None
    ends.sink.spool.fence(5)
    ends.sink.close()
    log = ends.folder / "f" / "app.db.logical.wal"
    data = bytearray(log.read_bytes())
    data[60] ^= 1
    log.write_bytes(data)
    kept = log.with_name(f"{log.name}.state")
    assert kept.exists()
    if state == "damaged":
        kept.write_bytes(b"nothing")
    elif state == "gone":
        kept.unlink()
    ends.sink = ends.open_sink()
    assert ends.sink.spool is None
    if state != "whole":  # nobody knows any more
        assert ends.sink.own.term == 0
        return
    assert ends.sink.own.term == 5
    ends.register()
    assert ends.sink.following.load_request(ends.sink.own).term == 5
    assert not ends.sink.load(1, True, 0.0)
    assert isinstance(ends.sink.following.error, walspool.StaleTermError)


def test_a_log_that_is_found_corrupt_while_it_is_open(ends: Ends) -> None:
    ends.register()
    ends.catch_up()
    error = walspool.SpoolCorrupt(path="x", reason="a rotten bit")
    ends.sink.lost(error)
    assert (ends.sink.spool, ends.sink.applicable) == (None, None)
    assert (ends.sink.own.last, ends.sink.own.term, ends.sink.following.error) == (ORIGIN, 1, error)
    ends.register()
    assert ends.load() == ORIGIN
    ends.register()
    ends.catch_up()
    assert ends.sink.own.last.lsn == 10


def test_a_large_record_in_many_pieces_is_copied_once(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    append = LogicalWalSpool.append_frames

    def counted(self: LogicalWalSpool, buffer: Any) -> Any:
        looked.append(len(buffer))
        return append(self, buffer)

    ends.primary.commit(b"x" * 300_000)
    ends.write(1)
    ends.register()
    pull = ends.source.pull(ends.sink.following.request(ends.sink.own), 100, 0.0)
    assert ends.sink.begin(pull.head, 0.0)
    monkeypatch.setattr(LogicalWalSpool, "append_frames", counted)
    whole = b""
    while not isinstance(step := pull.step(0.0), Wait):
        assert step is not None
        whole += bytes(step)
    for at in range(0, len(whole), 1_000):
        assert feed(ends.sink, whole[at : at + 1_000], 0.0)
    assert ends.sink.own.last.lsn == 12
    assert sum(looked) < 2 * len(whole)


@pytest.mark.parametrize("count", [1, 64, 65, 200])
def test_the_position_behind_each_batch(ends: Ends, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    ends.register()
    ends.catch_up()
    ends.write(count)
    spool = ends.sink.spool
    assert spool is not None
    pull = ends.source.pull(ends.sink.following.request(ends.sink.own), 100, 0.0)
    assert ends.sink.begin(pull.head, 0.0)
    whole = b""
    while not isinstance(step := pull.step(0.0), Wait):
        assert step is not None
        whole += bytes(step)
    read: list[int | None] = []
    position = LogicalWalSpool.position

    def reading(self: LogicalWalSpool, lsn: int | None = None) -> Position | None:
        read.append(lsn)
        return position(self, lsn)

    monkeypatch.setattr(LogicalWalSpool, "position", reading)
    assert feed(ends.sink, whole, 0.0)
    found = ends.sink.own.last
    assert len(read) == (0 if count <= 64 else 1)  # large records are not read again, and small ones rarely
    assert found == position(spool)
    assert found.lsn == 10 + count
