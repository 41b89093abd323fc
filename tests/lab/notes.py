"""How a workload talks to the preloaded library, and the payloads it writes."""

import ctypes
import functools
import hashlib
import itertools
import os
from collections.abc import Iterable
from typing import Any

from tests.lab.frames import encode
from tests.lab.record import Call, Note

_SIZE_BITS = 32
_NESTED = 1 << 31


@functools.lru_cache(maxsize=4096)
def make_payload(number: int) -> bytes:
    """The payload of an id: its number, then bytes that follow from it; some are full of frames themselves."""
    size = number & (_NESTED - 1)
    head = number.to_bytes(8, "little")
    if number & _NESTED:
        high = (number >> _SIZE_BITS) + 1000
        body = b"".join(encode(high + i, b"not a record") for i in range(size // 49 + 1))
    else:
        block = hashlib.blake2b(head).digest()
        body = block * (size // len(block) + 1)
    return (head + body)[:size]


def payload_id(payload: bytes) -> int | None:
    """The id whose payload this is, or None if it is nobody's."""
    number = int.from_bytes(payload[:8], "little")
    return number if len(payload) >= 8 and make_payload(number) == payload else None


class Library:
    """The preloaded library's own calls. Outside of it they do nothing."""

    def __init__(self) -> None:
        self._lib: Any = ctypes.CDLL(None)
        self._loaded = hasattr(self._lib, "lab_note")
        if self._loaded:
            lib = self._lib
            lib.lab_note.argtypes = [ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint64]
            lib.lab_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_char_p]
            lib.lab_then.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int]
            lib.lab_count.restype = ctypes.c_long
            lib.lab_fired.argtypes = [ctypes.c_char_p, ctypes.c_size_t]

    def note(self, note: Note, a: int, b: int = 0) -> None:
        """Puts a note into the record."""
        if self._loaded:
            self._lib.lab_note(int(note), a, b)

    def arm(self, call: Call, nth: int, error: int, mode: int = 0, part: str = "") -> None:
        """The nth call of the class from now on fails."""
        self._lib.lab_arm(int(call), nth, error, mode, part.encode())

    def then(self, call: Call, nth: int, error: int) -> None:
        """Once that has failed, the nth call of this class from there on fails too."""
        self._lib.lab_then(int(call), nth, error)

    def pause(self, pause: bool) -> None:
        """While paused nothing is counted, and nothing fails."""
        self._lib.lab_pause(int(pause))

    def count(self, call: Call) -> int:
        """Calls of the class since the last arm or reset."""
        return int(self._lib.lab_count(int(call)))

    def reset(self) -> None:
        """Nothing fails any more; counting starts anew."""
        self._lib.lab_reset()

    def fired_count(self) -> int:
        """How many calls were made to fail since the last arm or reset."""
        return int(self._lib.lab_fired(None, 0))

    def fired(self) -> str | None:
        """The path of the call that was made to fail, if it has come to that."""
        path = ctypes.create_string_buffer(4096)
        return os.fsdecode(path.value) if self._lib.lab_fired(path, 4096) else None


class Author:
    """Makes ids, notes what is submitted, acknowledged, shown."""

    def __init__(self, first: int = 1) -> None:
        self.library = Library()
        self._numbers = itertools.count(first)

    def submit(self, size: int, nested: bool = False) -> tuple[int, bytes]:
        """A fresh payload of that size (at least 8), about to be appended."""
        number = next(self._numbers) << _SIZE_BITS | (_NESTED if nested else 0) | max(size, 8)
        self.library.note(Note.SUBMIT, number)
        return number, make_payload(number)

    def ack(self, number: int, lsn: int) -> None:
        """Its append returned."""
        self.library.note(Note.ACK, number, lsn)

    def published(self, spool: Any) -> None:
        """An opening returned, and a reader was shown all of it."""
        self.shown((entry.lsn, entry.payload) for entry in spool.read_entries())
        self.library.note(Note.PUBLISHED, spool.current_lsn)

    def shown(self, records: Iterable[tuple[int, bytes]]) -> None:
        """A reader got these."""
        for lsn, payload in records:
            number = payload_id(payload)
            if number is None:
                raise AssertionError(f"an opening showed a record {lsn} that nobody wrote")
            self.library.note(Note.SHOWN, number, lsn)

    def prune(self, spool: Any, lsn: int) -> None:
        """Prunes, with its notes."""
        self.library.note(Note.PRUNE, lsn)
        spool.prune_through(lsn)
        self.library.note(Note.PRUNED, lsn)
