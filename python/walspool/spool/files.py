"""Every file name of a spool, and the file operations that promise durability."""

# No annotations as texts here: those of a NamedTuple would be compiled, one by one, at each start of a program.

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from walspool.errors import SpoolCorrupt

__all__ = [
    "SIDECAR_SUFFIX",
    "Listing",
    "SpoolFiles",
    "create",
    "make_directories",
    "names_path",
    "no_room",
    "open_regular",
    "open_sized",
    "opened_directory",
    "pread_exactly",
    "pwrite_all",
    "refuse_odd_file",
    "rename",
    "replace",
    "slots_path",
    "spool_path",
    "sync_directory",
    "sync_file",
    "unlink",
    "write_synced",
]

#: The reference's name for a data path without a file name.
DEFAULT_NAME = "reddb.rdb"
CHUNK = 1 << 20
#: What the name of a sealed segment's sidecar ends with.
SIDECAR_SUFFIX = ".idx"
#: What other names have behind the active segment's.
_SEALED = r"\.\d{20}"
_SIDECAR = _SEALED + r"\.idx"
_LEFTOVER = rf"({_SEALED}(\.idx)?)?\.tmp"
_ASIDE = rf"({_SEALED}(\.idx)?|\.mark)?\.aside"
_QUARANTINED = r"\.quarantine-\d+-[0-9a-f]{8}"

_FULLFSYNC: Callable[[int], object] | None = None
if sys.platform == "darwin":
    import fcntl

    def _full_fsync(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # plain fsync leaves data in the drive's cache there

    _FULLFSYNC = _full_fsync


def _beside(data_path: str | os.PathLike[str], suffix: str) -> Path:
    text = os.fspath(data_path)
    if not isinstance(text, str):
        text = os.fsdecode(text)
    path = Path(text)
    if path.name in ("", ".."):
        parent = path.parent if path.name == ".." else path
        return parent / (DEFAULT_NAME + suffix)
    return path.with_name(path.name + suffix)


def spool_path(data_path: str | os.PathLike[str]) -> Path:
    """``DIR/NAME.logical.wal`` for the data file ``DIR/NAME`` (the reference's rule)."""
    return _beside(data_path, ".logical.wal")


def slots_path(data_path: str | os.PathLike[str]) -> Path:
    """``DIR/NAME.logical.slots.json`` for the data file ``DIR/NAME`` (the reference's rule)."""
    return _beside(data_path, ".logical.slots.json")


@contextlib.contextmanager
def names_path(path: Path) -> Iterator[None]:
    """Give an ``OSError`` of a descriptor call the name of the file that it was about."""
    try:
        yield
    except OSError as error:
        _name(error, path)
        raise


def _name(error: OSError, path: str | Path) -> None:
    if error.filename is None:
        error.filename = str(path)


def no_room(error: OSError) -> bool:
    """Whether an error says that the disk or the quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class Listing(NamedTuple):
    """What there is of sealed segments."""

    #: Their paths, oldest first, as text: a ``Path`` for each takes about as long as to open it.
    sealed: list[str]
    #: Each sidecar without its segment, beside that one's name.
    orphans: list[tuple[Path, Path]]
    #: Half-written replacements that a crash left; nothing relies on them.
    leftovers: list[Path]


class SpoolFiles:
    """The names of all files of the spool whose active segment is ``active``."""

    def __init__(self, active: Path) -> None:
        self.active = active
        self.directory = active.parent
        self.lock = self._with(".lock")
        self.loading = self._with(".loading")
        self.applied = self._with(".applied")
        self.follower = self._with(".follower")
        self.state = self._with(".state")
        self.state_spare = self._with(".state.spare")
        self.mark = self._with(".mark")
        self.active_rewrite = self._with(".tmp")

    def _with(self, suffix: str) -> Path:
        return self.active.with_name(self.active.name + suffix)

    def sealed(self, first_lsn: int) -> Path:
        """The name of a sealed segment whose first record has this LSN."""
        return self._with(f".{first_lsn:020d}")

    def sidecar(self, segment: Path) -> Path:
        """The index sidecar of a sealed segment."""
        return segment.with_name(segment.name + SIDECAR_SUFFIX)

    def rewrite(self, segment: Path) -> Path:
        """Where a segment is written anew before it takes its old name."""
        return segment.with_name(segment.name + ".tmp")

    def quarantine(self, offset: int, crc: int) -> Path:
        """Where bytes cut at ``offset`` are saved; ``crc`` is the CRC-32 of those bytes."""
        return self._with(f".quarantine-{offset}-{crc:08x}")

    def aside(self, path: Path) -> Path:
        """Where ``restart_at`` puts a file of the old log."""
        return path.with_name(path.name + ".aside")

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.directory)
        except FileNotFoundError:
            return []

    def _those(self, names: Iterable[str], rest: str, end: str = "") -> list[str]:
        """Those of ``names`` that are the active segment's with ``rest``, a pattern, behind it, and so with ``end``."""
        likely = sorted(each for each in names if each.endswith(end))
        if not likely:  # as a rule, and making the pattern would take longer than all else
            return likely
        return list(filter(re.compile(re.escape(self.active.name) + rest, re.ASCII).fullmatch, likely))

    def _matching(self, rest: str, end: str = "") -> list[Path]:
        return [self.directory / each for each in self._those(self._names(), rest, end)]

    def _sealed(self, names: list[str]) -> list[str]:
        size = len(self.active.name) + 21  # the length first: it tells them from their sidecars faster than the pattern
        return self._those([each for each in names if len(each) == size], _SEALED)

    def list_sealed(self) -> list[Path]:
        """The sealed segments there are, oldest first."""
        return [self.directory / each for each in self._sealed(self._names())]

    def list_sidecars(self) -> list[Path]:
        """The sidecars there are."""
        return self._matching(_SIDECAR, SIDECAR_SUFFIX)

    def list_segments(self) -> Listing:
        """The sealed segments there are and what else lies beside them, in one look."""
        names = self._names()
        sealed = self._sealed(names)
        others = set(names).difference(sealed, [each + SIDECAR_SUFFIX for each in sealed])
        orphans = self._those(others, _SIDECAR, SIDECAR_SUFFIX)
        leftovers = self._those(others, _LEFTOVER, ".tmp")
        start = str(self.active).removesuffix(self.active.name)
        return Listing(
            [start + each for each in sealed],
            [(self.directory / each, self.directory / each.removesuffix(SIDECAR_SUFFIX)) for each in orphans],
            [self.directory / each for each in leftovers],
        )

    def list_aside(self) -> list[Path]:
        """Files that ``restart_at`` set aside."""
        return self._matching(_ASIDE, ".aside")

    def list_quarantined(self) -> list[Path]:
        """Saved copies of bytes that were cut."""
        return self._matching(_QUARANTINED)


def refuse_odd_file(path: Path) -> os.stat_result | None:
    """The status of a regular file, ``None`` where there is none; anything else at that name is an error."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise SpoolCorrupt(path=path, reason="it is a symbolic link to nothing") from None
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise SpoolCorrupt(path=path, reason="it is not a regular file")
    return status


def open_regular(path: str | Path) -> int:
    """Open a file for reading; anything but a regular file at that name is an error, and never waits for a writer."""
    return open_sized(path)[0]


def open_sized(path: str | Path, *, write: bool = False) -> tuple[int, int]:
    """``open_regular``, also for writing, and the file's size."""
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError:
        refuse_odd_file(Path(path))
        raise
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        refuse_odd_file(Path(path))
        raise SpoolCorrupt(path=path, reason="it is not a regular file")
    return fd, status.st_size


def sync_file(fd: int, path: Path) -> None:
    """Put a file's content and size on stable storage."""
    with names_path(path):
        if _FULLFSYNC is not None:
            _FULLFSYNC(fd)
        else:
            os.fsync(fd)


def sync_directory(directory: Path) -> None:
    """Put the creations, renames and unlinks in a directory on stable storage."""
    with opened_directory(directory) as fd:
        sync_file(fd, directory)


@contextlib.contextmanager
def opened_directory(directory: Path) -> Iterator[int]:
    """A descriptor of a directory, to sync it by."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def create(path: Path, *, exclusive: bool = True) -> int:
    """Create a file for reading and writing, mode 0600. The directory is not synced."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0)
    return os.open(path, flags, 0o600)


def rename(source: Path, target: Path) -> None:
    """Rename, and make the new name durable."""
    os.rename(source, target)
    sync_directory(target.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a whole file in place, its content durable on return. The directory is not synced."""
    fd = create(path, exclusive=False)
    try:
        with names_path(path):
            os.ftruncate(fd, 0)
        pwrite_all(fd, data, 0, path)
        sync_file(fd, path)
    finally:
        os.close(fd)


def replace(path: Path, data: bytes) -> None:
    """Replace a file's content atomically and durably, creating it where there is none."""
    temporary = path.with_name(path.name + ".tmp")
    write_synced(temporary, data)
    rename(temporary, path)


def unlink(path: Path) -> bool:
    """Remove a file if it is there; whether it was. The directory is not synced."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def make_directories(directory: Path) -> None:
    """Create a directory and its parents, each entry durable."""
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        if directory == directory.parent:
            break
        directory = directory.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(each)
        sync_directory(each.parent)


def pread_exactly(fd: int, length: int, offset: int, path: str | Path) -> bytes:
    """Read ``length`` bytes at ``offset``; fewer only where the file ends."""
    parts: list[bytes] = []
    try:
        while length > 0:
            part = os.pread(fd, min(length, CHUNK), offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
    except OSError as error:  # here without names_path, which takes longer than the call
        _name(error, path)
        raise
    return parts[0] if len(parts) == 1 else b"".join(parts)


def pwrite_all(fd: int, data: bytes, offset: int, path: Path) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    with names_path(path):
        while view:
            written = os.pwrite(fd, view, offset)
            if written <= 0:
                raise OSError(errno.EIO, "a write took no bytes")
            offset += written
            view = view[written:]
