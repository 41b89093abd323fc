"""The laboratory on a log of forty lines: it passes the right one, and finds each sync that a wrong one leaves out."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from tests.lab.build import REPOSITORY, lab_environment
from tests.lab.checker import DATA, Checker, Expectation
from tests.lab.frames import frames_behind
from tests.lab.minilog import MiniLog
from tests.lab.model import Model
from tests.lab.record import read_record, split_sections
from tests.lab.recorder import Recording, replay_problem
from tests.lab.states import Builder, State, materialize, state_key
from tests.lab.workloads import first_number

SECTIONS = 4


def _record(folder: Path, models: dict[int, Model], *skips: str) -> dict[int, Recording]:
    """Runs the little log once for each of `skips`, in all of the models' folders."""
    root = folder / "root"
    log = folder / f"record-{len(list(folder.iterdir()))}"
    numbers = ",".join(str(number) for number in models)
    for skip in skips:
        command = [sys.executable, "-m", "tests.lab.minilog", str(root), numbers, *([skip] if skip else [])]
        subprocess.run(command, env=lab_environment(root, log, "python"), cwd=REPOSITORY, check=True)
    sections = split_sections(read_record(log, root))
    return {number: Recording(model, sections[number], DATA, {}) for number, model in models.items()}


def _first_crash(folder: Path, *skips: str) -> Recording:
    (folder / "root" / "0").mkdir(parents=True)
    return _record(folder, {0: Model(folder / "root" / "0", "0")}, *skips)[0]


def _second_crashes(folder: Path, skip: str, first: Recording) -> list[Recording]:
    """The log opened on the worst crash states of its first run, and recorded again."""
    crashes = [(state, m) for m in first.moments for state in islice(Builder(m, 1).states(), 100)]
    crashes.sort(key=lambda crash: _frames_behind(crash[0]), reverse=True)
    models, priors = {}, {}
    for number, (state, moment) in enumerate(crashes[:SECTIONS], 1):
        materialize(state, folder / "root" / str(number))
        models[number] = Model(folder / "root" / str(number), str(number))
        priors[number] = first.notes_at(moment)
    recordings = _record(folder, models, skip)
    for number, recording in recordings.items():
        recording.prior = priors[number]
    return list(recordings.values())


def _frames_behind(state: State) -> int:
    return frames_behind(state.get(f"{DATA}.logical.wal") or b"")


def _findings(folder: Path, recording: Recording, per_moment: int) -> list[str]:
    checker = Checker(folder / "state", lambda path, recovery: MiniLog(path))
    found, seen = [], set()
    for moment in recording.moments:
        expect = Expectation(recording.notes_at(moment))
        for state in islice(Builder(moment, 1).states(), per_moment):
            key = state_key(state, expect.key())
            if key not in seen:
                seen.add(key)
                found += checker.check(state, expect)
    assert len(seen) > 20
    return found


@pytest.mark.parametrize(("skip", "word"), [("", None), ("log", "lost"), ("dir", "lost"), ("cut", "resurrected")])
def test_a_right_log_passes_and_each_missing_sync_is_found(fast_path: Path, skip: str, word: str | None) -> None:
    first = _first_crash(fast_path, skip)
    assert replay_problem(first, fast_path / "root" / "0") is None
    found = _findings(fast_path, first, 30)
    for recording in _second_crashes(fast_path, skip, first):
        assert replay_problem(recording, fast_path / "root" / recording.model.base) is None
        found += _findings(fast_path, recording, 150)
    if word is None:
        assert found == []
    else:
        assert any(word in text for text in found), found[:5]


@pytest.mark.parametrize(("skip", "word"), [("", None), ("again", "lost")])
def test_what_a_failed_sync_left_in_the_page_cache_must_be_written_again(
    fast_path: Path, skip: str, word: str | None
) -> None:
    recording = _first_crash(fast_path, "fail", skip)
    assert replay_problem(recording, fast_path / "root" / "0") is None
    found = _findings(fast_path, recording, 100)
    if word is None:
        assert found == []
    else:
        assert any(word in text for text in found), found[:5]


def test_the_numbers_of_any_seed_fit_into_a_note() -> None:
    """A payload's number is the upper half of its id, which is a signed word of 64 bits."""
    assert max(map(first_number, range(10_000))) + 1_000_000 <= 1 << 31
