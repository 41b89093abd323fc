"""Two programs under one replica id, over real logs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.net.test_ends import Ends, kind
from walspool.net.messages import Registration, WalRequest
from walspool.net.protocol import Refused


@pytest.fixture
def ends(core: ModuleType, tmp_path: Path) -> Iterator[Ends]:
    """A primary with ten records, and a follower with none."""
    found = Ends(tmp_path)
    found.write(10)
    yield found
    found.close()


def test_whoever_loads_a_snapshot_is_live_until_it_is_sent(ends: Ends) -> None:
    ends.snapshots(10)
    ends.register()
    session = ends.sink.following.session
    ends.source.load(WalRequest("a"), session, 0.0)
    other = Registration("a", None, "i-2")
    with pytest.raises(Refused) as caught:
        ends.source.register(other, 1_000.0)
    assert kind(caught) == (409, "second-instance")
    ends.source.closed("a", session, 1_000.0)
    assert ends.source.register(other, 2_000.0)["session"]
    ends.snapshots(11)  # which can't be used
    ends.register()
    with pytest.raises(Refused):
        ends.source.load(WalRequest("a"), ends.sink.following.session, 0.0)
    assert ends.source.register(other, 1_000.0)["session"]
