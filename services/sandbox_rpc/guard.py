"""Every call's way in and out: who it is, what is written down, which errors leave.

The audit log is a file of JSON lines apart from the service's log. It has every call of a
user that changes something, and every one that is refused: who, what, to which id, in
which domain, how it ended. It never has code, output, environment or tokens.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from sandbox_rpc import auth, errors, telemetry
from sandbox_rpc.auth import Authenticator, Principal

if TYPE_CHECKING:
    from sandbox_rpc.server import Service

log = logging.getLogger(__name__)

# What changes nothing is audited only where it is refused. A first word that is not here
# counts as a change.
_READS = ("Get", "List", "Watch", "Stream", "Download")
_REFUSALS = (errors.Unauthorized, errors.Forbidden, errors.NotFound, errors.TooManyRequests)
_FAULTS = (errors.InternalError, errors.ServiceUnavailable)
# Fields of a request or an answer that say what it was about.
_IDS = ("session_id", "execution_id", "template_id", "container_id", "id", "name", "path")
_MAX_ID_CHARACTERS = 256

# gRPC's own, not guarded: a load balancer has no token, and they tell nothing about tenants.
_OPEN = (
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)

# Lines a second that callers without a token may cause in the audit log, by each process:
# who is let in nowhere must not fill the disk either.
ANONYMOUS_LINES = 10

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class AuditLog:
    """Lines that are only ever added. Every process of a host may share the file.

    It is opened for each line: whoever rotates it renames it, and loses nothing.
    """

    def __init__(
        self, path: Path, service: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises OSError: a service that should be audited and cannot be must not start."""
        self._path = path
        self._service = service
        self._clock = clock
        self._second = 0
        self._anonymous = 0
        os.close(self._open())

    def write(self, line: Mapping[str, object], *, anonymous: bool = False) -> None:
        """Adds a line, with the time and the service. A disk that is full is only logged."""
        entry: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "service": self._service,
            **line,
        }
        if anonymous:
            second = int(self._clock())
            if second != self._second:
                if self._anonymous > ANONYMOUS_LINES:
                    entry["lines_left_out"] = self._anonymous - ANONYMOUS_LINES
                self._second, self._anonymous = second, 0
            self._anonymous += 1
            if self._anonymous > ANONYMOUS_LINES:
                return
        try:
            fd = self._open()
            try:
                # One write, so that lines of several processes never mix.
                os.write(fd, json.dumps(entry).encode() + b"\n")
            finally:
                os.close(fd)
        except OSError:
            log.exception("a line of the audit log is lost")

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stub only
    """Authenticates and audits each call, and lets only errors of ours out of a handler."""

    def __init__(
        self,
        authenticator: Authenticator,
        services: Mapping[str, Service],
        audit: AuditLog | None,
    ) -> None:
        self._authenticator = authenticator
        self._services = services
        self._audit = audit

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        _, service, method = details.method.split("/")
        metadata: dict[str, Any] = dict(details.invocation_metadata or ())
        call = _Call(self._services[service], method, metadata, self._authenticator, self._audit)
        return _guarded(handler, call)


class _Call:
    """One call: let in or not, and written down."""

    def __init__(
        self,
        service: Service,
        method: str,
        metadata: Mapping[str, str],
        authenticator: Authenticator,
        audit: AuditLog | None,
    ) -> None:
        self._service = service
        self._method = method
        self._metadata = metadata
        self._authenticator = authenticator
        self._audit = audit
        self._request_id = auth.request_id_of(metadata)
        self._principal: Principal | None = None
        self._ids: dict[str, str | int] = {}

    async def enter(self, request: Any) -> None:
        """Makes the caller known to the handler. Raises what a caller is refused with."""
        self._ids = telemetry.collect()
        self._ids.update(_ids_of(request))
        allowed = self._service.allowed
        if allowed is None:
            return
        principal = self._principal = await self._authenticator.authenticate(self._metadata)
        if principal.kind not in allowed:
            raise errors.Forbidden(f"a {principal.kind} token may not make this call")
        auth.enter(auth.admit(principal, self._metadata, self._request_id))
        is_admin = principal.kind != "user" or principal.role == "admin"
        if self._method in self._service.admin_only and not is_admin:
            raise errors.Forbidden("this call needs a token with the role 'admin'")

    def leave(self, error: BaseException | None = None, answer: Any = None) -> None:
        """Writes the call down, where it is one for the audit log."""
        if self._audit is None or not self._is_audited(error):
            return
        principal = self._principal
        self._audit.write(
            {
                "request_id": self._request_id,
                "principal": principal.subject if principal else None,
                "role": principal.role if principal else None,
                "domain": auth.domain_of(self._metadata)[:_MAX_ID_CHARACTERS],
                "method": f"{self._service.name}/{self._method}",
                "ids": {
                    name.replace("__", "_"): str(value)[:_MAX_ID_CHARACTERS]
                    for name, value in {**self._ids, **_ids_of(answer)}.items()
                    if name.endswith(("id", "path", "name"))
                },
                "outcome": _outcome(error),
                "error_code": _code(error),
            },
            anonymous=principal is None,
        )

    def _is_audited(self, error: BaseException | None) -> bool:
        if self._service.allowed is None:
            return False
        if self._principal is not None and self._principal.kind != "user":
            return isinstance(error, errors.Forbidden)
        return isinstance(error, _REFUSALS) or not self._method.startswith(_READS)


def _ids_of(message: Any) -> dict[str, str | int]:
    """The ids in a message; of a stream, nothing."""
    found = {name: getattr(message, name, None) for name in _IDS}
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def _code(error: BaseException | None) -> str | None:
    if isinstance(error, errors.SandboxError):
        return error.error_code
    return errors.InternalError.error_code if isinstance(error, Exception) else None


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "allowed"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"  # by the caller; what it had begun may have been done
    refused = isinstance(error, errors.SandboxError) and not isinstance(error, _FAULTS)
    return "refused" if refused else "failed"


def _guarded(handler: Any, call: _Call) -> Handler:
    """`handler` with `call` around it and errors translated after it."""
    parse = _lenient(handler.request_deserializer)
    behaviour = handler.unary_unary or handler.stream_unary
    if behaviour is not None:

        async def unary(request: Any, context: Any) -> Any:
            try:
                await call.enter(request)
                answer = await behaviour(_readable(request), context)
            except asyncio.CancelledError as error:
                call.leave(error)
                raise
            except Exception as error:  # noqa: BLE001  # the last one before the wire
                call.leave(error)
                await _abort(context, error)
            else:
                call.leave(answer=answer)
                return answer

        make = (
            grpc.unary_unary_rpc_method_handler
            if handler.unary_unary
            else grpc.stream_unary_rpc_method_handler
        )
        return make(unary, parse, handler.response_serializer)

    stream = handler.unary_stream or handler.stream_stream

    async def streaming(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            await call.enter(request)
            async for message in stream(_readable(request), context):
                yield message
        except asyncio.CancelledError as error:
            call.leave(error)
            raise
        except Exception as error:  # noqa: BLE001  # the last one before the wire
            call.leave(error)
            await _abort(context, error)
        else:
            call.leave()

    make = (
        grpc.unary_stream_rpc_method_handler
        if handler.unary_stream
        else grpc.stream_stream_rpc_method_handler
    )
    return make(streaming, parse, handler.response_serializer)


# What a caller sent in place of a message.
_UNREADABLE = object()


def _lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """gRPC would call a message that cannot be read a fault of ours."""

    def parse_leniently(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError:
            return _UNREADABLE

    return parse_leniently


def _readable(request: Any) -> Any:
    """The message, or the stream of messages. Raises InvalidParameter in place of another."""
    if request is _UNREADABLE:
        raise errors.InvalidParameter(
            "the request is no message of its type, or a text in it is not UTF-8"
        )
    if hasattr(request, "__aiter__"):
        return _all_readable(request)
    return request


async def _all_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


async def _abort(context: Any, error: Exception) -> None:
    """Ends the call with a status of ours; what is not ours becomes INTERNAL, and is logged."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, errors.SandboxError):
        reference = auth.current_request_id() or uuid.uuid4().hex
        log.error("unexpected error", exc_info=error, extra={"fields": {"reference": reference}})
        error = errors.InternalError(f"request {reference} failed; the service log has the reason")
    await context.abort_with_status(errors.to_status(error))
