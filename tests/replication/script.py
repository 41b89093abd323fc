"""Replays the golden scripts: operations on one primary, one after the other, with the answers that each must give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import walspool
from tests.replication.kit import Clock, config

#: The few words in which the scripts give an outcome of ``await_acks`` and ``admit``.
_LABELS = {"local": "Local", "remote_wal": "RemoteWal", "quorum": "Quorum"}


def some_bytes(count: int, seed: int) -> bytes:
    """The bytes that ``data_len`` and ``data_seed`` stand for."""
    return bytes((seed * 7 + at * 31) % 256 for at in range(count))


def wanted(step: dict[str, Any]) -> dict[str, Any]:
    """What a step must give: ``{"result": …}`` or ``{"raises": …}``; what is said of walspool counts."""
    ours = step.get("walspool", {})
    if "raises" in ours:
        return {"raises": ours["raises"]}
    return {"result": ours.get("result", step["reference"])}


class Script:
    """One primary, coordinator, flow control and buffer at a time, on which steps are done.

    ``data_path``: given to every ``primary`` step, whether it names a path or not; ``None`` is memory only.
    """

    def __init__(self, data_path: Path | None) -> None:
        self._data_path = data_path
        self._clock = Clock()
        self._primary: walspool.PrimaryReplication | None = None
        self._buffer = walspool.WalBuffer()
        self._quorum: walspool.QuorumCoordinator | None = None
        self._flow = walspool.FlowControl(0)

    def close(self) -> None:
        """Close the primary, if one is open."""
        if self._primary is not None:
            self._primary.close()
            self._primary = None

    def do(self, step: dict[str, Any]) -> dict[str, Any]:
        """Do one step: ``{"result": …}`` or ``{"raises": …}``."""
        given = dict(step["do"])
        operation: Callable[..., Any] = getattr(self, "_do_" + given.pop("op"))
        if "from" in given:
            given["first"], given["last"] = given.pop("from"), given.pop("to")
        try:
            return {"result": operation(**given)}
        except (walspool.WalspoolError, ValueError) as error:
            names = [each.__name__ for each in type(error).__mro__]
            expected = step.get("walspool", {}).get("raises")
            return {"raises": expected if expected in names else repr(error)}

    @property
    def primary(self) -> walspool.PrimaryReplication:
        """The open primary."""
        assert self._primary is not None
        return self._primary

    # the primary and its log

    def _do_primary(self, path: str | None = None, max_lag_lsn: Any = None, idle_timeout_ms: Any = None) -> Any:
        self.close()
        given = {"slot_retention_max_lag_lsn": max_lag_lsn, "slot_idle_timeout_ms": idle_timeout_ms}
        chosen = config(**{name: value for name, value in given.items() if value is not None})
        self._primary = walspool.PrimaryReplication(self._data_path, chosen, clock=self._clock)
        has_spool = self._primary.logical_wal_spool is not None
        assert has_spool == (self._data_path is not None)
        return {"current_lsn": self._primary.current_logical_lsn, "has_spool": has_spool}

    def _do_append_range(self, first: int, last: int) -> Any:
        for lsn in range(first, last + 1):
            self.primary.append_logical_record(lsn, some_bytes(9, lsn))
        return {"current": self.primary.current_logical_lsn}

    _do_buf_append_range = _do_append_range

    def _do_append_record(self, lsn: int, data_hex: str) -> Any:
        self.primary.append_logical_record(lsn, bytes.fromhex(data_hex))
        return {"current": self.primary.current_logical_lsn}

    def _do_current(self) -> Any:
        return self.primary.current_logical_lsn

    def _do_wait(self, since: int, timeout_ms: int) -> Any:
        del timeout_ms  # what has not come yet does not come: nobody else appends
        return self.primary.wait_for_logical_lsn_after(since, 0)

    def _do_buf_lsns(self) -> Any:
        return [lsn for lsn, _ in self.primary.wal_buffer.read_since(0)]

    def _do_spool_lsns(self) -> Any:
        return [lsn for lsn, _ in self._log().read_since(0)]

    def _log(self) -> walspool.LogicalWalSpool | walspool.WalBuffer:
        return self.primary.logical_wal_spool or self.primary.wal_buffer

    # replicas

    def _do_register(self, id: str, region: str | None = None) -> Any:
        return self.primary.register_replica(id, region)

    def _do_ensure_registered(self, id: str) -> Any:
        return self.primary.ensure_replica_registered(id)

    def _do_unregister(self, id: str) -> Any:
        return self.primary.unregister_replica(id)

    def _do_set_rebootstrapping(self, id: str, flag: bool) -> Any:
        return self.primary.set_replica_rebootstrapping(id, flag)

    def _do_note_pull(self, id: str, sent: int) -> Any:
        return _ok(self.primary.note_replica_pull, id, sent)

    def _do_ack(self, id: str, lsn: int) -> Any:
        return _ok(self.primary.ack_replica, id, lsn)

    def _do_ack_lsn(self, id: str, applied: int, durable: int, **counts: int) -> Any:
        return _ok(self.primary.ack_replica_lsn, id, applied, durable, **counts)

    def _do_replica_count(self) -> Any:
        return self.primary.replica_count

    def _do_epoch(self) -> Any:
        return self.primary.topology_epoch

    def _do_replicas(self) -> Any:
        return [
            {
                "id": each.id,
                "last_acked_lsn": each.last_acked_lsn,
                "last_sent_lsn": each.last_sent_lsn,
                "last_durable_lsn": each.last_durable_lsn,
                "apply_error_count": each.apply_error_count,
                "divergence_count": each.divergence_count,
                "region": each.region,
                "rebootstrapping": each.rebootstrapping,
            }
            for each in self.primary.replica_snapshots()
        ]

    def _do_progress(self) -> Any:
        found = self.primary.replication_progress()
        return found and {"lag_lsn": found.lag_lsn, "safe_replay_lsn": found.safe_replay_lsn}

    # slots

    def _do_slots(self, times: int = 0) -> Any:
        return [described(each, times=bool(times)) for each in self.primary.slot_snapshots()]

    def _do_floor(self) -> Any:
        return self.primary.retention_floor_lsn()

    def _do_touch(self, id: str, now_ms: int) -> Any:
        return _ok(self.primary.touch_slot, id, now_ms)

    def _do_enforce(self, now_ms: int) -> Any:
        return [[replica_id, str(cause)] for replica_id, cause in self.primary.enforce_retention_limits(now_ms)]

    def _do_prune_retained(self, archived_lsn: int) -> Any:
        return self.primary.prune_retained_wal_through(archived_lsn)

    def _do_partial_resync_count(self) -> Any:
        return self.primary.partial_resync_count

    def _do_rebootstrap_reason(self, id: str, since: int, oldest: Any) -> Any:
        return self.primary.slot_rebootstrap_reason(id, since, *_oldest(oldest))

    def _do_plan_resume(self, id: str, since: int, oldest: Any) -> Any:
        return _planned(self.primary.plan_replica_resume(id, since, *_oldest(oldest)))

    def _do_pull(self, id: str, since: int, max: int | None = None) -> Any:
        self.primary.ensure_replica_registered(id)
        planned = _planned(self.primary.plan_replica_resume(id, since))
        if planned["mode"] != "partial_resync":
            return planned
        lsns = [lsn for lsn, _ in self._log().read_since(planned["resume_lsn"], max)]
        sent = lsns[-1] if lsns else planned["resume_lsn"]
        self.primary.note_replica_pull(id, sent)
        return {**planned, "lsns": lsns, "oldest": self._log().oldest_lsn, "sent": sent}

    # commit

    def _do_watermark(self, n: int) -> Any:
        return self.primary.commit_waiter.commit_watermark(n)

    def _do_waiter_snapshot(self) -> Any:
        return [[replica_id, lsn] for replica_id, lsn in self.primary.commit_waiter.snapshot()]

    def _do_waiter_counters(self) -> Any:
        found = self.primary.commit_waiter.counters()
        return {
            "reached": found.reached,
            "timed_out": found.timed_out,
            "not_required": found.not_required,
            "last_wait_nonzero": found.last_wait_us > 0,
        }

    def _do_await_acks(self, target: int, required: int, timeout_ms: int) -> Any:
        del timeout_ms  # an outcome is there at once or never: nobody else acknowledges
        found = self.primary.commit_waiter.await_acks(target, required, 0)
        if isinstance(found, walspool.Reached):
            return {"reached": found.count}
        if isinstance(found, walspool.TimedOut):
            return {"timed_out": {"observed": found.observed, "required": found.required}}
        assert found == walspool.NotRequired()
        return "not_required"

    def _coordinator(self, mode: str, n: int = 0, regions: tuple[str, ...] = ()) -> walspool.QuorumCoordinator:
        if mode == "async":
            return walspool.QuorumCoordinator(self.primary, walspool.QuorumConfig.asynchronous())
        if mode == "sync":
            return walspool.QuorumCoordinator(self.primary, walspool.QuorumConfig.sync(n, timeout=0))
        return walspool.QuorumCoordinator(self.primary, walspool.QuorumConfig.regions(regions, timeout=0))

    def _do_quorum(self, timeout_ms: int = 0, **given: Any) -> Any:
        self._quorum = self._coordinator(**given)
        return "ok"

    def _do_bind_region(self, id: str, region: str | None = None) -> Any:
        return "ok"  # the region is that of the registration

    _do_unbind_region = _do_bind_region

    def _do_wait_quorum(self, lsn: int) -> Any:
        assert self._quorum is not None
        try:
            return _ok(self._quorum.wait, lsn)
        except walspool.InsufficientReplicas as error:
            return {"insufficient_replicas": {"connected": error.connected, "required": error.required}}
        except walspool.MissingRegions as error:
            return {"missing_regions": list(error.regions)}
        except walspool.QuorumTimeout as error:
            return {"timeout": {"acked_regions": list(error.acked_regions), "target_lsn": error.target_lsn}}

    def _do_has_quorum(self, lsn: int) -> Any:
        assert self._quorum is not None
        return self._quorum.has_quorum(lsn)

    def _do_quorum_watermark(self) -> Any:
        assert self._quorum is not None
        return self._quorum.watermark()

    def _do_flow(self, soft_target: int, **given: Any) -> Any:
        self._quorum = self._coordinator(**given)
        self._flow = walspool.FlowControl(soft_target)
        return "ok"

    def _do_flow_target(self, soft_target: int) -> Any:
        self._flow.target_lag_lsn = soft_target
        return "ok"

    def _do_admit(self) -> Any:
        return type(self._flow.admit()).__name__

    def _do_flow_observe(self) -> Any:
        assert self._quorum is not None
        lag = self._quorum.lag()
        self._flow.observe(lag)
        answer = self._flow.admit()
        if isinstance(answer, walspool.Throttled):
            assert (answer.lag_lsn, answer.target) == (lag, self._flow.target_lag_lsn)
        return {"lag": lag, "admit": type(answer).__name__, "throttled": isinstance(answer, walspool.Throttled)}

    # a bare buffer

    def _do_buffer(self, capacity: int) -> Any:
        self._buffer = walspool.WalBuffer(capacity)
        return "ok"

    def _do_b_append(self, lsn: int, data_len: int, data_seed: int) -> Any:
        return _ok(self._buffer.append, lsn, some_bytes(data_len, data_seed))

    def _do_b_read(self, since: int, max: int | None = None) -> Any:
        found = self._buffer.read_since(since, max)
        assert self._buffer.read_since_shared(since, max) == found
        return [{"lsn": lsn, "data_hex": data.hex()} for lsn, data in found]

    def _do_b_set_current(self, lsn: int) -> Any:
        return _ok(self._buffer.set_current_lsn, lsn)

    def _do_b_prune(self, lsn: int) -> Any:
        return _ok(self._buffer.prune_through, lsn)

    def _do_b_current(self) -> Any:
        return self._buffer.current_lsn

    def _do_b_oldest(self) -> Any:
        return self._buffer.oldest_lsn

    def _do_b_len(self) -> Any:
        return len(self._buffer)

    # what a fresh installation does

    def _do_defaults(self) -> Any:
        found = walspool.ReplicationConfig.primary()
        return {
            "term": found.term,
            "poll_interval_ms": found.poll_interval_ms,
            "max_batch_size": found.max_batch_size,
            "region": found.region,
            "quorum_async": found.quorum == walspool.QuorumConfig.asynchronous(),
            "max_lag_lsn": found.slot_retention_max_lag_lsn,
            "idle_timeout_ms": found.slot_idle_timeout_ms,
        }

    def _do_quorum_default_timeout_ms(self, mode: str, n: int = 0, regions: tuple[str, ...] = ()) -> Any:
        if mode == "async":
            return walspool.QuorumConfig.asynchronous().timeout
        found = walspool.QuorumConfig.sync(n) if mode == "sync" else walspool.QuorumConfig.regions(regions)
        assert found.timeout is not None
        return found.timeout * 1000

    def _do_policy(self, raw: str) -> Any:
        found = walspool.CommitPolicy.parse(raw)
        return {"label": found.label, "policy": _LABELS.get(found.label, f"AckN({found.required})")}


def described(each: walspool.ReplicationSlot, *, times: bool) -> dict[str, Any]:
    """A slot as the scripts show it; a slot counts as invalidated there once it has the time of it."""
    reason = each.invalidation_reason
    found: dict[str, Any] = {
        "id": each.id,
        "restart_lsn": each.restart_lsn,
        "confirmed_lsn": each.confirmed_lsn,
        "invalidation_reason": None if reason is None else str(reason),
        "invalidated": each.invalidated_at_unix_ms is not None,
    }
    if times:
        found["last_seen_at_unix_ms"] = each.last_seen_at_unix_ms
        if each.invalidated_at_unix_ms is not None:
            found["invalidated_at_unix_ms"] = each.invalidated_at_unix_ms
    return found


def _ok(call: Callable[..., object], *given: Any, **named: Any) -> str:
    assert call(*given, **named) is None
    return "ok"


def _oldest(given: int | str | None) -> tuple[int | None, ...]:
    return () if isinstance(given, str) else (given,)


def _planned(plan: walspool.PartialResync | walspool.FullRebootstrap) -> dict[str, Any]:
    if isinstance(plan, walspool.PartialResync):
        return {"mode": "partial_resync", "resume_lsn": plan.resume_lsn}
    return {"mode": "full_rebootstrap", "cause": str(plan.cause)}
