"""Bodies of raw bytes (google.api.HttpBody), which no message describes: by hand, in one place.

Most are the JSON of a message of the native call, with free JSON where that has bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scripts.openapi.examples import ANSWERS, REQUESTS
from scripts.openapi.schemas import Schemas

Json = dict[str, Any]
_V1 = "sandbox.execution.v1"


@dataclass(frozen=True)
class Body:
    """What a body is, by content type; `headers` are those of an answer."""

    content: dict[str, Json]
    headers: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Free:
    """What a call takes and answers. None: what google.api.http says."""

    request: Callable[[Schemas], Body] | None = None
    answer: Callable[[Schemas], Body] | None = None
    # Further successes, by status.
    also: Callable[[Schemas], dict[str, Json]] | None = None


def _execute(schemas: Schemas) -> Body:
    name = f"{_V1}.ExecuteRequest"
    return Body(
        {
            "application/json": {
                "schema": schemas.message(name, answer=False, without=["session_id"]),
                "example": REQUESTS[name],
            }
        }
    )


def _submission(schemas: Schemas) -> Json:
    """Like the native answer, but after a `wait` that was too short with the status by then."""
    schema = schemas.message(f"{_V1}.ExecuteResponse", answer=True)
    status = {"type": "string", "enum": ["submitted", "pending", "running", "crashed"]}
    schema["properties"]["status"] = status | {
        "description": "`submitted`; after a `wait`, the execution's status at its end."
    }
    schemas.components["Submission"] = schema
    return {"$ref": "#/components/schemas/Submission"}


def _result(schemas: Schemas) -> Json:
    """`return_value` and `error` are always there, null where the native message has none."""
    reference = schemas.ref(f"{_V1}.ExecutionResult", answer=True)
    schema = schemas.components["ExecutionResult"]
    error = schema["properties"]["error"]
    if "$ref" in error:
        schema["properties"]["error"] = {"anyOf": [error, {"type": "null"}]}
        schema["properties"]["return_value"] = {
            "description": "JSON exactly as the handler returned it; null without a handler."
        }
        schema["required"] += ["return_value", "error"]
    return reference


def _accepted(schemas: Schemas) -> Body:
    return Body(
        {
            "application/json": {
                "schema": {"anyOf": [_result(schemas), _submission(schemas)]},
                "examples": {
                    "submitted": {"value": ANSWERS[f"{_V1}.ExecuteResponse"]},
                    "with wait": {"value": ANSWERS[f"{_V1}.ExecutionResult"]},
                },
            }
        }
    )


def _answer_result(schemas: Schemas) -> Body:
    example = ANSWERS[f"{_V1}.ExecutionResult"]
    return Body({"application/json": {"schema": _result(schemas), "example": example}})


def _detail(schemas: Schemas) -> Body:
    summary = schemas.message(f"{_V1}.ExecutionSummary", answer=True)
    detail = schemas.message(f"{_V1}.Execution", answer=True, without=["summary", "result"])
    properties = summary["properties"] | detail["properties"]
    properties["event"] = {"type": "object", "description": "As it was sent, to the byte."}
    properties["result"] = {
        "anyOf": [_result(schemas), {"type": "null"}],
        "description": "Null until there is one.",
    }
    schemas.components["Execution"] = {
        "type": "object",
        "properties": properties,
        "required": [*summary["required"], "code", "event", "result"],
    }
    example = ANSWERS[f"{_V1}.Execution"]
    reference = {"$ref": "#/components/schemas/Execution"}
    return Body({"application/json": {"schema": reference, "example": example}})


def _events(schemas: Schemas) -> Body:
    output = {
        "type": "object",
        "properties": {
            "data": {
                "type": "string",
                "description": "What was written; bytes that are not UTF-8 are replaced.",
            }
        },
        "required": ["data"],
    }
    kinds = {
        "stdout": output,
        "stderr": output,
        "status": schemas.ref(f"{_V1}.ExecutionState", answer=True),
        "result": _result(schemas),
    }
    # OpenAPI 3.1 has no word for the items of a stream: this is the schema of each.
    schemas.components["ServerSentEvent"] = {
        "description": "One event: its lines `id:`, `event:` and `data:`. Ids increase from 1; "
        "`result` is always the last. Lines that begin with `:` mean nothing.",
        "oneOf": [_event(kind, schema) for kind, schema in kinds.items()],
    }
    schema = {"$ref": "#/components/schemas/ServerSentEvent"}
    example = {"id": "1", "event": "stdout", "data": '{"data":"hello\\n"}'}
    return Body({"text/event-stream": {"schema": schema, "example": example}})


def _event(kind: str, data: Json) -> Json:
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
            "event": {"const": kind},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": data,
            },
        },
        "required": ["id", "event", "data"],
    }


def _upload(schemas: Schemas) -> Body:
    schema = {
        "type": "object",
        "properties": {
            "file": {
                "type": "string",
                "contentMediaType": "application/octet-stream",
                "description": "The content, at most 100 MiB.",
            },
            "path": {
                "type": "string",
                "description": "Where in the workspace; absent: the file's own name.",
            },
        },
        "required": ["file"],
    }
    return Body({"multipart/form-data": {"schema": schema}})


def _file(schemas: Schemas) -> Body:
    return Body(
        {"*/*": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}},
        headers={
            "etag": {
                "description": "Another one whenever the content may be another.",
                "required": True,
                "schema": {"type": "string"},
            }
        },
    )


def _elsewhere(schemas: Schemas) -> dict[str, Json]:
    return {
        "307": {
            "description": "A file over 1 MiB: a signed URL that is good for 5 minutes, needs no "
            "token, and answers ranges.",
            "headers": {
                "x-request-id": {"$ref": "#/components/headers/RequestId"},
                "location": {"$ref": "#/components/headers/Location"},
            },
        }
    }


def _text(schemas: Schemas) -> Body:
    return Body({"text/plain": {"schema": {"type": "string"}}})


FREE: dict[str, Free] = {
    f"{_V1}.ExecutionRestService.ExecuteJson": Free(request=_execute, answer=_accepted),
    f"{_V1}.ExecutionRestService.GetExecutionJson": Free(answer=_detail),
    f"{_V1}.ExecutionRestService.GetExecutionResultJson": Free(answer=_answer_result),
    f"{_V1}.ExecutionRestService.StreamExecutionEvents": Free(answer=_events),
    f"{_V1}.FileRestService.UploadFileForm": Free(request=_upload),
    f"{_V1}.FileRestService.GetFileContent": Free(answer=_file, also=_elsewhere),
    "sandbox.scheduler.v1.ContainerService.GetContainerLogs": Free(answer=_text),
}
