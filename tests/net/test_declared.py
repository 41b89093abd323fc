"""Whatever is asked, the answer is one that is declared: requests made from the declared interface, good and bad."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.net.interface import Operation, operations, resolved
from tests.net.kit import SCOPES, Served, serving

REQUESTS = int(os.environ.get("WALSPOOL_REQUESTS", "120"))
#: A response that waits would only take time.
QUICK = {"wait_ms": "0"}

words = st.one_of(
    st.text(max_size=80),
    st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    st.sampled_from(["a", "b", "0", "-1", str(2**64 - 1), str(2**64), "1" * 400, "1:5:00000000", "0:0:00000000", "\0"]),
)


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a schema allows; not all of them."""
    rules = resolved(schema)
    if "pattern" in rules:
        return st.from_regex(rules["pattern"].replace("^", r"\A").replace("$", r"\Z"))
    if rules.get("type") == "integer":
        top = rules.get("maximum", 2**64 - 1)
        return st.one_of(st.integers(0, min(top, 20)), st.integers(rules.get("minimum", 0), top))
    if rules.get("type") == "object":
        each = {name: fitting(kind) for name, kind in rules["properties"].items()}
        needed = {name: each[name] for name in rules["required"]}
        return st.fixed_dictionaries(needed, optional={name: each[name] for name in each.keys() - needed.keys()})
    return st.text(min_size=rules.get("minLength", 0), max_size=rules.get("maxLength", 80))


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def requests(draw: st.DrawFn, operation: Operation) -> tuple[str, bytes | None, dict[str, str]]:
    """Target, body and headers of a request: as declared, or nearly so."""
    good = draw(st.integers(0, 3)) > 0

    def some(kinds: dict[str, dict[str, Any]]) -> dict[str, str]:
        names = [name for name in kinds if draw(st.booleans())]
        return {name: str(draw(fitting(kinds[name]) if good or draw(st.booleans()) else words)) for name in names}

    query = {**some(operation.parameters("query")), **(QUICK if operation.path == "/v1/wal" else {})}
    if not good and draw(st.booleans()):
        query[draw(words)] = draw(words)
    path = operation.path
    for name, schema in operation.parameters("path").items():
        value = draw(fitting(schema) if good else words).replace("/", "x")
        # an empty part, and what a client takes for a folder, is another address
        path = path.replace("{" + name + "}", quote(value.strip(".") or "a", safe=""))
    pairs = "&".join(f"{quote(name, safe='')}={quote(value, safe=':')}" for name, value in query.items())
    target = f"{path}?{pairs}" if pairs else path
    headers = some(operation.parameters("header"))
    # http.client sends no others
    headers = {name: value for name, value in headers.items() if value.isascii() and value.isprintable()}
    body: bytes | None = None
    kinds = operation.bodies()
    if kinds or not good:
        kind: str = draw(st.sampled_from([*kinds, "text/plain"]))
        headers["content-type"] = kind
        if kind == "application/json" and draw(st.booleans()):
            body = json.dumps(draw(fitting(kinds[kind]) if good else junk)).encode("utf-8", "surrogatepass")
        else:
            body = draw(st.binary(max_size=6_000))
    return target, body, headers


@pytest.fixture(scope="module", params=[False, True], ids=("open", "tokens"))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, bool]]:
    """A server without tokens, and one with."""
    with serving(tmp_path_factory.mktemp("declared"), tokens=request.param) as found:
        yield found, request.param


def test_every_answer_is_as_declared(both: tuple[Served, bool]) -> None:
    served, tokens = both
    asked = list(operations())
    connection = served.connect()

    @settings(
        max_examples=REQUESTS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        operation = data.draw(st.sampled_from(asked))
        target, body, headers = data.draw(requests(operation))
        if tokens:
            token = data.draw(st.sampled_from([*SCOPES, *SCOPES, "x" * 16]))
            headers["authorization"] = f"Bearer {token}"
        status, kind, text = _answer(connection, operation.method, target, body, headers)
        wrong = operation.wrong(status, kind, text)
        assert wrong is None, (operation.name, target, body, wrong)
        assert status != 500
        assert b"Traceback" not in text

    ask()
    assert served.ask("GET", "/healthz", None, **({"authorization": "Bearer " + "p" * 16} if tokens else {}))[0] == 200


def _answer(
    connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, str, bytes]:
    connection.request(method, target, body, headers)
    found = connection.getresponse()
    return found.status, found.headers["content-type"], found.read()


def test_what_is_not_declared_is_seen(core: ModuleType, tmp_path: Path) -> None:
    (status,) = (each for each in operations() if each.path == "/v1/status")
    with serving(tmp_path) as served:
        served.register("a")
        told = json.loads(served.ask("GET", "/v1/status")[1])
    assert status.wrong(200, "application/json", json.dumps(told).encode()) is None
    for change in ({"role": "king"}, {"term": -1}, {"term": None}, {"more": 1}, {"replicas": [{"id": 3}]}):
        assert status.wrong(200, "application/json", json.dumps({**told, **change}).encode()) is not None, change
    assert status.wrong(418, "application/json", b"{}") is not None
    assert status.wrong(200, "text/plain", b"{}") is not None
