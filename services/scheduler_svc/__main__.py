"""scheduler_svc: `python -m scheduler_svc`."""

from __future__ import annotations

import asyncio

from sandbox_rpc import telemetry
from sandbox_rpc.auth import Secret
from sandbox_rpc.server import serve, until_signal

from scheduler_svc.container_servicer import container_service
from scheduler_svc.packages.environments import Environments
from scheduler_svc.packages.pip import Pip
from scheduler_svc.runtimes.process import ProcessRuntime
from scheduler_svc.servicer import service
from scheduler_svc.settings import Settings


def process(settings: Settings) -> ProcessRuntime:
    index = settings.package_index_url
    pip = Pip(
        index_url=index.get_secret_value() if index else None,
        find_links=settings.package_find_links,
        offline=settings.package_offline,
    )
    max_bytes = settings.environments_gib << 30
    return ProcessRuntime(
        sandboxes=settings.sandboxes,
        workspaces=settings.workspaces,
        link_target=settings.link_target,
        max_sandboxes=settings.max_sandboxes,
        environments=Environments(settings.environments, pip, max_bytes=max_bytes),
    )


RUNTIMES = {"process": process}


async def main() -> None:
    settings = Settings()
    spans = telemetry.start("scheduler_svc")
    authenticator, audit = settings.authenticator(), settings.audit_log("scheduler_svc")
    runtime = RUNTIMES[settings.runtime](settings)
    runtime.open()
    services = [service(runtime, Secret.read(settings.secret_file)), container_service(runtime)]
    server = await serve(settings.listen, services, authenticator, audit)
    await until_signal()
    # Together: the server waits for watches, and it is the runtime that ends them.
    await asyncio.gather(server.drain(), runtime.close())
    if spans:
        spans.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
