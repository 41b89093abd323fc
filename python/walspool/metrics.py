"""A primary's figures for Prometheus (``walspool[server]``). What is not known has no sample; it is never 0.

``Collector`` goes into any registry of ``prometheus_client``; ``walspool.net.create_app`` serves one at ``/metrics``.
LSNs above 2**53 are rounded, as Prometheus keeps every value as a float.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as BaseCollector

import walspool
from walspool.net.serving import Counters

__all__ = ["CONTENT_TYPE", "Collector", "page"]

#: Bounds of the histograms, as powers of two: 16 µs to 16 s, and 1 to 65,535 records.
_SYNC_BITS: Final = range(4, 25)
_FLUSH_BITS: Final = range(1, 17)

#: Labels and value of a sample.
_Sample = tuple[Sequence[str], float]


class Collector(BaseCollector):
    """The figures of one primary, looked up at each scrape.

    ``network``: the counters of the application that serves it (``ReplicationApp.counters``), if there is one.
    """

    def __init__(self, primary: walspool.PrimaryReplication, network: Callable[[], Counters] | None = None) -> None:
        self._primary = primary
        self._network = network

    def collect(self) -> Iterator[Metric]:
        """Every metric, as of now."""
        yield from self._standing()
        yield from self._commits()
        yield from self._replicas()
        yield from self._slots()
        if self._network is not None:
            yield from _network(self._network())
        spool = self._primary.logical_wal_spool
        if spool is not None:
            yield from _log(spool)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering it costs no look at the log."""
        return ()

    def _standing(self) -> Iterator[Metric]:
        primary = self._primary
        yield _gauge("walspool_current_lsn", "The last LSN of the log.", primary.current_logical_lsn)
        floor = primary.retention_floor_lsn()
        words = "The LSN through which the log may be pruned: the lowest that a valid slot holds."
        yield _gauge("walspool_retention_floor_lsn", words, floor)
        yield _gauge("walspool_term", "The term that new records have.", primary.term)
        yield _gauge(
            "walspool_fenced", "1 once a newer primary has replaced this one, else 0.", _flag(primary.fenced_by)
        )

    def _commits(self) -> Iterator[Metric]:
        waiter = self._primary.commit_waiter
        counted = waiter.counters()
        outcomes = {"reached": counted.reached, "timed_out": counted.timed_out}
        words = "Commits that waited for copies, by how the wait ended."
        yield _counters("walspool_commit_waits", words, ["outcome"], [([name], n) for name, n in outcomes.items()])
        yield _gauge("walspool_commits_waiting", "Commits that wait for copies now.", waiter.waiting)

    def _replicas(self) -> Iterator[Metric]:
        replicas = self._primary.replica_snapshots()
        yield _gauge("walspool_replicas", "Replicas that are registered.", len(replicas))
        lags = self._primary.replica_lags()
        for unit, words in (
            ("records", "Records that a replica does not hold durably."),
            ("bytes", "Bytes of log that a replica does not hold durably."),
            ("seconds", "Age of the oldest record that a replica does not hold durably; 0 when it holds all."),
        ):
            found = [([each.id], getattr(each, unit)) for each in lags]
            yield _gauges(f"walspool_replica_lag_{unit}", words, ["replica"], found)
        seen = [([each.id], each.last_seen_at_unix_ms / 1000) for each in replicas]
        words = "When a replica was last heard of, in Unix time."
        yield _gauges("walspool_replica_last_seen_timestamp_seconds", words, ["replica"], seen)
        loading = [([each.id], float(each.rebootstrapping)) for each in replicas]
        yield _gauges("walspool_replica_loading", "1 while a replica loads a snapshot, else 0.", ["replica"], loading)
        errors = [([each.id], each.apply_error_count) for each in replicas]
        words = "Times that applying a record failed at a replica, as it reports them."
        yield _counters("walspool_replica_apply_errors", words, ["replica"], errors)
        parted = [([each.id], each.divergence_count) for each in replicas]
        words = "Times that a replica was found to have diverged, as it reports them."
        yield _counters("walspool_replica_divergences", words, ["replica"], parted)

    def _slots(self) -> Iterator[Metric]:
        slots = self._primary.slot_snapshots()
        states = [([each.id, state], float(each.wal_status == state)) for each in slots for state in walspool.WalStatus]
        words = "1 for the state that a slot is in: reserved, unreserved (past a limit), lost."
        yield _gauges("walspool_slot_state", words, ["slot", "state"], states)
        held = [([each.id], each.retained_bytes) for each in slots]
        yield _gauges("walspool_slot_retained_bytes", "Bytes of log that a slot holds.", ["slot"], held)
        restart = [([each.id], each.restart_lsn) for each in slots]
        yield _gauges("walspool_slot_restart_lsn", "The LSN above which a slot holds the log.", ["slot"], restart)


def page(collector: Collector) -> Callable[[], bytes]:
    """What gives the text of ``/metrics``: these figures, and those of the process."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)


def _network(counted: Counters) -> Iterator[Metric]:
    words = "Registrations of a replica that had been registered before."
    yield _counter("walspool_replica_reconnects", words, counted.reconnects)
    words = "Times that a replica came back and went on where its log ended."
    yield _counter("walspool_partial_resyncs", words, counted.partial_resyncs)
    words = "Times that a replica began again from a snapshot."
    yield _counter("walspool_full_resyncs", words, counted.full_resyncs)
    yield _gauge("walspool_streams", "Responses that stream the log to a replica now.", counted.streams)


def _log(spool: walspool.LogicalWalSpool) -> Iterator[Metric]:
    stats = spool.stats()
    yield _gauge("walspool_durable_lsn", "The LSN through which everything is on stable storage.", spool.durable_lsn)
    yield _gauge("walspool_oldest_lsn", "The first LSN that the log still holds.", spool.oldest_lsn)
    yield _gauge("walspool_pruned_through_lsn", "The LSN through which the log is pruned.", spool.pruned_through)
    words = "1 once a failed sync has ended all appends until the log is opened again, else 0."
    yield _gauge("walspool_poisoned", words, _flag(spool.poisoned))
    yield _gauge("walspool_retained_bytes", "Bytes of the records that the log holds.", spool.size_bytes)
    yield _gauge("walspool_free_disk_bytes", "Bytes that are free for the log where it lies.", _free(spool.path))
    yield _counter("walspool_appended_records", "Records that became durable.", stats.appends)
    yield _counter("walspool_appended_payload_bytes", "Payload bytes that became durable.", stats.appended_bytes)
    yield _counter("walspool_prunes", "Prunes that were done.", stats.prunes)
    syncs = _buckets(stats.sync_us_histogram, _SYNC_BITS, lambda bits: 2**bits / 1e6)
    words = "Time that the sync of a flush took."
    yield _histogram("walspool_sync_duration_seconds", words, syncs, stats.sync_ns_total / 1e9)
    sizes = _buckets(stats.records_per_flush_histogram, _FLUSH_BITS, lambda bits: 2**bits - 1)
    yield _histogram("walspool_flush_records", "Records that one flush made durable.", sizes, stats.appends)


def _flag(reason: object) -> float:
    return float(reason is not None)


def _free(path: os.PathLike[str]) -> float | None:
    try:
        found = os.statvfs(os.path.dirname(path))
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _gauge(name: str, words: str, value: float | None) -> Metric:
    return _gauges(name, words, [], [([], value)])


def _gauges(
    name: str, words: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float | None]]
) -> Metric:
    found = GaugeMetricFamily(name, words, labels=labels)
    for values, value in samples:
        if value is not None:
            found.add_metric(values, value)
    return found


def _counter(name: str, words: str, value: float) -> Metric:
    return _counters(name, words, [], [([], value)])


def _counters(name: str, words: str, labels: Sequence[str], samples: Iterable[_Sample]) -> Metric:
    found = CounterMetricFamily(name, words, labels=labels)
    for values, value in samples:
        found.add_metric(values, value)
    return found


def _histogram(name: str, words: str, buckets: Sequence[tuple[str, float]], total: float) -> Metric:
    found = HistogramMetricFamily(name, words)
    found.add_metric([], buckets, total)
    return found


def _buckets(by_bits: Sequence[int], bounds: range, bound: Callable[[int], float]) -> list[tuple[str, float]]:
    """A histogram that counts values by their bits, as Prometheus has it: so many at or below each bound."""
    found = [(str(float(bound(bits))), float(sum(by_bits[: bits + 1]))) for bits in bounds]
    return [*found, ("+Inf", float(sum(by_bits)))]
