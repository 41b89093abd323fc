"""A tiny log, right or deliberately wrong, on which the laboratory is tried before the real one.

It syncs each call, and at opening cuts at the first bad frame. `skip` names syncs that it leaves out.
"""

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.lab.checker import DATA
from tests.lab.frames import Frame, decode, encode
from tests.lab.notes import Author
from tests.lab.record import Call, Note


@dataclass(frozen=True)
class Recovery:
    """What opening found."""

    verdict: str
    reason: str = ""


class MiniLog:
    """The part of the spool's surface that the checker uses."""

    def __init__(self, data_path: Path, skip: frozenset[str] = frozenset()) -> None:
        self._skip = skip
        path = data_path.with_name(data_path.name + ".logical.wal")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._sync("log", self._fd)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        self._sync("dir", folder)
        os.close(folder)
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        self._frames, self._end = decode(data)
        self.recovery = Recovery("clean")
        if self._end < len(data):
            self.recovery = Recovery("torn")
            os.ftruncate(self._fd, self._end)
            self._sync("cut", self._fd)
        elif data and "again" not in skip:
            os.pwrite(self._fd, data, 0)  # what is shown may only have been in the page cache
            self._sync("log", self._fd)

    def _sync(self, kind: str, fd: int) -> None:
        if kind not in self._skip:
            os.fsync(fd)

    @property
    def current_lsn(self) -> int:
        """The last LSN."""
        return self._frames[-1].lsn if self._frames else 0

    def read_entries(self) -> list[Frame]:
        """All records."""
        return list(self._frames)

    def append_next(self, data: bytes) -> int:
        """One record."""
        return self.append_next_many([data])[0]

    def append_next_many(self, payloads: list[bytes]) -> range:
        """Several records, one write, one sync."""
        first = self.current_lsn + 1
        frames = [Frame(first + i, 1, payload) for i, payload in enumerate(payloads)]
        data = b"".join(encode(frame.lsn, frame.payload) for frame in frames)
        os.pwrite(self._fd, data, self._end)
        self._sync("log", self._fd)
        self._end += len(data)
        self._frames += frames
        return range(first, first + len(frames))

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def main(folder: Path, sections: list[str], skip: frozenset[str]) -> None:
    """A workload: in each section open, show what is there, append batches of frames of one sector each."""
    for section in sections:
        author = Author(1000 * (int(section) + 1) + os.getpid() % 2**14 * 100_000)  # no other run has these ids
        author.library.note(Note.SECTION, int(section))
        log = MiniLog(folder / section / DATA, skip)
        author.published(log)
        for count in (1, 3, 2):
            made = [author.submit(512 - 37) for _ in range(count)]
            if "fail" in skip and count == 2:
                author.library.arm(Call.SYNC, 1, errno.EIO)
            try:
                lsns = log.append_next_many([data for _, data in made])
            except OSError:
                return  # what could not be synced stays in the page cache
            for (number, _), lsn in zip(made, lsns, strict=True):
                author.ack(number, lsn)
        log.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), frozenset(sys.argv[3:]))
