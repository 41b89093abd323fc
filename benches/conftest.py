"""Options and fixtures of the benches: where, how often, on which cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model import Case, Contender, available_cores, use_core
from place import DEFAULT_FOLDER, NotADisk, own_folder, place_of, scratch
from pytest_benchmark.fixture import BenchmarkFixture

from walspool import core


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--dir``, ``--core`` and ``--rounds``."""
    group = parser.getgroup("walspool")
    group.addoption("--dir", type=Path, default=DEFAULT_FOLDER, help="a folder on the disk to measure")
    group.addoption("--core", choices=["rust", "python", "both"], default="both", help="the cores to measure")
    group.addoption("--rounds", type=int, default=5, help="runs of each contender")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The disk, its mount options, and the cores."""
    try:
        where = str(place_of(config.getoption("--dir")))
    except NotADisk as error:
        raise pytest.UsageError(str(error)) from None
    return [*where.splitlines(), f"cores: {', '.join(_cores(config))}"]


def _cores(config: pytest.Config) -> list[str]:
    wish = config.getoption("--core")
    if wish == "both":
        return available_cores()
    if wish not in available_cores():
        raise pytest.UsageError(f"the {wish} core is not installed")
    return [wish]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One bench for each core and each limit of a case: ``bench_x(case, contender, …)`` over its module's ``CASES``."""
    cases: list[Case] = metafunc.module.CASES
    metafunc.parametrize(
        ("case", "core_name", "contender"),
        [
            pytest.param(case, core_name, contender, id=f"{case.name}: {label}")
            for case in cases
            for label, core_name, contender in _contenders(case, _cores(metafunc.config))
        ],
    )


def _contenders(case: Case, cores: list[str]) -> Iterator[tuple[str, str | None, Contender]]:
    for name in cores:
        yield f"walspool {name}", name, case.walspool
    for label, limit in case.limits.items():
        yield label, None, limit


@pytest.fixture(scope="session")
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder on the disk that is measured; what is built once for all lies in it."""
    with scratch(request.config.getoption("--dir")) as folder:
        yield folder


@pytest.fixture
def measured(
    disk: Path,
    case: Case,
    core_name: str | None,
    contender: Contender,
    benchmark: BenchmarkFixture,
    pytestconfig: pytest.Config,
) -> Iterator[Callable[[], None]]:
    """Measures one contender, in a folder of its own; the cases' amounts and rates go into the report's extra facts."""
    before = core.name
    use_core(core_name or before)
    benchmark.group = case.name

    def measure() -> None:
        with own_folder(disk) as folder, contender(folder) as each:
            rounds = pytestconfig.getoption("--rounds")
            flushed = each.flushed() if each.flushed is not None else (0, 0)
            benchmark.pedantic(each.run, setup=each.prepare, rounds=rounds, iterations=1)  # type: ignore[no-untyped-call]
            benchmark.extra_info["amount"] = each.amount
            benchmark.extra_info["unit"] = case.unit
            if each.seconds is not None:
                benchmark.extra_info["seconds_counted"] = each.seconds()
            if each.flushed is not None:
                appends, flushes = each.flushed()
                benchmark.extra_info["records_per_flush"] = (appends - flushed[0]) / (flushes - flushed[1])

    yield measure
    use_core(before)
