"""The primary's decisions, one by one: the table at the head of ``serving``."""

from __future__ import annotations

from typing import Any

import pytest

from walspool import Position
from walspool.net.messages import Ack, Registration, WalRequest
from walspool.net.protocol import ORIGIN, Problem
from walspool.net.serving import (
    LIVE_S,
    LogFacts,
    Read,
    Serve,
    Sessions,
    SlotFacts,
    Stream,
    Wait,
    decide_ack,
    decide_term,
    decide_wal,
)

HERE = Position(3, 50, 0xAB)
#: A log of term 3 that ends at 90, pruned through 20.
FACTS = LogFacts(3, 90, 20, HERE, Position(2, 20, 0xCD))
WHOLE = LogFacts(3, 90, 0, ORIGIN)


def refused(answer: Any) -> tuple[int, str]:
    """Status and kind of a refusal."""
    assert isinstance(answer, Problem), answer
    return answer.status, answer.kind


def test_a_position_that_is_ours_is_served() -> None:
    assert decide_wal(WalRequest("a", 50, HERE, 3), SlotFacts(50), FACTS) == Serve(HERE)
    assert decide_wal(WalRequest("a", 50, HERE), None, FACTS) == Serve(HERE)
    assert decide_wal(WalRequest(None, 50), None, FACTS) == Serve(HERE)


def test_a_newer_term_is_refused_before_all_else() -> None:
    answer = decide_term(4, 3)
    assert refused(answer) == (409, "newer-term")
    assert isinstance(answer, Problem)
    assert (answer.facts["term"], answer.facts["newer"]) == (3, 4)
    assert decide_wal(WalRequest("a", 50, HERE, 2), SlotFacts(50), FACTS) == Serve(HERE)


@pytest.mark.parametrize("theirs", [Position(3, 50, 0xAC), Position(2, 50, 0xAB), Position(3, 51, 0xAB)])
def test_another_record_is_refused_with_both_positions(theirs: Position) -> None:
    for slot in (None, SlotFacts(50), SlotFacts(50, loading=True), SlotFacts(50, "horizon")):
        answer = decide_wal(WalRequest("a", theirs.lsn, theirs), slot, FACTS)
        assert refused(answer) == (409, "diverged")
        assert isinstance(answer, Problem)
        error = answer.as_error()
        assert (error.theirs, error.ours) == (HERE, theirs)  # type: ignore[attr-defined]


def test_a_replica_ahead_has_diverged() -> None:
    last = LogFacts(3, 90, 20, Position(3, 90, 7))
    theirs = Position(3, 91, 7)
    assert refused(decide_wal(WalRequest("a", 91, theirs), SlotFacts(50), last)) == (409, "diverged")


def test_nothing_is_sent_from_beyond_the_end() -> None:
    end = LogFacts(3, 90, 20, Position(3, 90, 7))
    # the position before the first record would be that of 90, and those from 91 on were left out
    assert refused(decide_wal(WalRequest(None, 91), None, end)) == (409, "beyond-wal")
    assert refused(decide_wal(WalRequest("a"), SlotFacts(91), end)) == (409, "beyond-wal")
    assert decide_wal(WalRequest(None, 90), None, end) == Serve(Position(3, 90, 7))


def test_what_is_pruned_is_a_bootstrap() -> None:
    gone = LogFacts(3, 90, 20, None, Position(2, 20, 1))
    for request in (WalRequest("a", 0), WalRequest("a", 19), WalRequest(None, 19), WalRequest("a", 0, None, 3)):
        assert refused(decide_wal(request, SlotFacts(50), gone)) == (410, "rebootstrap-required")
    assert refused(decide_wal(WalRequest("a"), None, gone)) == (410, "rebootstrap-required")


@pytest.mark.parametrize(("term", "comparable"), [(1, False), (2, True)])
def test_whether_a_pruned_position_can_still_be_compared(term: int, comparable: bool) -> None:
    gone = LogFacts(3, 90, 20, None, Position(2, 20, 1))
    answer = decide_wal(WalRequest("a", 19, Position(term, 19, 1)), SlotFacts(50), gone)
    assert refused(answer) == (410, "rebootstrap-required")
    assert isinstance(answer, Problem)
    assert (answer.facts["comparable"], answer.facts["cause"]) == (comparable, "wal-removed")


def test_a_pruned_position_of_a_newer_term_has_diverged() -> None:
    gone = LogFacts(3, 90, 20, None, Position(2, 20, 1))
    answer = decide_wal(WalRequest("a", 19, Position(3, 19, 1), 3), SlotFacts(50), gone)
    assert refused(answer) == (409, "diverged")
    assert isinstance(answer, Problem)
    assert answer.facts["ours"] == "2:20:00000001"


def test_an_invalid_slot_is_a_bootstrap_until_one_is_done() -> None:
    request = WalRequest("a", 50, HERE)
    answer = decide_wal(request, SlotFacts(50, "horizon"), FACTS)
    assert refused(answer) == (410, "rebootstrap-required")
    assert isinstance(answer, Problem)
    assert (answer.facts["cause"], answer.facts["comparable"]) == ("horizon", True)
    assert decide_wal(request, SlotFacts(20, "horizon", loading=True), FACTS) == Serve(HERE, reset=True)
    assert decide_wal(request, SlotFacts(20, loading=True), FACTS) == Serve(HERE, reset=True)
    # one that says nothing of itself has not loaded anything
    assert refused(decide_wal(WalRequest("a"), SlotFacts(20, "horizon", loading=True), FACTS))[0] == 410


def test_left_out_means_the_slot_and_0_means_nothing_held() -> None:
    at_slot = LogFacts(3, 90, 0, Position(3, 40, 1))
    assert decide_wal(WalRequest("a"), SlotFacts(40), at_slot) == Serve(Position(3, 40, 1))
    assert decide_wal(WalRequest("a", 0), SlotFacts(40), WHOLE) == Serve(ORIGIN)
    assert decide_wal(WalRequest("a"), None, WHOLE) == Serve(ORIGIN)


ACK = Ack(HERE, 40, 50)


def test_an_acknowledgement_of_our_record_counts() -> None:
    assert decide_ack(ACK, SlotFacts(20), FACTS) is None


@pytest.mark.parametrize(
    ("ack", "slot", "facts", "expected"),
    [
        (ACK, None, FACTS, (404, "unknown-replica")),
        (Ack(Position(3, 91, 1), 0, 91), SlotFacts(20), FACTS, (409, "ack-beyond-wal")),
        (Ack(Position(3, 50, 1), 0, 50), SlotFacts(20), FACTS, (409, "diverged")),
        (ACK, SlotFacts(20), LogFacts(3, 90, 20, Position(3, 49, 1)), (409, "diverged")),
        (ACK, SlotFacts(20, "idle-timeout"), FACTS, (410, "rebootstrap-required")),
        (Ack(Position(3, 50, 1), 0, 50), SlotFacts(20, "horizon"), FACTS, (409, "diverged")),
        (Ack(Position(2, 19, 1), 0, 19), SlotFacts(20, "horizon"), FACTS, (410, "rebootstrap-required")),
        (Ack(Position(2, 19, 1), 0, 19), SlotFacts(20), LogFacts(3, 90, 20, None), (409, "old-ack")),
    ],
)
def test_an_acknowledgement_that_counts_for_nothing(
    ack: Ack, slot: SlotFacts | None, facts: LogFacts, expected: tuple[int, str]
) -> None:
    assert refused(decide_ack(ack, slot, facts)) == expected


def test_whether_a_pruned_acknowledgement_can_still_be_compared() -> None:
    for term, comparable in ((1, False), (2, True)):
        answer = decide_ack(Ack(Position(term, 19, 1), 0, 19), SlotFacts(20, "horizon"), FACTS)
        assert isinstance(answer, Problem)
        assert answer.facts["comparable"] is comparable


def test_a_new_session_ends_the_one_before() -> None:
    sessions = Sessions(100)
    assert sessions.check("a", None, 0) is None
    assert refused(sessions.check("a", 100, 0)) == (409, "old-session")
    first, second = (sessions.register(Registration("a", instance="i"), 0) for _ in range(2))
    assert (first, second) == (100, 101)
    for old in (100, None):
        assert refused(sessions.check("a", old, 0)) == (409, "old-session")
    assert sessions.check("a", 101, 0) is None
    assert sessions.register(Registration("b"), 0) == 102
    sessions.forget("a")
    assert sessions.check("a", None, 0) is None


def test_no_acknowledgement_counts_behind_a_snapshot() -> None:
    sessions = Sessions(1)
    session = sessions.register(Registration("a"), 0)
    assert isinstance(session, int)
    assert sessions.check_ack("a", session, 0) is None
    assert refused(sessions.check_ack("a", session + 1, 0)) == (409, "old-session")
    assert sessions.check_ack("b", None, 0) is None
    sessions.loads("a")
    sessions.loads("b")
    assert refused(sessions.check_ack("a", session, 0)) == (409, "old-session")
    assert sessions.check("a", session, 0) is None  # it may ask for the snapshot again
    session = sessions.register(Registration("a"), 0)
    assert isinstance(session, int)
    assert sessions.check_ack("a", session, 0) is None


def test_a_second_live_instance_is_refused() -> None:
    sessions = Sessions(1)
    session = sessions.register(Registration("a", instance="one"), 0.0)
    assert isinstance(session, int)
    other = Registration("a", instance="other")
    assert refused(sessions.register(other, LIVE_S - 0.01)) == (409, "second-instance")
    assert refused(sessions.register(Registration("a"), 0.0)) == (409, "second-instance")
    assert sessions.check("a", session, 5.0) is None  # which is heard of again
    assert refused(sessions.register(other, LIVE_S + 4.99)) == (409, "second-instance")
    assert sessions.opened("a", session, 16.0) is None
    assert refused(sessions.register(other, 10_000.0)) == (409, "second-instance")
    sessions.closed("a", session, 10_000.0)
    assert refused(sessions.register(other, 10_000.0 + LIVE_S - 0.01)) == (409, "second-instance")
    assert isinstance(sessions.register(other, 10_000.0 + LIVE_S), int)


def test_a_stream_of_an_old_session_holds_nobody_up() -> None:
    sessions = Sessions(1)
    old = sessions.register(Registration("a", instance="one"), 0.0)
    assert isinstance(old, int)
    assert sessions.opened("a", old, 0.0) is None
    new = sessions.register(Registration("a", instance="one"), 0.0)
    assert isinstance(new, int)
    assert sessions.opened("a", new, 0.0) is None
    late = sessions.opened("a", old, 0.0)  # it registered anew while this one was being begun
    assert late is not None
    assert late.kind == "old-session"
    sessions.closed("a", old, 1.0)
    assert refused(sessions.register(Registration("a", instance="other"), 1_000.0))[1] == "second-instance"
    sessions.closed("a", new, 1.0)
    assert isinstance(sessions.register(Registration("a", instance="other"), 1_000.0), int)


def test_a_stream_waits_sends_and_ends() -> None:
    stream = Stream(5, 2_000, 1_000, 400, now_s=10.0)
    assert stream.next(5, 10.0) == Wait(2.0)
    assert stream.next(5, 11.5) == Wait(0.5)
    assert stream.next(6, 11.5) == Read(400)
    assert stream.took(350, 6, gone_through=5)
    assert stream.since_lsn == 6
    assert stream.next(9, 11.6) == Read(400)
    assert stream.took(450, 9, gone_through=0)
    assert stream.next(12, 39.9) == Read(200)
    assert stream.next(9, 12.0) is None  # the time is up, and there is nothing more
    assert stream.next(12, 40.0) is None  # 30 s
    assert stream.took(200, 12, gone_through=0)
    assert stream.next(99, 12.0) is None  # all that was asked for


def test_a_stream_that_a_prune_overtakes() -> None:
    stream = Stream(5, 2_000, 1_000, 400, now_s=0.0)
    assert not stream.took(100, 9, gone_through=6)
    assert stream.since_lsn == 5


def test_without_waiting_what_is_there_is_sent() -> None:
    stream = Stream(5, 0, 1_000, 400, now_s=0.0)
    assert stream.next(6, 0.0) == Read(400)
    assert stream.took(100, 6, 0)
    assert stream.next(6, 0.0) is None
    assert Stream(5, 60_000, 1, 1, now_s=0.0).next(5, 0.0) == Wait(30.0)
