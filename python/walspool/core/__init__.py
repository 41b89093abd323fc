"""The mechanism: one open file at a time, as bytes. What a core offers, and which one this process has.

There are two cores, the Rust extension ``walspool._native`` and the pure-Python ``walspool.core.pure``. Both offer
the names below with the same behaviour; everything above them exists once and takes them from here.
``WALSPOOL_CORE=rust`` or ``=python`` in the environment chooses; a wish that can't be met is an ``ImportError``.
Without a wish the Rust core is taken when it is there, else the pure one.

=====================  ==============================================================================================
name                   what it does
=====================  ==============================================================================================
``File``               a descriptor shared by all who use the file, closed when the last of them goes
``Index``              LSN to byte offset, one checkpoint for each 64th record
``ScanReport``         what is known of one file: the valid prefix, where and why it stops, what lies behind
``scan_file``          one read-only pass over a file
``Reader``             verified records of one file, as tuples, entries, or raw frames
``read_tuples``        the first records above an LSN in one file, without a reader to go on with; ``read_entries``
``copy_frames``        the records of one file into another, re-framed as version 3 where they are not
``Appender``           the writer of the active file: order, batches, sync, mark, waiting for what is durable
``Inbox``              appends of asyncio tasks, for a thread to make durable; each result goes to an ``Outbox``
``Outbox``             where an event loop finds the results of its appends
``encode_sidecar``     the index sidecar of a sealed file, and ``decode_sidecar`` back
``open_sealed``        many sealed files that are as their sidecars say, in one call
``change_term``        whether a payload is a ChangeRecord, and of which term
=====================  ==============================================================================================
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__all__ = [
    "Appender",
    "ArrowStream",
    "Entry",
    "File",
    "Inbox",
    "Index",
    "Outbox",
    "Reader",
    "ScanReport",
    "build_seek_index",
    "change_term",
    "copy_frames",
    "crc32",
    "decode_frame",
    "decode_sidecar",
    "encode_frame",
    "encode_sidecar",
    "name",
    "open_sealed",
    "read_entries",
    "read_tuples",
    "scan",
    "scan_file",
]

if TYPE_CHECKING:
    from walspool.core.pure import (
        Appender,
        ArrowStream,
        Entry,
        File,
        Inbox,
        Index,
        Outbox,
        Reader,
        ScanReport,
        build_seek_index,
        change_term,
        copy_frames,
        crc32,
        decode_frame,
        decode_sidecar,
        encode_frame,
        encode_sidecar,
        name,
        open_sealed,
        read_entries,
        read_tuples,
        scan,
        scan_file,
    )

_MODULES = {"rust": "walspool._native", "python": "walspool.core.pure"}


def _chosen() -> Any:
    wish = os.environ.get("WALSPOOL_CORE", "")
    if wish not in ("", *_MODULES):
        raise ImportError(f"WALSPOOL_CORE is {wish!r}; it must be 'rust' or 'python'")
    if wish:
        try:
            return importlib.import_module(_MODULES[wish])
        except ImportError as error:
            raise ImportError(f"WALSPOOL_CORE={wish} can't be met: {error}") from error
    try:
        return importlib.import_module(_MODULES["rust"])
    except ModuleNotFoundError:
        return importlib.import_module(_MODULES["python"])


def _use(module: Any) -> None:
    """Take every name from ``module``. At import, and in tests that run both cores in one process."""
    for each in __all__:
        globals()[each] = getattr(module, each)


_use(_chosen())
