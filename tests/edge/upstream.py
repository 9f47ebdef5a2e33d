"""Services behind the edge, made to measure: what each call answers is the test's choice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import empty_pb2
from sandbox.execution.v1 import (
    attachment_pb2_grpc,
    execution_pb2,
    execution_pb2_grpc,
    files_pb2,
    files_pb2_grpc,
    rest_pb2_grpc,
)
from sandbox.executor.v1 import link_pb2, link_pb2_grpc
from sandbox.scheduler.v1 import container_pb2, container_pb2_grpc, scheduler_pb2_grpc
from sandbox.session.v1 import (
    health_pb2,
    health_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    template_pb2,
    template_pb2_grpc,
)
from sandbox_rpc import server
from sandbox_rpc.auth import Authenticator

Answer = Callable[[Any, Any], Awaitable[Any]]
Stream = Callable[[Any, Any], AsyncIterator[Any]]

USERS = frozenset({"user"})
CONTAINERS = frozenset({"container"})
SERVICES = frozenset({"service"})


@dataclass
class Call:
    """One call as a service saw it."""

    method: str
    request: Any
    metadata: dict[str, str]


@dataclass
class Script:
    """What the services answer, by the method's name, and what they were asked."""

    answers: dict[str, Answer] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def reset(self) -> None:
        self.answers.clear()
        self.streams.clear()
        self.calls.clear()

    def raises(self, method: str, error: Exception) -> None:
        async def answer(request: Any, context: Any) -> Any:
            raise error

        self.answers[method] = answer

    def returns(self, method: str, message: Any, *metadata: tuple[str, str]) -> None:
        """Answers with `message`, after `metadata` as initial metadata."""

        async def answer(request: Any, context: Any) -> Any:
            if metadata:
                await context.send_initial_metadata(metadata)
            return message

        self.answers[method] = answer

    def record(self, method: str, request: Any, context: Any) -> None:
        self.calls.append(Call(method, request, dict(context.invocation_metadata())))


def _played(method: str, default: Callable[[], Any]) -> Any:
    async def behave(self: Any, request: Any, context: Any) -> Any:
        self.script.record(method, request, context)
        answer = self.script.answers.get(method)
        return await answer(request, context) if answer else default()

    return behave


def _streamed(method: str) -> Any:
    async def behave(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        self.script.record(method, request, context)
        async for message in self.script.streams[method](request, context):
            yield message

    return behave


def _received(method: str, default: Callable[[], Any]) -> Any:
    async def behave(self: Any, requests: AsyncIterator[Any], context: Any) -> Any:
        """One call for each message; the answer is made when they have all come, or before."""
        answer = self.script.answers.get(method)
        async for request in requests:
            self.script.record(method, request, context)
            if answer and (made := await answer(request, context)) is not None:
                return made
        return default()

    return behave


class _Scripted:
    def __init__(self, script: Script) -> None:
        self.script = script


class Sessions(_Scripted, session_pb2_grpc.SessionServiceServicer):
    CreateSession = _played("CreateSession", session_pb2.Session)
    GetSession = _played("GetSession", session_pb2.Session)
    ListSessions = _played("ListSessions", session_pb2.ListSessionsResponse)
    DeleteSession = _played("DeleteSession", empty_pb2.Empty)


class Templates(_Scripted, template_pb2_grpc.TemplateServiceServicer):
    CreateTemplate = _played("CreateTemplate", template_pb2.Template)
    GetTemplate = _played("GetTemplate", template_pb2.Template)
    ListTemplates = _played("ListTemplates", template_pb2.ListTemplatesResponse)
    UpdateTemplate = _played("UpdateTemplate", template_pb2.Template)
    DeleteTemplate = _played("DeleteTemplate", empty_pb2.Empty)


class Health(_Scripted, health_pb2_grpc.HealthServiceServicer):
    Check = _played("Check", lambda: health_pb2.CheckResponse(status="ok"))


class Executions(_Scripted, execution_pb2_grpc.ExecutionServiceServicer):
    Execute = _played("Execute", execution_pb2.ExecuteResponse)
    GetExecution = _played("GetExecution", execution_pb2.Execution)
    GetExecutionStatus = _played("GetExecutionStatus", execution_pb2.ExecutionState)
    GetExecutionResult = _played("GetExecutionResult", execution_pb2.ExecutionResult)
    CancelExecution = _played("CancelExecution", execution_pb2.ExecutionState)
    ListExecutions = _played("ListExecutions", execution_pb2.ListExecutionsResponse)
    WatchExecution = _streamed("WatchExecution")


class Rest(_Scripted, rest_pb2_grpc.ExecutionRestServiceServicer):
    ExecuteJson = _played("ExecuteJson", HttpBody)
    GetExecutionJson = _played("GetExecutionJson", HttpBody)
    GetExecutionResultJson = _played("GetExecutionResultJson", HttpBody)
    StreamExecutionEvents = _streamed("StreamExecutionEvents")


class Files(_Scripted, files_pb2_grpc.FileServiceServicer):
    UploadFile = _received("UploadFile", files_pb2.UploadedFile)
    DownloadFile = _streamed("DownloadFile")
    ListFiles = _played("ListFiles", files_pb2.ListFilesResponse)
    DeleteFile = _played("DeleteFile", empty_pb2.Empty)


class FilesRest(_Scripted, files_pb2_grpc.FileRestServiceServicer):
    UploadFileForm = _received("UploadFileForm", files_pb2.UploadedFile)
    GetFileContent = _played("GetFileContent", HttpBody)


class Attachments(_Scripted, attachment_pb2_grpc.AttachmentServiceServicer):
    """Present, so that only the edge keeps callers away from it."""


class Sandboxes(_Scripted, scheduler_pb2_grpc.SchedulerServiceServicer):
    """Present, so that only the edge keeps callers away from it."""


class Containers(_Scripted, container_pb2_grpc.ContainerServiceServicer):
    ListContainers = _played("ListContainers", container_pb2.ListContainersResponse)
    GetContainer = _played("GetContainer", container_pb2.Container)
    GetContainerStatus = _played("GetContainerStatus", container_pb2.Container)
    GetContainerLogs = _streamed("GetContainerLogs")


class Link(_Scripted, link_pb2_grpc.ExecutorLinkServiceServicer):
    """Acknowledges every message by its seq."""

    async def Connect(
        self, requests: AsyncIterator[link_pb2.ConnectRequest], context: Any
    ) -> AsyncIterator[link_pb2.ConnectResponse]:
        self.script.record("Connect", None, context)
        async for request in requests:
            yield link_pb2.ConnectResponse(ack=link_pb2.Ack(seq=request.seq))


def session_services(script: Script) -> list[server.Service]:
    return [
        _service("sandbox.session.v1.SessionService", USERS, Sessions(script), session_pb2_grpc),
        _service("sandbox.session.v1.TemplateService", USERS, Templates(script), template_pb2_grpc),
        _service("sandbox.session.v1.HealthService", None, Health(script), health_pb2_grpc),
    ]


def exec_services(script: Script) -> list[server.Service]:
    v1 = "sandbox.execution.v1"
    return [
        _service(f"{v1}.ExecutionService", USERS, Executions(script), execution_pb2_grpc),
        _service(f"{v1}.ExecutionRestService", USERS, Rest(script), rest_pb2_grpc),
        _service(f"{v1}.FileService", USERS, Files(script), files_pb2_grpc),
        _service(f"{v1}.FileRestService", USERS, FilesRest(script), files_pb2_grpc),
        _service(f"{v1}.AttachmentService", SERVICES, Attachments(script), attachment_pb2_grpc),
        _service(
            "sandbox.executor.v1.ExecutorLinkService", CONTAINERS, Link(script), link_pb2_grpc
        ),
    ]


def scheduler_services(script: Script) -> list[server.Service]:
    v1 = "sandbox.scheduler.v1"
    return [
        _service(f"{v1}.SchedulerService", SERVICES, Sandboxes(script), scheduler_pb2_grpc),
        _service(f"{v1}.ContainerService", USERS, Containers(script), container_pb2_grpc),
    ]


def _service(name: str, allowed: Any, servicer: Any, module: Any) -> server.Service:
    add = getattr(module, f"add_{name.rpartition('.')[2]}Servicer_to_server")

    def register(to: grpc.aio.Server) -> None:
        add(servicer, to)

    return server.Service(name=name, register=register, allowed=allowed)


@asynccontextmanager
async def serving(
    directory: Path, script: Script, authenticator: Authenticator
) -> AsyncIterator[None]:
    """All services, on session.sock, exec.sock and scheduler.sock in `directory`."""
    running = [
        await server.serve(f"unix:{directory / name}.sock", services, authenticator)
        for name, services in (
            ("session", session_services(script)),
            ("exec", exec_services(script)),
            ("scheduler", scheduler_services(script)),
        )
    ]
    try:
        yield
    finally:
        for each in running:
            await each.drain(0)
