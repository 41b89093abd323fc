"""What the command prints: records, JSON, aligned columns, and one line for an error."""

from __future__ import annotations

import binascii
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import walspool

__all__ = [
    "OutputClosed",
    "columns",
    "complain",
    "count",
    "document",
    "entry_facts",
    "entry_line",
    "flush",
    "json_line",
    "line",
    "moment",
    "on_one_line",
    "plain",
    "printable",
    "size",
    "visible",
]


class OutputClosed(Exception):
    """Nobody reads standard output any more (the other end of a pipe is gone)."""


def _write(text: str) -> None:
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        raise OutputClosed from None


def flush() -> None:
    """Hand over what was printed so far."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None


def line(text: str = "") -> None:
    """Print one line on standard output."""
    _write(text + "\n")


def json_line(value: Any) -> None:
    """Print one JSON document on one line."""
    _write(json.dumps(plain(value), ensure_ascii=False) + "\n")


def document(value: Any) -> None:
    """Print one JSON document, indented."""
    _write(json.dumps(plain(value), ensure_ascii=False, indent=2) + "\n")


def complain(text: str) -> None:
    """Print one line on standard error."""
    with contextlib.suppress(OSError):  # nobody is there to be told
        sys.stderr.write(f"walspool: {on_one_line(text)}\n")  # its error handler is backslashreplace
        sys.stderr.flush()


def on_one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return visible(" ".join(text.splitlines()))


def visible(text: str) -> str:
    """The text with control characters, and bytes of a file name that are no text, as escapes."""
    return "".join(map(_shown, text))


def printable(payload: bytes) -> str:
    r"""A payload as text on one line: a backslash doubled, what can't be shown as an escape (``\n``, ``\xff``)."""
    text = payload.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join("\\\\" if each == "\\" else _shown(each) for each in text)


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return character.encode("unicode_escape").decode("ascii")
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that is no UTF-8, as os.fsdecode and the payload's decoding keep it
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def plain(value: Any) -> Any:
    """The value in JSON's own types; a dataclass or named tuple becomes an object with the names of its fields."""
    if isinstance(value, walspool.Position):
        return value._asdict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(each) for each in value]
    if isinstance(value, os.PathLike):
        return visible(os.fspath(value))
    return value


def entry_facts(entry: walspool.Entry, as_hex: bool = False) -> dict[str, Any]:
    """A record for JSON: its payload is ``payload`` when it is UTF-8, else ``payload_base64``, or ``payload_hex``."""
    facts: dict[str, Any] = {
        "lsn": entry.lsn,
        "term": entry.term,
        "timestamp_ms": entry.timestamp_ms,
        "version": entry.version,
        "bytes": len(entry.payload),
    }
    if entry.ownership_epoch is not None:
        facts["ownership_epoch"] = entry.ownership_epoch
    if as_hex:
        facts["payload_hex"] = entry.payload.hex()
        return facts
    try:
        facts["payload"] = entry.payload.decode("utf-8")
    except UnicodeDecodeError:
        facts["payload_base64"] = binascii.b2a_base64(entry.payload, newline=False).decode("ascii")
    return facts


def moment(timestamp_ms: int) -> str:
    """A time in UTC; ``-`` for a record that carries none, the bare number beyond the calendar's end."""
    if timestamp_ms == 0:
        return "-"
    try:
        stamp = datetime.fromtimestamp(timestamp_ms // 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_ms}ms"
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{timestamp_ms % 1000:03d}Z"


def entry_line(entry: walspool.Entry, as_hex: bool = False) -> str:
    """A record for people: LSN, term, time, and the payload on one line."""
    payload = entry.payload.hex() if as_hex else printable(entry.payload)
    return f"{entry.lsn}\t{entry.term}\t{moment(entry.timestamp_ms)}\t{payload}"


def size(number: float) -> str:
    """A number of bytes in words."""
    if number < 1000:
        return f"{number:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.95:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:.1f} TB"


def count(number: int, noun: str) -> str:
    """``1 record``, ``2 records``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Print rows with their columns aligned."""
    widths = [max(len(each) for each in column) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (each.ljust(width) for each, width in zip(row, widths, strict=True))
        line((indent + "  ".join(padded)).rstrip())
