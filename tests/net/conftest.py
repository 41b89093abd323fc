"""A server for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.net.kit import Served, serving


@pytest.fixture
def served(core: ModuleType, tmp_path: Path) -> Iterator[Served]:
    """Without tokens, on both cores."""
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    """With a token for each scope."""
    with serving(tmp_path, tokens=True) as found:
        yield found
