"""``ReplicationConfig`` and ``QuorumConfig``: defaults, bounds, changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from walspool.replication.config import QuorumConfig, ReplicationConfig

DEFAULTS: dict[str, Any] = {
    "term": 1,
    "poll_interval_ms": 100,
    "max_batch_size": 1000,
    "region": "local",
    "quorum": QuorumConfig.asynchronous(),
    "slot_retention_max_lag_lsn": 100_000,
    "slot_idle_timeout_ms": 86_400_000,
    "bootstrap_timeout_ms": 3_600_000,
    "max_retained_bytes": 0,
    "max_slots": 64,
    "slot_flush_interval_ms": 100,
    "flow_target_lag_lsn": 0,
    "buffer_capacity": 100_000,
    "buffer_max_bytes": 256 << 20,
    "segment_bytes": 64 << 20,
}
MINIMUM = {
    "term": 1,
    "poll_interval_ms": 1,
    "max_batch_size": 1,
    "slot_retention_max_lag_lsn": 0,
    "slot_idle_timeout_ms": 0,
    "bootstrap_timeout_ms": 0,
    "max_retained_bytes": 0,
    "max_slots": 1,
    "slot_flush_interval_ms": 1,
    "flow_target_lag_lsn": 0,
    "buffer_capacity": 1,
    "buffer_max_bytes": 1,
    "segment_bytes": 1,
}
INF, NAN = float("inf"), float("nan")


def test_defaults() -> None:
    """Sections 7, 9 and 11: the defaults."""
    assert dataclasses.asdict(ReplicationConfig.primary()) == {
        **DEFAULTS,
        "quorum": dataclasses.asdict(DEFAULTS["quorum"]),
    }
    assert ReplicationConfig() == ReplicationConfig.primary()


@pytest.mark.parametrize("name", MINIMUM)
def test_every_number_has_its_bounds(name: str) -> None:
    config = ReplicationConfig()
    for allowed in (MINIMUM[name], MINIMUM[name] + 1, 2**64 - 1):
        assert getattr(config.replace(**{name: allowed}), name) == allowed
    for refused in (MINIMUM[name] - 1, -(2**70), 2**64):
        with pytest.raises(ValueError, match=rf"^{name} must be between {MINIMUM[name]} and 2\*\*64-1, not {refused}$"):
            config.replace(**{name: refused})


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - {"quorum"}))
def test_every_field_has_its_type(name: str) -> None:
    for refused in (True, 1.0, b"1", *((None,) if name != "segment_bytes" else ())):
        with pytest.raises(TypeError, match=rf"^{name} must be an? (int|str), not {type(refused).__name__}$"):
            ReplicationConfig(**{name: refused})
    with pytest.raises(TypeError, match=r"^quorum must be a QuorumConfig, not str$"):
        ReplicationConfig(quorum="sync")  # type: ignore[arg-type]


def test_one_file_instead_of_segments() -> None:
    assert ReplicationConfig(segment_bytes=None).segment_bytes is None


def test_it_is_frozen_and_named() -> None:
    config = ReplicationConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.term = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        ReplicationConfig(2)  # type: ignore[call-arg]
    assert hash(config) == hash(ReplicationConfig())


def test_changes_make_another() -> None:
    config = ReplicationConfig.primary()
    assert config.with_slot_retention_max_lag_lsn(7) == ReplicationConfig(slot_retention_max_lag_lsn=7)
    assert config.with_slot_idle_timeout_ms(8) == ReplicationConfig(slot_idle_timeout_ms=8)
    assert config.replace(term=3, region="eu") == ReplicationConfig(term=3, region="eu")
    assert config == ReplicationConfig()
    with pytest.raises(ValueError, match="slot_idle_timeout_ms"):
        config.with_slot_idle_timeout_ms(-1)
    with pytest.raises(TypeError, match="no_such_field"):
        config.replace(no_such_field=1)


def test_quorums() -> None:
    """Section 9: quorum is async, sync(n) with 5 s, or regions(set) with 10 s."""
    assert QuorumConfig.asynchronous() == QuorumConfig("async", 0, frozenset(), None)
    assert QuorumConfig.sync(2) == QuorumConfig("sync", 2, frozenset(), 5.0)
    assert QuorumConfig.sync(0, timeout=0) == QuorumConfig("sync", 0, frozenset(), 0)
    assert QuorumConfig.regions({"eu", "us"}) == QuorumConfig("regions", 2, frozenset(("eu", "us")), 10.0)
    assert QuorumConfig.regions(["us", "eu", "us"], timeout=1.5) == QuorumConfig.regions(("eu", "us"), 1.5)
    assert hash(QuorumConfig.regions(["us", "eu"])) == hash(QuorumConfig.regions(["eu", "us"]))
    # Made by hand: the names decide how many regions it is.
    assert QuorumConfig("regions", 9, {"eu"}, 1) == QuorumConfig.regions(["eu"], 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [-1, -0.001, INF, -INF, NAN])
def test_time_outs_have_bounds(timeout: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout must be finite and at least 0 seconds, not "):
        QuorumConfig.sync(1, timeout)
    with pytest.raises(ValueError, match=r"^timeout must be finite and at least 0 seconds, not "):
        QuorumConfig.regions(["eu"], timeout)


@pytest.mark.parametrize("timeout", [None, True, "5"])
def test_time_outs_are_numbers(timeout: Any) -> None:
    with pytest.raises(TypeError, match=rf"^timeout must be a number of seconds, not {type(timeout).__name__}$"):
        QuorumConfig.sync(1, timeout)
    with pytest.raises(TypeError, match=rf"^timeout must be a number of seconds, not {type(timeout).__name__}$"):
        QuorumConfig.regions(["eu"], timeout)


@pytest.mark.parametrize(
    ("regions", "kind", "words"),
    [
        ([], ValueError, "at least one region"),
        ([""], ValueError, "must not be empty"),
        ("eu", TypeError, "one string 'eu'"),
        ([b"eu"], TypeError, "must be a str, not bytes"),
        (["eu", None], TypeError, "must be a str, not NoneType"),
    ],
)
def test_bad_regions(regions: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        QuorumConfig.regions(regions)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (("sync", -1, frozenset(), 1), ValueError, "required must be between 0"),
        (("sync", 2**64, frozenset(), 1), ValueError, "required must be between 0"),
        (("sync", True, frozenset(), 1), TypeError, "required must be an int, not bool"),
        (("sync", 1.0, frozenset(), 1), TypeError, "required must be an int, not float"),
        (("sync", 1, frozenset(("eu",)), 1), ValueError, "region_names must be empty where mode is 'sync'"),
        (("async", 1, frozenset(), None), ValueError, "required must be 0 and timeout None"),
        (("async", 0, frozenset(), 1.0), ValueError, "required must be 0 and timeout None"),
        (("ASYNC", 0, frozenset(), None), ValueError, "mode must be 'async', 'sync' or 'regions', not 'ASYNC'"),
    ],
)
def test_bad_quorums(given: tuple[Any, ...], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        QuorumConfig(*given)
