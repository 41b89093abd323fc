"""Any bytes, any calls: each core comes to what the pure one comes to."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.core import kit
from walspool.core import pure
from walspool.errors import WalspoolError

LSN = st.integers(0, 40) | st.sampled_from([2**64 - 1, 2**63])
TERM = st.integers(0, 3) | st.just(2**64 - 1)
STAMP = st.sampled_from([0, 1, 24, 1000])
EMBEDDED = st.builds(kit.log, st.integers(1, 30), st.integers(1, 30))
CHANGE = st.sampled_from([b'{"operation":"insert","term":3}', b'{"operation":"insert"}', b'{"term":3}'])
PAYLOAD = st.binary(max_size=30) | EMBEDDED | CHANGE
FRAME = st.one_of(
    st.builds(kit.v3, LSN, PAYLOAD, TERM, STAMP),
    st.builds(kit.wide, LSN, PAYLOAD, TERM, STAMP, st.integers(0, 2)),
    st.builds(kit.v2, LSN, PAYLOAD, STAMP),
    st.builds(kit.v1, LSN, PAYLOAD),
    st.builds(kit.ambiguous, LSN, st.binary(min_size=1, max_size=12)),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A frame that was cut, flipped, or overwritten in part."""
    frame = bytearray(draw(FRAME))
    at = draw(st.integers(0, len(frame) - 1))
    match draw(st.integers(0, 3)):
        case 0:
            del frame[at:]
        case 1:
            frame[at] ^= 1 << draw(st.integers(0, 7))
        case 2:
            end = draw(st.integers(at, len(frame)))
            frame[at:end] = bytes(end - at)
        case _:
            frame[4:5] = draw(st.binary(min_size=1, max_size=1))
    return bytes(frame)


JUNK = st.one_of(
    st.binary(max_size=8),
    st.just(b"RDLW"),
    st.just(b"RDL"),
    st.integers(0, 60).map(bytes),
)
RUN = st.builds(kit.log, st.integers(1, 20), st.integers(1, 40))
SOUP = st.lists(st.one_of(FRAME, FRAME, RUN, damaged(), JUNK), max_size=8).map(b"".join)
QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder for the module, as hypothesis calls a test many times."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def opened(core: ModuleType, folder: Path, data: bytes) -> tuple[Any, Path]:
    path = folder / f"soup-{core.name}"
    path.write_bytes(data)
    return kit.open_file(core, path), path


def outcome(work: Any) -> Any:
    """The result, or the error as plain values."""
    try:
        return work()
    except WalspoolError as error:
        known = {name: value for name, value in error.facts.items() if name != "path"}
        return type(error).__name__, known, error.appended_through
    except (TypeError, ValueError, OSError) as error:
        return type(error).__name__, str(error)


def readings(core: ModuleType, file: Any, path: Path, report: Any, since: int) -> list[Any]:
    def reader() -> Any:
        return core.Reader(file, path, report, since_lsn=since)

    target = path.with_name(f"copy-{core.name}")
    target.unlink(missing_ok=True)
    copied = core.copy_frames(reader(), kit.open_file(core, target), target, stamp_ms=5)
    return [
        [kit.fields(entry) for entry in kit.flat(reader().entry_runs())],
        reader().read_tuples(reencode=True),
        reader().read_frames(200),
        reader().read_frames(1 << 20),
        kit.facts(copied),
        target.read_bytes(),
    ]


@QUIET
@given(
    data=SOUP,
    base_lsn=st.sampled_from([0, 0, 7]),
    mark=st.none() | LSN,
    until_lsn=st.none() | LSN,
    since=st.integers(0, 20),
    cut=st.integers(0, 200),
)
@example(kit.wide(5) + kit.ambiguous(9), 0, None, None, 0, 0)
@example(kit.v2(1, b"", 0) + kit.wide(1, b"", 0, 1000, 2), 0, None, None, 0, 0)
@example(kit.log(1, 3) + kit.ambiguous(1000) + kit.ambiguous(900), 0, None, None, 0, 0)
def test_any_bytes(
    core: ModuleType,
    folder: Path,
    data: bytes,
    base_lsn: int,
    mark: int | None,
    until_lsn: int | None,
    since: int,
    cut: int,
) -> None:
    found = []
    for each in (pure, core):
        file, path = opened(each, folder, data)
        whole = each.scan_file(file, path, base_lsn=base_lsn, mark=mark, until_lsn=until_lsn)
        read = readings(each, file, path, whole, since)
        path.write_bytes(data[:cut])
        first = each.scan_file(file, path, base_lsn=base_lsn, mark=mark, until_lsn=until_lsn)
        path.write_bytes(data)
        resumed = each.scan_file(file, path, mark=mark, until_lsn=until_lsn, resume=first)
        sidecar = each.encode_sidecar(bytes(16), 3, whole)
        decoded = kit.facts(each.decode_sidecar(sidecar)[2])
        found.append([kit.facts(whole), read, kit.facts(first), kit.facts(resumed), sidecar, decoded])
        assert path.read_bytes() == data
    assert found[0] == found[1]


@QUIET
@given(data=SOUP, offset=st.integers(0, 60))
def test_decoding_any_bytes(core: ModuleType, data: bytes, offset: int) -> None:
    def decoded(each: ModuleType) -> Any:
        entry, end = each.decode_frame(data, offset)
        return kit.fields(entry), end

    assert outcome(lambda: decoded(core)) == outcome(lambda: decoded(pure))


JSON_TEXT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "operation": st.sampled_from(["insert", "update", "delete", "refresh", "other", 5, None]),
        "term": JSON_TEXT | st.integers(0, 2**65) | st.floats(0, 2**65),
        "entity_bytes_hex": st.sampled_from(["", "00", "0", "zz", " 00", "FF", 5, None]),
        "refresh_records_hex": st.lists(st.sampled_from(["", "00", "0", 5, None]), max_size=3) | JSON_TEXT,
        "metadata": JSON_TEXT,
        "other": JSON_TEXT,
    },
)


@st.composite
def change_text(draw: st.DrawFn) -> bytes:
    """Something like a change record, perhaps with a few bytes of it changed."""
    text = json.dumps(draw(FIELDS), ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 1))] = draw(st.sampled_from(list(b'{}[]",:\\u0dD8.e-+ \x00\xff'))).to_bytes()
    return bytes(data)


@settings(QUIET, max_examples=300)
@given(data=change_text() | st.binary(max_size=40))
def test_any_payload(core: ModuleType, data: bytes) -> None:
    assert core.change_term(data) == pure.change_term(data)


ITEM = st.tuples(st.none() | LSN, PAYLOAD | st.just("text"), st.none() | TERM, st.sampled_from([0, 1000]))
CALL = st.one_of(
    st.tuples(st.just("append"), ITEM),
    st.tuples(st.just("many"), st.lists(st.tuples(LSN, PAYLOAD | st.just(5)), max_size=4), st.none() | TERM),
    st.tuples(st.just("next"), st.lists(PAYLOAD, max_size=70), st.none() | TERM),
    st.tuples(st.just("frames"), SOUP, st.integers(0, 10)),
    st.tuples(st.just("each"), st.lists(ITEM, max_size=5)),
    st.tuples(st.sampled_from(["seal", "unseal", "swap", "summary", "close"])),
    st.tuples(st.just("floor"), LSN),
)


class Side:
    """One core's writer, and what came of each call."""

    def __init__(self, core: ModuleType, folder: Path, content: bytes, segment_bytes: int | None) -> None:
        self.core = core
        self.folder = folder / core.name
        self.folder.mkdir(exist_ok=True)
        self.files = 0
        self.writer = kit.Writer(core, self.folder, content, segment_bytes=segment_bytes, fill_after=2)

    def do(self, call: tuple[Any, ...]) -> Any:
        """The outcome of one call, and what it left behind."""
        result = outcome(lambda: self._do(*call))
        appender = self.writer.appender
        state = (
            appender.durable_lsn,
            appender.current_term,
            appender.poisoned,
            appender.closed,
            kit.facts(appender.summary()),
            self.writer.path.read_bytes(),
            self.writer.mark(),
        )
        return result, state

    def _do(self, name: str, *args: Any) -> Any:
        appender = self.writer.appender
        match name:
            case "append":
                return appender.append(*args[0])
            case "many":
                return appender.append_many(args[0], args[1], 1000, 0)
            case "next":
                return appender.append_next_many(args[0], args[1], 1000, 0)
            case "frames":
                return appender.append_frames(args[0], min(args[1], len(args[0])))
            case "each":
                results = kit.append_each(self.core, appender, args[0])
                return [outcome(lambda each=each: self._or_raise(each)) for each in results]
            case "seal":
                return kit.facts(appender.seal())
            case "swap":
                return self._swap()
            case "floor":
                return appender.raise_floor(args[0])
            case "summary":
                return kit.facts(appender.summary())
            case _:
                return getattr(appender, name)()

    @staticmethod
    def _or_raise(result: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    def _swap(self) -> None:
        self.files += 1
        path = self.folder / f"log-{self.files}"
        path.write_bytes(b"")
        file = kit.open_file(self.core, path)
        report = self.core.scan_file(file, path, base_lsn=self.writer.appender.summary().highest_lsn)
        self.writer.appender.swap(file, path, report)
        self.writer.path = path

    def stats(self) -> dict[str, Any]:
        """Counters that do not depend on the clock."""
        stats = self.writer.appender.stats()
        assert sum(stats["sync_us_histogram"]) == stats["flushes"]
        return {name: value for name, value in stats.items() if not name.startswith("sync")}


@QUIET
@given(
    calls=st.lists(CALL, max_size=12),
    content=st.sampled_from([b"", kit.log(1, 3), kit.v1(2) + kit.wide(4, term=2)]),
    segment_bytes=st.sampled_from([None, 300, 5000]),
)
def test_any_calls(
    core: ModuleType, folder: Path, calls: list[tuple[Any, ...]], content: bytes, segment_bytes: int | None
) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as left, tempfile.TemporaryDirectory(dir=folder) as right:
        one = Side(pure, Path(left), content, segment_bytes)
        other = Side(core, Path(right), content, segment_bytes)
        for call in calls:
            assert other.do(call) == one.do(call)
        assert other.stats() == one.stats()
        for side in (one, other):
            side.writer.appender.close()
        assert other.writer.path.read_bytes() == one.writer.path.read_bytes()
