"""The SQLite examples: killed at each step, the service and its read copies still say what the log says."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import walspool
from tests.examples.victims import service
from tests.package.sources import CLONE
from tests.spool.kit import Program, environment

Change = tuple[str, str, int]
#: What a database holds: the balances, the refused changes, and the LSN up to which it has come.
State = tuple[dict[str, int], dict[int, str], int]

KILLS = int(os.environ.get("WALSPOOL_KILLS", "10"))
RANDOM_KILLS = KILLS // 5
LIMIT: int = service.LIMIT
#: Some that are carried out, some refused when the other account has its part already, and some before that.
CHANGES: list[Change] = [
    ("-", "ann", 10),
    ("ann", "bob", 3),
    ("bob", "cy", LIMIT),
    ("-", "ann", LIMIT),
    ("bob", "-", 1),
    ("dora", "ann", 5),
    ("ann", "ann", 2),
    ("bob", "ann", 1),
    ("cy", "bob", 1),
    ("bob", "cy", 1),
]
#: Where a process can die on the way of a change from the caller into the log, the database, and back.
WAY = {"append", "appended", "SELECT applied", "BEGIN", "UPDATE applied", "SAVEPOINT"}
WAY |= {"INSERT accounts", "UPDATE accounts", "COMMIT", "SELECT refused"}


def model(changes: list[Change]) -> State:
    """What must come of a log, without SQLite."""
    balances: dict[str, int] = {}
    refused: dict[int, str] = {}
    for lsn, (source, target, amount) in enumerate(changes, 1):
        trial = dict(balances)
        for name, part in ((target, amount), (source, -amount)):
            trial[name] = trial.get(name, 0) + part
            if abs(trial[name]) > LIMIT or (trial[name] < 0 and name != "-"):
                refused[lsn] = "CHECK constraint failed: covered"
                break
        else:
            balances = trial
    return balances, refused, len(changes)


def logged(folder: Path) -> list[Change]:
    """The changes that the log has; their LSNs are 1, 2, 3 and so on."""
    with walspool.open(folder / "accounts.db", read_only=True) as log:
        entries = log.read_entries()
    assert [entry.lsn for entry in entries] == list(range(1, len(entries) + 1))
    changes = (json.loads(entry.payload) for entry in entries)
    return [(change["from"], change["to"], change["amount"]) for change in changes]


def state(database: Path) -> State:
    """What a database holds, read past the example's code; one without tables holds nothing."""
    connection = sqlite3.connect(database)
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone() != (3,):
            return {}, {}, 0
        balances = dict(connection.execute("SELECT name, balance FROM accounts"))
        refused = dict(connection.execute("SELECT lsn, reason FROM refused"))
        return balances, refused, sum(lsn for (lsn,) in connection.execute("SELECT lsn FROM applied"))
    finally:
        connection.close()


def caught_up(folder: Path, database: Path, *, read_only: bool) -> State:
    """The state after the example was opened on a database, and closed."""
    with service.open_accounts(folder, database, read_only=read_only):
        pass
    return state(database)


@dataclass
class Life:
    """What a process said before it ended."""

    steps: list[str] = field(default_factory=list)
    asked: list[Change] = field(default_factory=list)
    answered: list[int | str] = field(default_factory=list)
    ended: int | None = None


class Victims:
    """Has processes run and killed."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, *, kill_at: int = 0, kill_after_lines: int | None = None, **order: Any) -> Life:
        """One process's life; killed by itself at a step, or from here once it has said so many lines."""
        self._program.tell(json.dumps({"kill_at": kill_at, **order}, default=str))
        life, lines, process = Life(), 0, 0
        while life.ended is None:
            kind, *words = json.loads(self._program.line())
            if kind == "started":
                process = words[0]
            elif kind == "asked":
                life.asked.append((words[0], words[1], words[2]))
            elif kind == "answered":
                life.answered.append(words[0])
            elif kind == "step":
                life.steps.append(words[0])
            else:
                life.ended = words[0]
            lines += 1
            if lines == kill_after_lines:
                os.kill(process, signal.SIGKILL)
        return life


@pytest.fixture
def victims(core: ModuleType) -> Iterator[Victims]:
    with Program(core.name, "from tests.examples.victims import main; main()", cwd=CLONE) as program:
        yield Victims(program)
        program.finish()


class Bank:
    """A service's folder, a read copy that is kept, and what is known of both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "service"
        self.folder.mkdir()
        self.database = self.folder / "accounts.db"
        self.copy = folder / "copy.db"
        self._scratch = folder / "scratch"
        self.changes: list[Change] = []

    def check(self, life: Life) -> None:
        """Look at what a service left, killed or not, then at what its next start makes of that."""
        before = len(self.changes)
        self._check_left(before + len(life.answered))
        after = caught_up(self.folder, self.database, read_only=False)
        changes = logged(self.folder)
        new = changes[before:]
        # each change is in the log once, the last one if its append ended; none that nobody asked for
        assert changes[:before] == self.changes
        assert new == life.asked[: len(new)]
        assert life.steps.count("appended") <= len(new) <= life.steps.count("append")
        # what the callers heard is so, and the service, a new copy, and the old copy agree with the log
        expected = model(changes)
        for lsn, answer in enumerate(life.answered, before + 1):
            assert answer == expected[1].get(lsn, lsn)
        assert after == expected
        assert caught_up(self.folder, self._scratch, read_only=True) == expected
        self._scratch.unlink()
        assert caught_up(self.folder, self.copy, read_only=True) == expected
        assert state(self.database) == expected
        assert sum(expected[0].values()) == 0
        self.changes = changes

    def _check_left(self, answered: int) -> None:
        """Before any restart both databases are at an LSN of the log, and no answered change is missing."""
        shutil.copytree(self.folder, self._scratch)  # a look at a database mends it, which is for the next start
        left = state(self._scratch / "accounts.db")
        shutil.rmtree(self._scratch)
        changes = logged(self.folder) if (self.folder / "accounts.db.logical.wal").exists() else []
        assert answered <= left[2] <= len(changes)
        assert left == model(changes[: left[2]])
        if changes:
            assert caught_up(self.folder, self.copy, read_only=True) == model(changes)


def where(step: str) -> str:
    """A step by its verb and its table."""
    table = re.search(r"\b(accounts|applied|refused)\b", step)
    return " ".join([step.split()[0], *(table.groups() if table else ())])


def test_a_service_killed_at_any_step_agrees_with_its_log(tmp_path: Path, victims: Victims) -> None:
    bank, first = Bank(tmp_path), 1
    died: dict[str, list[str]] = {"opening": [], "accepted": [], "refused": []}
    changes = CHANGES if KILLS >= 100 else CHANGES[:3]
    for change in changes:
        for kill_at in itertools.count(first):
            refused = len(bank.changes) + 1 in model([*bank.changes, change])[1]
            life = victims.run(kill_at=kill_at, folder=bank.folder, changes=[change], times=1)
            bank.check(life)
            if life.ended == 0:
                break
            assert life.ended == signal.SIGKILL
            kind = "opening" if not life.asked else "refused" if refused else "accepted"
            died[kind].append(where(life.steps[-1]))
        first = life.steps.index("append") + 1  # the steps of opening once is enough
    assert set(died["opening"]) >= {"PRAGMA", *(f"CREATE {table}" for table in ("accounts", "refused", "applied"))}
    assert set(died["accepted"]) == WAY
    assert set(died["refused"]) == WAY | {"ROLLBACK", "INSERT refused"}
    between = [step for step in died["accepted"] + died["refused"] if step not in ("append", "SELECT refused")]
    assert len(between) >= 10 * len(changes)


def test_a_service_killed_at_any_moment_agrees_with_its_log(tmp_path: Path, victims: Victims) -> None:
    bank = Bank(tmp_path)
    dice = random.Random(5)
    for _ in range(RANDOM_KILLS):
        lines = dice.randrange(1, 400)
        life = victims.run(kill_after_lines=lines, folder=bank.folder, changes=CHANGES, times=1_000_000)
        assert life.ended == signal.SIGKILL
        bank.check(life)
    assert len(bank.changes) > RANDOM_KILLS


@pytest.mark.parametrize("lost", [False, True], ids=["read copy", "service without its database"])
def test_a_replay_killed_at_any_step_goes_on(tmp_path: Path, victims: Victims, lost: bool) -> None:
    bank = Bank(tmp_path)
    assert victims.run(folder=bank.folder, changes=CHANGES, times=2).ended == 0
    database, kills = bank.database if lost else bank.copy, 0
    database.unlink(missing_ok=True)
    order = {"changes": [], "times": 0} if lost else {"copy": database}
    while (life := victims.run(kill_at=kills + 1, folder=bank.folder, **order)).ended != 0:
        assert life.ended == signal.SIGKILL
        kills += 1
        held = state(database)
        assert held == model((CHANGES * 2)[: held[2]])
    assert kills > len(WAY)
    assert logged(bank.folder) == CHANGES * 2
    assert state(database) == model(CHANGES * 2)


def test_a_change_whose_application_failed_is_applied_before_the_next(tmp_path: Path, core: ModuleType) -> None:
    database = tmp_path / "accounts.db"
    impatient = sqlite3.connect(database, isolation_level=None, timeout=0)
    with walspool.open(database) as log, contextlib.closing(impatient):
        accounts = service.Accounts(log, impatient)
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            accounts.transfer("-", "ann", 5)
        assert (accounts.balances(), accounts.applied_lsn()) == ({}, 0)
        other.close()
        assert accounts.transfer("ann", "bob", 5) == 2
        assert accounts.balances() == {"-": -5, "ann": 0, "bob": 5}


@pytest.mark.parametrize(
    "change",
    [("ann", "bob", 0), ("ann", "bob", LIMIT + 1), ("ann", "bob", 1.5), ("ann", None, 1), ("\udcff", "bob", 1)],
    ids=["nothing", "too much", "a fraction", "nobody", "no text"],
)
def test_what_sqlite_could_not_try_is_not_logged(tmp_path: Path, core: ModuleType, change: Any) -> None:
    with service.open_accounts(tmp_path, tmp_path / "accounts.db") as accounts:
        with pytest.raises(ValueError, match=r"a transfer is|surrogates not allowed"):
            accounts.transfer(*change)
        assert accounts.transfer("-", "ann", 1) == 1


def test_a_database_past_the_end_of_its_log_is_refused(tmp_path: Path, core: ModuleType) -> None:
    with service.open_accounts(tmp_path, tmp_path / "accounts.db") as accounts:
        accounts.transfer("-", "ann", 1)
    (tmp_path / "other").mkdir()
    with pytest.raises(RuntimeError, match="another log"):
        caught_up(tmp_path / "other", tmp_path / "accounts.db", read_only=False)


def test_the_examples_run_as_they_stand(tmp_path: Path, core: ModuleType) -> None:
    line, pipe = [sys.executable, "-W", "error"], subprocess.PIPE
    examples, bank, copy = CLONE / "examples", str(tmp_path / "bank"), str(tmp_path / "copy.db")
    surroundings = environment(core.name)

    def output(*arguments: str | Path) -> list[str]:
        done = subprocess.run([*line, *arguments], env=surroundings, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    assert output(examples / "sqlite_service.py", bank) == [
        "change 1: 100 from - to ann",
        "change 2: 30 from ann to bob",
        "99 from bob to ann refused: CHECK constraint failed: covered",
        "{'-': -100, 'ann': 70, 'bob': 30}",
    ]
    refused = ["change 3: CHECK constraint failed: covered"]
    assert output(examples / "sqlite_read_copy.py", bank, copy) == refused
    command = [*line, str(examples / "sqlite_read_copy.py"), bank, copy, "--follow"]
    with subprocess.Popen(command, env=surroundings, stdout=pipe, stderr=pipe, text=True) as copier:
        assert copier.stdout is not None
        assert copier.stdout.readline().splitlines() == refused
        output(examples / "sqlite_service.py", bank, "ann", "bob", "70")
        assert copier.stdout.readline() == "change 4: {'-': -100, 'ann': 0, 'bob': 100}\n"
        copier.send_signal(signal.SIGINT)
        assert copier.communicate() == ("", "")
        assert copier.returncode == 0
