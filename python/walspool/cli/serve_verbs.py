"""The verbs of a primary: serve, promote."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import walspool
from walspool.cli import output
from walspool.cli.app import AsJson, DataPath, app, example
from walspool.cli.opening import must_exist
from walspool.cli.programs import SnapshotProgram

if TYPE_CHECKING:
    import ssl

    from walspool.net import TokenAuth

__all__ = ["client_tls", "need_the_server", "promote", "serve"]

_FILE: dict[str, Any] = {"metavar": "F", "show_default": False}


@app.command(
    short_help="Serve a log to its replicas.",
    epilog=example(
        "walspool serve app.db --port 4646",
        "walspool serve app.db --host 0.0.0.0 --tokens tokens --tls-cert cert.pem --tls-key key.pem",
    ),
)
def serve(
    path: DataPath,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 4646,
    tokens: Annotated[Path | None, typer.Option(help="Who may: on each line a token and its scopes.", **_FILE)] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="The certificate and its chain, PEM.", **_FILE)] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.", **_FILE)] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Tokens may go over plain http.")] = False,
    snapshot: Annotated[
        str | None, typer.Option(metavar="CMD", help="Writes an LSN on a line, then the snapshot.", show_default=False)
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="LSNS", help="Prune what no replica needs, but the last so many.", show_default=False
        ),
    ] = None,
    retain_bytes: Annotated[
        int, typer.Option(min=0, metavar="N", help="A replica that holds more of the log starts again; 0: never.")
    ] = 4 << 30,
    retain_for: Annotated[
        int, typer.Option(parser=_duration_ms, metavar="D", help="One not heard of for so long starts again; 0: never.")
    ] = "24h",  # type: ignore[assignment]  # what the parser is given
    max_lag_lsn: Annotated[
        int, typer.Option(min=0, metavar="LSNS", help="A replica further behind starts again; 0: never.")
    ] = 0,
    promote_first: Annotated[bool, typer.Option("--promote", help="First make a replica's log a primary's.")] = False,
    former_token_file: Annotated[Path | None, typer.Option(help="For the former primary: our token.", **_FILE)] = None,
    former_tls_ca: Annotated[Path | None, typer.Option(help="For the former primary: its CA.", **_FILE)] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the log over HTTP until SIGTERM or Ctrl-C; prints one line with the address once it listens.

    Any address but this machine's own needs --tokens, and TLS unless --insecure is said. A log with damaged records is
    refused. A promoted log tells its former primary that it was replaced, until that has answered. --promote does what
    'walspool promote' does, each time that it is said.
    """
    need_the_server("serving")
    from walspool import net

    auth = _refuse_an_open_door(host, tokens, tls_cert, tls_key, insecure)
    token = None if former_token_file is None else net.read_token(former_token_file)
    context = client_tls(former_tls_ca)
    settings = walspool.ReplicationConfig(
        max_retained_bytes=retain_bytes, slot_retention_max_lag_lsn=max_lag_lsn, slot_idle_timeout_ms=retain_for
    )
    with _listen(host, port) as listening:
        if promote_first:  # once it is sure that there is an address to serve it at
            must_exist(path)
            net.promote(path)
        with walspool.PrimaryReplication(path, settings, recovery="strict") as primary, _pruning(primary, keep):
            provider = None if snapshot is None else SnapshotProgram(snapshot, path)
            made = net.create_app(primary, auth=auth, snapshot=provider)
            net.present_term(primary, path, token=token, ssl_context=context, insecure=insecure)
            url = _url(listening, host, tls_cert is not None)
            try:
                _run(made, listening, tls_cert, tls_key, partial(_tell, primary, path, url, as_json))
            finally:
                if provider is not None:
                    provider.kill()


def _duration_ms(text: str) -> int:
    """Milliseconds of ``90``, ``90s``, ``15m``, ``24h`` or ``7d``; a number alone is seconds."""
    found = re.fullmatch(r"(\d{1,12})([smhd]?)", text, re.ASCII)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration: 90s, 15m, 24h and 7d are")
    return int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] * 1000


def need_the_server(what: str, otherwise: str = "") -> None:
    """``ImportError`` in words where the extra is not installed that a server needs."""
    missing = [
        each for each in ("starlette", "uvicorn", "uvloop", "httptools", "prometheus_client") if find_spec(each) is None
    ]
    if missing:
        raise ImportError(f"{what} needs {' and '.join(missing)}: pip install 'walspool[server]'{otherwise}")


def _refuse_an_open_door(
    host: str, tokens: Path | None, cert: Path | None, key: Path | None, insecure: bool
) -> TokenAuth | None:
    from walspool import net

    if (cert is None) != (key is None):
        raise typer.BadParameter("--tls-cert and --tls-key go together")
    if not net.is_loopback(host):
        if tokens is None:
            raise typer.BadParameter(f"--host {host} can be reached by others: that needs --tokens")
        if cert is None and not insecure:
            raise typer.BadParameter(f"--host {host} needs --tls-cert and --tls-key, or --insecure: tokens are secrets")
    if cert is not None:  # said now, in words, and not once uvicorn is under way
        import ssl

        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    return None if tokens is None else net.TokenAuth.load(tokens)


def client_tls(authority: Path | None) -> ssl.SSLContext | None:
    """A context that trusts this authority alone; ``None`` for the system's."""
    if authority is None:
        return None
    import ssl  # and not when the command starts: help is to come at once

    return ssl.create_default_context(cafile=authority)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        raise OSError(f"can't listen at {host} port {port}: {error.strerror or error}") from None


def _url(listening: socket.socket, host: str, secure: bool) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{name}:{listening.getsockname()[1]}"


def _tell(primary: walspool.PrimaryReplication, path: Path, url: str, as_json: bool) -> None:
    newer = primary.fenced_by
    facts = {"url": url, "term": primary.term, "lsn": primary.current_logical_lsn, "fenced_by": newer}
    if as_json:
        output.json_line(facts)
    else:
        role = f"term {primary.term}" if newer is None else f"replaced by term {newer}: reads only"
        output.line(f"serving {output.visible(os.fspath(path))} at {url} ({role}, LSN {facts['lsn']})")
    output.flush()


@contextmanager
def _pruning(primary: walspool.PrimaryReplication, keep: int | None) -> Iterator[None]:
    """Prune once a second what no replica needs, where that is wanted."""
    ending = threading.Event()

    def prune() -> None:
        while not ending.wait(1.0):
            try:
                through = primary.current_logical_lsn - (keep or 0)
                if through > 0:
                    primary.prune_retained_wal_through(through)
            except (walspool.WalspoolError, OSError) as error:
                output.complain(f"warning: pruning failed, and is tried again: {error}")

    thread = threading.Thread(target=prune, name="walspool-prune")
    if keep is not None:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        if thread.ident is not None:
            thread.join()


def _run(app: Any, listening: socket.socket, cert: Path | None, key: Path | None, tell: Any) -> None:
    from walspool.net.running import Server, config

    class Served(Server):
        """Ends its streams with the signal itself, and leaves the process to us."""

        signalled: int | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            tell()

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            import asyncio

            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._end, number)
            try:
                yield
            finally:
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(number)

        def _end(self, number: int) -> None:
            self.force_exit = self.signalled is not None
            self.signalled, self.should_exit = number, True
            app.end_streams()

    server = Served(config(app, tls_cert=cert, tls_key=key))
    server.run(sockets=[listening])
    if server.signalled == signal.SIGINT:
        raise KeyboardInterrupt


@app.command(short_help="Make a replica a primary.", epilog=example("walspool promote app.db && walspool serve app.db"))
def promote(
    path: DataPath,
    unapplied: Annotated[
        bool, typer.Option("--unapplied", help="Also where the application has not had every record.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the log of a replica, which nobody follows with any more, that of a primary in the next term.

    It is served with 'walspool serve', which then tells the former primary that it was replaced.
    """
    from walspool import net

    must_exist(path)
    done = net.promote(path, unapplied=unapplied)
    if as_json:
        output.document(done)
        return
    name = output.visible(os.fspath(path))
    output.line(f"{name} is a primary's log of term {done.term} now, and ends at LSN {done.lsn}")
    output.line(f"the former primary {done.former} learns of it from 'walspool serve {name}'")
