"""The verb ``status``: what a served primary says of itself, its replicas and its slots."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from walspool.cli import output
from walspool.cli.app import AsJson, app, example, given_by_hand
from walspool.cli.serve_verbs import client_tls

__all__ = ["status"]

#: A follower asks anew every 30 s.
_SILENT_MS = 60_000
_UNKNOWN = "unknown"

Facts = Mapping[str, Any]


@app.command(
    short_help="Show a served primary, its replicas and its slots.",
    epilog=example(
        "walspool status http://127.0.0.1:4646",
        "walspool status https://db-1:4646 --token-file token --json | jq '.replicas[].lag_seconds'",
    ),
)
def status(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server: http://HOST:PORT or https://HOST:PORT.")],
    token_file: Annotated[
        Path | None, typer.Option(metavar="F", help="A token with the scope read.", show_default=False)
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="F", help="Whom to trust for https, PEM.", show_default=False)
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="The token may go over plain http.")] = False,
    watch: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Show it again and again, until Ctrl-C.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show role, term, LSNs, what each replica lags, who pins the log until when, and the last recovery.

    What is not known is shown as unknown, in JSON as null. Ends with 1 where the primary was replaced or appends
    nothing any more.
    """
    from walspool import net

    token = None if token_file is None else net.read_token(token_file)
    context = client_tls(tls_ca)

    def look() -> Facts:
        with given_by_hand():
            return net.fetch_status(url, token=token, ssl_context=context, insecure=insecure)

    if watch is not None:
        _watch(look, watch, as_json)
    found = look()
    _show(found, as_json)
    if found["role"] != "primary" or found["poisoned"] is not None:
        raise typer.Exit(1)


def _watch(look: Callable[[], Facts], seconds: float, as_json: bool) -> None:
    while True:
        found = look()
        if as_json:
            output.json_line(found)
        else:
            if sys.stdout.isatty():
                output.line("\x1b[H\x1b[2J\x1b[3J")
            _show(found, False)
            output.line()
        output.flush()
        time.sleep(seconds)


def _show(found: Facts, as_json: bool) -> None:
    if as_json:
        output.document(found)
        return
    output.line(f"{_text(found['role'])}, term {found['term']}")
    if found["fenced_by"] is not None:
        output.line(f"replaced by a primary of term {found['fenced_by']}: it appends nothing any more")
    if found["poisoned"] is not None:
        output.line(f"nothing is appended until the log is opened again: {_text(found['poisoned'])}")
    oldest = "none" if found["oldest_lsn"] is None else found["oldest_lsn"]
    floor = found["retention"]["floor_lsn"]
    output.columns(
        [
            ("last LSN", str(found["current_lsn"])),
            ("durable LSN", str(found["durable_lsn"])),
            ("oldest LSN", str(oldest)),
            ("pruned through", str(found["pruned_through"])),
            ("retention floor", "none" if floor is None else str(floor)),
            ("retained", output.size(found["size_bytes"])),
        ],
        indent="  ",
    )
    _show_replicas(found)
    _show_slots(found)
    _show_recovery(found["recovery"])


def _show_replicas(found: Facts) -> None:
    output.line()
    if not found["replicas"]:
        output.line("no replica is registered")
        return
    rows = [("replica", "region", "state", "lag: records", "bytes", "time", "durable LSN", "last seen", "apply errors")]
    for each in found["replicas"]:
        known = each["lag_records"] is not None
        rows.append(
            (
                _text(each["id"]),
                "none" if each["region"] is None else _text(each["region"]),
                _state(each, found["now_unix_ms"]),
                f"{each['lag_records']:,}" if known else _UNKNOWN,
                output.size(each["lag_bytes"]) if known else _UNKNOWN,
                _UNKNOWN if each["lag_seconds"] is None else _span(each["lag_seconds"]),
                str(each["last_durable_lsn"]) if known else _UNKNOWN,
                _ago(found["now_unix_ms"], each["last_seen_at_unix_ms"]),
                str(each["apply_error_count"]),
            )
        )
    output.columns(rows)


def _state(replica: Facts, now_ms: int) -> str:
    if replica["rebootstrapping"]:
        return "loading a snapshot"
    if now_ms - replica["last_seen_at_unix_ms"] > _SILENT_MS:
        return "silent"
    return "registered" if replica["lag_records"] is None else "following"


def _show_slots(found: Facts) -> None:
    output.line()
    if not found["slots"]:
        output.line("there is no slot")
        return
    output.line(_text(found["retention"]["summary"]))
    held = {each["id"]: each for each in found["retention"]["slots"]}
    rows = [("slot", "state", "pins", "holds", "above LSN", "last seen", "until when")]
    for each in found["slots"]:
        holds = held.get(each["id"])
        much = None if holds is None else f"{output.count(holds['records'], 'record')}, {output.size(holds['bytes'])}"
        state, cause = each["wal_status"], each["invalidation_reason"]
        rows.append(
            (
                _text(each["id"]),
                _text(state if cause is None else f"{state}: {cause}"),
                _UNKNOWN if holds is None else "yes" if holds["pins"] else "no",
                much or _UNKNOWN,
                str(each["restart_lsn"]),
                _ago(found["now_unix_ms"], each["last_seen_at_unix_ms"]),
                _UNKNOWN if holds is None else _text(holds["forecast"]),
            )
        )
    output.columns(rows)


def _show_recovery(last: Facts) -> None:
    output.line()
    took = _span(last["duration_ms"] / 1000)
    read = f"read {output.size(last['scanned_bytes'])} in {took}"
    output.line(f"last recovery: {_text(last['verdict'])}, {output.count(last['records'], 'record')}, {read}")
    if last["cut_bytes"]:
        saved = "" if last["quarantine"] is None else f", saved in {_text(last['quarantine'])}"
        output.line(f"  {output.size(last['cut_bytes'])} were cut{saved}")
    if last["reason"]:
        output.line(f"  {_text(last['reason'])}")


def _text(value: Any) -> str:
    """A server's words; they must not reach a terminal as they are."""
    return output.on_one_line(str(value))


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((172_800, "days"), (7_200, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"


def _ago(now_ms: int, then_ms: int) -> str:
    return f"{_span(max(now_ms - then_ms, 0) / 1000)} ago"
