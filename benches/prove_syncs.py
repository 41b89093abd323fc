"""How many syncs an append costs, counted by ``strace``: the proof that all who are compared make it durable.

By itself it is the traced program: ``prove_syncs.py FOLDER LABEL RUNS`` appends ``RUNS`` times what one run appends.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from append_cases import PURE
from model import Contender
from peers import ALONE_AND_PEERS
from place import own_folder

__all__ = ["main", "prove"]

CALLS = "fsync,fdatasync,msync,sync_file_range"
#: A line of the summary: share, seconds, microseconds a call, calls, errors where there were any, name.
_COUNTED = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.MULTILINE)

CONTENDERS: dict[str, Contender] = {
    "walspool": ALONE_AND_PEERS.walspool,
    "walspool, pure core": PURE.limits["pure core"],
    **ALONE_AND_PEERS.limits,
}


def prove(disk: Path) -> Iterator[str]:
    """A line for each contender of the one-thread append, as it is counted."""
    if shutil.which("strace") is None:
        yield "syncs per append: not counted, strace is not installed"
        return
    yield f"syncs per append, counted by strace -f -c -e trace={CALLS}"
    for label in CONTENDERS:
        once, more = (_traced(disk, label, runs) for runs in (1, 2))
        amount = more[0] - once[0]
        syncs = {name: count - once[1].get(name, 0) for name, count in more[1].items()}
        kinds = ", ".join(f"{name} {count / amount:.2f}" for name, count in syncs.items() if count)
        yield f"  {label:22} {sum(syncs.values()) / amount:5.2f}  {kinds}".rstrip()
    for label, why in ALONE_AND_PEERS.missing.items():
        yield f"  {label:22} not counted: {why}"


def _traced(disk: Path, label: str, runs: int) -> tuple[int, dict[str, int]]:
    """Appends of the traced program's runs, and its syncs from begin to end by their names."""
    with own_folder(disk) as folder:
        summary = folder / "summary"
        command = ["strace", "-f", "-c", "-e", f"trace={CALLS}", "-o", str(summary)]
        command += [sys.executable, __file__, str(folder), label, str(runs)]
        appends = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        counted = _COUNTED.findall(summary.read_text(encoding="utf-8"))
    return appends, {name: int(count) for count, name in counted if name != "total"}


def main() -> None:
    """The traced program."""
    folder, label, runs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with own_folder(folder) as own, CONTENDERS[label](own) as ready:
        ready.prepare()
        for _ in range(runs):
            ready.run()
        print(ready.amount * runs)


if __name__ == "__main__":
    main()
