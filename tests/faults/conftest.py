"""Folders in memory for files by the thousand."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.lab.build import fast_folder


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A folder of the test's own, in memory where there is one."""
    with tempfile.TemporaryDirectory(prefix="walspool-lab-", dir=fast_folder()) as folder:
        yield Path(folder).resolve()
