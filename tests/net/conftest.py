"""A server for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.net.kit import Served, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Without tokens."""
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    """With a token for each scope."""
    with serving(tmp_path, tokens=True) as found:
        yield found
