"""``WalBuffer``: order, bounds, shared payloads, lookup."""

from __future__ import annotations

import array
import itertools
import threading
from bisect import bisect_right
from typing import Any

import pytest

import walspool
import walspool.replication.buffer as buffer_module
from walspool import WalBuffer
from walspool.errors import LsnOrderError, PayloadTooLarge


def filled(lsns: range | list[int], **bounds: int) -> WalBuffer:
    """A buffer to which these records were appended."""
    buffer = WalBuffer(**bounds)
    for lsn in lsns:
        buffer.append(lsn, b"record %d" % lsn)
    return buffer


def lsns(buffer: WalBuffer, since: int = 0, most: int | None = None) -> list[int]:
    """The LSNs of what a read gives."""
    return [lsn for lsn, _ in buffer.read_since(since, most)]


def test_records_come_back_in_order_from_above_since() -> None:
    """5.R1: append, read_since, current_lsn, oldest_lsn."""
    buffer = WalBuffer()
    assert (buffer.current_lsn, buffer.oldest_lsn, len(buffer), buffer.read_since(0)) == (0, None, 0, [])
    buffer.append(3, b"three")
    buffer.append(7, bytearray(b"seven"))
    assert buffer.read_since(0) == [(3, b"three"), (7, b"seven")]
    assert buffer.read_since(2) == buffer.read_since(0)
    assert buffer.read_since(3) == buffer.read_since(6) == [(7, b"seven")]
    assert buffer.read_since(7) == buffer.read_since(2**64 - 1) == []
    assert buffer.read_since(0, 1) == [(3, b"three")]
    assert buffer.read_since(0, 0) == []
    assert (buffer.current_lsn, buffer.oldest_lsn, len(buffer)) == (7, 3, 2)


def test_every_reader_gets_the_same_payload_objects() -> None:
    """5.R1: read_since_shared gives the very same payload objects to every reader."""
    buffer = filled(range(1, 20))
    first, second = buffer.read_since_shared(4), buffer.read_since_shared(4)
    assert first == buffer.read_since(4)
    assert all(a is b for (_, a), (_, b) in zip(first, second, strict=True))
    assert [lsn for lsn, _ in buffer.read_since_shared(4, 2)] == [5, 6]


def test_what_was_appended_does_not_change_with_its_buffer() -> None:
    """5.R1: the payload is the bytes at the time of the append."""
    buffer, data = WalBuffer(), bytearray(b"before")
    buffer.append(1, data)
    data[:] = b"behind"
    assert buffer.read_since(0) == [(1, b"before")]


def test_the_current_lsn_goes_forward_only() -> None:
    """5.R1: set_current_lsn only forward; what comes next lies behind it."""
    buffer = filled([1, 2])
    buffer.set_current_lsn(1)
    assert buffer.current_lsn == 2
    buffer.set_current_lsn(9)
    assert (buffer.current_lsn, buffer.oldest_lsn, lsns(buffer)) == (9, 1, [1, 2])
    with pytest.raises(LsnOrderError) as caught:
        buffer.append(9, b"again")
    assert (caught.value.lsn, caught.value.last_lsn) == (9, 9)
    buffer.append(10, b"next")
    assert lsns(buffer) == [1, 2, 10]


def test_a_prune_drops_what_is_at_or_below_and_keeps_the_current_lsn() -> None:
    """5.R1: prune_through."""
    buffer = filled(range(1, 11))
    buffer.prune_through(0)
    assert len(buffer) == 10
    buffer.prune_through(4)
    assert (lsns(buffer), buffer.oldest_lsn, len(buffer)) == ([5, 6, 7, 8, 9, 10], 5, 6)
    buffer.prune_through(2)
    assert buffer.oldest_lsn == 5
    buffer.prune_through(1000)
    assert (lsns(buffer), len(buffer), buffer.current_lsn) == ([], 0, 10)
    assert buffer.oldest_lsn is None
    buffer.append(11, b"next")
    assert lsns(buffer) == [11]


def test_a_prune_between_two_lsns_keeps_the_one_behind() -> None:
    """5.R1: prune_through an LSN that no record has."""
    buffer = filled([10, 20, 30])
    buffer.prune_through(29)
    assert lsns(buffer) == [30]


def test_the_default_capacity() -> None:
    """5.R2: 100 000 records; 5.P2: and 256 MiB."""
    buffer = WalBuffer()
    assert (buffer.capacity, buffer.max_bytes) == (100_000, 256 << 20)
    for lsn in range(1, 100_001):
        buffer.append(lsn, b"")
    assert (len(buffer), buffer.oldest_lsn) == (100_000, 1)
    buffer.append(100_001, b"")
    assert (len(buffer), buffer.oldest_lsn) == (100_000, 2)


def test_the_oldest_leave_when_it_is_full() -> None:
    """5.P2: the capacity is real."""
    buffer = filled(range(1, 101), capacity=7)
    assert (lsns(buffer), len(buffer)) == ([94, 95, 96, 97, 98, 99, 100], 7)
    assert (buffer.oldest_lsn, buffer.current_lsn) == (94, 100)


def test_the_oldest_leave_when_their_bytes_are_too_many() -> None:
    """5.P2: also by a byte bound."""
    buffer = WalBuffer(max_bytes=10)
    for lsn, size in ((1, 4), (2, 6), (3, 1)):
        buffer.append(lsn, bytes(size))
    assert lsns(buffer) == [2, 3]
    buffer.append(4, bytes(3))
    assert lsns(buffer) == [2, 3, 4]
    buffer.append(5, bytes(10))
    assert lsns(buffer) == [5]
    buffer.append(6, bytes(11))
    assert lsns(buffer) == [6]  # the newest stays, or a replica would never get it from here
    buffer.append(7, b"")
    assert lsns(buffer) == [7]
    buffer.prune_through(7)
    for lsn in range(8, 18):
        buffer.append(lsn, b"x")
    assert lsns(buffer) == list(range(8, 18))


def test_looking_up_an_lsn_takes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """5.P3: lookup by LSN is a binary search, wherever the LSN lies."""
    compared = 0

    class Counted(int):
        def __lt__(self, other: int) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < int(other)

    def bisect(ordered: list[int], value: int, low: int = 0) -> int:
        return bisect_right(ordered, Counted(value), low)

    buffer = filled(range(1, 50_001))
    monkeypatch.setattr(buffer_module, "bisect_right", bisect)
    for since in (0, 25_000, 49_990):
        compared = 0
        assert lsns(buffer, since, 3) == [since + 1, since + 2, since + 3]
        assert 0 < compared <= 17


def test_prunes_and_appends_by_turns_agree_with_a_plain_list() -> None:
    """5.R1, 5.P2: whatever the order, a buffer holds what a list would."""
    buffer, model = WalBuffer(capacity=50), list[tuple[int, bytes]]()
    sizes = itertools.cycle([1, 3, 2, 40, 5])
    lsn = 0
    for turn in range(400):
        for _ in range(next(sizes)):
            lsn += 1 + turn % 3
            buffer.append(lsn, b"%d" % lsn)
            model.append((lsn, b"%d" % lsn))
        model = model[-50:]
        if turn % 4 == 3:
            cut = lsn - turn % 29
            buffer.prune_through(cut)
            model = [each for each in model if each[0] > cut]
        for since in (0, lsn - 60, lsn - 7, lsn):
            since = max(since, 0)
            assert buffer.read_since(since, 9) == [each for each in model if each[0] > since][:9]
        assert (len(buffer), buffer.oldest_lsn) == (len(model), model[0][0] if model else None)


def test_readers_beside_a_writer_see_no_holes() -> None:
    """5.R1: records come in order, also while others append and prune."""
    buffer, failures = WalBuffer(capacity=100), list[list[int]]()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found = lsns(buffer)
            if found and found != list(range(found[0], found[-1] + 1)):
                failures.append(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for each in readers:
        each.start()
    for lsn in range(1, 5_001):
        buffer.append(lsn, b"x")
        if lsn % 70 == 0:
            buffer.prune_through(lsn - 30)
    done.set()
    for each in readers:
        each.join()
    assert failures == []


@pytest.mark.parametrize("bad", [0, 5, 4])
def test_an_lsn_not_above_the_last_is_refused(bad: int) -> None:
    """5.R1: records are in order of their LSNs."""
    buffer = filled([5])
    with pytest.raises(LsnOrderError):
        buffer.append(bad, b"x")
    assert (lsns(buffer), buffer.current_lsn) == ([5], 5)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda buffer: buffer.append(-1, b"x"), ValueError),
        (lambda buffer: buffer.append(2**64, b"x"), ValueError),
        (lambda buffer: buffer.append(True, b"x"), TypeError),
        (lambda buffer: buffer.append("9", b"x"), TypeError),
        (lambda buffer: buffer.append(9.0, b"x"), TypeError),
        (lambda buffer: buffer.append(9, "text"), TypeError),
        (lambda buffer: buffer.append(9, None), TypeError),
        (lambda buffer: buffer.append(9, memoryview(b"abcd")[::2]), ValueError),
        (lambda buffer: buffer.read_since(-1), ValueError),
        (lambda buffer: buffer.read_since(0, -1), ValueError),
        (lambda buffer: buffer.read_since(0, 1.0), TypeError),
        (lambda buffer: buffer.read_since_shared(-1), ValueError),
        (lambda buffer: buffer.prune_through(2**64), ValueError),
        (lambda buffer: buffer.prune_through(None), TypeError),
        (lambda buffer: buffer.set_current_lsn(-1), ValueError),
        (lambda buffer: buffer.set_current_lsn(False), TypeError),
    ],
)
def test_a_bad_argument_changes_nothing(call: Any, kind: type[Exception]) -> None:
    buffer = filled([5])
    with pytest.raises(kind):
        call(buffer)
    assert (lsns(buffer), buffer.current_lsn) == ([5], 5)


def test_a_payload_above_the_limit_of_the_disk_is_refused_here_too() -> None:
    buffer = filled([5])
    with pytest.raises(PayloadTooLarge) as caught:
        buffer.append(6, memoryview(bytearray((256 << 20) + 1)))
    assert (caught.value.size, caught.value.limit) == ((256 << 20) + 1, 256 << 20)
    assert lsns(buffer) == [5]


def test_any_contiguous_buffer_is_data() -> None:
    buffer = WalBuffer()
    buffer.append(1, array.array("H", [1, 2]))
    buffer.append(2, memoryview(b"abc")[1:])
    assert buffer.read_since(0) == [(1, array.array("H", [1, 2]).tobytes()), (2, b"bc")]


@pytest.mark.parametrize("bounds", [{"capacity": 0}, {"max_bytes": 0}, {"capacity": -1}])
def test_a_bound_must_be_at_least_one(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bounds))):
        WalBuffer(**bounds)


def test_a_bound_must_be_an_int() -> None:
    with pytest.raises(TypeError, match="capacity"):
        WalBuffer(capacity=1.5)  # type: ignore[arg-type]
    assert walspool.WalBuffer is WalBuffer
