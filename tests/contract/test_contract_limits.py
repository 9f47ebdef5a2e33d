"""Every limit that /openapi.json tells is the running service's: accepted at it, refused beyond.

The rows are made of the document, so a limit that is added there is tested from then on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.callers import Rest

DOCUMENT = json.loads((Path(__file__).parents[2] / "gen" / "openapi.json").read_text())
NOBODYS = {
    "session_id": "sess_0000000000000000",
    "execution_id": "exec_20200101_00000000",
    "container_id": "sbx_0000000000000000-1",
    "template_id": "no-such-template",
    "path": "no/such/file",
}
TEMPLATE = {"name": "n", "image": "i", "default_resources": {}}
BODIES = {
    "/api/v1/sessions": {"template_id": "no-such-template"},
    "/api/v1/sessions/{session_id}/execute": {"code": "1", "language": "python"},
    "/api/v1/templates": TEMPLATE,
    "/api/v1/templates/{template_id}": TEMPLATE,
}


@dataclass(frozen=True)
class Row:
    """One value of one field: of the query, or of the body (by its path there)."""

    verb: str
    path: str
    place: str
    field: tuple[str, ...]
    value: Any
    allowed: bool

    def __str__(self) -> str:
        shown = repr(self.value)[:24]
        sign = "takes" if self.allowed else "refuses"
        return f"{self.verb} {self.path} {sign} {'.'.join(self.field)}={shown}"


def resolve(schema: Any) -> Any:
    found = dict(schema)
    while "$ref" in found:
        reference = found.pop("$ref")
        target: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        found = {**target, **found}
    return found


def values(schema: Any) -> Iterator[tuple[Any, bool]]:
    """Values at each limit of a schema, and just beyond it."""
    if "minimum" in schema:
        yield schema["minimum"], True
        yield schema["minimum"] - 1, False
    if "maximum" in schema:
        yield schema["maximum"], True
        yield schema["maximum"] + 1, False
    if "x-minimum" in schema:
        for name, step in (("x-minimum", -1), ("x-maximum", 1)):
            yield schema[name], True
            yield _beyond(schema[name], step), False
    if schema.get("type") == "string" and "pattern" in schema:
        yield "no such thing\n", False
    if schema.get("type") == "string" and "maxLength" in schema:
        yield "#" * schema["maxLength"], True
        yield "#" * (schema["maxLength"] + 1), False
    if schema.get("minLength") == 1:
        yield "", False
    if "maxProperties" in schema:
        names = [f"N{number}" for number in range(schema["maxProperties"] + 1)]
        yield dict.fromkeys(names[1:], "v"), True
        yield dict.fromkeys(names, "v"), False
    if "propertyNames" in schema:
        yield {"not a name": "v"}, False
    if "enum" in schema:
        for word in schema["enum"]:
            yield word, True
        yield "no-such-word", False
        yield schema["enum"][0].upper(), False
    if schema.get("type") in ("integer", "number", "boolean"):
        yield "word", False
    if schema.get("type") == "object":
        yield "word", False


def _beyond(quantity: str, step: int) -> str:
    """256Mi -> 255Mi, 8Gi -> 8193Mi, 0.5 -> 0.499, 4 -> 4.001."""
    match = re.fullmatch(r"(\d+)(Mi|Gi)", quantity)
    if match is None:
        return f"{float(quantity) + step * 0.001:.3f}"
    mebibytes = int(match[1]) * (1024 if match[2] == "Gi" else 1)
    return f"{mebibytes + step}Mi"


def fields(schema: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in schema.get("properties", {}).items():
        found = resolve(inner)
        yield (*prefix, name), found
        yield from fields(found, (*prefix, name))


def rows() -> Iterator[Row]:
    for path, item in DOCUMENT["paths"].items():
        for verb, operation in item.items():
            for parameter in map(resolve, operation["parameters"]):
                if parameter["in"] == "query":
                    for value, allowed in values(resolve(parameter["schema"])):
                        yield Row(verb, path, "query", (parameter["name"],), value, allowed)
            content = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if content is None:
                continue
            for field, schema in fields(resolve(content["schema"])):
                for value, allowed in values(schema):
                    yield Row(verb, path, "body", field, value, allowed)


# The operator of this stack offers one runtime only.
ROWS = [
    row for row in rows() if not (row.place == "body" and row.value in ("docker", "kubernetes"))
]


def test_there_are_rows() -> None:
    assert len(ROWS) > 60
    assert len({str(row) for row in ROWS}) == len(ROWS)


@pytest.fixture(scope="module")
def template(shared: tuple[Rest, str]) -> str:
    """One that may be replaced."""
    rest, _ = shared
    body = {"id": rest.domain, **TEMPLATE}
    assert rest.call("POST", "/templates", json=body).status_code == 201
    return rest.domain


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_limit(rest: Rest, template: str, row: Row) -> None:
    # Of things that do not exist: what is in order gets as far as to find that out.
    names = NOBODYS | ({"template_id": template} if row.verb == "put" else {})
    path = re.sub(r"\{(\w+)\}", lambda match: names[match[1]], row.path)
    query, body = {}, None
    if row.verb != "get":
        body = dict(BODIES[row.path])
        if row.path == "/api/v1/templates":
            body["id"] = rest.domain
    if row.place == "query":
        query[row.field[0]] = row.value
    else:
        assert body is not None
        body |= _nested(row.field, row.value)

    answer = rest.call(row.verb, path.removeprefix("/api/v1"), params=query, json=body)

    if row.allowed:
        assert answer.status_code in (200, 201, 404, 409), answer.text
        assert answer.json().get("error_code") != "Sandbox.NotFound", "no such call"
    else:
        assert answer.status_code == 400, answer.text
        assert row.field[-1] in answer.json()["error_detail"]


def _nested(field: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(field):
        value = {name: value}
    return dict(value)
