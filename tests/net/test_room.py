"""Records on their way cost so much memory together, and no more."""

from __future__ import annotations

import pytest

from walspool.net.protocol import Refused
from walspool.net.records import MAX_HELD_BYTES, Room


def test_what_has_no_room_is_refused_until_others_are_gone() -> None:
    room = Room()
    with room.one() as first:
        first(MAX_HELD_BYTES - 10)
        with room.one() as second:
            second(10)
            with pytest.raises(Refused, match="128 MiB of records are on their way; try again later") as refused:
                second(1)
            assert (refused.value.problem.status, refused.value.problem.kind) == (503, "busy")
            with pytest.raises(Refused):
                first(1)
        first(10)
    with room.one() as third:
        third(MAX_HELD_BYTES)


def test_what_is_larger_than_all_the_room_has_it_alone() -> None:
    room = Room()
    with room.one() as large:
        large(MAX_HELD_BYTES)
        large(MAX_HELD_BYTES)
        with room.one() as other, pytest.raises(Refused):
            other(1)
    with room.one() as small:
        small(1)
        with room.one() as large, pytest.raises(Refused):
            large(MAX_HELD_BYTES)
