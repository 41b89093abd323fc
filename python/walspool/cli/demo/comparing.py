"""Whether two logs are the same, byte by byte."""

from __future__ import annotations

import walspool
from walspool.cli.demo.tree import DemoFailed

__all__ = ["same_frames"]


def same_frames(a: walspool.LogicalWalSpool, b: walspool.LogicalWalSpool) -> int:
    """Compare every frame that both logs still have; how many. ``DemoFailed`` names the first that differs."""
    since = max(a.pruned_through, b.pruned_through)
    records = 0
    while True:
        ours, theirs = (each.read_frames(since, 1) for each in (a, b))  # the next frame alone
        if ours != theirs:
            lsn = min(each.first_lsn for each in (ours, theirs) if each.first_lsn is not None)
            raise DemoFailed(f"first differing record: LSN {lsn} of {a.path.name} and {b.path.name}")
        if ours.last_lsn is None:
            return records
        since = ours.last_lsn
        records += 1
