"""The OpenAPI document of every REST binding."""

from __future__ import annotations

import re
from typing import Any

from sandbox.rpc.v1 import rest_pb2

from scripts.openapi import errors
from scripts.openapi.bindings import HTTP_BODY, Binding, bindings
from scripts.openapi.catalogue import Catalogue
from scripts.openapi.examples import ANSWERS, PARAMETERS, REQUESTS
from scripts.openapi.free_json import FREE, Body, Free
from scripts.openapi.schemas import Schemas, rule_of

Json = dict[str, Any]

API_ERROR = "sandbox.rpc.v1.ApiError"

_DESCRIPTION = """Sandboxes in which AI agents run code. A client opens a **session** (a sandbox
with a workspace), submits **executions** (code), and gets results, output and files back.

Times are RFC 3339 in UTC. Body fields that are not known are ignored, query parameters that are
not known are refused. Every error has the same body; its `error_link` is the path of a page that
explains it.
"""

_HEADERS: dict[str, Json] = {
    "x-business-domain": {
        "description": "The tenant's business domain. What belongs to another is answered 404.",
        "schema": {
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
            "default": "default",
        },
    },
    "x-request-id": {
        "description": "Returned with the answer, and in every log line and trace of the request; "
        "made where absent or not 1 to 128 visible ASCII characters.",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "description": "The same key with the same body within 24 h returns the first answer; "
        "with another body 409.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    },
    "Last-Event-ID": {
        "description": "The id of the last event seen: the stream goes on after it.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,9}$"},
    },
}
_COMMON = ("x-business-domain", "x-request-id")


def document(catalogue: Catalogue, version: str) -> Json:
    """ValueError for a binding that cannot be described."""
    found = list(bindings(catalogue))
    requests: set[str] = set()
    answers = catalogue.reachable(API_ERROR)
    for binding in found:
        if (body := binding.body_type(catalogue)) is not None:
            requests |= catalogue.reachable(body)
        answers |= catalogue.reachable(binding.answer)
    schemas = Schemas(catalogue, requests, answers)
    schemas.ref(API_ERROR, answer=True)
    refusals = errors.Responses()
    paths: Json = {}
    for binding in sorted(found, key=lambda each: each.path):
        operations = paths.setdefault(binding.path, {})
        operations[binding.verb] = _operation(catalogue, schemas, refusals, binding)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sandbox",
            "version": version,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": _tags(catalogue, found),
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "headers": _response_headers(),
            "parameters": {
                _parameter_name(name): {"name": name, "in": "header", **header}
                for name, header in _HEADERS.items()
            },
            "responses": refusals.components,
            "schemas": dict(sorted(schemas.components.items())),
        },
    }


def _operation(
    catalogue: Catalogue, schemas: Schemas, refusals: errors.Responses, binding: Binding
) -> Json:
    rule: rest_pb2.CallRule = binding.method.options.Extensions[rest_pb2.call]
    free = FREE.get(binding.name, Free())
    summary, _, rest = catalogue.for_rest(binding.name).partition(". ")
    operation: Json = {
        "operationId": _operation_id(binding),
        "tags": [_tag(binding)],
        "summary": summary.rstrip("."),
    }
    if rest:
        operation["description"] = rest
    operation["parameters"] = _parameters(catalogue, schemas, binding, rule)
    if (body := _request(catalogue, schemas, binding, free)) is not None:
        operation["requestBody"] = {"content": body.content, "required": True}
    status, success = _success(schemas, binding, free, rule)
    operation["responses"] = {
        status: success,
        **(free.also(schemas) if free.also else {}),
        **refusals.of(_error_words(binding, rule)),
    }
    if rule.open:
        operation["security"] = []
    return operation


def _parameters(
    catalogue: Catalogue, schemas: Schemas, binding: Binding, rule: rest_pb2.CallRule
) -> list[Json]:
    fields = {field.name: field for field in catalogue.messages[binding.request].field}
    found: list[Json] = []
    for name, has_slashes in binding.variables.items():
        schema = schemas.field(binding.request, fields[name], answer=False)
        parameter = {"name": name, "in": "path", "required": True, **_described(schema)}
        if name in PARAMETERS:
            parameter["example"] = PARAMETERS[name]
        if has_slashes:
            parameter["x-slashes"] = True
        found.append(parameter)
    for name, owner, field in binding.query(catalogue):
        schema = schemas.field(owner, field, answer=False)
        parameter = {"name": name, "in": "query", **_described(schema)}
        if rule_of(field).required:
            parameter["required"] = True
        found.append(parameter)
    for name in (*(() if rule.open else _COMMON), *rule.headers):
        found.append({"$ref": f"#/components/parameters/{_parameter_name(name)}"})
    return found


def _described(schema: Json) -> Json:
    """A parameter's description stands beside its schema."""
    inner = dict(schema)
    description = inner.pop("description", None)
    return {"schema": inner} | ({"description": description} if description else {})


def _request(catalogue: Catalogue, schemas: Schemas, binding: Binding, free: Free) -> Body | None:
    if free.request is not None:
        return free.request(schemas)
    body = binding.body_type(catalogue)
    if body is None:
        return None
    if body == HTTP_BODY:
        return Body({"application/octet-stream": {}})
    if body == binding.request and binding.variables:
        taken = list(binding.variables)
        schema = schemas.message(body, answer=False, without=taken)
        example = REQUESTS.get(body)
    else:
        schema, example = schemas.ref(body, answer=False), REQUESTS.get(body)
    return Body({"application/json": {"schema": schema} | _example(example)})


def _success(
    schemas: Schemas, binding: Binding, free: Free, rule: rest_pb2.CallRule
) -> tuple[str, Json]:
    empty = binding.answer == "google.protobuf.Empty"
    status = str(rule.status or (204 if empty else 200))
    headers: Json = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
    if status == "201":
        headers["location"] = {"$ref": "#/components/headers/Location"}
    words = {"201": "Created", "204": "Done, without a body"}.get(status, "The answer")
    success: Json = {"description": words, "headers": headers}
    if free.answer is not None:
        body = free.answer(schemas)
        success["content"] = body.content
        headers |= body.headers
    elif binding.answer == HTTP_BODY:
        success["content"] = {"*/*": {}}
    elif not empty:
        schema = schemas.ref(binding.answer, answer=True)
        example = _example(ANSWERS.get(binding.answer))
        success["content"] = {"application/json": {"schema": schema} | example}
    return status, success


def _example(value: Any) -> Json:
    return {} if value is None else {"example": value}


def _error_words(binding: Binding, rule: rest_pb2.CallRule) -> list[str]:
    words = [*errors.ANY, *(() if rule.open else errors.GUARDED)]
    for name in binding.variables:
        # What does not look like an id may not even be a path of this API.
        words.append("NotFound")
        if name.endswith("_id"):
            words.append(f"{name.removesuffix('_id').capitalize()}NotFound")
    return [*words, *rule.errors]


def _operation_id(binding: Binding) -> str:
    name = binding.method.name.removesuffix("Json")
    return name[0].lower() + name[1:]


def _tag(binding: Binding) -> str:
    name = re.sub(r"(Rest)?Service$", "", binding.service.rpartition(".")[2])
    return name.lower() if name == "Health" else f"{name.lower().rstrip('s')}s"


def _tags(catalogue: Catalogue, found: list[Binding]) -> list[Json]:
    prose: dict[str, str] = {}
    for binding in found:
        said = catalogue.for_rest(binding.service).partition("\n\n")[0]
        if not prose.get(_tag(binding)) or not binding.service.endswith("RestService"):
            prose[_tag(binding)] = said
    return [{"name": name, "description": said} for name, said in sorted(prose.items())]


def _parameter_name(header: str) -> str:
    return "".join(part.capitalize() for part in header.removeprefix("x-").split("-"))


def _response_headers() -> Json:
    return {
        "RequestId": {
            "description": "The request's id, the client's own where it sent one.",
            "required": True,
            "schema": {"type": "string"},
        },
        "RetryAfter": {
            "description": "Seconds after which trying again makes sense.",
            "required": True,
            "schema": {"type": "integer", "minimum": 0},
        },
        "Location": {
            "description": "Where it is.",
            "required": True,
            "schema": {"type": "string"},
        },
    }
