"""What the demo tells: a line for each step, and the table or the JSON document at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from walspool.cli import output
from walspool.cli.demo.figures import PAYLOAD_BYTES, Figures
from walspool.cli.demo.kills import Kill

__all__ = ["Pruned", "Result"]


@dataclass(frozen=True, slots=True)
class Pruned:
    """The prune of one half: what went, the oldest LSN since, and the next one given."""

    records: int
    bytes_freed: int
    oldest_lsn: int | None
    next_lsn: int


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a run of the demo found."""

    source: str
    core: str
    records: int
    source_bytes: int
    log_bytes: int
    segments: int
    kills: list[Kill]
    files_identical: int
    reopen_ms: float
    pruned: Pruned
    figures: Figures
    seconds: float

    def facts(self) -> dict[str, Any]:
        """The result for JSON."""
        facts: dict[str, Any] = output.plain(self)
        rates = facts.pop("figures")
        return {"ok": True, **facts, **rates, "kills_survived": len(self.kills)}

    def print_table(self) -> None:
        """The result for people."""
        rates = self.figures
        small = f"of {PAYLOAD_BYTES} bytes"
        output.columns(
            [
                ("records", f"{self.records:,}"),
                ("MB", f"{self.source_bytes / 1e6:,.1f} in files, {self.log_bytes / 1e6:,.1f} in the log"),
                ("durable appends/s, 1 thread", f"{rates.appends_per_s_1_thread:,.0f} {small}"),
                ("durable appends/s, 32 threads", f"{rates.appends_per_s_32_threads:,.0f} {small}"),
                ("batch records/s", f"{rates.batch_records_per_s:,.0f} {small}"),
                ("replay records/s", f"{rates.replay_records_per_s:,.0f} {small}"),
                ("replay MB/s", f"{rates.replay_mb_per_s:,.0f}"),
                ("time to reopen", f"{self.reopen_ms:,.1f} ms"),
                ("kills survived", str(len(self.kills))),
                ("files identical", f"{self.files_identical:,} of {self.records:,}"),
            ]
        )
