"""Envoy's configuration: envoy/bootstrap.yaml filled in, and how to drain a running edge."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from cli import pages

log = logging.getLogger(__name__)

_ROOT = Path(__file__).resolve().parent.parent
_BOOTSTRAP = _ROOT / "envoy" / "bootstrap.yaml"
_LUA = _ROOT / "envoy" / "edge.lua"
_DESCRIPTORS = _ROOT / "gen" / "descriptors.binpb"

# The largest JSON body: an event of 1 MiB and code of 100 KiB, both escaped a little.
MAX_BODY_BYTES = 1_572_864
DRAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Edge:
    """Where the edge listens and whom it asks.

    Targets are gRPC target strings, "unix:/path" or "address:port"; each process of a
    service is a target of its own. Addresses are numeric: a name would have to be looked up
    again and again. A port of 0 lets the kernel choose.
    Socket paths hold at most 107 bytes, the kernel's limit.
    """

    public_host: str
    public_port: int
    internal_host: str
    internal_port: int
    internal_socket: Path
    admin_socket: Path
    session_targets: Sequence[str]
    exec_targets: Sequence[str]
    # exec_svc's server of large files, plain HTTP.
    files_targets: Sequence[str]
    scheduler_targets: Sequence[str]
    # Where the access log goes, one JSON object a line.
    access_log: Path = Path("/dev/stdout")
    # OTEL_EXPORTER_OTLP_ENDPOINT: the collector's base URL; None turns tracing off.
    otlp_endpoint: str | None = None


def render(edge: Edge) -> str:
    """The text of Envoy's bootstrap. ValueError for a host, target or endpoint it cannot hold."""
    values: dict[str, object] = {
        "public_host": _numeric(edge.public_host),
        "public_port": edge.public_port,
        "internal_host": _numeric(edge.internal_host),
        "internal_port": edge.internal_port,
        "internal_socket": str(edge.internal_socket),
        "admin_socket": str(edge.admin_socket),
        "access_log": str(edge.access_log),
        "descriptors": str(_DESCRIPTORS),
        "lua": str(_LUA),
        "max_body_bytes": MAX_BODY_BYTES,
        "max_page_bytes": pages.MAX_PAGE_BYTES,
        "session_endpoints": [_endpoint(target) for target in edge.session_targets],
        "exec_endpoints": [_endpoint(target) for target in edge.exec_targets],
        "files_endpoints": [_endpoint(target) for target in edge.files_targets],
        "scheduler_endpoints": [_endpoint(target) for target in edge.scheduler_targets],
        "tracing": _tracing(edge.otlp_endpoint) if edge.otlp_endpoint else None,
    }
    # Every JSON value is a YAML value, so quoting is settled for any path.
    texts = {name: json.dumps(value) for name, value in values.items()}
    collector = f"  - {json.dumps(_collector(edge.otlp_endpoint))}" if edge.otlp_endpoint else ""
    served = "\n".join(f"              - {json.dumps(route)}" for route in pages.routes())
    return Template(_BOOTSTRAP.read_text()).substitute(texts, collector=collector, pages=served)


async def drain(admin_socket: Path) -> None:
    """Tells the edge to close its listeners; requests that run go on. Answers within 2 s.

    An edge that is gone or does not answer is left as it is, and logged.
    """
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            reader, writer = await asyncio.open_unix_connection(admin_socket)
            try:
                writer.write(b"POST /drain_listeners HTTP/1.1\r\nhost: admin\r\n\r\n")
                await reader.readline()
            finally:
                writer.close()
    except OSError as error:  # TimeoutError is one
        log.warning("the edge at %s was not drained: %r", admin_socket, error)


def _endpoint(target: str) -> dict[str, object]:
    return {"endpoint": {"address": _address(target)}}


def _address(target: str) -> dict[str, object]:
    if target.startswith("unix:"):
        return {"pipe": {"path": target.removeprefix("unix:")}}
    host, _, port = target.rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"the target '{target}' must be unix:/path or address:port")
    address = _numeric(host.removeprefix("[").removesuffix("]"))
    return {"socket_address": {"address": address, "port_value": int(port)}}


def _numeric(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError as error:
        raise ValueError(f"the edge takes numeric addresses only, not '{host}'") from error


def _tracing(endpoint: str) -> dict[str, object]:
    """The HTTP connection manager's tracing: OTLP over HTTP, as our services send it."""
    uri = endpoint.rstrip("/") + "/v1/traces"
    collector = {"http_uri": {"uri": uri, "cluster": "collector", "timeout": "2s"}}
    return {
        "random_sampling": {"value": 100},
        "spawn_upstream_span": True,
        # Without the query, in which a secret may stand.
        "custom_tags": [{"tag": "http.url", "value": "%PATH(NQ:ORIG_OR_PATH)%"}],
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "edge",
                "http_service": collector,
            },
        },
    }


def _collector(endpoint: str) -> dict[str, object]:
    parts = urlsplit(endpoint)
    if parts.scheme != "http" or parts.hostname is None:
        raise ValueError(f"the OTLP endpoint '{endpoint}' must be http://host:port")
    address = {"socket_address": {"address": parts.hostname, "port_value": parts.port or 80}}
    return {
        "name": "collector",
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "collector",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
