"""Bad input: one clear error each, nothing changed, neither in memory nor a byte on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
import walspool.replication.slots as slots_module
from tests.replication.conftest import Opener
from tests.replication.kit import FOREVER_MS, Clock, calls, fill, logged, refused, slots_file, state_of, store
from tests.spool.kit import contents, files_limited_to
from walspool import PrimaryReplication
from walspool.records import check_replica_id

HUGE = 2**64


@pytest.fixture
def primary(anywhere: Opener) -> PrimaryReplication:
    """Slots ``a`` and ``b``, one in use; records 4 to 9; nothing that would be written later."""
    made = anywhere(slot_flush_interval_ms=FOREVER_MS, max_slots=2)
    made.register_replica("a", "eu")
    made.register_replica("b")
    made.unregister_replica("b")
    fill(made, 1, 9)
    for each in "ab":
        made.ack_replica_lsn(each, 5, 3)
    made.unregister_replica("b")
    assert made.prune_retained_wal_through(9) == 3
    return made


@pytest.fixture
def folder(data_path: Path) -> Path:
    """Where everything of the test lies."""
    data_path.parent.mkdir(exist_ok=True)
    return data_path.parent


@pytest.mark.parametrize(
    "call",
    [
        lambda primary: primary.ack_replica_lsn("ghost", 5, 5),
        lambda primary: primary.ack_replica("ghost", 5),
        lambda primary: primary.drop_slot("ghost"),
        lambda primary: primary.reset_slot("ghost", 5),
        lambda primary: primary.ack_replica_lsn("", 5, 5),
    ],
)
def test_an_unknown_replica(primary: PrimaryReplication, folder: Path, call: Callable[[Any], object]) -> None:
    with refused(primary, folder, walspool.UnknownReplica, "not known here"):
        call(primary)


@pytest.mark.parametrize(
    "bad",
    ["", "x" * 65, "a/b", "../a", "a b", "a\n", "\na", "ä", "a\0b", "a:b", "a*", "\uff11", "\ud800", "a'; drop", "é"],
)
def test_an_id_outside_the_allowed_set(primary: PrimaryReplication, folder: Path, bad: str) -> None:
    for call in calls(
        lambda: primary.register_replica(bad),
        lambda: primary.register_replica_with_region(bad, "eu"),
        lambda: primary.ensure_replica_registered(bad),
    ):
        with refused(primary, folder, walspool.ReplicaIdInvalid, "1 to 64 of A-Z a-z 0-9 . _ -") as caught:
            call()
        assert isinstance(caught.value, ValueError)
        str(caught.value).encode()


@pytest.mark.parametrize("bad", [None, 5, b"a", True, ["a"], 1.5])
def test_an_id_that_is_no_text(primary: PrimaryReplication, folder: Path, bad: Any) -> None:
    for call in calls(
        lambda: primary.register_replica(bad),
        lambda: primary.ensure_replica_registered(bad),
    ):
        with refused(primary, folder, TypeError):
            call()


@pytest.mark.parametrize("good", ["a", "x" * 64, "A-Z_0.9", ".", "..", "-", "con", "0"])
def test_an_id_within_the_allowed_set(good: str) -> None:
    assert check_replica_id(good) == good


@pytest.mark.parametrize(("lsn", "kind"), [(-1, ValueError), (HUGE, ValueError), (True, TypeError), ("5", TypeError)])
def test_an_lsn_that_is_none(primary: PrimaryReplication, folder: Path, lsn: Any, kind: type[Exception]) -> None:
    calls: list[Callable[[], object]] = [
        lambda: primary.append_logical_record(lsn, b"x"),
        lambda: primary.ack_replica("a", lsn),
        lambda: primary.ack_replica_lsn("a", lsn, 5),
        lambda: primary.ack_replica_lsn("a", 5, lsn),
        lambda: primary.ack_replica_lsn("a", 5, 5, lsn),
        lambda: primary.ack_replica_lsn("a", 5, 5, 0, lsn),
        lambda: primary.ack_replica_lsn("b", lsn, 5),
        lambda: primary.note_replica_pull("a", lsn),
        lambda: primary.prune_retained_wal_through(lsn),
        lambda: primary.reset_slot("a", lsn),
        lambda: primary.touch_slot("a", lsn),
        lambda: primary.enforce_retention_limits(lsn),
        lambda: primary.plan_replica_resume("a", lsn),
        lambda: primary.plan_replica_resume("a", 0, lsn),
        lambda: primary.plan_replica_resume("ghost", lsn),
        lambda: primary.slot_rebootstrap_reason("a", lsn),
        lambda: primary.slot_rebootstrap_reason("a", 0, lsn),
        lambda: primary.explain_resume("a", lsn),
        lambda: primary.wait_for_logical_lsn_after(lsn, 0),
        lambda: primary.quorum.wait(lsn),
        lambda: primary.quorum.has_quorum(lsn),
        lambda: primary.commit_waiter.record_replica_ack("a", lsn),
        lambda: primary.commit_waiter.await_acks(lsn, 1, 0),
        lambda: primary.commit_waiter.commit_watermark(lsn),
        lambda: primary.commit(b"x", ack=lsn if lsn != "5" else 1.5),  # type: ignore[arg-type]
    ]
    for call in calls:
        with refused(primary, folder, kind):
            call()


@pytest.mark.parametrize("oldest", ["spool", 1.0, b"1"])
def test_an_oldest_lsn_that_is_none(primary: PrimaryReplication, folder: Path, oldest: Any) -> None:
    with refused(primary, folder, TypeError, "oldest_available_lsn"):
        primary.plan_replica_resume("a", 0, oldest)


def test_an_lsn_that_goes_back(primary: PrimaryReplication, folder: Path) -> None:
    for lsn in (0, 1, 9):
        with refused(primary, folder, walspool.LsnOrderError, lsn=lsn, last_lsn=9):
            primary.append_logical_record(lsn, b"x")
    primary.append_logical_record(10, b"x")
    assert logged(primary)[-1] == 10


def test_no_lsn_above_the_highest(anywhere: Opener, folder: Path) -> None:
    primary = anywhere(slot_flush_interval_ms=FOREVER_MS)
    primary.append_logical_record(HUGE - 1, b"the last one")
    for call in calls(
        lambda: primary.commit(b"x"),
        lambda: primary.append_logical_record(HUGE - 1, b"x"),
        lambda: primary.append_change(
            walspool.ChangeRecord(1, 0, 0, walspool.ChangeOperation.DELETE, "c", 1, "row"),
        ),
    ):
        before = logged(primary), contents(folder)
        with pytest.raises((walspool.LsnOrderError, ValueError)):
            call()
        assert (logged(primary), contents(folder)) == before


@pytest.mark.parametrize(
    ("ack", "timeout", "kind"),
    [
        ("", None, ValueError),
        ("some", None, ValueError),
        ("ack_n=", None, ValueError),
        (-1, None, ValueError),
        (True, None, TypeError),
        (None, None, TypeError),
        (["eu"], None, TypeError),
        (1, -1, ValueError),
        (1, float("nan"), ValueError),
        (1, float("inf"), ValueError),
        (1, "5", TypeError),
        ("local", -1, ValueError),
    ],
)
def test_a_commit_that_asks_for_nonsense_appends_nothing(
    primary: PrimaryReplication, folder: Path, ack: Any, timeout: Any, kind: type[Exception]
) -> None:
    with refused(primary, folder, kind):
        primary.commit(b"x", ack=ack, timeout=timeout)


@pytest.mark.parametrize("data", ["text", None, 5, memoryview(b"abcd")[::2]])
def test_data_that_is_none(primary: PrimaryReplication, folder: Path, data: Any) -> None:
    for call in calls(lambda: primary.append_logical_record(10, data), lambda: primary.commit(data)):
        before = state_of(primary), contents(folder)
        with pytest.raises((TypeError, ValueError)):
            call()
        assert (state_of(primary), contents(folder)) == before


def test_a_reset_to_an_lsn_that_is_gone(primary: PrimaryReplication, folder: Path) -> None:
    with refused(primary, folder, walspool.LsnPruned, "3", lsn=2, pruned_through=3):
        primary.reset_slot("a", 2)
    with refused(primary, folder, walspool.AckBeyondWal, "9", lsn=10, current_lsn=9):
        primary.reset_slot("a", 10)


def test_more_slots_than_allowed(primary: PrimaryReplication, folder: Path) -> None:
    for call in calls(lambda: primary.register_replica("c"), lambda: primary.ensure_replica_registered("c")):
        with refused(primary, folder, walspool.SlotLimitReached, "max_slots", "walspool slots", max_slots=2):
            call()


def test_a_region_that_is_no_text(primary: PrimaryReplication, folder: Path) -> None:
    for call in calls(
        lambda: primary.register_replica("a", 5),  # type: ignore[arg-type]
        lambda: primary.register_replica("a", b"eu"),  # type: ignore[arg-type]
    ):
        with refused(primary, folder, TypeError, "region"):
            call()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"slots": [{"id": "a", "restart_lsn": 5,',
        b"\0" * 64,
        b'{"version": 2}',
        b'{"version": 2, "slots": {"a": 1}}',
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"slots": [{"id": "\xff", "restart_lsn": 1, "confirmed_lsn": 1}]}',
        b'{"slots": [], "x": NaN}',
        b'{"slots": []} x',
        b"[" * 100_000,
        b'{"slots": [{"id": "\\ud800", "restart_lsn": 1, "confirmed_lsn": 1}]}',
        b'{"slots": [{"id": "a", "restart_lsn": 18446744073709551616, "confirmed_lsn": 1}]}',
        b'{"slots": [{"id": "a", "restart_lsn": 1e400, "confirmed_lsn": 1}]}',
        b'{"slots": [{"id": "a", "restart_lsn": ' + b"9" * 5000 + b', "confirmed_lsn": 1}]}',
    ],
)
def test_a_slot_store_that_is_none(on_disk: Opener, data_path: Path, text: bytes) -> None:
    primary = on_disk()
    primary.register_replica("a")
    primary.register_replica("b")
    primary.close()
    slots_file(data_path).write_bytes(text)
    before = contents(data_path.parent)
    for _ in range(2):
        with pytest.raises(walspool.SlotStoreCorrupt) as caught:
            on_disk()
        assert (Path(caught.value.path), bool(caught.value.reason)) == (slots_file(data_path), True)
        assert str(slots_file(data_path)) in str(caught.value)
        assert Path(caught.value.previous).is_file()
        assert contents(data_path.parent) == before


@pytest.mark.parametrize("kind", ["directory", "pipe", "dangling", "unreadable"])
def test_a_slot_store_that_can_not_be_read(
    on_disk: Opener, data_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk().close()
    path = slots_file(data_path)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        store(data_path, {"id": "a", "restart_lsn": 1, "confirmed_lsn": 1})
        whole = os.pread

        def broken(fd: int, length: int, offset: int) -> bytes:
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return whole(fd, length, offset)

        monkeypatch.setattr(os, "pread", broken)
    before = contents(data_path.parent)
    with pytest.raises((OSError, walspool.SlotStoreCorrupt)) as caught:
        on_disk()
    assert str(path) in str(caught.value)
    assert contents(data_path.parent) == before


def test_a_full_disk(on_disk: Opener, data_path: Path) -> None:
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    primary.register_replica("a")
    fill(primary, 1, 3)
    before = state_of(primary), slots_file(data_path).read_bytes()
    for call in calls(
        lambda: primary.register_replica("b"),
        lambda: primary.drop_slot("a"),
        lambda: primary.reset_slot("a", 3),
    ):
        with files_limited_to(10), pytest.raises(OSError, match=r"slots\.json") as caught:
            call()
        assert caught.value.errno == errno.EFBIG
        assert (state_of(primary), slots_file(data_path).read_bytes()) == before
    assert primary.register_replica("b") == 3


def test_a_full_disk_at_the_close(on_disk: Opener, data_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    primary.register_replica("a")
    primary.ack_replica_lsn("a", 5, 5)
    before = slots_file(data_path).read_bytes()

    def full(path: Path, slots: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(slots_module, "save_slots", full)
    with pytest.raises(OSError, match="No space left"):
        primary.close()
    monkeypatch.undo()
    assert slots_file(data_path).read_bytes() == before
    assert on_disk().register_replica("a") == 0  # and the data path is free again


def test_two_primaries_on_one_data_path(on_disk: Opener, data_path: Path, clock: Clock) -> None:
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    primary.register_replica("a")
    fill(primary, 1, 3)
    with refused(primary, data_path.parent, walspool.SpoolLocked, str(os.getpid()), pid=os.getpid()):
        PrimaryReplication(data_path, clock=clock)
    fill(primary, 4, 4)


def test_a_refused_primary_on_a_corrupt_store_lets_go(core: ModuleType, data_path: Path, clock: Clock) -> None:
    PrimaryReplication(data_path, clock=clock).close()
    slots_file(data_path).write_bytes(b"{")
    with pytest.raises(walspool.SlotStoreCorrupt):
        PrimaryReplication(data_path, clock=clock)
    slots_file(data_path).unlink()
    PrimaryReplication(data_path, clock=clock).close()


@pytest.mark.parametrize("config", ["default", 5, {}])
def test_a_configuration_that_is_none(tmp_path: Path, config: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        PrimaryReplication(tmp_path / "x.rdb", config)
    assert contents(tmp_path) == {}


def test_a_forked_child_refuses(on_disk: Opener, data_path: Path) -> None:
    primary = on_disk(slot_flush_interval_ms=FOREVER_MS)
    primary.register_replica("a")
    primary.ack_replica_lsn("a", 7, 7)
    before = contents(data_path.parent)
    pid = os.fork()
    if pid == 0:
        try:
            primary.ack_replica_lsn("a", 9, 9)
        except walspool.SpoolClosed:
            primary.close()
            os._exit(7)
        finally:
            os._exit(8)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert contents(data_path.parent) == before
    fill(primary, 10, 10)
