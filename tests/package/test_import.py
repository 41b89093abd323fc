"""What importing walspool costs, and what it takes along: nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import walspool
from tests.package.sources import CLONE
from tests.spool.kit import environment

_LOADED = "import json, sys; before = set(sys.modules)\n{}\nprint(json.dumps(sorted(set(sys.modules) - before)))"


def _loads(core: ModuleType, program: str, where: Path) -> set[str]:
    """The modules that a program loads in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", _LOADED.format(program)],
        env=environment(core.name),
        cwd=where,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(json.loads(run.stdout))


def test_import_loads_nothing_that_is_not_used(core: ModuleType, tmp_path: Path) -> None:
    loaded = _loads(core, "import walspool", tmp_path)
    assert {each for each in loaded if each.startswith("walspool")} == {"walspool"}
    assert loaded.isdisjoint({"asyncio", "logging", "threading", "typing"})


def test_modules_that_users_meet_need_no_import_of_their_own(core: ModuleType, tmp_path: Path) -> None:
    program = "import walspool; walspool.core.crc32(b''); walspool.net.Follower; walspool.metrics.Collector"
    assert "walspool.net.follower" in _loads(core, program, tmp_path)


def test_an_error_class_does_not_load_a_core(core: ModuleType, tmp_path: Path) -> None:
    loaded = _loads(core, "import walspool; walspool.SpoolLocked", tmp_path)
    assert {each for each in loaded if each.startswith("walspool")} == {"walspool", "walspool.errors"}


def test_the_base_needs_nothing_but_the_standard_library(core: ModuleType, tmp_path: Path) -> None:
    program = (
        "import walspool\n"
        "with walspool.open('app.db') as log:\n"
        "    log.append(1, b'x'); list(log); log.prune_through(1); log.verify(); log.stats()"
    )
    loaded = {each.partition(".")[0] for each in _loads(core, program, tmp_path)}
    assert loaded - {"walspool"} <= set(sys.stdlib_module_names)
    assert loaded.isdisjoint({"asyncio", "ctypes", "secrets", "socket"})


def test_an_open_loads_nothing_that_takes_long_and_is_not_used(core: ModuleType, tmp_path: Path) -> None:
    loaded = _loads(core, "import walspool; walspool.open('app.db').close()", tmp_path)
    assert loaded.isdisjoint({"asyncio", "ctypes", "logging", "select", "subprocess", "walspool.spool.reports"})
    if core.name == "rust":
        assert loaded.isdisjoint({"dataclasses", "inspect", "walspool.changes"})


def test_an_open_compiles_no_text(core: ModuleType, tmp_path: Path) -> None:
    program = (
        "import builtins, walspool\n"
        "texts, known = [], compile\n"
        "builtins.compile = lambda source, *given, **more: (\n"
        "    isinstance(source, str) and texts.append(source), known(source, *given, **more))[1]\n"
        "walspool.open('app.db').close()\n"
        "assert not texts, texts"
    )
    assert "walspool.spool.log" in _loads(core, program, tmp_path)


def test_a_follower_needs_nothing_that_a_server_does(core: ModuleType, tmp_path: Path) -> None:
    loaded = _loads(core, "import walspool.net, walspool.net.sink, walspool.net.source, walspool.net.auth", tmp_path)
    assert {each.partition(".")[0] for each in loaded} - {"walspool"} <= set(sys.stdlib_module_names)


def test_a_wish_for_a_core_is_met_or_refused(core: ModuleType, tmp_path: Path) -> None:
    assert core.__name__ in _loads(core, "import walspool.core", tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", "import walspool.core"],
        env=environment("gold"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "ImportError: WALSPOOL_CORE is 'gold'; it must be 'rust' or 'python'" in run.stderr


def test_the_version_stands_in_one_place() -> None:
    crate = tomllib.loads((CLONE / "Cargo.toml").read_text())["package"]["version"]
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert "version" in project["dynamic"]
    installed = {each.version for each in metadata.distributions(name="walspool")}
    assert walspool.__version__ == (crate if installed else "unknown")
    assert installed <= {crate}
    assert project["dependencies"] == []
