"""What every log must hold, kept beside the real ones, and the invariants that are checked as things happen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import walspool

__all__ = ["Broken", "Commit", "History", "Records", "held"]

#: Per LSN the term and the payload.
Records = dict[int, tuple[int, bytes]]


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Commit:
    """A record that was acknowledged to a client with a copy elsewhere."""

    lsn: int
    payload: bytes
    #: The replicas that had said that they hold it.
    holders: frozenset[str]


@dataclass
class History:
    """The lineages: per term all that its primary's log held or holds. A term has one primary."""

    lineages: dict[int, Records] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    #: What happened, for replays: no wall clock, no path in it.
    trace: hashlib._Hash = field(default_factory=hashlib.sha256)
    events: list[str] = field(default_factory=list)

    def note(self, now_s: float, words: str) -> None:
        """Something happened."""
        line = f"{now_s:.6f} {words}"
        self.events.append(line)
        self.trace.update(line.encode())

    def begin(self, term: int, records: Records) -> None:
        """A primary of a new term begins with these records."""
        if term in self.lineages:
            raise Broken(f"two primaries in term {term}")
        self.lineages[term] = dict(records)

    def appended(self, term: int, lsn: int, payload: bytes) -> None:
        """The primary of a term has appended a record."""
        if lsn in self.lineages[term]:
            raise Broken(f"LSN {lsn} is used twice in term {term}")
        self.lineages[term][lsn] = (term, payload)

    def through(self, term: int, lsn: int) -> Records:
        """What a log of this lineage holds that ends at ``lsn``."""
        return {each: record for each, record in self.lineages[term].items() if each <= lsn}

    def check_prefix(self, name: str, term: int, records: Records) -> None:
        """A follower's log is a prefix of the log that it follows."""
        if records != self.through(term, max(records, default=0)):
            raise Broken(f"the log of {name} is no prefix of the lineage of term {term}")

    def forget(self, name: str, but: Records | None = None) -> None:
        """What a replica held is given up: no commit counts on it any more, ``but`` those among these records."""
        kept = {} if but is None else but
        self.commits = [
            each if kept.get(each.lsn, (0, b""))[1] == each.payload else replace(each, holders=each.holders - {name})
            for each in self.commits
        ]

    def check_commits(self, name: str, records: Records) -> None:
        """The log of a replica holds every commit that counted on it."""
        for commit in self.commits:
            if name in commit.holders and records.get(commit.lsn, (0, b""))[1] != commit.payload:
                raise Broken(f"the commit of LSN {commit.lsn} is lost on {name}, which had acknowledged it")


def held(spool: walspool.LogicalWalSpool, expected: Records) -> None:
    """The real log holds exactly what it must above where it begins."""
    begin = spool.pruned_through
    found = {entry.lsn: (entry.term, entry.payload) for entry in spool.entries(begin)}
    if found != {lsn: record for lsn, record in expected.items() if lsn > begin}:
        raise Broken(f"{spool.path.name} holds {sorted(found)} above {begin}, not {sorted(expected)}")
