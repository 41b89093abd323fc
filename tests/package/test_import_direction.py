"""Who may import whom. The table is the architecture; a module that is not in it has no place yet."""

from __future__ import annotations

import sys

import pytest

from tests.package.sources import PACKAGE, imports, modules

#: Each room uses only rooms above it in this list, and of those only the ones named.
DIRECTION: list[tuple[str, str]] = [
    ("errors", ""),
    ("records", "errors"),
    ("changes", "errors records"),
    ("core.pure.change", "changes errors"),
    ("core.pure.entry", "changes"),
    ("core.pure.frame", "errors records core.pure.change core.pure.entry"),
    ("core.pure.file", "core.pure.frame"),
    ("core.pure.frames", "errors core.pure.frame"),
    ("core.pure.index", ""),
    ("core.pure.scan", "core.pure.frame core.pure.file core.pure.index"),
    ("core.pure.sealed", "core.pure.file core.pure.index"),
    (
        "core.pure.reader",
        "changes errors records core.pure.change core.pure.entry core.pure.frame core.pure.file core.pure.index",
    ),
    ("core.pure.flush", "errors core.pure.frame core.pure.frames core.pure.file core.pure.index"),
    ("core.pure.waiters", ""),
    ("core.pure.waiting", "errors records core.pure.entry core.pure.index core.pure.reader core.pure.waiters"),
    ("core.pure.order", "errors records core.pure.change core.pure.frame"),
    (
        "core.pure.appender",
        "errors records core.pure.change core.pure.frame core.pure.frames core.pure.file core.pure.index "
        "core.pure.flush core.pure.waiters core.pure.waiting core.pure.order",
    ),
    ("core.pure.inbox", "core.pure.appender core.pure.order"),
    (
        "core.pure",
        "core.pure.change core.pure.entry core.pure.frame core.pure.file core.pure.index core.pure.scan "
        "core.pure.sealed core.pure.reader core.pure.appender core.pure.inbox",
    ),
    # The scan is a function there, of its module's name.
    ("core", "errors core.pure core.pure.scan"),
    ("spool.files", "errors"),
    ("spool.bell", ""),
    ("spool.interrupt", ""),
    ("spool.reports", ""),
    ("spool.telling", ""),
    ("spool.lock", "errors spool.files"),
    ("spool.state", "core errors records spool.files"),
    ("spool.segments", "core errors records spool.files spool.interrupt spool.reports spool.state spool.telling"),
    ("spool.inspection", "core errors spool.files spool.lock spool.segments spool.state spool.telling"),
    (
        "spool.recovery",
        "core errors spool.files spool.inspection spool.lock spool.reports spool.segments spool.state spool.telling",
    ),
    ("spool.restart", "errors records spool.files spool.lock spool.state"),
    (
        "spool.repair",
        "core errors spool.files spool.inspection spool.lock spool.recovery spool.reports spool.restart spool.segments "
        "spool.state",
    ),
    ("spool.verify", "core errors spool.files spool.reports spool.segments spool.state"),
    ("spool.prune", "core records spool.files spool.reports spool.segments spool.state"),
    ("spool.flusher", "core errors spool.bell spool.segments"),
    ("spool.follow", "core"),
    (
        "spool.tail",
        "core errors spool.bell spool.files spool.inspection spool.interrupt spool.segments spool.state spool.telling",
    ),
    ("spool.reading", "core errors records spool.files spool.follow spool.reports spool.segments spool.verify"),
    (
        "spool.writing",
        "errors records spool.flusher spool.interrupt spool.prune spool.reading spool.reports spool.segments",
    ),
    (
        "spool.log",
        "core errors records spool.bell spool.files spool.follow spool.lock spool.recovery "
        "spool.repair spool.reports spool.restart spool.segments spool.tail spool.writing",
    ),
    ("spool", ""),
    ("replication.config", "records"),
    ("replication.buffer", "errors records"),
    ("replication.slot", "records"),
    ("replication.slot_file", "errors replication.slot spool.files"),
    ("replication.slots", "errors records replication.slot replication.slot_file spool.interrupt"),
    ("replication.retention", "replication.slot"),
    ("replication.resume", "replication.slot"),
    ("replication.registry", "records"),
    ("replication.commit", "errors records replication.config spool.interrupt"),
    ("replication.quorum", "errors records replication.commit replication.config replication.registry"),
    ("replication.backing", "errors records replication.buffer replication.resume spool.interrupt spool.log"),
    (
        "replication.committing",
        "changes errors records replication.backing replication.buffer replication.commit replication.config "
        "replication.quorum replication.registry spool.log",
    ),
    (
        "replication.retaining",
        "errors records replication.backing replication.committing replication.config replication.resume "
        "replication.retention replication.slot replication.slots spool.files",
    ),
    (
        "replication.primary",
        "errors records replication.backing replication.buffer replication.config replication.registry "
        "replication.retaining replication.slot replication.slot_file replication.slots spool.files spool.log",
    ),
    ("replication", ""),
    (
        "",
        "changes core errors records spool.log spool.reports replication.buffer replication.commit replication.config "
        "replication.primary replication.quorum replication.registry replication.resume replication.retention "
        "replication.slot",
    ),
    ("net.backoff", ""),
    ("net.protocol", "errors records"),
    ("net.messages", "errors records net.protocol"),
    ("net.auth", "records net.protocol"),
    ("net.serving", "records net.messages net.protocol"),
    ("net.following", "errors records net.backoff net.messages net.protocol"),
    ("net.presenting", "net.backoff net.messages net.protocol"),
    ("net.frames", "core records spool.segments"),
    (
        "net.source",
        "errors records net.frames net.messages net.protocol net.serving replication.primary replication.resume "
        "spool.follow spool.log",
    ),
    ("net.loops", ""),
    ("net.intake", "net.frames"),
    (
        "net.sink",
        "errors records net.following net.frames net.intake net.messages net.protocol spool.files spool.log "
        "spool.state",
    ),
    ("net.state", "replication.primary"),
    ("metrics", " net.serving"),
    ("net.page", "net.protocol"),
    ("net.lanes", ""),
    ("net.records", "core errors net.messages net.protocol replication.commit replication.primary"),
    ("net.transfer", "errors net.protocol"),
    (
        "net.server",
        "errors metrics net.records net.page net.state net.auth net.lanes net.messages net.protocol net.serving "
        "net.source net.transfer replication.primary spool.follow",
    ),
    ("net.running", "net.protocol net.server net.transfer"),
    ("net.identity", "errors records spool.files spool.log"),
    ("net.connection", "errors net.auth net.protocol"),
    ("net.applying", "core errors net.backoff spool.files spool.interrupt spool.log"),
    (
        "net.pulling",
        "errors net.applying net.connection net.following net.messages net.protocol net.sink",
    ),
    (
        "net.presenter",
        "errors net.connection net.identity net.messages net.presenting net.protocol replication.primary "
        "spool.interrupt",
    ),
    ("net.promotion", "errors net.applying net.identity net.sink spool.files spool.log"),
    (
        "net.follower",
        "errors records net.applying net.connection net.following net.identity net.loops net.presenter "
        "net.promotion net.protocol net.pulling net.sink replication.config replication.primary spool.files "
        "spool.interrupt spool.log",
    ),
    ("net.client", "errors net.connection net.protocol"),
    ("net", "net.auth net.client net.follower net.presenter net.promotion net.server"),
    ("cli", " core net net.running"),
]
#: What lies in one of these is judged by its folder's line, except among itself.
FOLDERS = ("cli",)
#: Not of the standard library, and who may import it.
THIRD_PARTY = {
    "typer": "cli",
    "click": "cli",
    "rich": "cli",
    "pyarrow": "core.pure",
    "starlette": ("net.server", "net.transfer"),
    "uvicorn": "net.running",
    "prometheus_client": "metrics",
}


def _short(name: str) -> str:
    return name.removeprefix("walspool").removeprefix(".")


def _room(short: str) -> str:
    return next((each for each in FOLDERS if short == each or short.startswith(each + ".")), short)


def test_the_table_points_one_way() -> None:
    above: list[str] = []
    for room, uses in DIRECTION:
        assert room not in above
        assert set(uses.split()) <= set(above), room
        above.append(room)


@pytest.mark.parametrize("name", modules())
def test_imports_follow_the_table(name: str) -> None:
    allowed = {room: {"" if each == "walspool" else each for each in uses.split(" ")} for room, uses in DIRECTION}
    room = _room(_short(name))
    assert room in allowed, f"{name} is not in the table of rooms"
    for imported in imports(modules()[name]):
        top = imported.partition(".")[0]
        if top == "walspool":
            used = _room(_short(imported))
            assert used == room or used in allowed[room], f"{name} must not import {imported}"
        elif top in THIRD_PARTY:
            assert room.startswith(THIRD_PARTY[top]), f"{name} must not import {imported}"
        else:
            assert top in sys.stdlib_module_names, f"{name} imports {imported}, which nobody promised to install"


def test_the_table_has_no_empty_rooms() -> None:
    there = {_room(_short(name)) for name in modules()}
    assert {room for room, _ in DIRECTION} - there == set()
    assert (PACKAGE / "py.typed").is_file()
