"""ContainerService: unpack, call once, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import grpc.aio
from google.api.httpbody_pb2 import HttpBody
from sandbox.scheduler.v1 import container_pb2 as pb
from sandbox.scheduler.v1 import container_pb2_grpc
from sandbox.session.v1 import session_pb2
from sandbox_rpc import telemetry
from sandbox_rpc.auth import caller
from sandbox_rpc.server import Service

from scheduler_svc import validation
from scheduler_svc.containers import Container, Containers, status_of
from scheduler_svc.runtimes.base import Runtime, SandboxState

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

NAME = "sandbox.scheduler.v1.ContainerService"
LOG_TYPE = "text/plain; charset=utf-8"


def container_service(runtime: Runtime) -> Service:
    servicer = ContainerServicer(runtime)

    def register(server: grpc.aio.Server) -> None:
        container_pb2_grpc.add_ContainerServiceServicer_to_server(servicer, server)

    return Service(NAME, register, frozenset({"user"}))


class ContainerServicer(container_pb2_grpc.ContainerServiceServicer):
    def __init__(self, runtime: Runtime) -> None:
        self._containers = Containers(runtime)
        self._type = session_pb2.RuntimeType.Value.Value(runtime.type)

    async def ListContainers(
        self, request: pb.ListContainersRequest, context: Context
    ) -> pb.ListContainersResponse:
        limit, offset = validation.page(request)
        status, runtime_type = request.status, request.runtime_type
        containers, total = await self._containers.page(
            status=pb.ContainerStatus.Value.Name(status) if status else None,
            runtime_type=session_pb2.RuntimeType.Value.Name(runtime_type) if runtime_type else None,
            limit=limit,
            offset=offset,
            caller=caller(),
        )
        return pb.ListContainersResponse(containers=map(self._pack, containers), total=total)

    async def GetContainer(self, request: pb.GetContainerRequest, context: Context) -> pb.Container:
        return self._pack(await self._containers.get(request.container_id, caller()))

    async def GetContainerStatus(
        self, request: pb.GetContainerStatusRequest, context: Context
    ) -> pb.Container:
        return self._pack(await self._containers.get(request.container_id, caller()))

    async def GetContainerLogs(
        self, request: pb.GetContainerLogsRequest, context: Context
    ) -> AsyncIterator[HttpBody]:
        telemetry.note(container__id=request.container_id)
        async for piece in self._containers.logs(
            request.container_id,
            tail=validation.tail(request),
            since=validation.since(request, datetime.now(UTC)),
            follow=request.follow,
            caller=caller(),
        ):
            yield HttpBody(content_type=LOG_TYPE, data=piece)

    def _pack(self, container: Container) -> pb.Container:
        state = container.state
        packed = pb.Container(
            container_id=state.container_id,
            pod_name=state.pod_name,
            runtime_type=self._type,
            status=pb.ContainerStatus.Value.Value(status_of(state)),
            session_id=state.session_id or None,
            template_id=state.template_id,
            node_name=state.node,
            resources=session_pb2.Resources(
                cpu=state.resources.cpu,
                memory=state.resources.memory,
                disk=state.resources.disk,
                max_processes=state.resources.max_processes,
            ),
            uptime_seconds=_uptime(state, datetime.now(UTC)),
        )
        if usage := container.usage:
            packed.usage.cpu_percent = usage.cpu_percent
            packed.usage.memory_bytes = usage.memory_bytes
            packed.usage.pids = usage.pids
        packed.created_at.FromDatetime(state.created_at)
        return packed


def _uptime(state: SandboxState, now: datetime) -> float | None:
    """Seconds; None where nobody saw the end. A clock that was set back makes none negative."""
    until = state.ended_at if state.ended else now
    return None if until is None else max(0.0, (until - state.created_at).total_seconds())
