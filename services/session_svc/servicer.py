"""SessionService and HealthService: unpack, call once, pack."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.empty_pb2 import Empty
from sandbox.session.v1 import health_pb2, health_pb2_grpc, session_pb2_grpc
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc import telemetry
from sandbox_rpc.auth import caller
from sandbox_rpc.server import Service

from session_svc import validation
from session_svc.health import Health
from session_svc.lifecycle import Lifecycle
from session_svc.queries import Queries
from session_svc.store import to_message

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

SESSIONS = "sandbox.session.v1.SessionService"
HEALTH = "sandbox.session.v1.HealthService"


def services(
    lifecycle: Lifecycle,
    queries: Queries,
    health: Health,
    runtime: pb.RuntimeType.Value.ValueType,
) -> list[Service]:
    sessions = SessionServicer(lifecycle, queries, runtime)
    checks = HealthServicer(health)

    def register_sessions(server: grpc.aio.Server) -> None:
        session_pb2_grpc.add_SessionServiceServicer_to_server(sessions, server)

    def register_checks(server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServiceServicer_to_server(checks, server)

    return [
        Service(SESSIONS, register_sessions, allowed=frozenset({"user"})),
        Service(HEALTH, register_checks, allowed=None),
    ]


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    def __init__(
        self, lifecycle: Lifecycle, queries: Queries, runtime: pb.RuntimeType.Value.ValueType
    ) -> None:
        self._lifecycle = lifecycle
        self._queries = queries
        self._runtime = runtime

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.Session:
        validation.check_spec(request.session, self._runtime)
        key = caller().idempotency_key
        if key is not None:
            validation.check_idempotency_key(key)
        wait = request.wait if request.HasField("wait") else True
        row = await self._lifecycle.create(request.session, caller(), wait=wait)
        telemetry.note(session__id=row.session_id, session__status=row.status)
        location = f"/api/v1/sessions/{row.session_id}"
        await context.send_initial_metadata((("x-http-code", "201"), ("location", location)))
        return to_message(row)

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.Session:
        return await self._queries.get(request.session_id, caller())

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        validation.check_page(request)
        return await self._queries.page(request, caller())

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> Empty:
        row = await self._queries.find(request.session_id, caller())
        telemetry.note(session__id=row.session_id)
        await self._lifecycle.end(row, "terminated", "deleted by a client")
        await context.send_initial_metadata((("x-http-code", "204"),))
        return Empty()


class HealthServicer(health_pb2_grpc.HealthServiceServicer):
    def __init__(self, health: Health) -> None:
        self._health = health

    async def Check(
        self, request: health_pb2.CheckRequest, context: Context
    ) -> health_pb2.CheckResponse:
        await self._health.check()
        return health_pb2.CheckResponse(status="ok")
