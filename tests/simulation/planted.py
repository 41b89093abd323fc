"""Defects that the simulation must find: each takes one defence away, or the two that stand behind each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

import walspool
from walspool import PrimaryReplication
from walspool.core.pure import flush
from walspool.net import source as source_module
from walspool.net.following import Following, OwnLog
from walspool.net.messages import StreamHead, WalRequest
from walspool.net.serving import LogFacts, Sessions, SlotFacts, Stream, decide_wal
from walspool.net.sink import Sink
from walspool.spool import files as fs
from walspool.spool.segments import position_of
from walspool.spool.writing import WritableLog

__all__ = ["PLANTED", "Planted"]

Patch = pytest.MonkeyPatch


def _no_lineage_check(patch: Patch) -> None:
    """The primary serves whoever asks, from the LSN that he names."""

    def decide(request: WalRequest, slot: SlotFacts | None, facts: LogFacts) -> Any:
        return decide_wal(replace(request, position=None), slot, facts)

    patch.setattr(source_module, "decide_wal", decide)


def _any_response_is_taken(patch: Patch) -> None:
    """The follower does not look where a response begins."""
    _changed_heads(patch, lambda given, log: replace(given, previous=log.last))


def _no_lineage_check_at_all(patch: Patch) -> None:
    """Neither of them looks."""
    _no_lineage_check(patch)
    _any_response_is_taken(patch)


def _changed_heads(patch: Patch, change: Callable[[StreamHead, OwnLog], StreamHead]) -> None:
    head = Following.head
    patch.setattr(Following, "head", lambda self, given, log, now_s: head(self, change(given, log), log, now_s))


def _an_early_ack(patch: Patch) -> None:
    """Records are acknowledged when they come, and written with the next ones."""
    take = Sink.take

    def late(self: Sink, count: int, now_s: float) -> bool:
        data, early = bytes(self.room[:count]), self.__dict__.pop("early", b"")
        self.room[: len(early)] = early
        done = take(self, len(early), now_s)
        self.__dict__["early"] = data
        with contextlib.suppress(walspool.FrameCorrupt):  # the first of it may begin in the middle of a frame
            at = 0
            while at < len(data):
                entry, at = walspool.core.decode_frame(data, at)
                self.following.durable(position_of(entry))
        return done

    patch.setattr(Sink, "take", late)


def _late_acks_count(patch: Patch) -> None:
    """An acknowledgement of an earlier session counts."""
    patch.setattr(Sessions, "check", lambda self, name, session, now_s: None)


def _no_fence(patch: Patch) -> None:
    """A primary that meets a newer term goes on."""
    patch.setattr(PrimaryReplication, "fence", lambda self, term: False)


def _a_fence_until_the_restart(patch: Patch) -> None:
    """The fence is not on disk."""
    patch.setattr(WritableLog, "fence", lambda self, term: self._segments("fence").appender.fence(term))


def _a_prune_overtakes(patch: Patch) -> None:
    """A stream goes on where a prune came past it."""
    took = Stream.took
    patch.setattr(Stream, "took", lambda self, size, last_lsn, gone_through: took(self, size, last_lsn, 0))


def _promoted_too_early(patch: Patch) -> None:
    """A replica that began again may be promoted before it is back."""
    check = Following.check_promotable

    def early(self: Following, log: OwnLog) -> None:
        self.reach_lsn = 0
        check(self, log)

    patch.setattr(Following, "check_promotable", early)


def _half_a_snapshot(patch: Patch) -> None:
    """Nothing notes that a snapshot is being loaded."""
    patch.setattr(Sink, "begin_load", lambda self: None)


def _records_are_not_synced(patch: Patch) -> None:
    """What is acknowledged is written, and lost with the power."""
    patch.setattr(flush, "sync", lambda file, resized: None)


def _a_fence_is_not_synced(patch: Patch) -> None:
    """What is met, or promoted to, is lost with the power."""
    sync = fs.sync_file
    patch.setattr(fs, "sync_file", lambda fd, path: None if path.suffix == ".spare" else sync(fd, path))


def _a_bootstrap_is_not_synced(patch: Patch) -> None:
    """That a snapshot is being loaded is lost with the power."""
    mark = Sink._mark

    def unsynced(self: Sink, words: str) -> None:
        with patch.context() as meanwhile:
            meanwhile.setattr(fs, "sync_file", lambda fd, path: None)
            mark(self, words)

    patch.setattr(Sink, "_mark", unsynced)


class Planted(NamedTuple):
    """A defect, the seed at which the search for it begins, near one that finds it, and whether power must be lost."""

    first: int
    plant: Callable[[Patch], None]
    power: bool = False


PLANTED: dict[str, Planted] = {
    "no-lineage-check": Planted(0, _no_lineage_check),
    "any-response-is-taken": Planted(15, _any_response_is_taken),
    "no-lineage-check-at-all": Planted(0, _no_lineage_check_at_all),
    "an-early-ack": Planted(0, _an_early_ack),
    "late-acks-count": Planted(725, _late_acks_count),
    "no-fence": Planted(1, _no_fence),
    "a-fence-until-the-restart": Planted(1, _a_fence_until_the_restart),
    "a-prune-overtakes": Planted(72, _a_prune_overtakes),
    "promoted-too-early": Planted(17, _promoted_too_early),
    "half-a-snapshot": Planted(121, _half_a_snapshot),
    "records-are-not-synced": Planted(0, _records_are_not_synced, power=True),
    "a-fence-is-not-synced": Planted(0, _a_fence_is_not_synced, power=True),
    "a-bootstrap-is-not-synced": Planted(14, _a_bootstrap_is_not_synced, power=True),
}
