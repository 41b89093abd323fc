"""The command in this process, and logs for it to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

import walspool
from tests.cli.shell import Answer, Command
from walspool.cli.running import run


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run the command in this process."""

    def call(*arguments: str | Path) -> Answer:
        capfdbinary.readouterr()
        code = run([str(each) for each in arguments])
        out, err = capfdbinary.readouterr()
        return Answer(code, out.decode(), err.decode())

    return call


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def log(data_path: Path) -> Path:
    """A log of five records: text, several lines in one, no text, nothing, and a change record."""
    change = walspool.ChangeRecord(
        term=1,
        lsn=5,
        timestamp=0,
        operation=walspool.ChangeOperation.INSERT,
        collection="orders",
        entity_id=7,
        entity_kind="row",
    )
    with walspool.open(data_path) as spool:
        spool.append_many(
            [(1, b"one"), (2, b"two\nlines\\"), (3, b"\xff\x00"), (4, b""), (5, change.encode())],
            timestamp_ms=1_700_000_000_123,
        )
    return data_path


@pytest.fixture
def long_log(data_path: Path) -> Path:
    """A hundred records in several segments."""
    with walspool.open(data_path, segment_bytes=1000) as spool:
        for number in range(1, 101):
            spool.append(number, b"record %d" % number)
        assert len(spool.segments) > 3
    return data_path
