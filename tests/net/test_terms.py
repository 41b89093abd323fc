"""What a term that somebody presents can do."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import walspool
from tests.net.kit import Served
from walspool import PrimaryReplication
from walspool.errors import ProtocolError
from walspool.net.messages import SnapshotHead, StreamHead, WalRequest
from walspool.net.page import content
from walspool.net.presenting import Presenting
from walspool.net.protocol import MAX_TERM, ORIGIN, TERM_STEP, Refused, checksum
from walspool.net.records import PAYLOADS_TYPE
from walspool.net.source import Source


@pytest.mark.parametrize("term", [1 + TERM_STEP + 1, MAX_TERM, 2**64 - 1])
@pytest.mark.parametrize("call", ["pull", "load"])
def test_a_term_that_nobody_can_have_fences_nobody(core: ModuleType, tmp_path: Path, term: int, call: str) -> None:
    with PrimaryReplication(tmp_path / "app.db") as primary:
        source = Source(primary, first_session=1)
        with pytest.raises(Refused, match="can't be") as caught:
            getattr(source, call)(WalRequest("a", 0, None, term), None, 0.0)
        assert (caught.value.problem.status, caught.value.problem.kind) == (400, "bad-request")
        assert primary.fenced_by is None
        primary.commit(b"it goes on")
    with PrimaryReplication(tmp_path / "app.db") as primary:
        assert primary.fenced_by is None


def test_the_highest_term_that_fences_can_be_promoted_from(core: ModuleType, tmp_path: Path) -> None:
    with PrimaryReplication(tmp_path / "app.db") as primary:
        for _ in range(2):  # nor does it take the next step from there
            with pytest.raises(Refused) as caught:
                Source(primary, first_session=1).pull(WalRequest("a", 0, None, 1 + TERM_STEP), None, 0.0)
            assert caught.value.problem.kind == "newer-term"
        assert primary.fenced_by == 1 + TERM_STEP
        with pytest.raises(Refused, match="can't be"):
            Source(primary, first_session=1).pull(WalRequest("a", 0, None, 2 + TERM_STEP), None, 0.0)
        assert primary.fenced_by == 1 + TERM_STEP


def test_no_message_names_a_term_above_the_bound() -> None:
    query = f"term={MAX_TERM + 1}".encode()
    with pytest.raises(Refused, match="at most"):
        WalRequest.parse(query, checksum(query))
    query = f"term={MAX_TERM}".encode()
    assert WalRequest.parse(query, checksum(query)).term == MAX_TERM
    for head in (StreamHead(MAX_TERM + 1, 0, None, ORIGIN), SnapshotHead(MAX_TERM + 1, ORIGIN, 0, True)):
        with pytest.raises(ProtocolError, match="at most"):
            type(head).parse(head.headers())


@pytest.mark.parametrize(("ahead", "newer"), [(1, True), (TERM_STEP, True), (TERM_STEP + 1, False)])
def test_a_former_primary_does_not_fence_by_a_term_that_can_not_be(ahead: int, newer: bool) -> None:
    presenting = Presenting("a", 5, random=lambda: 0.0)
    presenting.answered(StreamHead(5 + ahead, 0, None, ORIGIN))
    assert presenting.newer == (5 + ahead if newer else None)
    assert presenting.told == newer


@pytest.mark.parametrize("term", [0, 2, 4, 2**64 - 1])
def test_a_change_record_that_is_posted_sets_no_term(served: Served, term: int) -> None:
    log = served.primary.logical_wal_spool
    assert log is not None
    log.begin_term(3)
    own, other = (b'{"operation":"insert","term":%d}' % each for each in (3, term))
    body = b"".join(len(each).to_bytes(4, "little") + each for each in (own, other))
    problem = served.refusal("POST", "/v1/records", body, content_type=PAYLOADS_TYPE)
    assert (problem.status, problem.kind) == (400, "bad-request")
    assert f"payload 1 is a change record of term {term}, and this primary's is 3" in problem.detail
    assert (served.primary.term, served.primary.current_logical_lsn) == (3, 10)
    assert served.ask("POST", "/v1/records", own)[0] == 200
    assert served.ask("POST", "/v1/records", b'{"operation":"insert"}')[0] == 200
    assert served.primary.term == 3


def test_no_record_brings_a_replaced_primary_back(served: Served) -> None:
    served.primary.fence(2)
    for payload in (b"x", b'{"operation":"insert","term":1}', b'{"operation":"insert","term":3}'):
        problem = served.refusal("POST", "/v1/records", payload)
        assert (problem.status, problem.kind) == (409, "newer-term")
        assert (problem.facts["term"], problem.facts["newer"]) == (1, 2)
    with pytest.raises(walspool.StaleTermError):
        served.primary.append_change(walspool.ChangeRecord.decode(b'{"operation":"insert","term":3,"lsn":11}'))
    assert (served.primary.fenced_by, served.primary.current_logical_lsn) == (2, 10)


def test_the_declared_bound_of_a_term() -> None:
    schemas = json.loads(content("/openapi.json"))["components"]["schemas"]
    assert schemas["Term"]["maximum"] == MAX_TERM
