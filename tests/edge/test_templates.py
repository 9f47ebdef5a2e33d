"""Templates over REST: bindings, and which fields are printed."""

from __future__ import annotations

import httpx
import pytest
from google.protobuf import empty_pb2
from sandbox.session.v1 import session_pb2, template_pb2

from tests.edge.upstream import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEMPLATE = template_pb2.Template(
    id="mine",
    name="Mine",
    image="an/image",
    default_resources=session_pb2.Resources(cpu="1", max_processes=128),
    security_context=template_pb2.SecurityContext(network_enabled=False, run_as_user=1000),
    warm_pool_size=0,
)
PRINTED = {
    "id": "mine",
    "name": "Mine",
    "image": "an/image",
    "pre_installed_packages": [],
    "default_resources": {"cpu": "1", "max_processes": 128},
    "security_context": {"network_enabled": False, "run_as_user": 1000},
    "warm_pool_size": 0,
    "env_vars": {},
}


async def test_a_template_is_created_by_its_body(client: httpx.AsyncClient, script: Script) -> None:
    script.returns("CreateTemplate", TEMPLATE, ("x-http-code", "201"))
    body = PRINTED | {"runtime_type": "docker", "created_at": "2026-01-01T00:00:00Z", "new": 1}
    answer = await client.post("/api/v1/templates", json=body)

    assert (answer.status_code, answer.json()) == (201, PRINTED)
    asked = script.calls[-1].request.template
    assert asked.id == "mine"
    assert asked.runtime_type == session_pb2.RuntimeType.docker
    assert asked.HasField("warm_pool_size")


async def test_a_template_is_replaced_by_path_and_body(
    client: httpx.AsyncClient, script: Script
) -> None:
    script.returns("UpdateTemplate", TEMPLATE)
    answer = await client.put("/api/v1/templates/mine", json={"name": "Mine"})

    assert (answer.status_code, answer.json()) == (200, PRINTED)
    asked = script.calls[-1].request
    assert (asked.template_id, asked.template.name) == ("mine", "Mine")


async def test_templates_are_read_listed_and_deleted(
    client: httpx.AsyncClient, script: Script
) -> None:
    script.returns("GetTemplate", TEMPLATE)
    script.returns(
        "ListTemplates", template_pb2.ListTemplatesResponse(templates=[TEMPLATE], total=3)
    )
    script.returns("DeleteTemplate", empty_pb2.Empty(), ("x-http-code", "204"))

    assert (await client.get("/api/v1/templates/mine")).json() == PRINTED
    listed = await client.get("/api/v1/templates?limit=1&offset=2")
    assert listed.json() == {"templates": [PRINTED], "total": 3}
    assert (script.calls[-1].request.limit, script.calls[-1].request.offset) == (1, 2)
    deleted = await client.delete("/api/v1/templates/mine")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert script.calls[-1].request.template_id == "mine"
