"""The verbs ``slots list|drop|reset``: who holds the log, and putting that right by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

import walspool
from walspool.cli import output
from walspool.cli.app import LSN_MAX, AsJson, DataPath, app, example
from walspool.cli.opening import judge, must_exist, to_read

__all__ = ["drop", "list_slots", "reset"]

slots = typer.Typer(
    help="Look at the replication slots of a log, drop one, or make one valid again.",
    epilog=example("walspool slots list app.db", "walspool slots drop app.db eu-1"),
)
app.add_typer(slots, name="slots", short_help="List, drop or reset replication slots.")

SlotId = Annotated[str, typer.Argument(metavar="ID", help="The replica's id.", show_default=False)]
#: Per id of a valid slot: records above its restart LSN, and their bytes on disk.
Held = Mapping[str, tuple[int, int]]


@slots.command(
    "list",
    short_help="Show every slot and what it holds.",
    epilog=example("walspool slots list app.db", "walspool slots list app.db --json | jq '.slots[].id'"),
)
def list_slots(path: DataPath, as_json: AsJson = False) -> None:
    """Show every slot: what its replica needs, what that holds of the log, and whether it is still valid.

    Takes no lock and changes nothing, also beside a running primary. It shows the slot file, which may lag that
    primary by 100 ms, and never leads it.
    """
    found = walspool.PrimaryReplication.read_slots(path)
    with contextlib.ExitStack() as stack:
        try:
            spool = stack.enter_context(to_read(path))
            held = {each.id: spool.extent_after(each.restart_lsn) for each in found if each.valid}
        except (walspool.SpoolCorrupt, OSError):
            if found:  # who holds the log matters also where the log can't be read
                _print_slots(path, found, {}, as_json)
                output.flush()
            raise
        _print_slots(path, found, held, as_json)
        judge(spool)


def _print_slots(path: Path, found: Sequence[walspool.ReplicationSlot], held: Held, as_json: bool) -> None:
    if as_json:
        file = walspool.PrimaryReplication.slot_path_for(path)
        output.document({"path": file, "slots": [_facts(each, held.get(each.id)) for each in found]})
    elif found:
        heading = ("id", "status", "restart LSN", "confirmed LSN", "holds", "last seen")
        output.columns([heading, *(_row(each, held.get(each.id)) for each in found)])
    else:
        output.line("no slots")


def _facts(slot: walspool.ReplicationSlot, held: tuple[int, int] | None) -> dict[str, object]:
    """A slot for JSON. What it holds is 0 for an invalid one, and null where the log can't be read."""
    records, size = held if held is not None else (None, None) if slot.valid else (0, 0)
    return {**output.plain(slot), "retained_records": records, "retained_bytes": size}


def _row(slot: walspool.ReplicationSlot, held: tuple[int, int] | None) -> tuple[str, ...]:
    status, holds = str(slot.wal_status), "?"
    if slot.invalidation_reason is not None:
        at = slot.invalidated_at_unix_ms
        status += f": {slot.invalidation_reason}" + ("" if at is None else f" since {output.moment(at)}")
        holds = "nothing"
    elif held is not None:
        holds = f"{output.count(held[0], 'record')}, {output.size(held[1])}"
    seen = output.moment(slot.last_seen_at_unix_ms)
    return output.visible(slot.id), status, str(slot.restart_lsn), str(slot.confirmed_lsn), holds, seen


@slots.command(
    "drop", short_help="Forget a slot.", epilog=example("walspool slots list app.db", "walspool slots drop app.db eu-1")
)
def drop(path: DataPath, slot_id: SlotId, as_json: AsJson = False) -> None:
    """Forget a slot for good: what only it held may go with the next prune.

    Its replica is unknown from then on and must register again. No primary may be running on the log.
    """
    with _primary(path) as primary, _known(path, slot_id):
        primary.drop_slot(slot_id)
        floor = primary.retention_floor_lsn()
    if as_json:
        output.document({"dropped": slot_id, "retention_floor_lsn": floor})
    else:
        output.line(f"slot {output.visible(slot_id)} dropped; {_floor(floor)}")


@slots.command(
    "reset", short_help="Make a slot valid at an LSN.", epilog=example("walspool slots reset app.db eu-1 4200")
)
def reset(
    path: DataPath,
    slot_id: SlotId,
    lsn: Annotated[
        int,
        typer.Argument(metavar="LSN", min=0, max=LSN_MAX, help="What it has everything through.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """Make a slot valid again, for a replica that has loaded a snapshot that stands for LSN.

    It goes on with the records above LSN, so they must still be there. No primary may be running on the log.
    """
    with _primary(path) as primary, _known(path, slot_id):
        primary.reset_slot(slot_id, lsn)
        floor = primary.retention_floor_lsn()
    if as_json:
        output.document({"reset": slot_id, "restart_lsn": lsn, "retention_floor_lsn": floor})
    else:
        output.line(f"slot {output.visible(slot_id)} is valid and goes on behind LSN {lsn}; {_floor(floor)}")


def _primary(path: Path) -> walspool.PrimaryReplication:
    """The primary of a log that is there, and undamaged."""
    must_exist(path)
    return walspool.PrimaryReplication(path, recovery="strict")


@contextlib.contextmanager
def _known(path: Path, slot_id: str) -> Iterator[None]:
    try:
        yield
    except walspool.UnknownReplica as error:
        words = f"{path} has no slot {slot_id!r}; 'walspool slots list' shows those there are"
        raise walspool.UnknownReplica(words, replica_id=slot_id) from error


def _floor(floor_lsn: int | None) -> str:
    if floor_lsn is None:
        return "no valid slot holds the log"
    return f"slots hold the log above LSN {floor_lsn}"
