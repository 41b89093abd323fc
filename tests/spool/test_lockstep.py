"""Both cores, step by step: the same calls give the same results, the same errors, and the same bytes on disk."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import walspool
from tests.conftest import TESTED, use_core
from walspool.spool import inspection, prune, repair, restart

#: How many programs of calls are tried; with a number given they are other ones each time.
EXAMPLES = int(os.environ.get("WALSPOOL_LOCKSTEP", "20"))

Log = walspool.LogicalWalSpool


def _v1(lsn: int, data: bytes) -> bytes:
    return struct.pack("<4sBQQ", b"RDLW", 1, lsn, len(data)) + data


def _v2(lsn: int, data: bytes) -> bytes:
    body = struct.pack("<BQQI", 2, lsn, lsn % 3, len(data)) + data
    return b"RDLW" + body + struct.pack("<I", zlib.crc32(body))


def _v3(lsn: int, data: bytes, term: int = 1, stamp: int = 0) -> bytes:
    body = struct.pack("<BQQQI", 3, term, lsn, stamp, len(data)) + data
    return b"RDLW" + body + struct.pack("<I", zlib.crc32(body))


def _wide(lsn: int, data: bytes) -> bytes:
    body = struct.pack("<BQQQQI", 3, 1, lsn % 4, lsn, 5, len(data)) + data
    return b"RDLW" + body + struct.pack("<I", zlib.crc32(body))


def _change(term: int) -> bytes:
    record = walspool.ChangeRecord(term, 1, 2, walspool.ChangeOperation.UPDATE, "c", 3, "table", metadata={"a": 1.5})
    return record.encode()


payloads = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([_change(1), _change(2), _change(3), _change(1).replace(b'"term":1,', b"")]),
    st.builds(_v3, st.integers(1, 400), st.binary(max_size=20)),
    st.integers(100, 600).map(lambda size: b"\0" * (size % 50) + b"RDLW\3" * (size // 5)),
)
#: Relative to the current term, and to the current LSN; the few bad ones are here to be refused.
terms = st.sampled_from([None] * 8 + [0, 0, 1, -1])
stamps = st.sampled_from([0, 1, 1_700_000_000_000, 2**64 - 1])
steps = st.sampled_from([1] * 30 + [2, 2, 7, 0, -1])
sinces = st.one_of(st.integers(0, 80), st.sampled_from([0, 2**64 - 1, -1]))
counts = st.sampled_from([None, None, 0, 1, 5, 64, 200])
odd = st.sampled_from([None, True, 1.0, "1", -1, 2**64, b""])


def _plain(value: Any) -> Any:
    """A result as something that can be compared across cores."""
    if type(value).__name__ == "Entry":
        fields = (value.lsn, value.term, value.timestamp_ms, value.payload, value.version, value.ownership_epoch)
        return (*fields, repr(value))
    if dataclasses.is_dataclass(value):
        known = [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
        return [(name, _plain(part)) for name, part in known if name != "duration_ms"]
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, list | tuple | Iterator):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class _Side:
    """One core, its folder, and the log open in it."""

    def __init__(self, core: str) -> None:
        self.core = core
        self.folder = Path(tempfile.mkdtemp(prefix="walspool-lockstep-"))
        self.path = self.folder / "app.db"
        self.log: Log | None = None

    def run(self, call: Callable[[_Side], Any]) -> tuple[str, str]:
        """What the call gives under this core: a result or an error, as text without the folder's name."""
        use_core(self.core)
        try:
            outcome = "result", repr(_plain(call(self)))
        except (walspool.WalspoolError, OSError, TypeError, ValueError) as error:
            facts = sorted((getattr(error, "facts", None) or {}).items())
            through = getattr(error, "appended_through", None)
            shown = repr([(name, _plain(each)) for name, each in facts]), through, getattr(error, "errno", None)
            outcome = type(error).__name__, f"{error} {shown}"
        return outcome[0], outcome[1].replace(str(self.folder), "FOLDER")

    def files(self) -> dict[str, bytes]:
        return {each.name: each.read_bytes() for each in sorted(self.folder.iterdir())}


def _log(side: _Side) -> Log:
    assert side.log is not None
    return side.log


def _lsn(side: _Side, step: int) -> int:
    return max(_log(side).current_lsn + step, 0)


def _term(side: _Side, step: int | None) -> int | None:
    return None if step is None else max(_log(side).current_term + step, 0)


class Lockstep(RuleBasedStateMachine):
    """The same calls on two logs, each on a core of its own; at each reopening the cores change places."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = [_Side(TESTED[0]), _Side(TESTED[-1])]
        self.open = False

    def both(self, call: Callable[[_Side], Any]) -> tuple[str, str]:
        first, second = (side.run(call) for side in self.sides)
        assert first == second
        return first

    # -- appending

    @precondition(lambda self: self.open)
    @rule(step=steps, data=payloads, term=terms, stamp=stamps)
    def append(self, step: int, data: bytes, term: int | None, stamp: int) -> None:
        self.both(lambda side: _log(side).append(_lsn(side, step), data, term=_term(side, term), timestamp_ms=stamp))

    @precondition(lambda self: self.open)
    @rule(data=payloads, term=terms, stamp=stamps)
    def append_next(self, data: bytes, term: int | None, stamp: int) -> None:
        self.both(lambda side: _log(side).append_next(data, term=_term(side, term), timestamp_ms=stamp))

    @precondition(lambda self: self.open)
    @rule(items=st.lists(st.tuples(steps, payloads), max_size=90), term=terms, stamp=stamps)
    def append_many(self, items: list[tuple[int, bytes]], term: int | None, stamp: int) -> None:
        def call(side: _Side) -> None:
            lsn, records = _log(side).current_lsn, []
            for step, data in items:
                lsn += step
                records.append((lsn, data))
            _log(side).append_many(records, term=_term(side, term), timestamp_ms=stamp)

        self.both(call)

    @precondition(lambda self: self.open)
    @rule(items=st.lists(payloads, max_size=90), term=terms, stamp=stamps)
    def append_next_many(self, items: list[bytes], term: int | None, stamp: int) -> None:
        self.both(lambda side: _log(side).append_next_many(items, term=_term(side, term), timestamp_ms=stamp))

    @precondition(lambda self: self.open)
    @rule(
        items=st.lists(st.tuples(steps, payloads, st.sampled_from([0, 0, 0, 0, 1])), max_size=6),
        flip=st.sampled_from([-1] * 6 + [5, 14, 30, 50, 99]),
        cut=steps,
    )
    def append_frames(self, items: list[tuple[int, bytes, int]], flip: int, cut: int) -> None:
        def call(side: _Side) -> Any:
            lsn, frames = _log(side).current_lsn, bytearray()
            term = _log(side).current_term
            for step, data, rise in items:
                lsn, term = max(lsn + step, 0), term + rise
                frames += _v3(lsn, data, term, 9)
            if 0 <= flip < len(frames):
                frames[flip] ^= 4
            return _log(side).append_frames(bytes(frames[: len(frames) - max(cut - 1, 0)]))

        self.both(call)

    @precondition(lambda self: self.open)
    @rule(items=st.lists(st.tuples(st.booleans(), steps, payloads), min_size=1, max_size=5), stamp=stamps)
    def aappend(self, items: list[tuple[bool, int, bytes]], stamp: int) -> None:
        async def gather(log: Log) -> list[str]:
            lsn = log.current_lsn
            calls: list[Any] = [
                log.aappend_next(data, timestamp_ms=stamp)
                if chosen
                else log.aappend(max(lsn + step, 0), data, timestamp_ms=stamp)
                for chosen, step, data in items
            ]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            return [f"{type(each).__name__} {each}" for each in outcomes]

        self.both(lambda side: asyncio.run(gather(_log(side))))

    @precondition(lambda self: self.open)
    @rule(value=odd, place=st.integers(0, 7))
    def bad_arguments(self, value: Any, place: int) -> None:
        calls: list[Callable[[Log], Any]] = [
            lambda log: log.append(value, b"x", timestamp_ms=1),
            lambda log: log.append(log.current_lsn + 1, value, timestamp_ms=1),
            lambda log: log.append_next(b"x", term=value, timestamp_ms=1),
            lambda log: log.append_next(b"x", timestamp_ms=7 if value is None else value),
            lambda log: log.append_many([(log.current_lsn + 1, b"x"), (value, b"x")], timestamp_ms=1),
            lambda log: log.append_next_many([b"x", value], timestamp_ms=1),
            lambda log: log.append_frames(value),
            lambda log: log.read_since(value, value),
        ]
        self.both(lambda side: calls[place](_log(side)))

    # -- reading

    @precondition(lambda self: self.open)
    @rule(since=sinces, count=counts, size=st.sampled_from([None, 0, 100, 5000]))
    def read(self, since: int, count: int | None, size: int | None) -> None:
        self.both(lambda side: _log(side).read_since(since, count))
        self.both(lambda side: _log(side).read_entries(since, count, max_bytes=size))
        self.both(lambda side: _log(side).read_frames(since, size or 50))
        self.both(lambda side: _log(side).position(since))
        self.both(lambda side: _log(side).seek_floor_offset(since))

    @precondition(lambda self: self.open)
    @rule()
    def look(self) -> None:
        self.both(lambda side: list(_log(side)))
        self.both(lambda side: list(_log(side).tuples()))
        self.both(lambda side: _log(side).position())
        self.both(lambda side: _log(side).verify())
        names = (
            "current_lsn durable_lsn oldest_lsn current_term record_count size_bytes segments pruned_through recovery"
        )
        self.both(lambda side: [getattr(_log(side), name) for name in names.split()])
        counted = "appends appended_bytes rotations prunes reads"
        self.both(lambda side: [getattr(_log(side).stats(), name) for name in counted.split()])

    @precondition(lambda self: self.open)
    @rule(back=st.integers(-3, 120))
    def prune(self, back: int) -> None:
        self.both(lambda side: _log(side).prune_through(max(_log(side).current_lsn - back, 0)))

    # -- opening and closing

    @precondition(lambda self: not self.open)
    @rule(
        size=st.sampled_from([300, 300, 3000, 64 << 20, None]),
        recovery=st.sampled_from(["truncate", "truncate", "strict"]),
        before=st.sampled_from(
            ["", "", "harm", "harm", "harm", "harm", "harm and repair", "repair", "restart", "legacy"]
        ),
        data=st.data(),
    )
    def reopen(self, size: int | None, recovery: Any, before: str, data: st.DataObject) -> None:
        for each in before.split(" and "):
            if each:
                getattr(self, each)(data)
        self.sides[0].core, self.sides[1].core = self.sides[1].core, self.sides[0].core

        def call(side: _Side) -> Any:
            side.log = walspool.open(side.path, segment_bytes=size, recovery=recovery)
            return side.log.recovery

        self.open = self.both(call)[0] == "result"

    @precondition(lambda self: self.open)
    @rule()
    def close(self) -> None:
        self.look()
        self.both(lambda side: _log(side).close())
        self.open = False
        first, second = (side.files() for side in self.sides)
        assert list(first) == list(second)
        for name, data in first.items():
            assert data == second[name], name

    def repair(self, data: st.DataObject) -> None:
        dry, floor = data.draw(st.booleans()), data.draw(st.one_of(st.none(), st.integers(0, 200)))
        self.both(lambda side: Log.repair(side.path, dry_run=dry, lsn_floor=floor))

    def restart(self, data: st.DataObject) -> None:
        lsn, term = data.draw(st.integers(0, 100)), data.draw(st.integers(0, 4))
        self.both(lambda side: Log.restart_at(side.path, walspool.Position(term, lsn, 77)).close())

    # -- what happens to files while nobody looks

    def legacy(self, data: st.DataObject) -> None:
        """A file as the reference leaves them, in the place of whatever was there."""
        frames = st.lists(st.tuples(st.sampled_from([_v1, _v2, _v3, _wide]), steps, payloads), max_size=70)
        lsn, content = 1, b""
        for make, step, part in data.draw(frames):
            lsn = max(lsn + step, 0)
            content += make(lsn, part)
        content += data.draw(st.one_of(st.just(b""), st.binary(max_size=30), st.just(bytes(100))))
        for side in self.sides:
            shutil.rmtree(side.folder)
            side.folder.mkdir()
            Log.path_for(side.path).write_bytes(content)

    def harm(self, data: st.DataObject) -> None:
        """A flipped bit, a lost or added end, bytes put in, or a lost file; mostly in a log file."""
        names = [each for each in self.sides[0].files() if not each.endswith((".lock", ".spare", ".aside"))]
        logs = [each for each in names if each[-1].isdigit() or each.endswith(".wal")]
        name = data.draw(st.sampled_from([*logs, *logs, *logs, *names] or [""]))
        if not name:
            return
        old = (self.sides[0].folder / name).read_bytes()
        at, how = (
            int(data.draw(st.floats(0, 1)) * len(old)),
            data.draw(st.sampled_from(["flip", "flip", "cut", "cut", "add", "zeros", "insert", "lose"])),
        )
        added = data.draw(st.binary(min_size=1, max_size=40))
        for side in self.sides:
            path = side.folder / name
            if how == "lose":
                path.unlink()
            elif how == "flip" and at < len(old):
                path.write_bytes(old[:at] + bytes([old[at] ^ added[0]]) + old[at + 1 :])
            else:
                path.write_bytes(
                    {"cut": old[:at], "insert": old[:at] + added + old[at:], "zeros": old + bytes(99)}.get(
                        how, old + added
                    )
                )

    def teardown(self) -> None:
        if self.open:
            self.close()
        for side in self.sides:
            shutil.rmtree(side.folder)


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing depends on chance or on the clock."""
    for module in (inspection, repair, restart):
        monkeypatch.setattr(module, "new_spool_id", lambda: b"one and the same")
    monkeypatch.setattr(prune, "_now_ms", lambda: 1_600_000_000_000)
    before = walspool.core.name
    yield
    use_core(before)


def test_lockstep(fixed: None) -> None:
    given = "WALSPOOL_LOCKSTEP" in os.environ
    run_state_machine_as_test(
        Lockstep,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            derandomize=not given,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
