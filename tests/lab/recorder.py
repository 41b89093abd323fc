"""Runs a workload under the preloaded library and hands back what it did."""

import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from tests.lab.build import REPOSITORY, lab_environment
from tests.lab.checker import LOG, Kind
from tests.lab.frames import frames_behind
from tests.lab.model import Frontier, Model, frontiers
from tests.lab.record import Event, Said, Start, read_record, split_sections
from tests.lab.states import Builder, State, materialize
from tests.lab.workloads import BASES, HIDDEN, WORKLOADS, Workload

SECTIONS = 6


@dataclass
class Recording:
    """One directory's history: what it held before, what happened, where the log is and how it was opened."""

    model: Model
    events: list[Event]
    data: str
    options: dict[str, Any]
    prior: list[Said] = field(default_factory=list)
    kind: Kind = LOG

    @cached_property
    def moments(self) -> list[Frontier]:
        """Each moment at which a crash can leave something new, in order."""
        return list(frontiers(self.model, self.events))

    @cached_property
    def bytes(self) -> int:
        """How much was written, zeros ahead left out."""
        return sum(len(event.op.data.rstrip(b"\0")) for event in self.events if isinstance(event, Start))

    @cached_property
    def notes(self) -> list[Said]:
        """All notes, those from before the recording first."""
        return self.prior + [event for event in self.events if isinstance(event, Said)]

    def notes_at(self, moment: Frontier) -> list[Said]:
        """The notes made by then."""
        return self.notes[: len(self.prior) + moment.notes]


def run_phase(
    name: str, core: str, seed: int, phase: int, root: Path, record: Path | None, sections: list[str], lie: str
) -> None:
    """One process of a workload; an error if it fails."""
    env = lab_environment(root, record, core, LAB_SYNC_US=str(_workload(name).sync_us), LAB_LIE=lie)
    command = [sys.executable, "-m", "tests.lab.workloads", name, str(root), str(seed), str(phase), *sections]
    done = subprocess.run(command, env=env, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"workload {name}, seed {seed}, phase {phase}, core {core}:\n{done.stdout}{done.stderr}")


def record(
    name: str, core: str, seed: int, folder: Path, *, lie: str = "", check_replay: bool = True
) -> list[Recording]:
    """The recordings of one run: one, or one for each crash that is recovered from.

    `name` is a workload, or `recovery:BASE` to recover from crashes of that one.
    """
    name, _, base = name.partition(":")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = Path(temporary).resolve() / "root"
        root.mkdir()
        log = Path(temporary) / "record"
        if name == "recovery":
            recordings = _record_recovery(core, seed, base, folder, root, log, lie)
        else:
            workload = _workload(name)
            prior = workload.prepare(root, seed)
            start = Model(root)
            recordings = [Recording(start, [], workload.data(seed), workload.options(seed), prior, workload.kind)]
            for phase in range(len(workload.phases)):
                run_phase(name, core, seed, phase, root, log, [], lie)
            recordings[0].events = read_record(log, root)
        if check_replay:
            for recording in recordings:
                problem = replay_problem(recording, root / recording.model.base)
                if problem:
                    raise RuntimeError(f"the record of {name}, seed {seed}, core {core} is not whole: {problem}")
        return recordings


def _workload(name: str) -> Workload:
    return (WORKLOADS | HIDDEN)[name]


def _record_recovery(core: str, seed: int, base: str, folder: Path, root: Path, log: Path, lie: str) -> list[Recording]:
    """Crash states of another workload, each opened again under the library."""
    rng = random.Random(seed)
    again = not base and seed % 5 == 4
    base = base or ("recovery" if again else BASES[seed % len(BASES)])
    recordings: list[Recording] = []
    for source in record(base, core, seed // 5 if again else seed, folder, check_replay=False):
        moments = source.moments
        if base == "aligned":  # made for what a recovery cuts
            moments = [moment for moment in moments if _behind(_most(moment, rng, source.data), source.data)] or moments
        for moment in rng.sample(moments, min(len(moments), SECTIONS)):
            number = len(recordings)
            materialize(_choose(moment, rng, source.data), root / str(number))
            start = Model(root / str(number), str(number))
            recordings.append(Recording(start, [], source.data, source.options, source.notes_at(moment)))
    recordings = recordings[: 2 * SECTIONS]
    places = [json.dumps((number, each.data, each.options)) for number, each in enumerate(recordings)]
    run_phase("recovery", core, seed, 0, root, log, places, lie)
    sections = split_sections(read_record(log, root))
    for number, recording in enumerate(recordings):
        recording.events = sections[number]
    return recordings


def _choose(moment: Frontier, rng: random.Random, data: str) -> State:
    """A crash state: any, or the one with the most to be cut away."""
    if rng.random() < 0.5:
        return rng.choice(_some(moment, rng))
    return _most(moment, rng, data)


def _some(moment: Frontier, rng: random.Random) -> list[State]:
    return list(islice(Builder(moment, rng.random()).states(), 60))


def _most(moment: Frontier, rng: random.Random, data: str) -> State:
    return max(_some(moment, rng), key=lambda state: _behind(state, data))


def _behind(state: State, data: str) -> int:
    return frames_behind(state.get(f"{data}.logical.wal") or b"")


def replay_problem(recording: Recording, folder: Path) -> str | None:
    """Replays a record; None if that gives the directory, byte for byte. The model stands where it stood."""
    model = Model(folder.parent / "nothing-here", recording.model.base)
    model.files = {number: type(file)(bytes(file.live)) for number, file in recording.model.files.items()}
    model.names, model.live = dict(recording.model.names), dict(recording.model.live)
    model.by_inode = dict(recording.model.by_inode)
    for event in recording.events:
        model.apply(event)
    replayed = model.live_tree()
    real = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    if replayed.keys() != real.keys():
        return f"files differ: {sorted(replayed.keys() ^ real.keys())}"
    for name, content in real.items():
        if replayed[name] != content:
            return f"{name} has {len(content)} bytes, replayed {len(replayed[name])}, and they differ"
    return None
