"""The errors that leave a service, and the only place that knows their status codes.

    SandboxError
    ├── InvalidParameter     INVALID_ARGUMENT     a value out of range, a missing field
    ├── Unauthorized         UNAUTHENTICATED      no token, or a wrong or expired one
    ├── Forbidden            PERMISSION_DENIED    a valid token that may not do this
    ├── NotFound             NOT_FOUND            absent, or another domain's
    ├── StateConflict        FAILED_PRECONDITION  the thing's state does not allow it
    ├── TooManyRequests      RESOURCE_EXHAUSTED   a queue, quota or pool is used up
    ├── ServiceUnavailable   UNAVAILABLE          a service is down
    └── InternalError        INTERNAL             a fault of ours

Code below a servicer raises these; the server's interceptor calls `to_status` and
`channel.call` calls `from_rpc_error`, so that an error crosses a hop as what it is.
HTTP statuses are the edge's matter (envoy/edge.lua goes by `error_code`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import grpc
import grpc.aio
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from sandbox.rpc.v1 import error_pb2

RETRY_AFTER = "retry-after"
# Of ErrorInfo: whose reasons these are.
ERROR_DOMAIN = "sandbox"


class SandboxError(Exception):
    """Base of everything a caller may be told.

    `detail` goes to the client as `error_detail`: name the field and the limit, never
    a stack trace or another tenant's data. `retry_after` is in whole seconds.
    """

    status: ClassVar[grpc.StatusCode]
    error_code: str
    description: ClassVar[str]
    solution: ClassVar[str]

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class InvalidParameter(SandboxError):
    status = grpc.StatusCode.INVALID_ARGUMENT
    error_code = "Sandbox.InvalidParameter"
    description = "Invalid parameter"
    solution = "Correct the named field and send the request again."


class Unauthorized(SandboxError):
    status = grpc.StatusCode.UNAUTHENTICATED
    error_code = "Sandbox.Unauthorized"
    description = "Unauthorized"
    solution = "Send a valid token as 'Authorization: Bearer TOKEN'."


class Forbidden(SandboxError):
    status = grpc.StatusCode.PERMISSION_DENIED
    error_code = "Sandbox.Forbidden"
    description = "Forbidden"
    solution = "Use a token that has this right, or ask the operator for it."


class NotFound(SandboxError):
    """`kind` is Session, Execution, Template, Container or File."""

    status = grpc.StatusCode.NOT_FOUND
    error_code = "Sandbox.NotFound"
    description = "Not found"
    solution = "Check the id and the business domain of the request."

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} '{name}' does not exist")
        self.error_code = f"Sandbox.{kind}NotFound"


class StateConflict(SandboxError):
    status = grpc.StatusCode.FAILED_PRECONDITION
    error_code = "Sandbox.StateConflict"
    description = "State conflict"
    solution = "Read the current state and decide again."


class TooManyRequests(SandboxError):
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    # Spelled so in the contract, which clients already match on.
    error_code = "Sandbox.TooManyRequestsExection"
    description = "Too many requests"
    solution = "Wait for the seconds in the Retry-After header, then try again."

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class ServiceUnavailable(SandboxError):
    status = grpc.StatusCode.UNAVAILABLE
    error_code = "Sandbox.ServiceUnavailable"
    description = "Service unavailable"
    solution = "Try again shortly; if it lasts, see /api/v1/health."

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class InternalError(SandboxError):
    status = grpc.StatusCode.INTERNAL
    error_code = "Sandbox.InternalError"
    description = "Internal error"
    solution = "Report the request id to the operator."


def link_of(error_code: str) -> str:
    """The page that explains a code: 'Sandbox.StateConflict' -> '/errors/state-conflict'."""
    word = error_code.rpartition(".")[2]
    return "/errors/" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", word).lower()


def reason_of(error_code: str) -> str:
    """The code as google.rpc.ErrorInfo has it: 'Sandbox.StateConflict' -> 'STATE_CONFLICT'."""
    word = error_code.rpartition(".")[2]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).upper()


def to_status(error: SandboxError) -> grpc.Status:
    """The gRPC status that carries `error`: its ApiError, then what generic clients read."""
    status = status_pb2.Status(code=_code(error.status), message=error.description)
    status.details.add().Pack(
        error_pb2.ApiError(
            error_code=error.error_code,
            description=error.description,
            error_detail=error.detail,
            error_link=link_of(error.error_code),
            solution=error.solution,
        )
    )
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=reason_of(error.error_code), domain=ERROR_DOMAIN)
    )
    packed: Any = rpc_status.to_status(status)  # a named tuple, which its stub does not say
    if error.retry_after is not None:
        retry_after = (RETRY_AFTER, str(error.retry_after))
        packed = packed._replace(trailing_metadata=(*packed.trailing_metadata, retry_after))
    made: grpc.Status = packed
    return made


def from_rpc_error(error: grpc.aio.AioRpcError) -> SandboxError:
    """What the called service raised; for a code that none of ours raised, the nearest."""
    metadata: dict[str, Any] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    retry_after = metadata.get(RETRY_AFTER)
    call: Any = _Trailers(error)
    status = rpc_status.from_call(call)
    api = error_pb2.ApiError()
    described = status is not None and any(detail.Unpack(api) for detail in status.details)
    kind = _BY_STATUS.get(error.code(), InternalError)
    detail = api.error_detail if described else error.details() or error.code().name
    made = kind.__new__(kind)
    SandboxError.__init__(made, detail, retry_after=int(retry_after) if retry_after else None)
    if described:
        made.error_code = api.error_code
    return made


class _Trailers:
    """The parts of a finished call that grpcio-status reads; AioRpcError lacks the call type."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code: Callable[[], grpc.StatusCode] = error.code
        self.details: Callable[[], str | None] = error.details
        self.trailing_metadata = error.trailing_metadata


def _code(status: grpc.StatusCode) -> int:
    number: int = code_pb2.Code.Value(status.name)
    return number


_KINDS: tuple[type[SandboxError], ...] = (
    InvalidParameter,
    Unauthorized,
    Forbidden,
    NotFound,
    StateConflict,
    TooManyRequests,
    ServiceUnavailable,
    InternalError,
)
_BY_STATUS = {kind.status: kind for kind in _KINDS} | {
    grpc.StatusCode.DEADLINE_EXCEEDED: ServiceUnavailable,
    grpc.StatusCode.CANCELLED: ServiceUnavailable,
}
