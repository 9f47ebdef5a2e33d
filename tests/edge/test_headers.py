"""Request ids, the headers that reach a service, and those that must not."""

from __future__ import annotations

import uuid

import grpc
import grpc.aio
import httpx
import pytest
from sandbox_rpc import errors

from tests.edge.upstream import Script

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _is_made(request_id: str) -> bool:
    return str(uuid.UUID(request_id)) == request_id


@pytest.mark.parametrize(
    "given",
    [
        "mine",
        "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~",
        "x" * 128,
        # Envoy likes to write a sampling decision into an id of this form.
        "0af76519-16cd-43dd-8448-eb211c80319c",
    ],
)
async def test_a_clients_request_id_is_kept(
    client: httpx.AsyncClient, script: Script, given: str
) -> None:
    answer = await client.get("/api/v1/sessions/s", headers={"x-request-id": given})

    assert script.calls[-1].metadata["x-request-id"] == given
    assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [None, b"", b"x" * 129, b"a b", "é".encode(), b"\xff", b"a\tb"])
async def test_any_other_request_id_is_replaced(
    client: httpx.AsyncClient, script: Script, given: bytes | None
) -> None:
    headers = {} if given is None else {b"x-request-id": given}

    answer = await client.get("/api/v1/sessions/s", headers=headers)

    made = script.calls[-1].metadata["x-request-id"]
    assert _is_made(made)
    assert answer.headers.get_list("x-request-id") == [made]


async def test_the_name_under_which_it_waits_is_not_a_way_around(
    client: httpx.AsyncClient, script: Script
) -> None:
    await client.get("/api/v1/sessions/s", headers={"x-edge-request-id": "mine"})

    metadata = script.calls[-1].metadata
    assert _is_made(metadata["x-request-id"])
    assert "x-edge-request-id" not in metadata


async def test_errors_have_it_too(client: httpx.AsyncClient, script: Script) -> None:
    script.raises("GetSession", errors.NotFound("Session", "s"))
    headers = {"x-request-id": "mine"}
    answers = [
        await client.get("/api/v1/sessions/s", headers=headers),
        await client.get("/nowhere", headers=headers),
        await client.get("/api/v1/sessions?unknown=1", headers=headers),
        await client.post("/api/v1/sessions", content=b"{", headers=headers),
        await client.post("/api/v1/sessions", content=b"x" * 2_000_000, headers=headers),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 400, 400, 400]
    assert [answer.headers.get_list("x-request-id") for answer in answers] == [["mine"]] * 5


async def test_what_a_service_needs_arrives(client: httpx.AsyncClient, script: Script) -> None:
    headers = {
        "x-business-domain": "research",
        "idempotency-key": "k-1",
        "last-event-id": "7",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
    }

    await client.post("/api/v1/sessions", json={}, headers=headers)

    metadata = script.calls[-1].metadata
    assert metadata.items() >= headers.items()
    assert metadata["authorization"] == client.headers["authorization"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-http-code", "204"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-expected-rq-timeout-ms", "1"),
        ("grpc-timeout", "1n"),
        ("grpc-encoding", "gzip"),
        ("grpc-trace-bin", "AAAA"),
    ],
)
async def test_what_is_not_a_clients_to_say_does_not(
    client: httpx.AsyncClient, script: Script, name: str, value: str
) -> None:
    answer = await client.get("/api/v1/sessions/s", headers={name: value})

    assert answer.status_code == 200
    assert name not in script.calls[-1].metadata


async def test_the_original_path_is_the_transcoders_to_say(
    client: httpx.AsyncClient, script: Script
) -> None:
    await client.get("/api/v1/sessions/s", headers={"x-envoy-original-path": "/other"})

    assert script.calls[-1].metadata["x-envoy-original-path"] == "/api/v1/sessions/s"


async def test_the_clients_address_is_not_what_it_says(
    client: httpx.AsyncClient, script: Script
) -> None:
    await client.get("/api/v1/sessions/s", headers={"x-forwarded-for": "198.51.100.7"})

    assert script.calls[-1].metadata["x-forwarded-for"].split(",")[-1] != "198.51.100.7"


async def test_answers_tell_nothing_of_the_inside(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/sessions/s")

    assert sorted(answer.headers) == [
        "content-length",
        "content-type",
        "date",
        "server",
        "x-request-id",
    ]


@pytest.mark.parametrize("name", ["#", "a!b", "a'b", "a+b", "a~b", "%", "a|b", "x-any-bin", "-bin"])
async def test_a_header_that_grpc_cannot_carry_does_not_fail_the_call(
    client: httpx.AsyncClient, script: Script, name: str
) -> None:
    answer = await client.get("/api/v1/sessions/s", headers={name: "*", "x-good": "1"})

    assert answer.status_code == 200
    assert name not in script.calls[-1].metadata
    assert script.calls[-1].metadata["x-good"] == "1"


async def test_a_request_id_is_escaped_in_an_errors_text(
    client: httpx.AsyncClient, script: Script
) -> None:
    request_id = 'a"b\\c'

    async def abort(request: object, context: grpc.aio.ServicerContext[object, object]) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, "without an ApiError")

    script.answers["GetSession"] = abort
    answer = await client.get("/api/v1/sessions/s", headers={"x-request-id": request_id})

    assert answer.status_code == 500
    assert request_id in answer.json()["error_detail"]
