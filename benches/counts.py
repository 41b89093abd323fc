"""Instructions per append, per scanned and per replayed record, counted by valgrind: the same on a noisy machine.

``python benches/counts.py [--write] [--target-dir FOLDER]`` builds the driver, counts, and compares with
``counts.json``; exit 1 when
something moved by more than 5 %. ``--write`` keeps the new counts. Records are 256 bytes; waiting for the disk counts
nothing. The counts depend on the compiler, so they are only compared with those of the same one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from callgrind import instructions

__all__ = ["main"]

HERE = Path(__file__).parent
KEPT = HERE / "counts.json"
TOLERANCE = 0.05
#: Two amounts, so that what starting up costs falls out.
FEW, MANY = 2_000, 6_000


def _build(target_dir: Path) -> Path:
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(HERE / "driver" / "Cargo.toml")]
    subprocess.run(command, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(target_dir)})
    return target_dir / "release" / "walspool-driver"


def _each(driver: Path, what: str) -> float:
    """Instructions that one more record costs."""
    few, many = (instructions([str(driver), what, str(records)]) for records in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def _counts(driver: Path) -> dict[str, int]:
    fill, scan, replay = (_each(driver, what) for what in ("fill", "scan", "replay"))
    return {
        "append": round(_each(driver, "append")),
        "scanned record": round(scan - fill),  # the driver fills a file first
        "replayed record": round(replay - scan),  # and scans it before it replays it
    }


def main(arguments: list[str] | None = None) -> int:
    """Count, compare, and say what moved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the new counts")
    parser.add_argument("--target-dir", type=Path, default=HERE / "driver" / "target", help="where cargo builds")
    given = parser.parse_args(arguments)
    missing = [each for each in ("cargo", "valgrind") if shutil.which(each) is None]
    if missing:
        parser.error(f"install {' and '.join(missing)} first")
    compiler = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    counts = _counts(_build(given.target_dir.resolve()))
    kept: dict[str, Any] = {"compiler": compiler, "instructions": {}}
    if KEPT.exists():
        kept = json.loads(KEPT.read_text())
    if kept["compiler"] != compiler:
        print(f"counted before with {kept['compiler']}, now with {compiler}: not compared")
        kept = {"compiler": compiler, "instructions": {}}
    moved = False
    for name, now in counts.items():
        before = kept["instructions"].get(name)
        change = 0.0 if before is None else now / before - 1
        moved |= abs(change) > TOLERANCE
        print(f"{name:<16} {now:>6}" + ("" if before is None else f"  {change:+.1%} against {before}"))
    if given.write:
        KEPT.write_text(json.dumps({"compiler": compiler, "instructions": counts}, indent=2) + "\n")
    return 1 if moved and not given.write else 0


if __name__ == "__main__":
    sys.exit(main())
