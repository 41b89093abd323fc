"""What is recorded: short programs on the shipped package. Run with NAME FOLDER SEED PHASE.

A phase is one process; the next one finds the files, and the page cache, as that one left them.
"""

import asyncio
import errno
import faulthandler
import json
import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.lab import frames, slots
from tests.lab.checker import DATA, LOG, Kind
from tests.lab.notes import Author, make_payload
from tests.lab.record import Call, Note, Said
from tests.lab.slot_checker import SLOTS

SECTOR_PAYLOAD = 512 - frames.OVERHEAD
SIZES = (8, 20, 60, 200, 470, 700, 1500, 2600)


@dataclass(frozen=True)
class Workload:
    """How one is run: its phases, and how long a sync takes in it."""

    phases: tuple[Callable[["Run"], None], ...]
    sync_us: int = 0
    options: Callable[[int], dict[str, Any]] = field(default=lambda seed: {})
    data: Callable[[int], str] = field(default=lambda seed: DATA)
    prepare: Callable[[Path, int], list[Said]] = field(default=lambda folder, seed: [])
    kind: Kind = LOG


class Run:
    """One process of one workload."""

    def __init__(self, path: Path, seed: int, phase: int, options: dict[str, Any]) -> None:
        self.path = path
        self.options = options
        self.rng = random.Random(seed * 10 + phase)
        self.seed = seed
        self.author = Author(1 + phase * 100_000)

    def open(self, **more: Any) -> Any:
        """Opens the log; what was there before is shown and noted."""
        import walspool.spool.log as log

        if self.seed % 5 == 3:
            log.FILL_AFTER_FLUSHES = 0  # zeros ahead in the middle of everything else
        spool = log.LogicalWalSpool.open(self.path, **(self.options | more))
        self.author.published(spool)
        return spool

    def size(self) -> int:
        """A payload size."""
        return self.rng.choice(SIZES)

    def append(self, spool: Any, count: int) -> None:
        """Single appends, now and then one whose payload is full of frames."""
        for _ in range(count):
            number, data = self.author.submit(self.size(), nested=self.rng.random() < 0.15)
            if self.rng.random() < 0.5:
                self.author.ack(number, spool.append_next(data))
            else:
                lsn = spool.current_lsn + 1
                spool.append(lsn, data)
                self.author.ack(number, lsn)

    def append_batch(self, spool: Any, count: int, size: int | None = None) -> None:
        """One call with many records, of the three kinds there are."""
        made = [self.author.submit(size or self.size()) for _ in range(count)]
        first = spool.current_lsn + 1
        records = [(first + i, data) for i, (_, data) in enumerate(made)]
        kind = self.rng.randrange(3)
        if kind == 0:
            spool.append_many(records)
        elif kind == 1:
            spool.append_next_many([data for _, data in records])
        else:
            spool.append_frames(b"".join(frames.encode(lsn, data) for lsn, data in records))
        for (lsn, _), (number, _) in zip(records, made, strict=True):
            self.author.ack(number, lsn)


def single(run: Run) -> None:
    """Appends, a clean close, more appends."""
    with run.open() as spool:
        run.append(spool, 12)
    spool = run.open()
    run.append(spool, 8)
    os._exit(0)


def threads(run: Run) -> None:
    """Four threads that append at once."""
    spool = run.open()

    def work(index: int) -> None:
        mine = Run(run.path, run.seed * 7 + index, 0, run.options)
        mine.author = Author(1000 * (index + 1))
        for _ in range(7):
            number, data = mine.author.submit(mine.size(), nested=mine.rng.random() < 0.1)
            mine.author.ack(number, spool.append_next(data))

    running = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    spool.close()


def batches(run: Run) -> None:
    """Calls with many records, over small segments."""
    with run.open() as spool:
        for _ in range(5):
            run.append_batch(spool, run.rng.randint(2, 12))
            run.append(spool, run.rng.randint(0, 2))
    if run.seed % 16 == 1:  # more than one write can hold
        with run.open() as spool:
            run.append_batch(spool, 3, size=1_900_000)
    if run.seed % 16 == 9:  # more than is written in one piece
        with run.open() as spool:
            run.append_batch(spool, 3, size=300_000)


def aligned(run: Run) -> None:
    """Batches whose frames are a sector each, so that what lies behind a frame can outlive it."""
    with run.open() as spool:
        for count in (1, 4, 3, 5):
            run.append_batch(spool, count, size=SECTOR_PAYLOAD)


def rotation(run: Run) -> None:
    """Segments of a record or a few."""
    with run.open() as spool:
        run.append(spool, 14)
    spool = run.open()
    run.append(spool, 8)
    os._exit(0)


def prune(run: Run) -> None:
    """Prunes between appends, in the middle of segments and at their ends; sometimes beside appends."""
    spool = run.open()
    run.append(spool, 8)
    run.author.prune(spool, run.rng.randint(1, 7))
    run.append(spool, 4)
    if run.seed % 3 == 2:
        run.author.library.note(Note.PRUNE, 10)
        thread = threading.Thread(target=spool.prune_through, args=(10,))
        thread.start()
        run.append(spool, 3)
        thread.join()
        run.author.library.note(Note.PRUNED, 10)
    spool.close()
    spool = run.open()
    run.author.prune(spool, spool.current_lsn - run.rng.randint(0, 3))
    run.append(spool, 3)
    if run.seed % 4 == 3:
        restart(run, spool)
    os._exit(0)


def restart(run: Run, spool: Any) -> None:
    """Starts anew behind a far position, as after a bootstrap."""
    import walspool

    spool.close()
    position = walspool.Position(3, 500, 0)
    run.author.library.note(Note.PRUNE, position.lsn)
    spool = walspool.LogicalWalSpool.restart_at(run.path, position, **run.options)
    run.author.library.note(Note.PRUNED, position.lsn)
    run.append(spool, 3)


def old_files(folder: Path, seed: int) -> list[Said]:
    """What the reference may have left: frames of version 2, then 3, in a file without a mark; and its records."""
    if seed % 3 != 1:
        return []
    notes, data = [], b""
    for lsn in range(1, 9):
        number = (50_000 + lsn) << 32 | 90
        make = frames.encode_2 if lsn < 6 else frames.encode
        data += make(lsn, make_payload(number), timestamp_ms=0)
        notes += [Said(Note.SUBMIT, number, 0), Said(Note.ACK, number, lsn)]
    (folder / f"{DATA}.logical.wal").write_bytes(data)
    return notes


def zeros(run: Run) -> None:
    """Zeros written ahead from the first flush on; the process ends without a close."""
    import walspool.spool.log as log

    log.FILL_AFTER_FLUSHES = 0
    spool = run.open()
    if run.seed % 8 == 2 and not run.options:
        run.append_batch(spool, 3, size=100_000)
        _wait_for_zeros(run, 300_000)
        run.append_batch(spool, 2, size=70_000)
    run.append(spool, 8)
    if run.rng.random() < 0.5:
        run.append_batch(spool, 5)
    os._exit(0)


def _wait_for_zeros(run: Run, written: int) -> None:
    """Until there are many behind a large batch: the Rust core writes them by itself while nothing is appended."""
    from walspool import core

    active = run.path.with_name(f"{run.path.name}.logical.wal")
    while core.name == "rust" and active.stat().st_size < written * 3 // 2:
        os.sched_yield()


def in_asyncio(run: Run) -> None:
    """Tasks that append at once."""

    async def main() -> None:
        async with run.open() as spool:

            async def one() -> None:
                number, data = run.author.submit(run.size())
                run.author.ack(number, await spool.aappend_next(data))

            for _ in range(4):
                await asyncio.gather(*(one() for _ in range(run.rng.randint(2, 7))))

    asyncio.run(main())


def go_on(run: Run) -> None:
    """Opens whatever is there, shows it, appends, closes."""
    with run.open() as spool:
        if run.seed % 2:
            run.append(spool, 2)
        run.append_batch(spool, 1, size=SECTOR_PAYLOAD)
        run.append_batch(spool, 3, size=run.rng.choice((60, 300)))


def with_faults(run: Run) -> None:
    """One call fails, by turns a sync of the log, any sync, a write; the process goes on if it may, and ends."""
    library = run.author.library
    kind = run.seed % 4
    spool = run.open()
    run.append(spool, 3)
    if kind == 0:
        library.arm(Call.SYNC, run.rng.randint(1, 6), errno.EIO, part=".wal")
    elif kind == 1:
        library.arm(Call.SYNC, run.rng.randint(1, 30), errno.EIO)
    elif kind == 2:
        library.arm(Call.WRITE, run.rng.randint(1, 8), errno.ENOSPC, run.rng.choice((0, 2)))
    else:
        library.arm(Call.WRITE, run.rng.randint(1, 12), errno.EIO, 2)
    for step in range(8):
        try:
            run.append(spool, 1)
            if step % 3 == 1:
                run.append_batch(spool, 4)
            if step == 5:
                run.author.prune(spool, 4)
        except Exception as error:
            if library.fired() is None:
                raise AssertionError("a failure without a fault") from error
    os._exit(0)


def _rotating(low: int, high: int, every: int = 1) -> Callable[[int], dict[str, Any]]:
    """Segments of some size; only for some seeds, where the others have one large one."""
    return lambda seed: {"segment_bytes": random.Random(seed).randint(low, high)} if seed % every == 0 else {}


def _prune_options(seed: int) -> dict[str, Any]:
    return {"segment_bytes": None if seed % 2 else random.Random(seed).randint(600, 4000)}


def _fault_options(seed: int) -> dict[str, Any]:
    return {"segment_bytes": 64 << 20 if seed % 8 < 4 else 2500}


WORKLOADS: dict[str, Workload] = {
    "single": Workload((single,), data=lambda seed: f"new/folder/{DATA}" if seed % 3 == 0 else DATA),
    "threads": Workload((threads,), sync_us=1000, options=_rotating(2000, 9000, every=3)),
    "batches": Workload((batches,), options=_rotating(3000, 20_000)),
    "rotation": Workload((rotation,), options=_rotating(300, 2500)),
    "prune": Workload((prune,), options=_prune_options, prepare=old_files),
    "zeros": Workload((zeros, zeros), options=_rotating(3000, 9000, every=3)),
    "asyncio": Workload((in_asyncio,), sync_us=700, options=_rotating(2000, 9000, every=3)),
    "faults": Workload((with_faults, go_on), options=_fault_options),
    "recovery": Workload((go_on,)),
    "slots": Workload(
        (slots.primary_at_work, slots.primary_again), 300, slots.options, prepare=slots.leftover, kind=SLOTS
    ),
}
#: What recovery starts from: a crash of one of these.
BASES = ("single", "threads", "batches", "rotation", "prune", "zeros", "faults", "aligned")
HIDDEN = {
    "aligned": Workload((aligned,)),
    "slots-without-flush": replace(WORKLOADS["slots"], phases=(slots.without_flush,)),
    "slots-by-memory": replace(WORKLOADS["slots"], phases=(slots.prune_by_memory,)),
}


def first_number(seed: int) -> int:
    """Of the payloads that are appended to what a crash has left: another million for each of 2,000 seeds."""
    return 1_000_000 + seed % 2_000 * 1_000_000


def main(name: str, folder: str, seed: int, phase: int, sections: list[str]) -> None:
    """Runs one phase; with sections (folder, data path, options; as JSON) in each of those."""
    faulthandler.dump_traceback_later(120, exit=True)  # a hang becomes an error that shows where
    workload = (WORKLOADS | HIDDEN)[name]
    if not sections:
        workload.phases[phase](Run(Path(folder) / workload.data(seed), seed, phase, workload.options(seed)))
    for section in sections:
        number, data, options = json.loads(section)
        run = Run(Path(folder) / str(number) / data, seed, phase, options)
        run.author.library.note(Note.SECTION, number)
        run.author = Author(first_number(seed))
        workload.phases[phase](run)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
