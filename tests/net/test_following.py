"""The follower's decisions, one by one: the tables at the head of ``following``."""

from __future__ import annotations

import pytest

import walspool
from walspool import Position
from walspool.net.following import Following, OwnLog, State
from walspool.net.messages import Ack, StreamHead, WalRequest
from walspool.net.protocol import ORIGIN, Problem

LAST = Position(3, 50, 0xAB)
LOG = OwnLog(LAST, 3)


def problem(kind: str, **facts: object) -> Problem:
    """A refusal."""
    return Problem(409, kind, f"because of {kind}", facts)


def state(of: Following) -> State:
    """Its state now."""
    return of.state


@pytest.fixture
def following() -> Following:
    """A follower that is pulling."""
    found = Following("a", "i-1", region="eu", random=lambda: 1.0)
    assert state(found) is State.REGISTERING
    found.registered(7)
    assert state(found) is State.PULLING
    return found


def test_what_it_asks_for(following: Following) -> None:
    assert following.registration().fields() == {"id": "a", "region": "eu", "instance": "i-1"}
    assert following.request(LOG) == WalRequest("a", 50, LAST, 3)
    assert following.request(OwnLog(ORIGIN, 1)) == WalRequest("a", 0, None, 1)


@pytest.mark.parametrize("term", [3, 4])
def test_a_response_behind_our_last_record_is_taken(following: Following, term: int) -> None:
    following.failed(walspool.ProtocolError(reason="x"), 0.0)
    following.tick(1.0)
    following.registered(8)
    assert following.head(StreamHead(term, 90, 1, LAST), LOG, 1.0)
    assert (following.error, following.state) == (None, State.PULLING)
    following.ended()
    assert state(following) is State.PULLING


@pytest.mark.parametrize("previous", [ORIGIN, Position(3, 50, 0xAC), Position(2, 50, 0xAB), Position(3, 51, 1)])
def test_any_other_response_is_not(following: Following, previous: Position) -> None:
    assert not following.head(StreamHead(3, 90, 1, previous), LOG, 1.0)
    assert state(following) is State.WAITING
    assert isinstance(following.error, walspool.ProtocolError)
    assert "our log ends at 3:50:000000ab" in str(following.error)
    assert following.next_ack() is None


def test_it_agrees_with_a_primary_once_a_response_has_fitted(following: Following) -> None:
    assert not following.agrees
    following.request(LOG)
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    assert following.agrees
    following.registered(8)
    assert not following.agrees
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    following.refused(problem("diverged", ours="3:7:00000001", theirs="3:7:00000002"), 1.0)
    assert not following.agrees


def test_a_primary_of_an_older_term_is_refused(following: Following) -> None:
    assert not following.head(StreamHead(2, 90, 1, LAST), LOG, 1.0)
    assert isinstance(following.error, walspool.StaleTermError)
    assert (following.error.term, following.error.current_term, following.state) == (2, 3, State.WAITING)
    following.tick(100.0)
    following.registered(9)
    following.refused(problem("rebootstrap-required", cause="horizon", comparable=True), 100.0)
    assert following.snapshot(3, True, LOG, 100.0)
    assert not following.snapshot(2, True, LOG, 100.0)
    assert isinstance(following.error, walspool.StaleTermError)


def test_each_failure_waits_longer(following: Following) -> None:
    pauses = []
    for _ in range(9):
        following.failed(walspool.ProtocolError(reason="x"), 100.0)
        pauses.append(round(following.wait_until_s - 100.0, 3))
        following.tick(following.wait_until_s - 0.001)
        assert state(following) is State.WAITING
        following.tick(following.wait_until_s)
        assert state(following) is State.REGISTERING
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    following.registered(1)
    assert following.head(StreamHead(3, 90, 1, LAST), LOG, 200.0)
    following.failed(walspool.ProtocolError(reason="x"), 200.0)
    assert round(following.wait_until_s - 200.0, 3) == 0.1


def test_followers_do_not_come_back_all_at_once() -> None:
    found = Following("a", "i", random=lambda: 0.0)
    found.failed(walspool.ProtocolError(reason="x"), 0.0)
    assert found.wait_until_s == pytest.approx(0.05)


def test_answers_without_anything_are_asked_for_less_and_less(following: Following) -> None:
    pauses = []
    for _ in range(8):
        following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
        following.empty(100.0)
        assert (state(following), following.error) == (State.WAITING, None)
        pauses.append(round(following.wait_until_s - 100.0, 3))
        following.tick(following.wait_until_s)
        following.registered(8)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    following.ended()
    following.empty(100.0)
    assert round(following.wait_until_s - 100.0, 3) == 0.1


def test_a_log_that_is_found_damaged_is_loaded_unless_a_person_has_to_decide(following: Following) -> None:
    error = walspool.SpoolCorrupt(path="x", reason="a rotten bit")
    following.lost(error)
    assert (state(following), following.error) == (State.REGISTERING, error)
    following.registered(8)
    assert state(following) is State.LOADING
    following.refused(problem("diverged", ours="3:50:000000cd", theirs="3:50:000000ab"), 0.0)
    following.lost(error)
    assert state(following) is State.STOPPED
    assert isinstance(following.error, walspool.Diverged)


def test_a_session_that_has_ended_is_renewed_at_once_but_not_for_ever(following: Following) -> None:
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    for kind in ("old-session", "unknown-replica"):
        following.refused(problem(kind), 0.0)
        assert (following.state, following.session) == (State.REGISTERING, None)
        following.registered(8)
        following.refused(problem(kind), 0.0)
        assert state(following) is State.WAITING
        following.tick(100.0)
        assert state(following) is State.REGISTERING
        following.registered(9)
        following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)


def test_what_is_gone_is_loaded(following: Following) -> None:
    following.request(LOG)
    following.refused(problem("rebootstrap-required", cause="horizon", comparable=True), 0.0)
    assert (following.state, following.given_up) == (State.LOADING, None)
    assert isinstance(following.error, walspool.RebootstrapRequired)
    following.failed(walspool.ProtocolError(reason="the load failed"), 0.0)
    following.tick(100.0)
    assert state(following) is State.LOADING
    following.refused(problem("old-session"), 0.0)
    following.tick(200.0)
    assert state(following) is State.REGISTERING
    following.registered(8)
    assert state(following) is State.LOADING
    following.loaded()
    assert state(following) is State.REGISTERING
    assert following.error is None
    following.registered(9)
    assert state(following) is State.PULLING


def test_what_can_not_be_compared_is_noted(following: Following) -> None:
    following.request(LOG)
    following.refused(problem("rebootstrap-required", cause="wal-removed", comparable=False), 0.0)
    assert following.given_up == LAST


def test_another_primary_compares_before_it_gives_a_snapshot(following: Following) -> None:
    following.request(LOG)
    following.refused(problem("rebootstrap-required", cause="wal-removed", comparable=True), 0.0)
    assert following.load_request(LOG) == WalRequest("a", 50, LAST, 3)
    assert following.snapshot(3, True, LOG, 0.0)
    assert following.given_up is None
    assert following.snapshot(4, False, LOG, 0.0)
    assert following.given_up == LAST
    following.refused(problem("diverged", ours="3:50:000000cd", theirs="3:50:000000ab"), 0.0)
    assert state(following) is State.STOPPED
    following.start_again()  # which is what a person decides
    assert following.load_request(LOG) == WalRequest("a", None, None, 3)


def test_a_diverged_log_stops_until_a_person_decides(following: Following) -> None:
    following.refused(problem("diverged", ours="3:50:000000cd", theirs="3:50:000000ab"), 0.0)
    assert (following.state, following.divergences) == (State.STOPPED, 1)
    assert isinstance(following.error, walspool.Diverged)
    assert (following.error.ours, following.error.theirs) == (LAST, Position(3, 50, 0xCD))
    following.tick(1e9)
    following.failed(walspool.ProtocolError(reason="late"), 0.0)
    following.refused(problem("rebootstrap-required", cause="x", comparable=True), 0.0)
    following.ack_refused(problem("ack-beyond-wal"), 0.0)
    assert state(following) is State.STOPPED
    assert isinstance(following.error, walspool.Diverged)
    following.start_again()
    following.registered(8)
    assert state(following) is State.LOADING


@pytest.mark.parametrize("kind", ["second-instance", "newer-term", "unauthorized", "slot-limit", "anything"])
def test_any_other_refusal_waits(following: Following, kind: str) -> None:
    following.refused(problem(kind, term=1, newer=2), 0.0)
    assert state(following) is State.WAITING
    assert kind in str(following.error)


def test_an_unfinished_bootstrap_comes_first() -> None:
    found = Following("a", "i", loading=True, random=lambda: 1.0)
    assert state(found) is State.REGISTERING
    found.registered(1)
    assert state(found) is State.LOADING


def test_what_is_durable_is_acknowledged_once(following: Following) -> None:
    assert following.next_ack() is None  # what it holds is not known to be the primary's
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    assert following.next_ack() == Ack(LAST, 0, 50)
    assert following.next_ack() is None  # one is under way
    following.durable(Position(3, 51, 1))
    following.durable(Position(3, 52, 2))
    following.applied(51)
    assert following.next_ack() is None
    following.ack_returned()
    assert following.next_ack() == Ack(Position(3, 52, 2), 51, 52)
    following.ack_lost()
    assert following.next_ack() == Ack(Position(3, 52, 2), 51, 52)
    following.ack_returned()
    assert following.next_ack() is None
    following.apply_errors = 2  # and it stands still
    assert following.next_ack() == Ack(Position(3, 52, 2), 51, 52, 2)
    following.ack_returned()
    assert following.next_ack() is None
    following.applied(52)
    assert following.next_ack() == Ack(Position(3, 52, 2), 52, 52, 2)


def test_nothing_is_applied_before_it_is_durable(following: Following) -> None:
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    following.applied(70)
    assert following.next_ack() == Ack(LAST, 50, 50)


def test_a_refused_acknowledgement(following: Following) -> None:
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    following.next_ack()
    following.ack_refused(problem("old-ack"), 0.0)
    assert state(following) is State.PULLING
    assert following.next_ack() is None  # the same would be refused again, without a pause between
    following.applied(20)
    assert following.next_ack() == Ack(LAST, 20, 50)
    following.ack_refused(problem("old-session"), 0.0)
    assert state(following) is State.REGISTERING
    assert following.next_ack() is None
    following.registered(8)
    assert following.next_ack() is None  # the new session has not shown yet that this is the primary's
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    assert following.next_ack() == Ack(LAST, 20, 50)


def test_what_an_acknowledgement_could_not_compare_is_noted(following: Following) -> None:
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    following.next_ack()
    following.ack_refused(problem("rebootstrap-required", cause="x", comparable=False), 0.0)
    assert state(following) is State.LOADING
    assert following.given_up == LAST


def test_after_a_bootstrap_nothing_of_before_is_acknowledged(following: Following) -> None:
    following.head(StreamHead(3, 90, 1, LAST), LOG, 0.0)
    following.applied(50)
    following.refused(problem("rebootstrap-required", cause="x", comparable=True), 0.0)
    assert following.next_ack() is None
    following.loaded()
    following.registered(8)
    assert following.next_ack() is None
    following.head(StreamHead(3, 90, 1, Position(3, 40, 1)), OwnLog(Position(3, 40, 1), 3), 0.0)
    assert following.next_ack() == Ack(Position(3, 40, 1), 0, 40)


def test_promotion(following: Following) -> None:
    assert following.promote(LOG) == 4
    assert state(following) is State.STOPPED


def test_no_promotion_before_it_is_whole(following: Following) -> None:
    following.reach_lsn = 51
    with pytest.raises(walspool.ProtocolError, match="not back at LSN 51"):
        following.promote(LOG)
    following.reach_lsn = 50
    following.refused(problem("rebootstrap-required", cause="x", comparable=True), 0.0)
    with pytest.raises(walspool.ProtocolError, match="loading a snapshot"):
        following.promote(LOG)
