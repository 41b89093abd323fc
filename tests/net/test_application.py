"""Handing records to an application: what it raises, what a bootstrap sets back, and who may end it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import walspool
from tests.net.kit import PATIENCE_S
from walspool import LogicalWalSpool, SpoolClosed
from walspool.core import Entry
from walspool.net.applying import AppliedFile, Applying
from walspool.spool import files as fs


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[LogicalWalSpool]:
    """A log of five records."""
    with walspool.open(tmp_path / "app.db") as found:
        found.append_next_many([b"record %d" % lsn for lsn in range(1, 6)])
        yield found


def broken(error: walspool.SpoolCorrupt) -> None:
    """The log is none."""
    raise error


def run(
    folder: Path,
    apply: Callable[[Entry], object],
    spool: Callable[[], LogicalWalSpool | None],
    tell: Callable[[Applying, int], None],
) -> Applying:
    """Apply until ``tell`` or ``apply`` ends it."""
    found = Applying(folder / "applied", apply, spool, lambda lsn: tell(found, lsn), broken, lambda: 0.0)
    thread = threading.Thread(target=found.run)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    return found


def end_at(last: int) -> Callable[[Applying, int], None]:
    """Ends once so much is applied."""
    return lambda applying, lsn: applying.end() if lsn >= last else None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), SpoolClosed("another log", path=None)])
def test_whatever_apply_raises_is_counted_and_tried_again(
    spool: LogicalWalSpool, tmp_path: Path, error: BaseException
) -> None:
    seen: list[int] = []

    def apply(entry: Entry) -> None:
        seen.append(entry.lsn)
        if seen == [1, 2, 3]:
            raise error

    found = run(tmp_path, apply, lambda: spool, end_at(5))
    assert (seen, found.errors, found.error) == ([1, 2, 3, 3, 4, 5], 1, None)
    found.close()


def test_a_log_that_a_bootstrap_has_replaced_is_not_applied(spool: LogicalWalSpool, tmp_path: Path) -> None:
    seen: list[int] = []
    asked: list[int] = []

    def old_then_none() -> LogicalWalSpool | None:
        asked.append(1)
        if len(asked) > 1:
            found.end()
            return None
        with found.paused():  # a whole bootstrap comes between asking for the log and reading from it
            found.begin_at(2)
        return spool

    found = Applying(
        tmp_path / "applied", lambda entry: seen.append(entry.lsn), old_then_none, print, broken, lambda: 0.0
    )
    found.run()
    assert (seen, found.lsn) == ([], 2)
    found.close()


def test_a_bootstrap_never_comes_between_what_is_applied_and_its_being_told(
    spool: LogicalWalSpool, tmp_path: Path
) -> None:
    told: list[bool] = []

    def tell(applying: Applying, lsn: int) -> None:
        assert lsn == applying.lsn
        told.append(applying._gate.acquire(blocking=False))
        applying.end()

    run(tmp_path, lambda entry: None, lambda: spool, tell).close()
    assert told
    assert not any(told)


def test_the_record_whose_apply_ends_it_is_written_down(spool: LogicalWalSpool, tmp_path: Path) -> None:
    def apply(entry: Entry) -> None:
        if entry.lsn == 3:
            found.end()
            found.close()

    found = Applying(tmp_path / "applied", apply, lambda: spool, lambda lsn: None, broken, lambda: 0.0)
    found.run()
    assert (found.errors, found.lsn) == (0, 3)
    held = AppliedFile(tmp_path / "applied")
    assert held.lsn == 3
    held.close()


def test_a_load_that_waits_for_apply_gives_way_to_the_end(spool: LogicalWalSpool, tmp_path: Path) -> None:
    """``apply`` may stop its follower, which then waits for the thread that loads."""
    refused: list[str] = []

    def load() -> None:
        try:
            with found.paused():
                pass
        except SpoolClosed as error:
            refused.append(str(error))

    def apply(entry: Entry) -> None:
        loading = threading.Thread(target=load, daemon=True)
        loading.start()
        found.end()
        loading.join(PATIENCE_S)

    found = Applying(tmp_path / "applied", apply, lambda: spool, lambda lsn: None, broken, lambda: 0.0)
    found.run()
    assert refused == ["the follower is stopped"]
    found.close()


def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = AppliedFile(tmp_path / "applied")
    held.write(7)
    held.write(8)
    places: list[int] = []
    whole = fs.pwrite_all

    def fail(fd: int, data: bytes, offset: int, path: Path) -> None:
        places.append(offset)
        whole(fd, data[:5], offset, path)
        raise OSError(28, "no room")

    monkeypatch.setattr(fs, "pwrite_all", fail)
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            held.write(9)
    held.close()
    assert len(set(places)) == 1
    again = AppliedFile(tmp_path / "applied")
    assert again.lsn == 8
    again.close()
