"""The error answers: one response for each status, with the codes that it may carry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sandbox_rpc import errors
from sandbox_rpc.errors import SandboxError

Json = dict[str, Any]

# What any call may answer: it cannot be read, has no token, may not, breaks, finds a service down.
ANY = ("InvalidParameter", "InternalError", "ServiceUnavailable")
GUARDED = ("Unauthorized", "Forbidden", "TooManyRequestsExection")

_EXAMPLES: dict[str, tuple[int, SandboxError]] = {
    "InvalidParameter": (
        400,
        errors.InvalidParameter("Field 'timeout' must be between 1 and 3600"),
    ),
    "Unauthorized": (401, errors.Unauthorized("the request carries no bearer token")),
    "Forbidden": (403, errors.Forbidden("the token has no right to the domain")),
    "NotFound": (404, errors.NotFound("", "GET /api/v1/x")),
    "SessionNotFound": (404, errors.NotFound("Session", "sess_0123456789abcdef")),
    "ExecutionNotFound": (404, errors.NotFound("Execution", "exec_20260101_0123abcd")),
    "TemplateNotFound": (404, errors.NotFound("Template", "python-basic")),
    "ContainerNotFound": (404, errors.NotFound("Container", "sbx_0123456789abcdef-1")),
    "FileNotFound": (404, errors.NotFound("File", "out/report.csv")),
    "StateConflict": (409, errors.StateConflict("session 'sess_0123456789abcdef' has ended")),
    "InternalError": (
        500,
        errors.InternalError("request 6f2c… failed; the service log has the reason"),
    ),
    "TooManyRequestsExection": (
        503,
        errors.TooManyRequests("the queue of session 'sess_0123456789abcdef' is full"),
    ),
    "ServiceUnavailable": (503, errors.ServiceUnavailable("exec_svc does not answer")),
}


class Responses:
    """One response for each set of codes that share a status, made when first asked for."""

    def __init__(self) -> None:
        self.components: dict[str, Json] = {}

    def of(self, words: Iterable[str]) -> dict[str, Json]:
        """References to the responses of these error codes (without `Sandbox.`), by status.

        ValueError for a word that is no error code.
        """
        by_status: dict[int, list[str]] = {}
        for word in dict.fromkeys(words):
            if word not in _EXAMPLES:
                raise ValueError(f"'{word}' is no error code")
            by_status.setdefault(_EXAMPLES[word][0], []).append(word)
        return {str(status): self._ref(words) for status, words in sorted(by_status.items())}

    def _ref(self, words: list[str]) -> Json:
        name = "Or".join(words)
        if name not in self.components:
            self.components[name] = _response(words)
        return {"$ref": f"#/components/responses/{name}"}


def _response(words: list[str]) -> Json:
    examples = [_EXAMPLES[word][1] for word in words]
    headers: Json = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
    if any(error.retry_after for error in examples):
        headers["retry-after"] = {"$ref": "#/components/headers/RetryAfter"}
    codes = [f"Sandbox.{word}" for word in words]
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/ApiError"},
            {"properties": {"error_code": {"enum": codes}}},
        ]
    }
    bodies = {
        code: {"value": _body(code, error)} for code, error in zip(codes, examples, strict=True)
    }
    descriptions = dict.fromkeys(error.description for error in examples)
    return {
        "description": ", or ".join(descriptions),
        "headers": headers,
        "content": {"application/json": {"schema": schema, "examples": bodies}},
    }


def _body(code: str, error: SandboxError) -> Json:
    return {
        "error_code": code,
        "description": error.description,
        "error_detail": error.detail,
        "error_link": errors.link_of(code),
        "solution": error.solution,
    }
