"""One fixture runs a test on both cores; a core that is missing fails, it is never skipped."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import walspool
import walspool.core

# A shell that runs this in the background leaves Ctrl-C ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

CORES = {"rust": "walspool._native", "python": "walspool.core.pure"}
#: With a wish in the environment only that core is tested, as where the extension is absent.
TESTED = [os.environ["WALSPOOL_CORE"]] if os.environ.get("WALSPOOL_CORE") else list(CORES)


def pytest_configure(config: pytest.Config) -> None:
    """Put temporary folders into memory where there is room: thousands of small logs, each synced, wear a disk."""
    memory = Path("/dev/shm")
    if config.option.basetemp is None and memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30:
        config.option.basetemp = tempfile.mkdtemp(prefix="walspool-tests-", dir=memory)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


GOLDEN = Path(__file__).parent / "data" / "golden"


def core_module(name: str) -> ModuleType:
    """The module of a core; where it can't be imported the test fails with words."""
    try:
        return importlib.import_module(CORES[name])
    except ImportError as error:
        pytest.fail(f"the {name} core can't be imported: {error}; WALSPOOL_CORE=python tests the pure one alone")


def use_core(name: str) -> ModuleType:
    """Make the whole package use a core, in this process, from now on."""
    module = core_module(name)
    walspool.core._use(module)
    for each in ("Entry", "ArrowStream"):
        walspool.__dict__.pop(each, None)
    return module


@pytest.fixture(params=TESTED)
def core(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The core under test; ``walspool`` uses it as long as the test runs."""
    before = walspool.core.name
    yield use_core(request.param)
    use_core(before)
