"""The figures at ``/metrics``: what is known, what is not, and what Prometheus expects of their names."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tests.net.kit import READ, Served, serving
from walspool import PrimaryReplication, ReplicationConfig
from walspool.metrics import CONTENT_TYPE, Collector

Figures = dict[tuple[str, tuple[str, ...]], float]


def scrape(served: Served) -> Figures:
    """Each sample's value by its name and the values of its labels."""
    status, text, headers = served.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, CONTENT_TYPE)
    families = text_string_to_metric_families(text.decode())
    return {(each.name, tuple(each.labels.values())): each.value for family in families for each in family.samples}


def test_what_is_known_is_told(served: Served) -> None:
    for id in ("a", "b"):
        served.register(id)
    served.primary.commit(b"abc")
    served.primary.ack_replica_lsn("a", 9, 10, 3, 1)
    found = scrape(served)
    spool = served.primary.logical_wal_spool
    assert spool is not None
    known = {
        "current_lsn": 11,
        "durable_lsn": 11,
        "oldest_lsn": 1,
        "pruned_through_lsn": 0,
        "retention_floor_lsn": 10,
        "term": 1,
        "fenced": 0,
        "poisoned": 0,
        "replicas": 2,
        "streams": 0,
        "retained_bytes": spool.size_bytes,
        "appended_records_total": 11,
        "appended_payload_bytes_total": 84,
        "commits_waiting": 0,
        "sync_duration_seconds_count": 11,
        "flush_records_count": 11,
        "flush_records_sum": 11,
    }
    assert {name: found[f"walspool_{name}", ()] for name in known} == known
    assert found["walspool_replica_lag_records", ("a",)] == 1
    assert found["walspool_replica_lag_bytes", ("a",)] == spool.extent_after(10)[1]
    assert found["walspool_replica_lag_seconds", ("a",)] >= 0
    assert found["walspool_replica_apply_errors_total", ("a",)] == 3
    assert found["walspool_replica_divergences_total", ("a",)] == 1
    assert found["walspool_slot_restart_lsn", ("a",)] == 10
    assert found["walspool_free_disk_bytes", ()] > 0
    assert found["process_resident_memory_bytes", ()] > 0


def test_what_is_not_known_has_no_sample(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.register("a")

    def fails(_: object) -> Any:
        raise OSError(5, "the disk")

    monkeypatch.setattr(os, "statvfs", fails)
    names = {name for name, _ in scrape(served)}
    assert not {each for each in names if "lag" in each or "free_disk" in each}
    assert served.primary.prune_retained_wal_through(10) == 10
    assert "walspool_oldest_lsn" not in {name for name, _ in scrape(served)}
    served.primary.drop_slot("a")
    assert "walspool_retention_floor_lsn" not in {name for name, _ in scrape(served)}


def test_a_primary_in_memory_has_figures_too() -> None:
    with PrimaryReplication() as primary:
        registry = CollectorRegistry()
        registry.register(Collector(primary))
        primary.commit(b"x")
        assert registry.get_sample_value("walspool_current_lsn") == 1
        for name in ("walspool_durable_lsn", "walspool_sync_duration_seconds_count", "walspool_full_resyncs_total"):
            assert registry.get_sample_value(name) is None


def test_the_histograms_are_those_of_the_log(core: ModuleType, served: Served) -> None:
    spool = served.primary.logical_wal_spool
    assert spool is not None
    spool.append_next_many([b"x"] * 3)
    spool.append_next_many([b"x"] * 4)
    found = scrape(served)
    buckets = {labels[0]: value for (name, labels), value in found.items() if name == "walspool_flush_records_bucket"}
    assert [buckets[each] for each in ("1.0", "3.0", "7.0", "65535.0", "+Inf")] == [10, 11, 12, 12, 12]
    stats = spool.stats()
    assert found["walspool_sync_duration_seconds_sum", ()] == stats.sync_ns_total / 1e9
    syncs = {labels[0]: value for (name, labels), value in found.items() if name.endswith("seconds_bucket")}
    for bits in (4, 10, 24):
        assert syncs[str(2**bits / 1e6)] == sum(stats.sync_us_histogram[: bits + 1])
    assert syncs["+Inf"] == 12


def test_slots_and_fences(core: ModuleType, tmp_path: Path) -> None:
    config = ReplicationConfig.primary().with_slot_retention_max_lag_lsn(3)
    with PrimaryReplication(tmp_path / "app.db", config) as primary:
        registry = CollectorRegistry()
        registry.register(Collector(primary))
        for id in ("far", "near"):
            primary.register_replica(id)
        for _ in range(5):
            primary.commit(b"x")
        primary.ack_replica_lsn("near", 5, 5)

        def state(slot: str) -> str:
            names = ("reserved", "unreserved", "lost")
            held = [registry.get_sample_value("walspool_slot_state", {"slot": slot, "state": name}) for name in names]
            assert sorted(held) == [0, 0, 1]  # type: ignore[type-var]  # there is a value for each
            return names[held.index(1)]

        assert (state("far"), state("near")) == ("unreserved", "reserved")
        assert registry.get_sample_value("walspool_slot_retained_bytes", {"slot": "far"})
        primary.enforce_retention_limits()
        assert state("far") == "lost"
        assert registry.get_sample_value("walspool_slot_retained_bytes", {"slot": "far"}) == 0
        primary.fence(7)
        assert registry.get_sample_value("walspool_fenced") == 1


def test_waits_are_counted(served: Served) -> None:
    served.register("a")
    assert served.ask("POST", "/v1/records?ack=0", b"x")[0] == 200
    waiter = served.primary.commit_waiter
    waiter.await_acks(1, 1, 0.0)
    served.primary.ack_replica_lsn("a", 10, 10)
    waiter.await_acks(10, 1, 0.0)
    found = scrape(served)
    assert found["walspool_commit_waits_total", ("reached",)] == 1
    assert found["walspool_commit_waits_total", ("timed_out",)] == 1


def test_resyncs_and_reconnects_are_counted(served: Served) -> None:
    spool = served.primary.logical_wal_spool
    assert spool is not None
    last = spool.position()
    assert last is not None
    position = f"{last.term}:{last.lsn}:{last.crc:08x}"

    def counted() -> list[float]:
        found = scrape(served)
        names = ("replica_reconnects_total", "partial_resyncs_total", "full_resyncs_total")
        return [found[f"walspool_{each}", ()] for each in names]

    session = served.register()
    served.pull("replica_id=a&since_lsn=0&wait_ms=0", session).read()
    assert counted() == [0, 0, 0]  # it began with nothing
    session = served.register()
    for _ in range(3):
        served.pull(f"replica_id=a&position={position}&wait_ms=0", session).read()
    assert counted() == [1, 1, 0]
    assert served.ask("GET", "/v1/snapshot?replica_id=a", walspool_session=str(session))[0] == 200
    session = served.register()
    served.pull(f"replica_id=a&position={position}&wait_ms=0", session).read()
    assert counted() == [2, 1, 1]  # what follows a snapshot is a part of it
    waiting = served.connect()
    headers = {"walspool-session": str(session)}
    waiting.request("GET", f"/v1/wal?replica_id=a&position={position}", headers=headers)
    while scrape(served)["walspool_streams", ()] != 1:
        pass
    waiting.close()
    while scrape(served)["walspool_streams", ()] != 0:
        pass


def test_names_and_words_are_as_prometheus_has_them(served: Served) -> None:
    served.register("a")
    served.primary.ack_replica_lsn("a", 1, 1)
    families = {each.name: each for each in text_string_to_metric_families(served.ask("GET", "/metrics")[1].decode())}
    own = {name: each for name, each in families.items() if not name.startswith("process_")}
    assert all(name.startswith("walspool_") for name in own)
    for name, family in own.items():
        assert family.documentation.endswith("."), name
        assert not name.endswith(("_ms", "_us", "_kb", "_total", "_count")), name
        if family.type == "counter":
            assert {each.name for each in family.samples} == {f"{name}_total"}


def test_it_takes_a_token_to_read(tmp_path: Path) -> None:
    with serving(tmp_path, tokens=True) as guarded:
        assert guarded.refusal("GET", "/metrics").status == 401
        assert guarded.refusal("GET", "/metrics", authorization="Bearer " + "o" * 16).status == 403
        assert guarded.ask("GET", "/metrics", authorization=f"Bearer {READ}")[0] == 200
