"""The declared interface is the one that is served."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from starlette.routing import Route

from tests.net.interface import DOCUMENT, operations, violation
from tests.net.kit import Served, serving
from walspool.net import messages, records, server, transfer
from walspool.net.messages import Ack, Registration, WalRequest
from walspool.net.page import HEADERS, content
from walspool.net.protocol import CHECKSUM, ORIGIN, SESSION

OPERATIONS = {each.name: each for each in operations()}
DOCS = Path(__file__).parents[2] / "docs" / "network.md"


def test_every_route_is_declared_and_no_other(served: Served) -> None:
    routes = [each for each in served.app.routes if isinstance(each, Route)]
    assert len(routes) == len(served.app.routes)
    # what answers GET answers HEAD
    found = {f"{method} {each.path}" for each in routes for method in (each.methods or set()) - {"HEAD"}}
    assert found == set(OPERATIONS)


def test_every_parameter_is_declared_and_no_other(served: Served) -> None:
    for operation in operations():
        assert re.findall(r"\{(\w+)\}", operation.path) == list(operation.parameters("path"))
        declared = operation.parameters("query")
        problem = served.ask(operation.method, operation.path.replace("{id}", "a") + "?surely_unknown=1", b"")
        words = json.loads(problem[1]).get("detail", "") if problem[0] == 400 else ""
        if "known are: " in words:  # which is how a request that reads its query refuses one that it does not know
            assert sorted(declared) == words.partition("known are: ")[2].split(", "), operation.name
        else:
            assert not declared, operation.name
    headers = set(OPERATIONS["GET /v1/wal"].parameters("header"))
    assert headers == {SESSION, CHECKSUM}


def test_every_kind_of_body_is_declared() -> None:
    for name, example in (
        ("POST /v1/replicas", Registration("a", "eu", "i")),
        ("POST /v1/replicas/{id}/ack", Ack(ORIGIN, 0, 0)),
    ):
        schema = OPERATIONS[name].bodies()["application/json"]
        assert set(schema["properties"]) == set(example.fields())
        assert violation(schema, example.fields()) is None
    assert records.PAYLOADS_TYPE in OPERATIONS["POST /v1/records"].bodies()
    assert set(OPERATIONS["GET /v1/wal"].parameters("query")) == set(messages._WAL_PARAMETERS)
    assert WalRequest().query() == "wait_ms=30000&max_bytes=67108864"


def test_every_status_that_a_request_is_refused_with_is_declared() -> None:
    # every refusal of the rooms of the network, by the function that makes it
    made = {
        int(status)
        for module in (server, messages, records, transfer)
        for status in _statuses(inspect.getsource(module))
    }
    declared = {int(status) for each in operations() for status in each.told["responses"]}
    assert made <= declared
    assert declared <= made | {200, 401, 403, 404, 410, 501, 503}


def _statuses(source: str) -> list[str]:
    return re.findall(r"(?:Refused|Problem)\(\s*(\d{3})", source)


def test_an_answer_is_as_declared(served: Served) -> None:
    for operation in operations():
        session = served.register(region="eu")
        served.primary.ack_replica_lsn("a", 7, 8)
        query, body = {
            "/v1/wal": ("?wait_ms=0", None),
            "/v1/snapshot": ("?replica_id=a", None),
            "/v1/replicas": ("", b'{"id": "b"}'),
            "/v1/replicas/{id}/ack": ("", json.dumps(Ack(ORIGIN, 0, 0).fields()).encode()),
        }.get(operation.path, ("", b"x"))
        headers = {"walspool_session": str(session)} if query else {}
        path = operation.path.replace("{id}", "a") + query
        status, text, given = served.ask(operation.method, path, body, **headers)
        assert status == {"/replica": 503, "/v1/replicas/{id}/ack": 409}.get(operation.path, 200), (path, text)
        assert operation.wrong(status, given["content-type"], text) is None
        assert given["x-content-type-options"] == "nosniff" or query
        assert operation.wrong(599, "", b"") is not None


def test_the_files_need_no_token_and_nothing_else_goes_without(tmp_path: Path) -> None:
    with serving(tmp_path, tokens=True) as guarded:
        for operation in operations():
            status, text, headers = guarded.ask(operation.method, operation.path.replace("{id}", "a"), b"")
            assert status == (401 if operation.needs_token else 200), operation.name
            if not operation.needs_token:
                assert text == content(operation.path)
                assert {name: headers[name] for name in HEADERS} == HEADERS


def test_without_tokens_a_foreign_name_gets_nothing(served: Served) -> None:
    for operation in operations():
        for foreign in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
            path = operation.path.replace("{id}", "a")
            assert served.refusal(operation.method, path, b"", **foreign).status == 403, operation.name


def test_a_method_that_an_address_does_not_have_names_those_it_has(served: Served) -> None:
    for path, methods in (("/v1/status", {"GET", "HEAD"}), ("/v1/records", {"GET", "HEAD", "POST"})):
        status, _, headers = served.ask("PUT", path, b"")
        assert (status, set(headers["allow"].split(", "))) == (405, methods)
    assert served.ask("GET", "/v1/status/")[0] == 404


def test_the_documents_name_every_address() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for operation in operations():
        assert f"{operation.path}`" in text or f"{operation.path}?" in text or f"{operation.path} " in text, operation
    assert DOCUMENT["openapi"].startswith("3.1")
