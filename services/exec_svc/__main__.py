"""`python -m exec_svc`."""

from __future__ import annotations

import asyncio

from sandbox.execution.v1 import attachment_pb2_grpc, execution_pb2_grpc, rest_pb2_grpc
from sandbox.executor.v1 import link_pb2_grpc
from sandbox_rpc import telemetry
from sandbox_rpc.auth import Kind
from sandbox_rpc.server import Service, serve, until_signal

from exec_svc.database import Database
from exec_svc.execution_store import ExecutionStore
from exec_svc.executions import Executions
from exec_svc.hub import Hub
from exec_svc.journal import Journal
from exec_svc.link_servicer import LinkServicer
from exec_svc.links import Links
from exec_svc.migrate import migrate
from exec_svc.rest import ExecutionRestServicer
from exec_svc.servicer import AttachmentServicer, ExecutionServicer
from exec_svc.session_store import SessionStore
from exec_svc.settings import Settings
from exec_svc.spans import Spans


async def main() -> None:
    settings = Settings()
    processor = telemetry.start("exec_svc")
    authenticator, audit = settings.authenticator(), settings.audit_log("exec_svc")

    database = Database(settings.database_url)
    await migrate(database)
    sessions, store, journal = SessionStore(database), ExecutionStore(database), Journal(database)
    hub = Hub()
    spans = Spans(telemetry.ForeignSpans(processor, "executor"))
    links = Links(sessions, store, journal, hub, spans)
    executions = Executions(sessions, store, journal, links, hub)

    server = await serve(
        settings.listen, services(executions, sessions, links), authenticator, audit
    )
    watch = asyncio.create_task(links.watch_silence())
    await until_signal()

    watch.cancel()
    links.close()
    await server.drain()
    await database.close()
    if processor is not None:
        processor.shutdown()


def services(executions: Executions, sessions: SessionStore, links: Links) -> list[Service]:
    """Every gRPC service of exec_svc, and who may call it."""
    clients: frozenset[Kind] = frozenset({"user", "service"})
    return [
        Service(
            "sandbox.execution.v1.ExecutionService",
            lambda server: execution_pb2_grpc.add_ExecutionServiceServicer_to_server(
                ExecutionServicer(executions), server
            ),
            clients,
        ),
        Service(
            "sandbox.execution.v1.ExecutionRestService",
            lambda server: rest_pb2_grpc.add_ExecutionRestServiceServicer_to_server(
                ExecutionRestServicer(executions), server
            ),
            clients,
        ),
        Service(
            "sandbox.execution.v1.AttachmentService",
            lambda server: attachment_pb2_grpc.add_AttachmentServiceServicer_to_server(
                AttachmentServicer(sessions, links), server
            ),
            frozenset({"service"}),
        ),
        Service(
            "sandbox.executor.v1.ExecutorLinkService",
            lambda server: link_pb2_grpc.add_ExecutorLinkServiceServicer_to_server(
                LinkServicer(links), server
            ),
            frozenset({"container"}),
        ),
    ]


if __name__ == "__main__":
    asyncio.run(main())
