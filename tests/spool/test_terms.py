"""Terms: durable before the first record that carries one, and never lower than before."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.spool.kit import fill, refused
from walspool.spool.segments import WriterSegments
from walspool.spool.state import State


def test_a_new_term(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 3)
        log.begin_term(7)
        assert log.current_term == 7
        log.append_next(b"without")
        log.append(10, b"without")
        log.append_many([(11, b"without"), (12, b"without")])
        log.append_next(b"higher", term=8)
        log.append_next(b"without")
        assert [each.term for each in log] == [1, 1, 1, 7, 7, 7, 7, 8, 8]
        log.begin_term(8)  # the current one
        assert log.current_term == 8


@pytest.mark.parametrize("records", [0, 3])
def test_a_term_is_durable_without_a_record(core: ModuleType, tmp_path: Path, records: int) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, records)
        log.begin_term(7)
        copy = tmp_path / "crash"
        copy.mkdir()
        for each in tmp_path.iterdir():
            if each.is_file() and not each.name.endswith(".lock"):
                (copy / each.name).write_bytes(each.read_bytes())
    for folder in (tmp_path, copy):
        with walspool.open(folder / "app.db") as log:
            assert (log.current_term, log.current_lsn) == (7, records)
            log.append_next(b"first of the term")
            assert [each.term for each in log] == [1] * records + [7]


def test_a_lower_term_is_refused(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 2)
        log.begin_term(7)
        for low in (0, 1, 6):
            with refused(log, walspool.StaleTermError, f"term {low}", "7", term=low, current_term=7):
                log.begin_term(low)
        with refused(log, walspool.StaleTermError, term=6, current_term=7):
            log.append_next(b"x", term=6)
        with refused(log, TypeError):
            log.begin_term("8")  # type: ignore[arg-type]
        for wrong in (-1, 1 << 64):
            with refused(log, ValueError):
                log.begin_term(wrong)
    with pytest.raises(walspool.SpoolClosed):
        log.begin_term(9)


@pytest.mark.parametrize("records", [0, 3])
def test_a_fenced_log_takes_only_frames(core: ModuleType, tmp_path: Path, records: int) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, records)
        assert log.fenced_term == 0
        log.fence(5)
        log.fence(4)
    frame = walspool.core.encode_frame(9, b"shipped", term=5, timestamp_ms=1)
    with walspool.open(tmp_path / "app.db") as log:
        assert (log.fenced_term, log.current_term) == (5, 1)
        for append in (lambda: log.append_next(b"x"), lambda: log.append(20, b"x", term=5), lambda: log.begin_term(5)):
            with pytest.raises(walspool.StaleTermError):
                append()
        assert log.append_frames(frame).last_lsn == 9
        assert log.current_term == 5
        with pytest.raises(walspool.StaleTermError, match="term 5 is another primary's"):
            log.append_next(b"x")
        log.begin_term(6)
        assert log.append_next(b"own") == 10
        assert [each.term for each in log] == [1] * records + [5, 6]
        for wrong in (-1, 1 << 64):
            with pytest.raises(ValueError, match="term"):
                log.fence(wrong)
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        assert reader.fenced_term == 5
        with pytest.raises(walspool.SpoolReadOnly):
            reader.fence(8)


def test_a_fence_outlives_a_restart_of_the_log(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 3)
        log.fence(5)
    with walspool.LogicalWalSpool.restart_at(tmp_path / "app.db", walspool.Position(2, 40, 1)) as log:
        assert (log.fenced_term, log.current_term) == (5, 2)
        with pytest.raises(walspool.StaleTermError):
            log.append_next(b"x")


def test_a_fence_that_cant_be_written_holds_all_the_same(
    core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 3)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("walspool.spool.segments.save_state", full)
        with pytest.raises(OSError, match="No space"):
            log.fence(5)
        with pytest.raises(walspool.StaleTermError):
            log.append_next(b"x")


def test_a_state_of_an_earlier_release_has_no_fence(core: ModuleType, tmp_path: Path) -> None:
    state = State(bytes(16), term=3)
    text = state.encode().split(b"\n", 1)[1].replace(b'"fence":0,', b"")
    head = b"walspool-state 1 crc32=%08x\n" % walspool.core.crc32(text)
    assert State.decode(head + text) == state


def test_a_reader_has_no_terms_to_begin(core: ModuleType, tmp_path: Path) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        log.begin_term(7)
    with walspool.open(tmp_path / "app.db", read_only=True) as reader:
        assert reader.current_term == 7
        with pytest.raises(walspool.SpoolReadOnly):
            reader.begin_term(8)


def _behind(
    monkeypatch: pytest.MonkeyPatch, log: walspool.LogicalWalSpool, name: str, term: int
) -> list[dict[str, Any]]:
    """``term`` begins when the next change of the state that names ``name`` is worked out and not made yet."""
    change = WriterSegments.change_state
    changes: list[dict[str, Any]] = []

    def late(self: WriterSegments, **given: Any) -> None:
        if name in given and not changes:
            changes.append(given)
            log.begin_term(term)
        change(self, **given)

    monkeypatch.setattr(WriterSegments, "change_state", late)
    return changes


@pytest.mark.parametrize("records", [5, 0])
def test_a_term_that_begins_beside_a_prune(
    core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, records)
        changes = _behind(monkeypatch, log, "pruned_through", 7)
        log.prune_through(3)
        assert len(changes) == 1
        assert log.current_term == 7
        assert log.pruned_through == 3
    with walspool.open(tmp_path / "app.db") as log:
        assert (log.current_term, log.pruned_through) == (7, 3)
        with pytest.raises(walspool.StaleTermError):
            log.begin_term(6)


def test_two_terms_that_begin_at_a_time(core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with walspool.open(tmp_path / "app.db") as log:
        fill(log, 5)
        assert _behind(monkeypatch, log, "term", 7) == []
        log.begin_term(3)
        assert log.current_term == 7
    with walspool.open(tmp_path / "app.db") as log:
        assert log.current_term == 7
