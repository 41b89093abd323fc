"""Many writers: the buffer has what the files have, in order, whoever comes back from the disk first."""

from __future__ import annotations

from functools import partial

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import fill, logged
from tests.replication.saves import Gate
from tests.replication.threads import InThread
from tests.spool.kit import PATIENCE_S
from walspool.replication.backing import SpoolBacking


def test_many_writers_feed_the_buffer_in_order(anywhere: Opener) -> None:
    primary = anywhere(segment_bytes=5_000)
    seen: list[tuple[int, bytes]] = []
    per_thread, threads = 40, 8

    def watch() -> None:
        while len(seen) < per_thread * threads:
            last = seen[-1][0] if seen else 0
            assert primary.wait_for_logical_lsn_after(last, PATIENCE_S)
            found = primary.wal_buffer.read_since(last)
            assert found, f"nothing above {last} when woken"
            assert [lsn for lsn, _ in found] == list(range(last + 1, last + 1 + len(found)))
            seen.extend(found)

    def write(thread: int) -> None:
        for number in range(per_thread):
            data = b"%d:%d" % (thread, number)
            lsn = primary.commit(data).lsn
            assert primary.wal_buffer.read_since(lsn - 1, 1) == [(lsn, data)]

    watching = InThread(watch)
    for each in [InThread(partial(write, thread)) for thread in range(threads)]:
        each.result()
    watching.result()
    assert seen == primary.wal_buffer.read_since(0)
    log = primary.logical_wal_spool
    assert log is None or list(log.tuples()) == seen
    assert [lsn for lsn, _ in seen] == list(range(1, per_thread * threads + 1))


def _slow_feed(monkeypatch: pytest.MonkeyPatch, slow_lsn: int) -> Gate:
    """Whoever appends this LSN stands still between the disk and the buffer."""
    gate = Gate()
    real = SpoolBacking._feed

    def feed(backing: SpoolBacking, lsn: int, payload: bytes) -> None:
        if lsn == slow_lsn:
            gate.stand()
        real(backing, lsn, payload)

    monkeypatch.setattr(SpoolBacking, "_feed", feed)
    return gate


def test_a_record_that_was_not_fed_yet_is_found_by_all_who_wait(
    on_disk: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer of LSN 2 stands still between the disk and the buffer."""
    primary = on_disk()
    fill(primary, 1, 1)
    gate = _slow_feed(monkeypatch, 2)
    second = InThread(lambda: primary.commit(b"second").lsn)
    gate.reached()
    assert primary.wait_for_logical_lsn_after(1, PATIENCE_S)
    assert primary.wal_buffer.read_since(1) == [(2, b"second")]
    assert primary.commit(b"third").lsn == 3
    assert primary.wal_buffer.read_since(1) == [(2, b"second"), (3, b"third")]
    gate.open()
    assert second.result() == 2
    assert primary.wal_buffer.read_since(1) == [(2, b"second"), (3, b"third")]


def test_a_record_pruned_before_it_was_fed_stays_away(on_disk: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = on_disk()
    fill(primary, 1, 1)
    gate = _slow_feed(monkeypatch, 2)
    second = InThread(lambda: primary.commit(b"second").lsn)
    gate.reached()
    assert primary.prune_retained_wal_through(2) == 2
    gate.open()
    assert second.result() == 2
    assert logged(primary) == []
    assert primary.commit(b"third").lsn == 3
    assert logged(primary) == [3]


def test_many_threads_append_changes(anywhere: Opener) -> None:
    primary = anywhere(segment_bytes=5_000)
    record = walspool.ChangeRecord(0, 0, 5, walspool.ChangeOperation.INSERT, "users", 1, "row")

    def write() -> list[int]:
        return [primary.append_change(record) for _ in range(25)]

    given = [lsn for each in [InThread(write) for _ in range(8)] for lsn in each.result()]
    assert sorted(given) == list(range(1, 201))
    for lsn, data in primary.wal_buffer.read_since(0):
        decoded = walspool.ChangeRecord.decode(data)
        assert (decoded.lsn, decoded.term) == (lsn, 1)
    assert logged(primary) == list(range(1, 201))
