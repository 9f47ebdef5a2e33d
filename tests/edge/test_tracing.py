"""The edge's part of the one trace."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sandbox_rpc.auth import Authenticator

from tests.edge import envoy_process, upstream
from tests.edge.collector import Received, collecting
from tests.edge.conftest import TOKEN
from tests.edge.upstream import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT_SPAN = "b7ad6b7169203331"
CLIENT = f"00-{TRACE}-{CLIENT_SPAN}-01"


async def test_the_edge_continues_the_clients_trace(
    directory: Path, authenticator: Authenticator
) -> None:
    script = Script()
    headers = {
        "authorization": f"Bearer {TOKEN}",
        "x-request-id": "mine",
    }
    with (
        collecting() as collector,
        envoy_process.running(directory, otlp_endpoint=collector.endpoint) as edge,
    ):
        async with (
            upstream.serving(directory, script, authenticator),
            httpx.AsyncClient(base_url=edge.url, headers=headers) as client,
        ):
            await client.get("/api/v1/health")  # makes no span, or it would come first
            answer = await client.get(
                "/api/v1/sessions?template_id=secret", headers={"traceparent": CLIENT}
            )
            spans = await collector.take(2)

    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine"
    assert {each.service for each in spans} == {"edge"}
    assert {each.span.trace_id.hex() for each in spans} == {TRACE}
    by_parent = {each.span.parent_span_id.hex(): each for each in spans}
    ingress = by_parent[CLIENT_SPAN]
    upstream_span = by_parent[ingress.span.span_id.hex()]
    assert script.calls[-1].metadata["traceparent"] == (
        f"00-{TRACE}-{upstream_span.span.span_id.hex()}-01"
    )
    assert ingress.attributes["guid:x-request-id"] == "mine"
    assert ingress.attributes["http.url"] == "/api/v1/sessions"
    assert not [each for each in spans if _tells(each, "secret") or _tells(each, TOKEN)]


def _tells(received: Received, secret: str) -> bool:
    return any(secret in value for value in received.attributes.values())


async def test_without_a_collector_a_trace_passes_through(
    client: httpx.AsyncClient, script: Script
) -> None:
    await client.get("/api/v1/sessions/s", headers={"traceparent": CLIENT})

    assert script.calls[-1].metadata["traceparent"] == CLIENT


async def test_a_collector_that_is_down_costs_nothing(
    directory: Path, authenticator: Authenticator
) -> None:
    with envoy_process.running(directory, otlp_endpoint="http://127.0.0.1:9") as edge:
        async with (
            upstream.serving(directory, Script(), authenticator),
            httpx.AsyncClient(base_url=edge.url) as client,
        ):
            answers = [await client.get("/api/v1/health") for _ in range(20)]

    assert {answer.status_code for answer in answers} == {200}
