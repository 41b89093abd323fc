"""The measurement: log and disk in turns, round by round, so that a disk that changes its pace misleads nobody."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import walspool
from walspool import core
from walspool.cli.bench.disk import read_file, write_and_sync, zeroed_file
from walspool.cli.bench.figures import Figure, Figures, Ratio
from walspool.cli.bench.work import BATCH, PAYLOAD_BYTES, Done, append_batch, append_one, replay, together, work
from walspool.cli.progress import Bar

__all__ = ["Piece", "measure", "shares"]

FEWEST_ROUNDS = 5
#: What one piece of work gets in one round, where there is time for more than the fewest rounds.
SLICE_S = 0.2
#: A log beyond this loses its oldest segments between two rounds.
ROOM = 1 << 30
REPLAYED_BATCHES = 50


@dataclass(slots=True)
class Piece:
    """One kind of work, the piece that is its limit, and what it reached in each round."""

    run: Callable[[float], Done]
    beside: str | None = None
    #: Flushes so far, where they are counted.
    flushes: Callable[[], int] | None = None
    rates: list[float] = field(default_factory=list)
    per_flush: list[float] = field(default_factory=list)

    def once(self, seconds: float) -> None:
        """One round."""
        before = self.flushes() if self.flushes is not None else 0
        done = self.run(seconds)
        self.rates.append(done.per_s)
        if self.flushes is not None:
            self.per_flush.append(done.records / (self.flushes() - before))

    def figure(self, pieces: dict[str, Piece], frame_bytes: int) -> Figure:
        """What the rounds come to."""
        ratio = None
        if self.beside is not None:
            limits = pieces[self.beside].rates
            rounds = [mine / its for mine, its in zip(self.rates, limits, strict=True)]
            ratio = Ratio(self.beside, median(rounds), min(rounds), max(rounds))
        rate = median(self.rates)
        per_flush = median(self.per_flush) if self.per_flush else None
        return Figure(rate, rate * frame_bytes / 1e6, per_flush, ratio)


def shares(seconds: float, pieces: int) -> tuple[int, float]:
    """How many rounds fit, and how long a piece works in each. One more round goes first and does not count."""
    rounds = max(FEWEST_ROUNDS, int(seconds / (pieces * SLICE_S)) - 1)
    return rounds, seconds / (pieces * (rounds + 1))


def measure(folder: Path, seconds: float) -> Figures:
    """Measure for about so long, with files in ``folder``."""
    payload = os.urandom(PAYLOAD_BYTES)
    frame_bytes = len(core.encode_frame(1, payload))
    with walspool.open(folder / "log") as spool, _pieces(folder, spool, payload) as pieces:
        rounds, share = shares(seconds, len(pieces))
        order = list(pieces.values())
        with Bar("measuring", (rounds + 1) * len(order), measuring=True) as bar:
            for number in range(rounds + 1):
                turn = number % len(order)
                for piece in order[turn:] + order[:turn]:
                    piece.once(share)
                    bar.step(1)
                _make_room(spool)
    for piece in order:
        del piece.rates[0], piece.per_flush[:1]  # the first round pays for cold caches and for a log that is new
    rows = {name: piece.figure(pieces, frame_bytes) for name, piece in pieces.items()}
    return Figures(walspool.__version__, core.name, PAYLOAD_BYTES, frame_bytes, rounds, rows)


@contextmanager
def _pieces(folder: Path, spool: walspool.LogicalWalSpool, payload: bytes) -> Iterator[dict[str, Piece]]:
    """Every piece of work by its name, in the order of the table, each beside its limit."""
    frames = b"".join(core.encode_frame(lsn, payload) for lsn in range(1, BATCH + 1))
    one = append_one(spool, payload)

    def flushes() -> int:
        return spool.stats().flushes

    with ExitStack() as stack:
        zeroed = stack.enter_context(zeroed_file(folder / "zeroed"))
        other = _log_to_replay(folder / "replay", payload)
        again = stack.enter_context(walspool.open(other, read_only=True))
        single = write_and_sync(zeroed, frames[: len(frames) // BATCH], 1)
        many = write_and_sync(zeroed, frames, BATCH)
        whole = read_file(walspool.LogicalWalSpool.path_for(other), again.record_count)
        yield {
            "sync": Piece(partial(work, single)),
            "append_1": Piece(partial(work, one), "sync", flushes),
            "append_8": Piece(partial(together, one, threads=8), "sync", flushes),
            "append_64": Piece(partial(together, one, threads=64), "sync", flushes),
            "write_batch": Piece(partial(work, many)),
            "append_batch": Piece(partial(work, append_batch(spool, payload)), "write_batch", flushes),
            "read_file": Piece(partial(work, whole)),
            "replay": Piece(partial(work, replay(again)), "read_file"),
        }


def _log_to_replay(data_path: Path, payload: bytes) -> Path:
    with walspool.open(data_path, segment_bytes=None) as spool:
        work(append_batch(spool, payload), float("inf"), REPLAYED_BATCHES * BATCH)
    return data_path


def _make_room(spool: walspool.LogicalWalSpool) -> None:
    """Let the sealed segments of a large log go, so that a long run needs no more room than a short one."""
    sealed = spool.segments[:-1]
    if sealed and spool.size_bytes > ROOM:
        spool.prune_through(sealed[-1].last_lsn or 0)
