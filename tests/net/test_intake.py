"""What has come of a stream waits in one buffer."""

from __future__ import annotations

import pytest

import walspool
from walspool.net.intake import BUFFER_BYTES, Intake

FRAME_BYTES = 37


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of 1,000 bytes, of 6 MiB, and of 2,000 bytes."""
    path = tmp_path_factory.mktemp("intake") / "app.db"
    with walspool.open(path) as log:
        for size in (1_000, 6 << 20, 2_000):
            log.append_next(bytes(size))
        return b"".join(bytes(log.read_frames(lsn, 1).data) for lsn in range(3))


def put(intake: Intake, data: bytes) -> int:
    """As much of it as there is room."""
    count = min(len(intake.room), len(data))
    intake.room[:count] = data[:count]
    intake.came(count)
    return count


def test_the_rest_waits_at_the_front(frames: bytes) -> None:
    intake = Intake()
    put(intake, frames[:1_500])
    intake.gone(1_000 + FRAME_BYTES)
    assert bytes(intake.held) == frames[1_037:1_500]
    put(intake, frames[1_500:1_600])
    assert bytes(intake.held) == frames[1_037:1_600]
    assert not intake.has_frame
    assert len(intake.room) == BUFFER_BYTES - (1_600 - 1_037)


@pytest.mark.parametrize("count", [0, 32, 33, 1_036])
def test_a_part_of_a_frame_is_none(frames: bytes, count: int) -> None:
    intake = Intake()
    put(intake, frames[:count])
    assert not intake.has_frame
    put(intake, frames[count:1_037])
    assert intake.has_frame


def test_a_frame_that_is_larger_gets_a_buffer_of_its_own_and_gives_it_back(frames: bytes) -> None:
    intake, at, large = Intake(), 1_037, (6 << 20) + FRAME_BYTES
    while not intake.has_frame:
        assert len(intake.room)
        at += put(intake, frames[at:])
    assert bytes(intake.held) == frames[1_037 : 1_037 + large]  # and nothing of the next
    intake.gone(large)
    assert not len(intake.held)
    assert len(intake.room) == BUFFER_BYTES


def test_what_says_that_it_is_too_large_is_looked_at_at_once(frames: bytes) -> None:
    intake = Intake()
    put(intake, frames[:29] + b"\xff\xff\xff\xff")
    assert intake.has_frame


def test_forgetting(frames: bytes) -> None:
    intake = Intake()
    put(intake, frames[:500])
    intake.clear()
    assert not len(intake.held)
    put(intake, frames[:1_037])
    assert bytes(intake.held) == frames[:1_037]
