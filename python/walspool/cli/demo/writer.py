"""The writer process of the demo: records files from where the log ends and acknowledges them on standard output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import walspool
from walspool.cli.demo.tree import Tree

__all__ = ["ACK_BYTES", "GROUP", "SEGMENT_BYTES", "write"]

#: Files of one append, so of one flush and one acknowledgement.
GROUP = 4
#: A pipe holds only a few lines of this length, so the writer can't run far ahead of who kills it.
ACK_BYTES = 4096
#: Small, so that the demo's log has many segments.
SEGMENT_BYTES = 16 << 20


def write(data_path: Path, manifest: Path) -> None:
    """Append what is missing, a group at a time, each answered with its last LSN."""
    tree = Tree.load(manifest)
    with walspool.open(data_path, segment_bytes=SEGMENT_BYTES, recovery="strict") as spool:
        for start in range(spool.current_lsn, len(tree.names), GROUP):
            group = range(start, min(start + GROUP, len(tree.names)))
            spool.append_many([(index + 1, tree.change(index).encode()) for index in group])
            os.write(1, str(group[-1] + 1).encode("ascii").ljust(ACK_BYTES - 1) + b"\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
