"""SchedulerService: unpack, call the runtime once, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc.aio
from sandbox.scheduler.v1 import scheduler_pb2 as pb
from sandbox.scheduler.v1 import scheduler_pb2_grpc
from sandbox.session.v1.session_pb2 import RuntimeType
from sandbox_rpc import telemetry
from sandbox_rpc.auth import Secret
from sandbox_rpc.errors import InvalidParameter, NotFound
from sandbox_rpc.server import Service

from scheduler_svc.packages.requirements import canonical, names
from scheduler_svc.runtimes.base import (
    Change,
    Changed,
    Removed,
    Resources,
    Runtime,
    SandboxSpec,
    SandboxState,
    SnapshotComplete,
    sandbox_id,
)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

NAME = "sandbox.scheduler.v1.SchedulerService"


def service(runtime: Runtime, secret: Secret) -> Service:
    servicer = SchedulerServicer(runtime, secret)

    def register(server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server)

    return Service(NAME, register, allowed=frozenset({"service"}))


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    def __init__(self, runtime: Runtime, secret: Secret) -> None:
        self._runtime = runtime
        self._secret = secret

    async def StartSandbox(self, request: pb.StartSandboxRequest, context: Context) -> pb.Sandbox:
        return self._pack(await self._runtime.start(self._spec(request)))

    async def StopSandbox(
        self, request: pb.StopSandboxRequest, context: Context
    ) -> pb.StopSandboxResponse:
        telemetry.note(sandbox__id=request.sandbox_id)
        await self._runtime.stop(request.sandbox_id)
        return pb.StopSandboxResponse()

    async def GetSandbox(self, request: pb.GetSandboxRequest, context: Context) -> pb.Sandbox:
        state = await self._runtime.status(request.sandbox_id)
        if state is None:
            raise NotFound("Container", request.sandbox_id)
        return self._pack(state)

    async def ListSandboxes(
        self, request: pb.ListSandboxesRequest, context: Context
    ) -> pb.ListSandboxesResponse:
        states = await self._runtime.list()
        return pb.ListSandboxesResponse(sandboxes=map(self._pack, states))

    async def WatchSandboxes(
        self, request: pb.WatchSandboxesRequest, context: Context
    ) -> AsyncIterator[pb.WatchSandboxesResponse]:
        async for change in self._runtime.watch():
            yield self._pack_change(change)

    def _spec(self, request: pb.StartSandboxRequest) -> SandboxSpec:
        offered = RuntimeType.Value.Value(self._runtime.type)
        if request.runtime_type not in (RuntimeType.unspecified, offered):
            raise InvalidParameter(f"Field 'runtime_type' must be '{self._runtime.type}' here")
        name = sandbox_id(request.session_id, request.generation)
        telemetry.note(session__id=request.session_id, sandbox__id=name)
        return SandboxSpec(
            sandbox_id=name,
            session_id=request.session_id,
            generation=request.generation,
            template_id=request.template_id,
            domain=request.domain,
            resources=Resources(
                cpu=request.resources.cpu,
                memory=request.resources.memory,
                disk=request.resources.disk,
                max_processes=request.resources.max_processes,
            ),
            token=self._secret.sign("container", name),
            packages=canonical(request.packages),
            preload=tuple(sorted(names(request.preload))),
        )

    def _pack(self, state: SandboxState) -> pb.Sandbox:
        packed = pb.Sandbox(
            sandbox_id=state.sandbox_id,
            session_id=state.session_id,
            generation=state.generation,
            runtime_type=RuntimeType.Value.Value(self._runtime.type),
            status=pb.SandboxStatus.Value.Value(state.status),
            reason=state.reason,
            exit_code=state.exit_code,
            node=state.node,
            container_id=state.container_id,
            pod_name=state.pod_name,
        )
        packed.created_at.FromDatetime(state.created_at)
        return packed

    def _pack_change(self, change: Change) -> pb.WatchSandboxesResponse:
        match change:
            case Changed(state):
                return pb.WatchSandboxesResponse(changed=self._pack(state))
            case Removed(name):
                return pb.WatchSandboxesResponse(removed=name)
            case SnapshotComplete():
                return pb.WatchSandboxesResponse(snapshot_complete=True)
