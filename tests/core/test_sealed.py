"""Opening many sealed files at once: those that are as their sidecars say, and what is made of all others."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.core import kit

ID = bytes(range(16))


def make(core: ModuleType, folder: Path, segments: int, *, per_segment: int = 3, payload: bytes = b"data") -> list[str]:
    """Segments with sidecars; their paths."""
    paths = []
    for number in range(segments):
        path, first = folder / f"log.{number:020d}", number * per_segment + 1
        path.write_bytes(b"".join(kit.v3(lsn, payload) for lsn in range(first, first + per_segment)))
        report = core.scan_file(kit.open_file(core, path), path, base_lsn=first - 1)
        Path(f"{path}.idx").write_bytes(core.encode_sidecar(ID, first - 1, report))
        paths.append(str(path))
    return paths


def opened(core: ModuleType, folder: Path, paths: list[str], *, write: bool = False) -> list[Any]:
    found: list[Any] = core.open_sealed(folder, paths, ".idx", ID, write=write)
    assert len(found) == len(paths)
    return found


@pytest.mark.parametrize("segments", [0, 1, 9, 200])
@pytest.mark.parametrize("write", [False, True])
def test_each_is_opened_with_what_its_sidecar_says(
    core: ModuleType, tmp_path: Path, segments: int, write: bool
) -> None:
    paths = make(core, tmp_path, segments)
    found = opened(core, tmp_path, paths, write=write)
    assert kit.held_open(tmp_path) == paths
    for number, (path, (file, report, prev_lsn)) in enumerate(zip(paths, found, strict=True)):
        assert (file.path, prev_lsn, report.first_lsn) == (path, number * 3, number * 3 + 1)
        assert kit.facts(report) == kit.facts(core.decode_sidecar(Path(f"{path}.idx").read_bytes())[2])
        assert os.fstat(file.fileno()).st_ino == os.stat(path).st_ino
        assert not os.get_inheritable(file.fileno())
        assert os.get_blocking(file.fileno()) is False
        if write:
            os.pwrite(file.fileno(), b"R", 0)
        else:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.pwrite(file.fileno(), b"R", 0)


def test_a_long_sidecar_is_read_whole(core: ModuleType, tmp_path: Path) -> None:
    paths = make(core, tmp_path, 1, per_segment=64 * 4200, payload=b"")
    assert os.path.getsize(f"{paths[0]}.idx") > 64 << 10
    _, report, _ = opened(core, tmp_path, paths)[0]
    assert len(report.index) == 4200


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\0")


def _flip_the_end(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _other_spool(path: Path) -> None:
    from walspool.core import pure

    sidecar = Path(f"{path}.idx")
    _, prev_lsn, report, _ = pure.decode_sidecar(sidecar.read_bytes())
    sidecar.write_bytes(pure.encode_sidecar(bytes(16), prev_lsn, report))


def _beside(change: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda path: change(Path(f"{path}.idx"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


#: Whatever the segment or the sidecar may be instead, which a closer look has to judge.
UNLIKE: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "longer": _grow,
    "another end": _flip_the_end,
    "empty": lambda path: os.truncate(path, 0),
    "no sidecar": _beside(Path.unlink),
    "sidecar cut": _beside(_cut),
    "sidecar longer": _beside(_grow),
    "sidecar damaged": _beside(_flip_the_end),
    "sidecar empty": _beside(lambda path: os.truncate(path, 0)),
    "sidecar of another spool": _other_spool,
}


@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE)
def test_what_does_not_fit_is_left_to_a_closer_look(
    core: ModuleType, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    paths = make(core, tmp_path, 3)
    change(Path(paths[1]))
    first, second, third = opened(core, tmp_path, paths)
    assert (first[1].first_lsn, second, third[1].first_lsn) == (1, None, 7)
    assert kit.held_open(tmp_path) == [paths[0], paths[2]]


def _refused(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


FAILING: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "missing": (Path.unlink, "", errno.ENOENT),
    "a socket": (_refused, "", errno.ENXIO),
    "a sidecar that is a pipe": (_beside(_fifo), ".idx", errno.ESPIPE),
    "a sidecar that is a socket": (_beside(_refused), ".idx", errno.ENXIO),
    "a sidecar that is a directory": (_beside(lambda path: (path.unlink(), path.mkdir())[1]), ".idx", errno.EISDIR),
}


@pytest.mark.parametrize(("change", "suffix", "number"), FAILING.values(), ids=FAILING)
def test_a_failed_call_is_told_in_its_place(
    core: ModuleType, tmp_path: Path, change: Callable[[Path], None], suffix: str, number: int
) -> None:
    paths = make(core, tmp_path, 3)
    change(Path(paths[1]))
    first, error, third = opened(core, tmp_path, paths)
    assert (first[1].first_lsn, third[1].first_lsn) == (1, 7)
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (number, paths[1] + suffix)
    assert type(error) is type(OSError(number, ""))


def test_a_pipe_is_no_segment_and_nobody_waits_for_it(core: ModuleType, tmp_path: Path) -> None:
    paths = make(core, tmp_path, 1)
    _fifo(Path(paths[0]))
    assert not isinstance(opened(core, tmp_path, paths)[0], tuple)


def test_a_segment_of_whole_sectors_is_opened(core: ModuleType, tmp_path: Path) -> None:
    paths = make(core, tmp_path, 1, per_segment=1, payload=b"x" * (1024 - 37))
    assert os.path.getsize(paths[0]) == 1024
    assert isinstance(opened(core, tmp_path, paths)[0], tuple)


def test_names_that_are_not_utf_8(core: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    target = folder / os.fsdecode(b"\xfe")
    path = make(core, folder, 1)[0]
    os.rename(path, target)
    os.rename(f"{path}.idx", f"{target}.idx")
    file, _, _ = opened(core, folder, [str(target)])[0]
    assert file.path == str(target)


def test_a_missing_directory_and_bad_arguments(core: ModuleType, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert core.open_sealed(gone, [], ".idx", ID) == []
    with pytest.raises(FileNotFoundError) as caught:
        core.open_sealed(gone, [str(gone / "log")], ".idx", ID)
    assert os.fspath(caught.value.filename) == str(gone)
    with pytest.raises(ValueError, match="spool_id must have 16 bytes"):
        core.open_sealed(tmp_path, [], ".idx", b"short")
    with pytest.raises(ValueError, match="embedded null"):
        core.open_sealed(tmp_path, ["a\0b"], ".idx", ID)
