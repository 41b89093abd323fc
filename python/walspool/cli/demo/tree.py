"""The tree of files that the demo records, and the tree rebuilt from the log."""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import walspool

__all__ = ["DemoFailed", "Tree", "put", "rebuild"]

#: Rewritten by running programs, or other people's packages, not the library itself.
LEFT_OUT = {"__pycache__", "site-packages", "dist-packages"}
#: In hexadecimal twice as long, and with the rest of its record still below the limit of a payload.
LARGEST = 120 << 20


class DemoFailed(Exception):
    """Something came out other than promised."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder and the files in it, in the order in which they are recorded: file ``i`` is LSN ``i + 1``."""

    root: str
    names: list[str]
    bytes: int

    @classmethod
    def of_standard_library(cls, largest: int = LARGEST) -> Tree:
        """The standard library of the Python that runs this, without files above ``largest`` bytes."""
        root = sysconfig.get_path("stdlib")
        names, total = [], 0
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(set(folders) - LEFT_OUT)
            for each in sorted(files):
                path = Path(folder, each)
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= largest:
                    names.append(path.relative_to(root).as_posix())
                    total += path.stat().st_size
        return cls(root, names, total)

    def save(self, path: Path) -> None:
        """Write the list down for the writer process."""
        path.write_text(json.dumps(asdict(self)), encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> Tree:
        """Read the list that ``save`` wrote."""
        return cls(**json.loads(path.read_text(encoding="ascii")))

    def change(self, index: int, term: int = 1) -> walspool.ChangeRecord:
        """One file as a change record: its bytes as the entity, its relative path beside them."""
        name = self.names[index]
        path = Path(self.root, name)
        return walspool.ChangeRecord(
            term=term,
            lsn=index + 1,
            timestamp=time.time_ns() // 1_000_000,
            operation=walspool.ChangeOperation.INSERT,
            collection=name.partition("/")[0],
            entity_id=index,
            entity_kind="document",
            entity_bytes=path.read_bytes(),
            metadata={"path": name},
        )

    def compare(self, rebuilt: Path) -> None:
        """Compare every file of both trees by SHA-256, and that neither has one more."""
        for name in self.names:
            try:
                same = _digest(Path(self.root, name)) == _digest(rebuilt / name)
            except FileNotFoundError as error:
                raise DemoFailed(f"first differing file: {name} ({error.filename} is missing)") from error
            if not same:
                raise DemoFailed(f"first differing file: {name} (its SHA-256 is another)")
        found = {path.relative_to(rebuilt).as_posix() for path in rebuilt.rglob("*") if path.is_file()}
        invented = sorted(found - set(self.names))
        if invented:
            raise DemoFailed(f"first differing file: {invented[0]} (only in the rebuilt tree)")


def rebuild(spool: walspool.LogicalWalSpool, target: Path) -> int:
    """Write every file that the log holds below ``target``; how many."""
    files = 0
    for entry in spool.entries():
        put(entry.lsn, entry.change(), target)
        files += 1
    return files


def put(lsn: int, change: walspool.ChangeRecord, target: Path) -> None:
    """Write the file of one record below ``target``: it is there whole, or not at all."""
    metadata = change.metadata
    name = metadata.get("path") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/") or change.entity_bytes is None:
        raise DemoFailed(f"LSN {lsn} is not one of the records that were written")
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    part.write_bytes(change.entity_bytes)
    part.replace(path)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
