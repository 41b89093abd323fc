"""The verb of a replica: follow."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import walspool
from walspool.cli import output
from walspool.cli.app import LSN_MAX, AsJson, DataPath, app, example, given_by_hand
from walspool.cli.programs import ApplyProgram, LoadProgram
from walspool.cli.serve_verbs import client_tls

if TYPE_CHECKING:
    from walspool.net import Follower, FollowerStatus

__all__ = ["follow"]

_LOOK_S = 0.05
#: A program that has not finished its record by then is ended.
_PATIENCE_S = 5.0


@app.command(
    short_help="Keep a replica of a served log.",
    epilog=example(
        "walspool follow http://127.0.0.1:4646 replica.db --id eu-1",
        "walspool follow https://db-1:4646 replica.db --id eu-1 --token-file token --apply ./apply --snapshot ./load",
    ),
)
def follow(
    url: Annotated[str, typer.Argument(metavar="URL", help="The primary: http://HOST:PORT or https://HOST:PORT.")],
    path: DataPath,
    name: Annotated[str, typer.Option("--id", metavar="NAME", help="The replica's id.", show_default=False)],
    region: Annotated[str | None, typer.Option(help="The region that it is in.", show_default=False)] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="F", help="The token that the primary asks for.", show_default=False)
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="F", help="Whom to trust for https, PEM.", show_default=False)
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="The token may go over plain http.")] = False,
    apply: Annotated[
        str | None, typer.Option(metavar="CMD", help="Gets each record, answers its LSN.", show_default=False)
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option(metavar="CMD", help="Reads a snapshot, and loads it.", show_default=False)
    ] = None,
    start_again: Annotated[
        bool, typer.Option("--start-again", help="Give up a log that has diverged, for a snapshot.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="End with all that the primary has now.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keep a durable copy of a served log, until SIGTERM or Ctrl-C; the primary may come and go.

    What is wrong is told once on standard error, and tried again. It ends by itself only where a person has to decide.
    """
    from walspool import net

    token = None if token_file is None else net.read_token(token_file)
    applying = None if apply is None else ApplyProgram(apply)
    loading = None if snapshot is None else LoadProgram(snapshot)
    context = client_tls(tls_ca)
    with given_by_hand():
        follower = net.Follower(
            url, name, path, token=token, region=region, apply=applying, load_snapshot=loading,
            ssl_context=context, insecure=insecure,
        )  # fmt: skip
    programs = [each for each in (applying, loading) if each is not None]
    with _signals() as ending, _stopping(follower, programs):
        follower.start()
        if start_again:
            output.complain("warning: a log that has diverged is given up for a snapshot; its files are set aside")
        _Watch(follower, start_again, as_json).until(ending, once)


class _Watch:
    """Tells what changes."""

    def __init__(self, follower: Follower, start_again: bool, as_json: bool) -> None:
        self._follower = follower
        self._start_again = start_again
        self._as_json = as_json
        self._told: dict[str, str | None] = {"error": None, "apply_error": None}
        self._following = False

    def until(self, ending: threading.Event, once: bool) -> None:
        """Watch until the signal, or until it holds what the primary held when it was first heard."""
        target: int | None = None
        while not ending.is_set():
            status = self._follower.status()
            self._tell(status)
            target = status.primary_lsn if target is None else target
            if once and status.agrees and target is not None and status.applied_lsn >= target:
                self._say({"lsn": status.durable_lsn}, f"LSN {status.durable_lsn}")
                return
            self._look()

    def _look(self) -> None:
        """Wait a little; raises what has stopped it, unless it was decided already what to do then."""
        try:
            self._follower.wait_for(LSN_MAX, _LOOK_S)
        except walspool.Diverged:
            if not self._start_again:
                raise
            self._start_again = False
            self._follower.start_again()

    def _tell(self, status: FollowerStatus) -> None:
        for name in self._told:
            words = getattr(status, name)
            if words is not None and words != self._told[name] and status.state != "stopped":
                output.complain(f"warning: {words}")
            self._told[name] = words
        if status.agrees and not self._following and status.error is None:
            facts = {"url": status.url, "replica_id": status.replica_id, "lsn": status.durable_lsn, "term": status.term}
            self._say(facts, f"following {output.visible(status.url)} as {status.replica_id}, LSN {status.durable_lsn}")
        self._following = status.agrees and status.error is None

    def _say(self, facts: dict[str, Any], words: str) -> None:
        if self._as_json:
            output.json_line(facts)
        else:
            output.line(words)
        output.flush()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """SIGTERM ends it as it should be ended; Ctrl-C comes by itself."""
    ending = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before = signal.signal(signal.SIGTERM, lambda *_: ending.set())
    try:
        yield ending
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _stopping(follower: Follower, programs: list[Any]) -> Iterator[None]:
    """In the end nothing runs any more, whatever the programs do."""
    try:
        yield
    finally:
        patience = threading.Timer(_PATIENCE_S, lambda: [each.kill() for each in programs])
        patience.start()
        try:
            follower.stop()
            for each in programs:
                each.close() if isinstance(each, ApplyProgram) else each.kill()
        finally:
            patience.cancel()
