"""`python -m exec_svc`."""

from __future__ import annotations

import asyncio
import resource

from sandbox.execution.v1 import (
    attachment_pb2_grpc,
    execution_pb2_grpc,
    files_pb2_grpc,
    rest_pb2_grpc,
)
from sandbox.executor.v1 import link_pb2_grpc
from sandbox_rpc import telemetry
from sandbox_rpc.auth import Kind, Secret
from sandbox_rpc.server import Service, serve, until_signal

from exec_svc.database import Database
from exec_svc.execution_store import ExecutionStore
from exec_svc.executions import Executions
from exec_svc.files.files import Files
from exec_svc.files.retention import Retention
from exec_svc.files.server import serve_files
from exec_svc.files.servicer import FileRestServicer, FileServicer
from exec_svc.files.tickets import Tickets
from exec_svc.files.workspace import Workspaces
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

    # A transfer holds two descriptors, a walk two for each level: more than the usual 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    settings.workspaces.mkdir(mode=0o700, parents=True, exist_ok=True)
    workspaces = Workspaces(settings.workspaces)
    files, retention = Files(sessions, workspaces), Retention(sessions, workspaces)
    tickets = Tickets(Secret.read(settings.secret_file).derive("downloads"))

    server = await serve(
        settings.listen,
        [*services(executions, sessions, links), *file_services(files, tickets)],
        authenticator,
        audit,
    )
    file_server = await serve_files(settings.files_listen, files, tickets)
    watches = [
        asyncio.create_task(links.watch_silence()),
        asyncio.create_task(retention.watch()),
    ]
    await until_signal()

    for watch in watches:
        watch.cancel()
    links.close()
    await asyncio.gather(server.drain(), file_server.close())
    retention.close()
    files.close()
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


def file_services(files: Files, tickets: Tickets) -> list[Service]:
    clients: frozenset[Kind] = frozenset({"user", "service"})
    return [
        Service(
            "sandbox.execution.v1.FileService",
            lambda server: files_pb2_grpc.add_FileServiceServicer_to_server(
                FileServicer(files), server
            ),
            clients,
        ),
        Service(
            "sandbox.execution.v1.FileRestService",
            lambda server: files_pb2_grpc.add_FileRestServiceServicer_to_server(
                FileRestServicer(files, tickets), server
            ),
            clients,
        ),
    ]


if __name__ == "__main__":
    asyncio.run(main())
