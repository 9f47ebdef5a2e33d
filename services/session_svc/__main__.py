"""session_svc: `python -m session_svc`."""

from __future__ import annotations

import asyncio

from sandbox.session.v1.session_pb2 import RuntimeType
from sandbox_rpc import telemetry
from sandbox_rpc.auth import Secret
from sandbox_rpc.channel import Channel
from sandbox_rpc.server import serve, until_signal

from session_svc import template_servicer
from session_svc.clients import Attachments, Scheduler
from session_svc.clock import SystemClock
from session_svc.database import Database
from session_svc.health import Health
from session_svc.lifecycle import Lifecycle
from session_svc.migrate import migrate
from session_svc.queries import Queries
from session_svc.reaper import Reaper
from session_svc.reconciler import Reconciler
from session_svc.servicer import services
from session_svc.settings import Settings
from session_svc.store import Store
from session_svc.template_store import TemplateStore


async def main() -> None:
    settings = Settings()
    spans = telemetry.start("session_svc")
    authenticator, audit = settings.authenticator(), settings.audit_log("session_svc")
    secret = Secret.read(settings.secret_file)
    runtime = RuntimeType.Value.Value(settings.runtime)
    clock = SystemClock()

    database = Database(settings.database_url)
    await migrate(database)
    store = Store(database, clock)

    scheduler = Scheduler(Channel(settings.scheduler_target, secret, "session_svc"))
    attachments = Attachments(Channel(settings.exec_target, secret, "session_svc"))
    peers = {"scheduler_svc": scheduler.channel, "exec_svc": attachments.channel}

    templates = TemplateStore(database, clock)
    lifecycle = Lifecycle(store, templates, scheduler, attachments, clock, runtime=runtime)
    queries = Queries(store, attachments, clock)
    served = [
        *services(lifecycle, queries, Health(store, peers), runtime),
        template_servicer.service(templates),
    ]
    server = await serve(settings.listen, served, authenticator, audit)

    loops = [
        asyncio.create_task(Reconciler(store, scheduler, attachments, lifecycle, clock).run()),
        asyncio.create_task(Reaper(store, attachments, lifecycle, clock).run()),
    ]
    await until_signal()
    for loop in loops:
        loop.cancel()
    await server.drain()
    await asyncio.gather(*loops, return_exceptions=True)
    await lifecycle.works.close()
    for channel in peers.values():
        await channel.close()
    await database.close()
    if spans:
        spans.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
