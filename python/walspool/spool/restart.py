"""Starting a log anew behind a position, after a bootstrap; a crash on the way is carried through by the next open."""

from __future__ import annotations

import os
from pathlib import Path

from walspool.errors import SpoolCorrupt
from walspool.records import Position, check_u64
from walspool.spool import files as fs
from walspool.spool.files import SpoolFiles
from walspool.spool.lock import WriterLock
from walspool.spool.state import State, load_state, new_spool_id, save_state

__all__ = ["begin_restart", "check_position", "finish_restart"]


def check_position(position: Position) -> None:
    """Refuse what can't be written down as a position, before anything is touched."""
    if not isinstance(position, Position):
        raise TypeError(f"position must be a Position, not {type(position).__name__}")
    for name in ("term", "lsn", "crc"):
        check_u64(name, getattr(position, name))


def begin_restart(files: SpoolFiles, position: Position) -> None:
    """Write down that the log is to start behind ``position``; from here on there is no way back.

    Files set aside by an earlier restart make room: one generation is kept.
    """
    try:
        old = load_state(files)
    except SpoolCorrupt:
        old = None
    removed = [fs.unlink(path) for path in files.list_aside()]
    if any(removed):
        fs.sync_directory(files.directory)
    kept = old if old is not None else State(new_spool_id())
    save_state(files, State(new_spool_id(), restart=position, fence=kept.fence, extra=kept.extra))


def finish_restart(files: SpoolFiles, lock: WriterLock) -> None:
    """Set the old files aside and settle the state, if a restart was begun."""
    try:
        state = load_state(files)
    except SpoolCorrupt:
        return
    if state is None or state.restart is None:
        return
    for path in _of_the_log(files):
        os.rename(path, files.aside(path))
    fs.sync_directory(files.directory)
    lock.sign(state.spool_id)
    save_state(files, state.restarted())


def _of_the_log(files: SpoolFiles) -> list[Path]:
    rest = [each for each in (files.active, files.mark) if os.path.lexists(each)]
    return [*files.list_sealed(), *files.list_sidecars(), *rest]
