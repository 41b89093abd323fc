"""What a closing, a refused opening, a failing clock or a failing thread meets, and the words that callers get."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.replication.conftest import Opener
from tests.replication.kit import FOREVER_MS, START_MS, config, fill, full_disk, logged, replica, slots_file, stored
from tests.replication.saves import Gate
from tests.replication.threads import InThread, until
from tests.spool.kit import contents
from walspool.replication import slots as slot_store
from walspool.replication.slot_file import save_slots
from walspool.replication.slots import SlotStore

Primary = walspool.PrimaryReplication


# -- closing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> SlotStore:
    """Slots that are written when somebody asks for it."""
    return SlotStore(tmp_path / "slots.json", START_MS, flush_interval_ms=FOREVER_MS)


def test_closing_refuses_changes_from_its_start(store: SlotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.register("a", lambda: 0, START_MS)
    store.register("b", lambda: 0, START_MS)
    store.advance("a", 5, 5, START_MS)
    gate = Gate()

    def save(path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        gate.stand()
        save_slots(path, slots)

    monkeypatch.setattr(slot_store, "save_slots", save)
    closing = InThread(store.close)
    gate.reached()
    before = store.snapshots()
    changes: list[Callable[[], object]] = [
        lambda: store.register("c", lambda: 0, START_MS),
        lambda: store.drop("a"),
        lambda: store.reset("a", 0, lambda _: None, START_MS),
        lambda: store.advance("b", 9, 9, START_MS),
        lambda: store.touch("b", START_MS + 1),
        lambda: store.invalidate(lambda *_: walspool.SlotInvalidationCause.HORIZON, START_MS),
    ]
    assert store.closed
    asked = [InThread(change) for change in changes]
    until(lambda: bool(store._waiting) or not any(each._thread.is_alive() for each in asked))
    gate.open()
    for call in asked:
        with pytest.raises(walspool.SpoolClosed):
            call.result()
    closing.result()
    assert store.snapshots() == before
    assert [each["restart_lsn"] for each in _stored_at(store)] == [5, 0]


def _stored_at(store: SlotStore) -> list[dict[str, Any]]:
    assert store.path is not None
    slots: list[dict[str, Any]] = json.loads(store.path.read_text())["slots"]
    return slots


def test_closing_ends_behind_the_last_write(store: SlotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write of another thread that begins when the last one of the closing has failed; the next primary may come."""
    flush = store.flush
    changed, failed, writing = Gate(), threading.Event(), Gate()
    flushes, saves, events = iter(["of the registration", "of the closing"]), iter(["full"]), []

    def flush_in_turn() -> None:
        if next(flushes) == "of the registration":
            changed.stand()
            return flush()
        try:
            return flush()
        finally:
            changed.open()
            writing.reached()

    def save(path: Path, slots: list[walspool.ReplicationSlot]) -> None:
        if next(saves, None) == "full":
            failed.set()
            raise full_disk()
        writing.stand()
        save_slots(path, slots)
        events.append("written")

    def close() -> None:
        try:
            store.close()
        finally:
            events.append("closed")

    monkeypatch.setattr(store, "flush", flush_in_turn)
    monkeypatch.setattr(slot_store, "save_slots", save)
    registering = InThread(lambda: store.register("a", lambda: 0, START_MS))
    changed.reached()
    closing = InThread(close)
    until(lambda: bool(store._waiting or events))
    assert events == []
    writing.open()
    assert registering.result() == 0
    with pytest.raises(OSError, match="No space"):
        closing.result()
    assert failed.is_set()
    assert events == ["written", "closed"]
    assert [each["id"] for each in _stored_at(store)] == ["a"]
    with pytest.raises(walspool.SpoolClosed):
        flush()


def _closed_behind_the_append(primary: Primary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary is closed when the record is durable and the wait has not begun."""
    backing = primary._backing
    append_next, aappend_next = backing.append_next, backing.aappend_next

    def append_and_close(data: Any) -> int:
        lsn = append_next(data)
        primary.close()
        return lsn

    async def aappend_and_close(data: Any) -> int:
        lsn = await aappend_next(data)
        primary.close()
        return lsn

    monkeypatch.setattr(backing, "append_next", append_and_close)
    monkeypatch.setattr(backing, "aappend_next", aappend_and_close)


COMMITS: dict[str, Callable[..., walspool.CommitResult]] = {
    "commit": lambda primary, **given: primary.commit(b"paid", **given),
    "acommit": lambda primary, **given: asyncio.run(primary.acommit(b"paid", **given)),
}


@pytest.mark.parametrize("commit", COMMITS.values(), ids=COMMITS)
@pytest.mark.parametrize("ack", [1, walspool.Regions("eu")], ids=["replicas", "regions"])
def test_closed_while_a_commit_waits(
    anywhere: Opener,
    data_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    commit: Callable[..., walspool.CommitResult],
    ack: Any,
) -> None:
    """``SpoolClosed`` would say that nothing was appended, and the caller would commit the record again."""
    primary = anywhere()
    primary.register_replica("a", "eu")
    fill(primary, 1, 2)
    _closed_behind_the_append(primary, monkeypatch)
    with pytest.raises(walspool.CommitError, match=r"LSN 3 is durable here, do not commit it again") as caught:
        commit(primary, ack=ack)
    assert caught.type is walspool.CommitError
    assert (caught.value.lsn, caught.value.acks) == (3, 0)
    if primary.logical_wal_spool is not None:
        with walspool.open(data_path) as log:
            assert log.read_since(2) == [(3, b"paid")]


@pytest.mark.parametrize("commit", COMMITS.values(), ids=COMMITS)
@pytest.mark.parametrize("ack", [1, walspool.Regions("eu")], ids=["replicas", "regions"])
def test_closing_ends_the_waits_of_commits(
    anywhere: Opener, commit: Callable[..., walspool.CommitResult], ack: Any
) -> None:
    """Nobody will acknowledge any more, however long they would wait."""
    primary = anywhere()
    primary.register_replica("a", "eu")
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            commit(primary, ack=ack, timeout=1e6)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not primary.commit_waiter.waiting:
        assert thread.is_alive()
    primary.close()
    thread.join(60)
    assert [type(each) for each in failed] == [walspool.CommitError]
    assert "LSN 1 is durable here, do not commit it again" in str(failed[0])
    with pytest.raises(walspool.SpoolClosed):
        primary.commit_waiter.await_acks(1, 1, None)
    assert primary.commit_waiter.counters().timed_out == 0


# -- a clock and a thread that fail ------------------------------------------------------------------------------------

CHANGE = walspool.ChangeRecord(0, 0, 1, walspool.ChangeOperation.INSERT, "c", 1, "row")
APPENDS: dict[str, Callable[[Primary], object]] = {
    "append_logical_record": lambda primary: primary.append_logical_record(3, b"x"),
    "append_change": lambda primary: primary.append_change(CHANGE),
    "commit": lambda primary: primary.commit(b"x"),
    "acommit": lambda primary: asyncio.run(primary.acommit(b"x")),
}


@pytest.mark.parametrize("append", APPENDS.values(), ids=APPENDS)
@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "disk"])
def test_nothing_is_appended_where_the_clock_fails(
    core: ModuleType, data_path: Path, in_memory: bool, append: Callable[[Primary], object]
) -> None:
    broken: list[Exception] = []

    def clock() -> int:
        if broken:
            raise broken[0]
        return START_MS

    with Primary(None if in_memory else data_path, clock=clock) as primary:
        fill(primary, 1, 2)
        broken.append(ArithmeticError("no time"))
        with pytest.raises(ArithmeticError, match="no time"):
            append(primary)
        broken.clear()
        assert logged(primary) == [1, 2]
        assert primary.commit(b"still usable").lsn == 3


def test_the_lazy_writes_outlive_a_thread_that_can_not_start(
    on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    primary = on_disk(slot_flush_interval_ms=1)
    primary.register_replica("a")
    fill(primary, 1, 2)
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

    def start_later(self: threading.Thread) -> None:
        if failures:
            raise failures.pop()
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_later)
        primary.ack_replica_lsn("a", 1, 1)
    assert failures == []
    assert primary.replica_snapshots()[0].last_durable_lsn == 1
    assert any("no thread can be started" in each.message for each in caplog.records)
    primary.ack_replica_lsn("a", 2, 2)
    assert primary._slots._thread is not None
    assert primary._slots._thread.is_alive()
    until(lambda: bool(stored(data_path)["a"]["restart_lsn"] == 2))


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_refused_opening_leaves_the_term_and_every_byte(core: ModuleType, data_path: Path) -> None:
    with Primary(data_path, config(term=3)) as primary:
        fill(primary, 1, 2)
    slots_file(data_path).write_text("{")
    before = contents(data_path.parent)
    assert [name for name in before if name.endswith(".state")]
    with pytest.raises(walspool.SlotStoreCorrupt):
        Primary(data_path, config(term=9))
    assert contents(data_path.parent) == before
    with walspool.open(data_path) as log:
        assert log.current_term == 3
    slots_file(data_path).unlink()
    with Primary(data_path, config(term=9)) as primary:
        assert primary.term == 9


@pytest.mark.parametrize("in_memory", [True, False], ids=["memory", "disk"])
def test_arguments_of_the_opening(core: ModuleType, data_path: Path, in_memory: bool) -> None:
    path = None if in_memory else data_path
    for given in ({}, "primary", {"term": 1}, walspool.QuorumConfig.sync(1)):
        with pytest.raises(TypeError, match="config must be a ReplicationConfig, not " + type(given).__name__):
            Primary(path, given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="recovery must be 'truncate' or 'strict', not 'bogus'"):
        Primary(path, recovery="bogus")  # type: ignore[arg-type]
    assert not data_path.parent.exists()


# -- arguments and words -----------------------------------------------------------------------------------------------


def test_times_to_wait_for_the_log(anywhere: Opener) -> None:
    primary = anywhere()
    fill(primary, 1, 2)
    for wrong in (True, False, "1", b"1", [1]):
        with pytest.raises(TypeError, match="timeout must be a number of seconds, not " + type(wrong).__name__):
            primary.wait_for_logical_lsn_after(2, wrong)  # type: ignore[arg-type]
    for endless in (math.nan, math.inf):
        with pytest.raises(ValueError, match="timeout must be finite"):
            primary.wait_for_logical_lsn_after(2, endless)
    for past in (-math.inf, -1, -0.5, 0, 0.0):
        assert not primary.wait_for_logical_lsn_after(2, past)
        assert primary.wait_for_logical_lsn_after(1, past)


def test_a_reset_beyond_the_end_names_both_ends(anywhere: Opener) -> None:
    primary = anywhere()
    primary.register_replica("a")
    fill(primary, 1, 2)
    with pytest.raises(walspool.AckBeyondWal, match=r"LSN 99 .* at 2;") as caught:
        primary.reset_slot("a", 99)
    assert (caught.value.lsn, caught.value.current_lsn) == (99, 2)
    assert "diverged" not in str(caught.value)
    assert "snapshot" in str(caught.value)


@pytest.mark.parametrize(
    ("ack", "kind", "words"),
    [
        (2, walspool.InsufficientReplicas, "1 replicas are connected, 2 are required"),
        (walspool.Regions("eu", "us"), walspool.MissingRegions, "us"),
        (1, walspool.QuorumTimeout, "only 0 of 1 acknowledged LSN 1 in time"),
    ],
)
def test_an_error_of_a_commit_says_what_to_do(
    anywhere: Opener, ack: Any, kind: type[walspool.CommitError], words: str
) -> None:
    primary = anywhere()
    primary.register_replica("a", "eu")
    with pytest.raises(kind, match=r"do not commit it again, wait for it with commit_waiter\.await_acks") as caught:
        primary.commit(b"x", ack=ack, timeout=0)
    text = str(caught.value)
    assert text.startswith(words) or words in text
    assert text.count("LSN 1 is durable here and on 0 replicas") == 1
    assert not re.search(r"\b(lsn|acks)\b[ =:]", text.replace(words, ""))
    assert (caught.value.lsn, caught.value.acks) == (1, 0)
    assert (caught.value.facts["lsn"], caught.value.facts["acks"]) == (1, 0)


def test_what_is_no_change_and_no_flag(anywhere: Opener) -> None:
    primary = anywhere()
    primary.register_replica("a")
    for wrong in (b"x", None, CHANGE.encode()):
        with pytest.raises(TypeError, match="record must be a ChangeRecord, not " + type(wrong).__name__):
            primary.append_change(wrong)  # type: ignore[arg-type]
    epoch = primary.topology_epoch
    for flag in ("no", 1, None):
        with pytest.raises(TypeError, match="flag must be a bool, not " + type(flag).__name__):
            primary.set_replica_rebootstrapping("a", flag)  # type: ignore[arg-type]
    assert (replica(primary, "a").rebootstrapping, primary.topology_epoch) == (False, epoch)
    assert logged(primary) == []
