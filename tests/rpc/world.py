"""session_svc as its __main__ wires it, over real gRPC, with doubles around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from sandbox.session.v1 import health_pb2_grpc, session_pb2_grpc, template_pb2_grpc
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.errors import SandboxError, from_rpc_error
from scheduler_svc.servicer import service as scheduler_service
from session_svc import template_servicer
from session_svc.clients import Attachments, Scheduler
from session_svc.database import Database
from session_svc.health import Health
from session_svc.lifecycle import Lifecycle
from session_svc.migrate import migrate
from session_svc.queries import Queries
from session_svc.reaper import Reaper
from session_svc.reconciler import Reconciler
from session_svc.servicer import services
from session_svc.store import Store
from session_svc.template_store import TemplateStore

from tests.rpc.doubles import ManualClock, MemoryRuntime, PromptExecutors
from tests.support import Keys, Platform, eventually


class World:
    """Made by `open`. `restart` is a crash of session_svc and the start of the next one."""

    store: Store
    lifecycle: Lifecycle
    reconciler: Reconciler
    reaper: Reaper
    stub: session_pb2_grpc.SessionServiceAsyncStub
    templates: template_pb2_grpc.TemplateServiceAsyncStub
    health: health_pb2_grpc.HealthServiceAsyncStub

    def __init__(
        self,
        keys: Keys,
        database_url: str,
        runtime: MemoryRuntime,
        executors: PromptExecutors,
        attach_seconds: float,
    ) -> None:
        self.keys = keys
        self.clock = ManualClock()
        self.runtime = runtime
        self.executors = executors
        self._database_url = database_url
        self._attach_seconds = attach_seconds
        self.scheduler_svc = Platform(keys)
        self.exec_svc = Platform(keys)
        self._session_svc = Platform(keys)
        self._loops: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        target = await self.scheduler_svc.serve(scheduler_service(self.runtime, self.keys.secret))
        self._scheduler_target = target
        self.exec_target = await self.exec_svc.serve(self.executors.service())
        await self._start()

    async def restart(self) -> None:
        await self._stop()
        await self._start()

    async def close(self) -> None:
        await self._stop()
        await self.runtime.close()
        await self.scheduler_svc.close()
        await self.exec_svc.close()

    def run_loops(self) -> None:
        self._loops = [
            asyncio.create_task(self.reconciler.run()),
            asyncio.create_task(self.reaper.run()),
        ]

    async def create(
        self,
        *,
        wait: bool = True,
        key: str | None = None,
        domain: str | None = None,
        **spec: Any,
    ) -> pb.Session:
        headers = {"idempotency_key": key} if key is not None else {}
        request = pb.CreateSessionRequest(
            session=pb.SessionSpec(**{"template_id": "python-basic", **spec}), wait=wait
        )
        return await self.stub.CreateSession(request, metadata=self.keys.as_user(domain, **headers))

    async def get(self, session_id: str, domain: str | None = None) -> pb.Session:
        request = pb.GetSessionRequest(session_id=session_id)
        return await self.stub.GetSession(request, metadata=self.keys.as_user(domain))

    async def list(self, domain: str | None = None, **query: Any) -> pb.ListSessionsResponse:
        request = pb.ListSessionsRequest(**query)
        return await self.stub.ListSessions(request, metadata=self.keys.as_user(domain))

    async def delete(self, session_id: str, domain: str | None = None) -> None:
        request = pb.DeleteSessionRequest(session_id=session_id)
        await self.stub.DeleteSession(request, metadata=self.keys.as_user(domain))

    async def becomes(self, session_id: str, status: str) -> pb.Session:
        """The session, as soon as it has this status and no work is under way on it."""

        async def look() -> pb.Session | None:
            if self.lifecycle.works.get(session_id):  # asked before the row is read
                return None
            session = await self.get(session_id)
            return session if word(session) == status else None

        session = await eventually(look)
        assert session is not None
        return session

    async def recovered(self, session_id: str, generation: int) -> pb.Session:
        """The session, running on the sandbox of this generation."""
        wanted = f"container-of-sbx_{session_id.removeprefix('sess_')}-{generation}"

        async def look() -> pb.Session | None:
            session = await self.becomes(session_id, "running")
            return session if session.container_id == wanted else None

        session = await eventually(look)
        assert session is not None
        return session

    async def _start(self) -> None:
        self._database = Database(self._database_url)
        await migrate(self._database)
        self.store = Store(self._database, self.clock)
        scheduler = Scheduler(self._session_svc.dial(self._scheduler_target, "session_svc"))
        attachments = Attachments(self._session_svc.dial(self.exec_target, "session_svc"))
        runtime = pb.RuntimeType.process
        templates = TemplateStore(self._database, self.clock)
        self.lifecycle = Lifecycle(
            self.store,
            templates,
            scheduler,
            attachments,
            self.clock,
            runtime=runtime,
            attach_seconds=self._attach_seconds,
        )
        self.reconciler = Reconciler(self.store, scheduler, attachments, self.lifecycle, self.clock)
        self.reaper = Reaper(self.store, attachments, self.lifecycle, self.clock)
        peers = {"scheduler_svc": scheduler.channel, "exec_svc": attachments.channel}
        queries = Queries(self.store, attachments, self.clock)
        served = [
            *services(self.lifecycle, queries, Health(self.store, peers), runtime),
            template_servicer.service(templates),
        ]
        channel = self._session_svc.dial_plainly(await self._session_svc.serve(*served))
        self.stub = session_pb2_grpc.SessionServiceStub(channel)
        self.templates = template_pb2_grpc.TemplateServiceStub(channel)
        self.health = health_pb2_grpc.HealthServiceStub(channel)

    async def _stop(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        await self.lifecycle.works.close()
        await self._session_svc.close()
        self._session_svc = Platform(self.keys)
        await self._database.close()


def sqlite_url(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory / 'session_svc.db'}"


def word(session: pb.Session) -> str:
    return pb.SessionStatus.Value.Name(session.status)


async def refusal(call: Awaitable[Any]) -> SandboxError:
    """What the client is told instead of an answer."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
