"""The short measurement: what it prints and leaves, where it refuses, and the sentence's rules. No speed is tested."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import walspool
from tests.cli.shell import Command, everything_below
from walspool.cli.bench import place, rounds
from walspool.cli.bench.disk import ZEROED_BYTES, write_and_sync, zeroed_file
from walspool.cli.bench.figures import Figure, Ratio
from walspool.cli.bench.place import Mount, mount_of
from walspool.cli.bench.report import TITLES, sentence
from walspool.cli.bench.work import RecordsMissing, replay, together, work

TINY = ("--seconds", "0.05")
WORK = ["sync", "append_1", "append_8", "append_64", "write_batch", "append_batch", "read_file", "replay"]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a file, on what is taken for a disk; it must be as it was afterwards."""
    monkeypatch.setattr(place, "mount_of", lambda _: Mount("ext4", "/dev/sdz9", "/", "rw,noatime"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "app.db").write_bytes(b"mine")
    yield folder
    assert everything_below(folder) == {"app.db": b"mine"}
    assert [each.name for each in folder.iterdir()] == ["app.db"]


def test_the_table(command: Command, disk: Path) -> None:
    answer = command("bench", disk, *TINY)
    assert (answer.code, answer.err) == (0, "")
    where, what, empty, heading, *rows, gap, words = answer.lines
    assert where.startswith(f"{disk}: ext4 on /dev/sdz9 (rw,noatime)")
    assert f"walspool {walspool.__version__}" in what
    assert "medians of 5 rounds" in what
    assert (empty, gap) == ("", "")
    columns = ["work", "records/s", "MB/s", "per flush", "ratio", "low", "high", "ratio to"]
    assert [each.strip() for each in heading.split("  ") if each] == columns
    assert [each.split("  ")[0] for each in rows] == [TITLES[name] for name in WORK]
    for row, limit in zip(rows, [None, 0, 0, 0, None, 4, None, 6], strict=True):
        assert row[heading.index("ratio to") :] == ("" if limit is None else TITLES[WORK[limit]])
    assert words.endswith(".")


def test_the_document(command: Command, disk: Path) -> None:
    answer = command("bench", disk, *TINY, "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.document
    assert list(facts["work"]) == WORK
    assert (facts["payload_bytes"], facts["frame_bytes"], facts["rounds"]) == (256, 293, 5)
    assert facts["core"] in ("rust", "python")
    assert facts["seconds"] > 0
    assert facts["place"]["file_system"] == "ext4"
    assert facts["sentence"].endswith(".")
    beside = {"append_batch": "write_batch", "replay": "read_file"}
    for name, figure in facts["work"].items():
        assert figure["records_per_s"] > 0
        assert figure["mb_per_s"] == pytest.approx(figure["records_per_s"] * 293 / 1e6)
        assert (figure["records_per_flush"] is not None) == name.startswith("append")
        if name in ("sync", "write_batch", "read_file"):
            assert figure["ratio"] is None
        else:
            ratio = figure["ratio"]
            assert ratio["beside"] == beside.get(name, "sync")
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    assert facts["work"]["append_1"]["records_per_flush"] == 1
    assert facts["work"]["append_batch"]["records_per_flush"] == 1000


def test_a_folder_in_memory_is_refused(command: Command, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "mount_of", lambda _: Mount("tmpfs", "tmpfs", "/dev/shm", "rw"))
    answer = command("bench", disk)
    assert (answer.code, answer.out) == (2, "")
    assert answer.says(f"{disk} is on tmpfs", "no sync rate")


def test_no_folder_or_a_file(command: Command, disk: Path) -> None:
    for path, words in ((disk / "typo", "No such file or directory"), (disk / "app.db", "Not a directory")):
        answer = command("bench", path)
        assert (answer.code, answer.out) == (3, "")
        assert answer.err == f"walspool: {words}: {path}\n"


def test_a_full_disk_is_one_line_and_leaves_nothing(
    command: Command, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    answer = command("bench", disk, "--json")
    assert (answer.code, answer.out) == (3, "")
    assert answer.says("No space left on device")


INTERRUPTED = """
import sys
from walspool.cli.bench import place, rounds
from walspool.cli.running import end, run

place.mount_of = lambda folder: place.Mount("ext4", "/dev/sdz9", "/", "rw")
for name in ("together", "work"):
    def announced(*arguments, original=getattr(rounds, name), name=name, **named):
        print("begin", name, named.get("threads", 1), flush=True)
        return original(*arguments, **named)
    setattr(rounds, name, announced)
end(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("during", ["work 1", "together 8", "together 64"])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_one_leaves_nothing(disk: Path, during: str, sent: signal.Signals, code: int) -> None:
    line = [sys.executable, "-c", INTERRUPTED, "bench", str(disk), "--seconds", "30"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        for each in bench.stdout:
            if each == f"begin {during}\n":
                assert len(list(disk.iterdir())) == 2
                bench.send_signal(sent)
                break
        out, err = bench.communicate()
    assert (bench.returncode, err) == (code, "")
    assert "records/s" not in out


def test_where_a_folder_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw,discard\n"
        "2 1 0:5 / /data rw - tmpfs tmpfs rw,size=1k\n"
        "3 1 8:2 / /data rw,noatime - xfs /dev/sdb rw\n"
        "4 1 8:3 / /with\\040space rw - btrfs /dev/sdc rw,compress\n"
    )
    monkeypatch.setattr(place, "MOUNTS", mounts)
    assert mount_of(Path("/database")) == Mount("ext4", "/dev/root", "/", "rw,relatime,discard")
    assert mount_of(Path("/data/base")) == Mount("xfs", "/dev/sdb", "/data", "rw,noatime")
    assert mount_of(Path("/with space")).file_system == "btrfs"
    monkeypatch.setattr(place, "MOUNTS", tmp_path / "none")
    assert mount_of(Path("/data")) == Mount("?", "?", "?", "?")


def test_the_time_is_shared_out() -> None:
    for seconds, expected in ((0.8, 5), (8, 5), (15, 8), (300, 186)):
        count, share = rounds.shares(seconds, 8)
        assert count == expected
        assert (count + 1) * 8 * share == pytest.approx(seconds)


def test_a_large_log_loses_its_oldest_segments(
    command: Command, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with walspool.open(tmp_path / "log", segment_bytes=1000) as spool:
        for _ in range(20):
            spool.append_next(bytes(256))
        rounds._make_room(spool)
        assert spool.oldest_lsn == 1
        assert len(spool.segments) > 2
        monkeypatch.setattr(rounds, "ROOM", 1000)
        rounds._make_room(spool)
        assert len(spool.segments) == 1
        assert spool.oldest_lsn != 1
    monkeypatch.setattr(rounds, "ROOM", 0)  # also where one segment is all there is
    assert command("bench", disk, *TINY).code == 0


def test_the_same_frames_are_written_from_the_begin_again(tmp_path: Path) -> None:
    frames = b"x" * (ZEROED_BYTES // 3 + 1)
    with zeroed_file(tmp_path / "zeroed") as fd:
        step = write_and_sync(fd, frames, 7)
        assert [step() for _ in range(4)] == [7, 7, 7, 7]
        assert os.fstat(fd).st_size == ZEROED_BYTES
        assert os.pread(fd, ZEROED_BYTES, 2 * len(frames)) == bytes(ZEROED_BYTES - 2 * len(frames))


def test_work_ends_by_time_or_by_amount() -> None:
    assert work(lambda: 3, 0).records == 3
    assert work(lambda: 3, float("inf"), most=10).records == 12
    assert together(lambda: 3, 0, threads=5).records == 15


def test_a_failure_in_a_thread_is_raised() -> None:
    def step() -> int:
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        together(step, 0, threads=3)
    assert threading.active_count() == 1


def test_records_that_are_not_read_back_give_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with walspool.open(tmp_path / "log") as spool:
        spool.append_next_many([b"one", b"two"])
        assert replay(spool)() == 2
        monkeypatch.setattr(walspool.LogicalWalSpool, "tuples", lambda *_: iter([(1, b"one")]))
        with pytest.raises(RecordsMissing, match="1 of 2"):
            replay(spool)()


def made_up(**changes: tuple[float, float | None]) -> dict[str, Figure]:
    """Figures as on a usual disk, but for the ones named: a ratio and the records of a flush."""
    usual: dict[str, tuple[float, float | None]] = {
        "append_1": (0.94, 1.0),
        "append_8": (7.41, 7.8),
        "append_64": (22.4, 56.0),
        "append_batch": (0.6, 1000.0),
        "replay": (0.3, None),
    }
    beside = {"append_batch": "write_batch", "replay": "read_file"}
    return {
        name: Figure(1.0, 1.0, shared, Ratio(beside.get(name, "sync"), ratio, ratio, ratio))
        for name, (ratio, shared) in {**usual, **changes}.items()
    }


def test_the_sentence_about_a_usual_disk() -> None:
    assert sentence(made_up()) == (
        "One thread is limited by the disk: 94 % of the disk's sync rate; "
        "8 threads by the disk: 7.8 records share a flush, and flushes come at 95 % of the sync rate; "
        "64 threads by the processor: 56.0 records share a flush, and flushes come at 40 % of the sync rate; "
        "batches by the disk and the processor alike: 60 % of writing and syncing the same bytes; "
        "replay by the processor: 30 % of reading the file."
    )


@pytest.mark.parametrize(
    ("changes", "clause"),
    [
        ({"append_1": (0.75, 1.0)}, "One thread is limited by the disk: 75 %"),
        ({"append_1": (0.74, 1.0)}, "One thread is limited by the disk and the processor alike: 74 %"),
        ({"append_1": (0.5, 1.0)}, "One thread is limited by the disk and the processor alike: 50 %"),
        ({"append_1": (0.49, 1.0)}, "One thread is limited by the processor: 49 %"),
        ({"append_1": (0.004, 1.0)}, "One thread is limited by the processor: under 1 % of"),
        ({"append_1": (1.1, 1.0)}, "One thread is limited by the disk: 110 %"),
        ({"append_8": (0.9, 1.0)}, "8 threads by the disk: hardly a flush is shared, and they come at 90 %"),
        ({"append_8": (2.0, 5.0)}, "8 threads by the processor: 5.0 records share a flush, and flushes come at 40 %"),
        ({"append_64": (60.0, 60.0)}, "64 threads by the disk: 60.0 records share a flush"),
        ({"append_batch": (0.9, 1000.0)}, "batches by the disk: 90 %"),
        ({"append_batch": (0.2, 1000.0)}, "batches by the processor: 20 %"),
        ({"replay": (0.6, None)}, "replay by the read and the processor alike: 60 %"),
        ({"replay": (0.8, None)}, "replay by the read: 80 %"),
    ],
)
def test_the_sentence_follows_the_figures(changes: dict[str, tuple[float, float | None]], clause: str) -> None:
    words = sentence(made_up(**changes))
    assert any(each.strip(".").startswith(clause) for each in words.split("; ")), words
    assert words.count(". ") == 0


@pytest.mark.parametrize("name", ["append_1", "append_8", "append_64", "append_batch", "replay"])
def test_figures_that_contradict_each_other_are_told(name: str) -> None:
    words = sentence(made_up(**{name: (130.0, 64.0 if name == "append_64" else None)}))
    assert "contradict" in words
    assert "limited" not in words
