"""The pure-Python core: the readable reference, the fallback, and the oracle for the other one."""

from __future__ import annotations

from walspool.core.pure.appender import Appender
from walspool.core.pure.change import change_term
from walspool.core.pure.entry import Entry
from walspool.core.pure.file import File
from walspool.core.pure.frame import crc32, decode_frame, encode_frame
from walspool.core.pure.inbox import Inbox, Outbox
from walspool.core.pure.index import Index, ScanReport, decode_sidecar, encode_sidecar
from walspool.core.pure.reader import ArrowStream, Reader, copy_frames, read_entries, read_tuples
from walspool.core.pure.scan import build_seek_index, scan, scan_file
from walspool.core.pure.sealed import open_sealed

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

name = "python"
