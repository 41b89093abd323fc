"""ChangeRecord, and the core's question whether a payload is one."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walspool.changes import ABSENT, ChangeOperation, ChangeRecord
from walspool.errors import RecordDecodeError

GOLDEN = Path(__file__).parent.parent / "data" / "golden"


def _cases(kind: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((GOLDEN / kind / "expected.json").read_text())["cases"]
    return cases


DECODE = _cases("change_record_decode")
ENCODE = _cases("change_record_encode")


def _expected(case: dict[str, Any]) -> dict[str, Any]:
    return {**case["reference"], **case.get("walspool", {})}


@pytest.mark.parametrize("case", DECODE, ids=[case["name"] for case in DECODE])
def test_golden_decode(case: dict[str, Any]) -> None:
    data, expected = bytes.fromhex(case["input_hex"]), _expected(case)
    if expected.get("error"):
        with pytest.raises(RecordDecodeError) as caught:
            ChangeRecord.decode(data)
        assert caught.value.reason
        return
    record = ChangeRecord.decode(data)
    assert record.encode().decode() == expected["reencoded"]
    refresh = None if record.refresh_records is None else [item.hex() for item in record.refresh_records]
    assert {
        "collection": record.collection,
        "entity_bytes_hex": None if record.entity_bytes is None else record.entity_bytes.hex(),
        "has_metadata": record.metadata is not ABSENT,
        "kind_decoded": record.entity_kind,
        "lsn": record.lsn,
        "metadata": record.metadata or None,
        "operation": record.operation,
        "refresh_records_hex": refresh,
        "rid": record.entity_id,
        "term": record.term,
        "timestamp": record.timestamp,
        "range_id": record.range_id,
        "ownership_epoch": record.ownership_epoch,
    } == {"range_id": None, "ownership_epoch": None} | {
        key: value for key, value in expected.items() if key not in ("reencoded", "kind_public", "note")
    }


@pytest.mark.parametrize("case", DECODE, ids=[case["name"] for case in DECODE])
def test_golden_change_term(core: ModuleType, case: dict[str, Any]) -> None:
    expected = _expected(case)
    found = core.change_term(bytes.fromhex(case["input_hex"]))
    assert (found is None) == bool(expected.get("error"))
    if found is not None:
        assert found[0] == expected["term"]


@pytest.mark.parametrize("case", ENCODE)
def test_golden_encode(case: dict[str, Any]) -> None:
    given = case["record"]
    record = ChangeRecord(
        term=given["term"],
        lsn=given["lsn"],
        timestamp=given["timestamp"],
        operation=ChangeOperation(given["operation"]),
        collection=given["collection"],
        entity_id=given["rid"],
        entity_kind=given["kind"],
        entity_bytes=bytes.fromhex(given["entity_bytes_hex"]) if "entity_bytes_hex" in given else None,
        metadata=given.get("metadata", ABSENT),
        refresh_records=tuple(map(bytes.fromhex, given["refresh_records_hex"]))
        if "refresh_records_hex" in given
        else None,
    )
    assert record.encode().decode() == case["reference"]


def _nested(levels: int) -> bytes:
    """A change record of that many objects and lists within each other."""
    return b'{"operation":"insert","m":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("data", "term"),
    [
        (b'{"operation":"insert"}', (1, False)),
        (b'{"operation":"insert","term":9}', (9, True)),
        (b'{"operation":"insert","term":0}', (0, True)),
        (b'{"operation":"insert","term":2.7}', (2, True)),
        (b'{"operation":"insert","term":-0}', (0, True)),
        (b'{"operation":"insert","term":-0.5}', (1, False)),
        (b'{"operation":"insert","term":-1}', (1, False)),
        (b'{"operation":"insert","term":true}', (1, False)),
        (b'{"operation":"insert","term":"3"}', (1, False)),
        (b'{"operation":"insert","term":null}', (1, False)),
        (b'{"operation":"insert","term":18446744073709551615}', (2**64 - 1, True)),
        (b'{"operation":"insert","term":18446744073709551616}', (1, False)),
        (b'{"operation":"insert","term":1.8446744073709552e19}', (1, False)),
        (b'{"operation":"insert","term":1e3}', (1000, True)),
        (b'{"operation":"insert","term":2,"term":3}', (3, True)),
        (b'{"operation":"insert","term":2,"term":"x"}', (1, False)),
        (b'{"operation":"nope","operation":"insert"}', (1, False)),
        (b'{"operation":"insert","operation":"nope"}', None),
        (b"\n\t\r " * 40 + b'{"operation":"insert","term":4}', (4, True)),
        (b" " * 100, None),
        (b"", None),
        (b"\xef\xbb\xbf" + b'{"operation":"insert"}', None),
        (b'{"operation":"insert","x":"\\ud83d"}', None),
        (b'{"operation":"insert","x":"\\ude00\\ud83d"}', None),
        (b'{"operation":"insert","\\ud800":1}', None),
        (b'{"operation":"insert","x":"\\ud83d","x":1}', None),
        (b'{"operation":"insert","x":"\\ud83d\\ude00"}', (1, False)),
        (b'{"operation":"insert","x":"\\\\ud83d"}', (1, False)),
        (b'{"operation":"insert","x":"\xed\xa0\x80"}', None),
        (b'{"operation":"insert","x":"\xff"}', None),
        (b'{"operation":"insert","x":"\n"}', None),
        (b'{"operation":"insert","x":"\x7f"}', (1, False)),
        (b'{"operation":"insert","x":NaN}', None),
        (b'{"operation":"insert","x":-Infinity}', None),
        (b'{"operation":"insert","x":1e999}', None),
        (b'{"operation":"insert","x":1e-999}', (1, False)),
        (b'{"operation":"insert","x":' + b"9" * 400 + b"}", None),
        (b'{"operation":"insert","x":' + b"9" * 5000 + b"}", None),
        (b'{"operation":"insert","x":' + b"9" * 300 + b"}", (1, False)),
        (b'{"operation":"insert","x":01}', None),
        (b'{"operation":"insert",}', None),
        (b'{"operation":"insert"}\x00', None),
        (b'{"operation":"insert","entity_bytes_hex":"0 0"}', None),
        (b'{"operation":"insert","entity_bytes_hex":" 00"}', None),
        (b'{"operation":"insert","refresh_records_hex":[["00"]]}', None),
        (b'{"operation":"insert","refresh_records_hex":5,"refresh_records_hex":null}', (1, False)),
        (b'{"operation":"insert","x":"[[[["}', (1, False)),
        (_nested(128), (1, False)),
        (_nested(129), None),
        (_nested(100_000), None),
        (b'{"operation":"insert","x":"' + b"[" * 500 + b'"}', (1, False)),
        (b'{"operation":"insert","x":"\\"' + b"[" * 500 + b'"}', (1, False)),
        (b'{"operation":"insert","x":[' + b"{}," * 500 + b"1]}", (1, False)),
        (b'["operation","insert"]', None),
        (b'{"operation":"insert"', None),
    ],
)
def test_both_cores_read_json_alike(core: ModuleType, data: bytes, term: tuple[int, bool] | None) -> None:
    assert core.change_term(data) == term
    assert core.change_term(bytearray(data)) == term
    if term is None:
        with pytest.raises(RecordDecodeError):
            ChangeRecord.decode(data)
    else:
        assert ChangeRecord.decode(data).term == term[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    operation=st.sampled_from(ChangeOperation),
    numbers=st.tuples(*[st.integers(0, 2**64 - 1)] * 4),
    collection=st.text(),
    entity_bytes=st.none() | st.binary(),
    metadata=JSON | st.just(ABSENT),
    refresh=st.none() | st.lists(st.binary(), max_size=3),
    extra=st.dictionaries(st.text().map("x-{}".format), JSON, max_size=3),
)
def test_what_is_encoded_decodes_to_the_same(
    operation: ChangeOperation,
    numbers: tuple[int, int, int, int],
    collection: str,
    entity_bytes: bytes | None,
    metadata: Any,
    refresh: list[bytes] | None,
    extra: dict[str, Any],
) -> None:
    term, lsn, timestamp, entity_id = numbers
    record = ChangeRecord(
        term, lsn, timestamp, operation, collection, entity_id, "row", entity_bytes, metadata, refresh, extra=extra
    )
    data = record.encode()
    assert ChangeRecord.decode(data) == record
    assert ChangeRecord.decode(data).encode() == data
    assert hash(ChangeRecord.decode(data)) == hash(record)
    assert list(json.loads(data)) == sorted(json.loads(data))


def _record(**fields: Any) -> ChangeRecord:
    return ChangeRecord(**{**dict.fromkeys(("term", "lsn", "timestamp", "entity_id"), 1), **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": float("nan")},
        {"metadata": {"x": float("inf")}},
        {"collection": "\ud800"},
        {"extra": {"x": "\udfff"}},
        {"metadata": json.loads("[" * 128 + "]" * 128)},
    ],
)
def test_what_could_not_be_decoded_is_not_encoded(fields: dict[str, Any]) -> None:
    record = _record(**{"operation": "insert", "collection": "c", "entity_kind": "row", **fields})
    with pytest.raises(ValueError, match=r".+"):
        record.encode()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"lsn": -1}, ValueError),
        ({"lsn": 2**64}, ValueError),
        ({"term": True}, TypeError),
        ({"range_id": 1.0}, TypeError),
        ({"operation": "upsert"}, ValueError),
        ({"collection": 5}, TypeError),
        ({"entity_bytes": "00"}, TypeError),
        ({"extra": {"lsn": 1}}, ValueError),
    ],
)
def test_a_record_is_made_of_good_fields_only(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        _record(**{"operation": "insert", "collection": "c", "entity_kind": "row", **fields})


def test_null_and_absent_metadata_are_two_things() -> None:
    absent = _record(operation="insert", collection="c", entity_kind="row")
    null = _record(operation="insert", collection="c", entity_kind="row", metadata=None)
    assert (absent.metadata, null.metadata) == (ABSENT, None)
    assert b"metadata" not in absent.encode()
    assert b'"metadata":null' in null.encode()
    assert repr(ABSENT) == "ABSENT"
    assert not ABSENT
