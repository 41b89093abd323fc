"""Builds states of the disk from what may be chosen, and puts them into a directory."""

import hashlib
import itertools
import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.model import DIRECTORY, SECTOR, DirOp, FileChoices, Frontier

State = dict[str, bytes | None]  # None is a directory

_EXHAUSTIVE = 4096  # up to here all combinations are taken, above a sample


@dataclass(frozen=True, slots=True)
class _Axis:
    """One thing that can be chosen: a size, or a sector, of one file."""

    file: int
    sector: int | None
    options: int


class Builder:
    """Enumerates the states of one frontier: the corners first, then all, or a seeded sample without an end."""

    def __init__(self, frontier: Frontier, seed: float) -> None:
        self.frontier = frontier
        self.rng = random.Random(seed)
        self.axes = [
            _Axis(number, sector, options)
            for number, choices in frontier.files.items()
            for sector, options in [(None, len(choices.sizes)), *((s, len(o)) for s, o in choices.sectors)]
            if options > 1
        ]
        self.dir_sets = [*itertools.islice(_dir_sets(frontier.pending), 63)]
        if self.dir_sets[-1]:
            self.dir_sets.append(frozenset())

    @property
    def combinations(self) -> int:
        """How many there are at most."""
        return math.prod(axis.options for axis in self.axes) * len(self.dir_sets)

    def states(self) -> Iterator[State]:
        """The states; some may be equal. Ends only if all were taken."""
        newest = tuple(axis.options - 1 for axis in self.axes)
        oldest = (0,) * len(self.axes)
        if self.combinations <= _EXHAUSTIVE:
            picks = list(itertools.product(*(range(axis.options) for axis in self.axes)))
            every = list(itertools.product(self.dir_sets, picks))
            self.rng.shuffle(every)
            corners = itertools.product((self.dir_sets[-1], self.dir_sets[0]), (oldest, newest))
            for chosen, pick in itertools.chain(corners, every):
                yield self._build(chosen, pick)
            return
        for chosen, corner in self._corners(oldest, newest):
            yield self._build(chosen, corner)
        while True:
            yield self._build(self.rng.choice(self.dir_sets), self._sample())

    def _corners(
        self, oldest: tuple[int, ...], newest: tuple[int, ...]
    ) -> Iterator[tuple[frozenset[int], Sequence[int]]]:
        for chosen in self.dir_sets[:1] + self.dir_sets[-1:]:
            yield chosen, oldest
            yield chosen, newest
        chosen = self.dir_sets[-1]
        for index in self.rng.sample(range(len(self.axes)), min(len(self.axes), 16)):
            for base, other in ((oldest, newest), (newest, oldest)):
                picks = list(base)
                picks[index] = other[index]
                yield chosen, picks

    def _sample(self) -> list[int]:
        fresh = self.rng.choice((0.1, 0.5, 0.5, 0.9))
        return [self._pick(axis, fresh) for axis in self.axes]

    def _pick(self, axis: _Axis, fresh: float) -> int:
        if axis.options == 2:
            return int(self.rng.random() < fresh)
        return self.rng.randrange(axis.options)

    def _build(self, chosen: frozenset[int], picks: Sequence[int]) -> State:
        per_file: dict[int, list[tuple[int | None, int]]] = {}
        for axis, pick in zip(self.axes, picks, strict=True):
            per_file.setdefault(axis.file, []).append((axis.sector, pick))
        names = dict(self.frontier.names)
        for index, change in enumerate(self.frontier.pending):
            if index in chosen:
                for name, number in change.effects:
                    if number is None:
                        names.pop(name, None)
                    else:
                        names[name] = number
        state: State = {}
        for name, number in sorted(names.items()):
            parent = os.path.dirname(name)
            if parent and names.get(parent) != DIRECTORY:
                continue  # the directory itself was lost
            state[name] = (
                None if number == DIRECTORY else _content(self.frontier.files[number], per_file.get(number, []))
            )
        return state


def _content(choices: FileChoices, picks: list[tuple[int | None, int]]) -> bytes:
    size = choices.sizes[0]
    sectors = []
    options = dict(choices.sectors)
    for sector, pick in picks:
        if sector is None:
            size = choices.sizes[pick]
        elif pick:
            sectors.append((sector, options[sector][pick]))
    content = bytearray(choices.image[:size])
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    for sector, value in sectors:
        start = sector * SECTOR
        if start < size:
            content[start : start + SECTOR] = value
    del content[size:]
    return bytes(content)


def _dir_sets(pending: tuple[DirOp, ...]) -> Iterator[frozenset[int]]:
    """Which pending changes took effect: a change only together with the earlier ones of the same names."""
    needs = []
    for index, change in enumerate(pending):
        names = {name for name, _ in change.effects}
        needs.append({i for i in range(index) if names & {n for n, _ in pending[i].effects}})

    def extend(index: int, chosen: frozenset[int]) -> Iterator[frozenset[int]]:
        if index == len(pending):
            yield chosen
            return
        if needs[index] <= chosen:
            yield from extend(index + 1, chosen | {index})
        yield from extend(index + 1, chosen)

    # The first is all of them, the last none.
    return extend(0, frozenset())


def state_key(state: State, acknowledged: bytes) -> bytes:
    """What makes a state distinct: its files and what was acknowledged."""
    digest = hashlib.blake2b(acknowledged, digest_size=10)
    for name, content in state.items():
        text = b"" if content is None else content.rstrip(b"\0")
        digest.update(f"{name}\0{-1 if content is None else len(content)}\0{len(text)}\0".encode())
        digest.update(text)
    return digest.digest()


def materialize(state: State, folder: Path) -> None:
    """Makes `folder` hold exactly this state."""
    clear(folder)
    root = str(folder)
    for name, content in state.items():
        path = f"{root}/{name}"
        if content is None:
            os.mkdir(path, 0o700)
            continue
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)


def clear(folder: Path) -> None:
    """Removes all that is in a folder; makes it if it is not there."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        os.makedirs(folder)
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            clear(Path(entry.path))
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
