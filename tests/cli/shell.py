"""Running the command, and looking at what it answered and what it left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a run of the command came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def objects(self) -> list[Any]:
        return [json.loads(each) for each in self.lines]

    def says(self, *words: str) -> bool:
        """Whether the error is one line that begins as all do and holds all these words."""
        assert self.err.startswith("walspool: "), self.err
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return all(each in self.err for each in words)


Command = Callable[..., Answer]


def process(*arguments: str | Path, stdin: bytes = b"", **options: Any) -> Answer:
    """Run the command as a process of its own."""
    line = [sys.executable, "-m", "walspool.cli", *map(str, arguments)]
    done = subprocess.run(line, input=stdin, capture_output=True, check=False, **options)
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


def damage(path: Path, offset: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def everything_below(folder: Path) -> dict[str, bytes]:
    """The content of every file, to see that nothing was changed."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
