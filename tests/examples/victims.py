"""Processes of the SQLite examples that are killed: `python -m tests.examples.victims`, a JSON order on each line.

For each order a process is forked that runs an example and says on the standard output, one JSON list on a line, what
it does: `started` (its id), `step` (each statement of SQL before it runs, and the append before and after), `asked`,
`answered`. At the step whose number is `kill_at` it kills itself; 0 for never. `ended` says which signal it died of, or
the negative of its exit code. Nothing in the examples takes part in this.
"""

import contextlib
import importlib
import io
import itertools
import json
import os
import signal
import sqlite3
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import walspool

read_copy, service = (importlib.import_module(each) for each in ("sqlite_read_copy", "sqlite_service"))


def say(*words: Any) -> None:
    """One whole line at once, so that a kill leaves no half of one."""
    os.write(1, json.dumps(words).encode() + b"\n")


def watch_steps(kill_at: int) -> None:
    """Say every step of this process from here on, and die at one of them."""
    numbers = itertools.count(1)
    connect, append_next = sqlite3.connect, walspool.LogicalWalSpool.append_next

    def step(name: str) -> None:
        say("step", name)
        if next(numbers) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced_connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(step)
        return connection

    def traced_append(*arguments: Any) -> int:
        step("append")
        lsn = append_next(*arguments)
        step("appended")
        return lsn

    sqlite3.connect = traced_connect  # type: ignore[assignment]
    walspool.LogicalWalSpool.append_next = traced_append  # type: ignore[assignment]


def serve(folder: Path, changes: list[tuple[str, str, int]], times: int) -> None:
    """The service, asked for the same changes so many times over."""
    with service.open_accounts(folder, folder / "accounts.db") as accounts:
        for source, target, amount in itertools.chain.from_iterable(itertools.repeat(changes, times)):
            say("asked", source, target, amount)
            try:
                say("answered", accounts.transfer(source, target, amount))
            except sqlite3.IntegrityError as error:
                say("answered", str(error))


def run(order: dict[str, Any]) -> None:
    """What the forked process does."""
    watch_steps(order["kill_at"])
    folder = Path(order["folder"])
    if "copy" in order:
        sys.argv[1:] = [str(folder), order["copy"]]
        with contextlib.redirect_stdout(io.StringIO()):
            read_copy.main()
    else:
        serve(folder, order["changes"], order["times"])


def main() -> None:
    """Carry out orders until there are no more."""
    walspool.open  # noqa: B018  loaded once, for all children
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                say("started", os.getpid())
                run(json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        say("ended", -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
