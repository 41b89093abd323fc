"""The slot file on disk: read whole, replaced whole and durably, the version before kept beside it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from walspool.errors import SlotStoreCorrupt, SpoolCorrupt
from walspool.replication.slot import ReplicationSlot, decode_slots, encode_slots
from walspool.spool import files as fs

__all__ = ["load_slots", "previous_path", "save_slots"]

_MAX_BYTES = 64 << 20
#: There is no version before, or the file system has no hard links: then none is kept.
_NO_LINK = (errno.ENOENT, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def previous_path(path: Path) -> Path:
    """Where the version before the last is kept."""
    return path.with_name(path.name + ".previous")


def load_slots(path: Path, now_ms: int) -> dict[str, ReplicationSlot]:
    """The slots in a file; none where there is no file. Unreadable: ``SlotStoreCorrupt``, or ``OSError``."""
    try:
        if fs.refuse_odd_file(path) is None:
            return {}
        fd = fs.open_regular(path)
    except SpoolCorrupt as error:
        raise SlotStoreCorrupt(path=path, reason=error.reason, previous=None) from error
    try:
        data = fs.pread_exactly(fd, _MAX_BYTES + 1, 0, path)
    finally:
        os.close(fd)
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        return decode_slots(data, now_ms)
    except ValueError as error:
        previous = previous_path(path)
        kept = previous if previous.is_file() else None
        raise SlotStoreCorrupt(path=path, reason=str(error), previous=kept) from error


def save_slots(path: Path, slots: list[ReplicationSlot]) -> None:
    """Replace the file atomically and durably. There is a whole file at ``path`` at any instant."""
    data = encode_slots(slots)
    temporary = path.with_name(path.name + ".tmp")
    fs.write_synced(temporary, data)
    _keep_previous(path)
    fs.rename(temporary, path)


def _keep_previous(path: Path) -> None:
    previous = previous_path(path)
    fs.unlink(previous)
    try:
        os.link(path, previous)
    except OSError as error:
        if error.errno not in _NO_LINK and not fs.no_room(error):
            raise
