"""A negative control: `python -m tests.lab.control WORKLOAD LIE WORDS`.

Records the workload under a library that drops one kind of sync, and looks for a state of which the checker says
WORDS. Prints one JSON object.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

from tests.lab.build import fast_folder
from tests.lab.campaign import Cell, check_recording
from tests.lab.recorder import record

SEEDS = 12
PER_RECORDING = 400


def main(workload: str, lie: str, words: str) -> None:
    """Until it is found, or there is no more to look at."""
    import walspool.core

    logging.disable(logging.CRITICAL)
    cell = Cell(workload, walspool.core.name)
    seen: set[bytes] = set()
    found: list[str] = []
    with tempfile.TemporaryDirectory(prefix="walspool-control-", dir=fast_folder()) as temporary:
        folder = Path(temporary).resolve()
        for seed in range(SEEDS):
            for recording in record(workload, cell.core, seed, folder, lie=lie):
                cell.findings = []
                check_recording(recording, PER_RECORDING, seed, folder / "state", seen, cell, limit=3)
                found = [text for text in cell.findings if words in text]
                if found:
                    break
            if found:
                break
    print(json.dumps({"found": found[:3], "states": cell.states, "seed": seed, "others": cell.findings[:5]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
