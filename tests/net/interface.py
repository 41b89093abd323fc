"""The declared interface as tests use it: what is declared of each request, and whether an answer is as declared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from walspool.net.page import content

__all__ = ["DOCUMENT", "Operation", "operations", "resolved", "violation"]

DOCUMENT: dict[str, Any] = json.loads(content("/openapi.json"))

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    path: str
    method: str
    told: dict[str, Any]

    @property
    def name(self) -> str:
        """As tests are named by."""
        return f"{self.method} {self.path}"

    @property
    def needs_token(self) -> bool:
        """Whether it asks for a token where there are any."""
        return self.told.get("security") != []

    def parameters(self, where: str) -> dict[str, dict[str, Any]]:
        """The schemas of its parameters in ``query``, ``path`` or ``header``."""
        given = self.told.get("parameters", [])
        return {each["name"]: resolved(each["schema"]) for each in given if each["in"] == where}

    def bodies(self) -> dict[str, dict[str, Any]]:
        """The schema of its body by media type; none where it takes no body."""
        found = self.told.get("requestBody", {"content": {}})["content"]
        return {kind: resolved(each["schema"]) for kind, each in found.items()}

    def wrong(self, status: int, media_type: str, body: bytes) -> str | None:
        """How an answer differs from what is declared; ``None`` where it does not."""
        told = self.told["responses"].get(str(status))
        if told is None:
            return f"status {status} is not declared: {body[:200]!r}"
        kind = media_type.partition(";")[0]
        schema = resolved(told)["content"].get(kind)
        if schema is None:
            return f"status {status} came as {media_type}"
        if kind.endswith("json"):
            return violation(schema["schema"], json.loads(body))
        return None


def operations() -> Iterator[Operation]:
    """Every one that is declared."""
    for path, methods in DOCUMENT["paths"].items():
        for method, told in methods.items():
            yield Operation(path, method.upper(), told)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or what it refers to."""
    found: Any = schema
    while "$ref" in found:
        place = found["$ref"].removeprefix("#/").split("/")
        found = DOCUMENT
        for each in place:
            found = found[each]
    return dict(found)


def violation(schema: dict[str, Any], value: Any, at: str = "it") -> str | None:
    """Where a value is not as the schema has it; of the keywords that the document uses."""
    rules = resolved(schema)
    kinds = rules.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    fits = [isinstance(value, _TYPES[each]) and (each == "boolean" or not isinstance(value, bool)) for each in kinds]
    if kinds and not any(fits):
        return f"{at} is {value!r}, no {' or '.join(kinds)}"
    if "enum" in rules and value not in rules["enum"]:
        return f"{at} is {value!r}, none of {rules['enum']}"
    if isinstance(value, str) and not re.search(rules.get("pattern", ""), value):
        return f"{at} is {value!r}, which does not match {rules['pattern']}"
    if isinstance(value, int | float) and not rules.get("minimum", value) <= value <= rules.get("maximum", value):
        return f"{at} is {value}, out of bounds"
    parts: list[tuple[dict[str, Any], Any, str]] = []
    if isinstance(value, dict):
        known = rules.get("properties", {})
        missing = set(rules.get("required", ())) - set(value)
        unknown = set() if rules.get("additionalProperties", True) else set(value) - set(known)
        if missing or unknown:
            return f"{at} lacks {sorted(missing)}, and should not have {sorted(unknown)}"
        parts = [(known[name], each, f"{at}.{name}") for name, each in value.items() if name in known]
    elif isinstance(value, list):
        parts = [(rules.get("items", {}), each, f"{at}[{index}]") for index, each in enumerate(value)]
    return next((found for part in parts if (found := violation(*part)) is not None), None)
