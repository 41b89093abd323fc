"""What a primary says of itself, its replicas and its slots, as JSON for people and programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from walspool.replication.primary import PrimaryReplication

__all__ = ["retention_of", "slots_of", "status_of"]


def status_of(primary: PrimaryReplication) -> dict[str, Any]:
    """Role, term, LSNs, replicas with what each lags, slots, who pins the log until when, and the last recovery.

    A lag that is not known is null.
    """
    spool = primary.logical_wal_spool
    assert spool is not None
    lags = {each.id: each for each in primary.replica_lags()}
    replicas = []
    for replica in primary.replica_snapshots():
        lag = lags.get(replica.id)
        told = {f"lag_{unit}": getattr(lag, unit, None) for unit in ("records", "bytes", "seconds")}
        replicas.append({**asdict(replica), **told})
    recovery = asdict(spool.recovery)
    recovery["quarantine"] = None if spool.recovery.quarantine is None else spool.recovery.quarantine.name
    return {
        "role": "primary" if primary.fenced_by is None else "fenced",
        "term": primary.term,
        "fenced_by": primary.fenced_by,
        "poisoned": spool.poisoned,
        "now_unix_ms": primary.now_unix_ms(),
        "current_lsn": primary.current_logical_lsn,
        "durable_lsn": spool.durable_lsn,
        "oldest_lsn": spool.oldest_lsn,
        "pruned_through": spool.pruned_through,
        "size_bytes": spool.size_bytes,
        "replicas": replicas,
        "slots": slots_of(primary)["slots"],
        "retention": retention_of(primary),
        "recovery": recovery,
    }


def slots_of(primary: PrimaryReplication) -> dict[str, Any]:
    """Every slot, with whether it is kept and what it holds."""
    return {"slots": [asdict(slot) for slot in primary.slot_snapshots()]}


def retention_of(primary: PrimaryReplication) -> dict[str, Any]:
    """Who pins the log, until when, and what a prune would free."""
    return asdict(primary.explain_retention())
