"""Section 6: change records, line by line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from walspool import ABSENT, ChangeOperation, ChangeRecord, RecordDecodeError


def record(**changes: Any) -> ChangeRecord:
    """A change record with some fields of its own."""
    plain: dict[str, Any] = {
        "term": 1,
        "lsn": 2,
        "timestamp": 3,
        "operation": ChangeOperation.INSERT,
        "collection": "c",
        "entity_id": 4,
        "entity_kind": "row",
    }
    return ChangeRecord(**(plain | changes))


def decoded(**fields: Any) -> ChangeRecord:
    """What is read from these JSON fields, besides an operation."""
    return ChangeRecord.decode(json.dumps({"operation": "update", **fields}).encode())


def test_encoded_text() -> None:
    """6.R1: compact JSON, keys in alphabetical order, empty optionals left out, metadata null kept."""
    plain = b'{"collection":"c","kind":"row","lsn":2,"operation":"insert","rid":4,"term":1,"timestamp":3}'
    assert record().encode() == plain
    full = record(entity_bytes=b"\xab\x01", metadata=None, refresh_records=[b"\xff", b""])
    assert full.encode() == (
        b'{"collection":"c","entity_bytes_hex":"ab01","kind":"row","lsn":2,"metadata":null,"operation":"insert",'
        b'"refresh_records_hex":["ff",""],"rid":4,"term":1,"timestamp":3}'
    )
    assert record(collection="é").encode() == plain.replace(b'"c"', '"é"'.encode())


def test_integers_are_exact_and_unknown_keys_are_kept() -> None:
    """6.P1: integers exact; re-encoding changes the term and keeps the rest; above 2**64-1 is the default; errors."""
    assert decoded(lsn=2**53 + 1, rid=2**64 - 1).lsn == 2**53 + 1
    assert decoded(rid=2**64 - 1).entity_id == 2**64 - 1
    assert (decoded(lsn=2**64).lsn, decoded(term=2**64).term) == (0, 1)
    text = (
        b'{"collection":"c","flavour":{"a":[1.5]},"kind":"row","lsn":2,"operation":"insert","rid":4,"term":%d,'
        b'"timestamp":3}'
    )
    assert ChangeRecord.decode(text % 1).with_term(9).encode() == text % 9
    for bad in ("NaN", '"\\ud800"', "[" * 128 + "]" * 128):
        with pytest.raises(RecordDecodeError):
            ChangeRecord.decode(b'{"operation":"insert","x":%s}' % bad.encode())


def test_values_of_the_wrong_type_or_sign_on_decode() -> None:
    """6.R2: a wrong type counts as missing, negatives are the default, fractions are cut."""
    found = decoded(term="7", lsn=-1, timestamp=12.9, collection=5, rid=None, entity_id=8, kind=3)
    assert (found.term, found.lsn, found.timestamp, found.collection) == (1, 0, 12, "")
    assert (found.entity_id, found.entity_kind) == (0, "entity")
    assert decoded(term=-1).term == 1
    assert decoded(lsn=True).lsn == 0


def test_hex_the_refresh_list_and_what_is_an_error() -> None:
    """6.R2: hex may be upper case; a non-string in the refresh list, trailing bytes, no UTF-8 are errors."""
    assert decoded(entity_bytes_hex="ABcd").entity_bytes == b"\xab\xcd"
    assert decoded(refresh_records_hex=["0A", ""]).refresh_records == (b"\x0a", b"")
    for bad in (
        b'{"operation":"insert","refresh_records_hex":["00",1]}',
        b'{"operation":"insert"} x',
        b'{"operation":"insert","collection":"\xff"}',
    ):
        with pytest.raises(RecordDecodeError):
            ChangeRecord.decode(bad)


def test_the_kind_is_kept_as_read_and_mapped_by_encoding_only() -> None:
    """6.R2: exact names first, then the three words in the order kv, document, vector, case-sensitive."""
    found = decoded(kind="graph_node")
    assert found.entity_kind == "graph_node"
    assert json.loads(found.encode())["kind"] == "node"
    forms = {"vector_document": "document", "document_kv": "kv", "KV": "item", "a vector": "vector"}
    for kind, public in forms.items():
        assert json.loads(decoded(kind=kind).encode())["kind"] == public


def test_names_defaults_and_errors_of_decode() -> None:
    """6.R3: rid/kind written, entity_id/entity_kind read too; defaults; what is an error."""
    assert decoded(entity_id=6, entity_kind="edge").entity_id == 6
    assert json.loads(decoded(entity_id=6, entity_kind="edge").encode()).items() >= {"rid": 6, "kind": "edge"}.items()
    found = decoded()
    assert (found.term, found.lsn, found.timestamp, found.collection, found.entity_id, found.entity_kind) == (
        1,
        0,
        0,
        "",
        0,
        "entity",
    )
    assert (found.entity_bytes, found.metadata, found.refresh_records) == (None, ABSENT, None)
    for bad in (
        b"{}",
        b'{"operation":"upsert"}',
        b'{"operation":"insert","entity_bytes_hex":"0g"}',
        b'{"operation":"insert","entity_bytes_hex":"000"}',
        b'{"operation":"insert","refresh_records_hex":"00"}',
        b'["insert"]',
        b"12",
    ):
        with pytest.raises(RecordDecodeError):
            ChangeRecord.decode(bad)


def test_the_public_form_of_a_kind() -> None:
    """6.R4: kind is written in its public form."""
    forms = {
        "table": "row",
        "entity": "row",
        "row": "row",
        "graph_node": "node",
        "node": "node",
        "graph_edge": "edge",
        "edge": "edge",
        "kv": "kv",
        "document": "document",
        "vector": "vector",
        "my_vector_2": "vector",
        "anything": "item",
        "": "item",
    }
    assert {kind: json.loads(record(entity_kind=kind).encode())["kind"] for kind in forms} == forms


def test_range_and_epoch_are_kept_when_present() -> None:
    """6.P5: range_id and ownership_epoch."""
    assert (decoded().range_id, decoded().ownership_epoch) == (None, None)
    found = decoded(range_id=0, ownership_epoch=2**64 - 1)
    assert (found.range_id, found.ownership_epoch) == (0, 2**64 - 1)
    assert json.loads(found.encode()).items() >= {"range_id": 0, "ownership_epoch": 2**64 - 1}.items()
    assert not {"range_id", "ownership_epoch"} & json.loads(decoded().encode()).keys()
