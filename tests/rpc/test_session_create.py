"""CreateSession: validation, the answer, keys, and what may go wrong on the way."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc.aio
import pytest
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.errors import (
    InvalidParameter,
    NotFound,
    ServiceUnavailable,
    StateConflict,
    TooManyRequests,
)

from tests.rpc.conftest import MakeWorld
from tests.rpc.doubles import (
    AwaitedExecutors,
    FullRuntime,
    RefusingExecutors,
    StillbornRuntime,
)
from tests.rpc.world import World, refusal, word
from tests.support import only


async def test_a_session_runs_when_the_answer_comes(world: World) -> None:
    session = await world.create(metadata={"for": "a test"}, env_vars={"A": "1"})

    assert re.fullmatch(r"sess_[a-z0-9]{16}", session.session_id)
    assert word(session) == "running"
    assert not session.HasField("status_reason")
    assert session.mode == pb.SessionMode.persistent
    assert session.runtime_type == pb.RuntimeType.process
    assert session.runtime_node == "node-1"
    assert session.container_id == f"container-of-{only(world.runtime.specs).sandbox_id}"
    assert session.workspace_path == "/workspace"
    assert (session.resources.cpu, session.resources.memory) == ("1", "512Mi")
    assert (session.resources.disk, session.resources.max_processes) == ("1Gi", 128)
    assert session.timeout == 300
    assert dict(session.metadata) == {"for": "a test"}
    assert dict(session.env_vars) == {"A": "1"}
    assert session.created_at.ToDatetime() == world.clock.now().replace(tzinfo=None)
    assert session.expires_at.seconds - session.last_activity_at.seconds == 300
    assert await world.get(session.session_id) == session


async def test_the_answer_tells_the_edge_201_and_where(world: World) -> None:
    spec = pb.SessionSpec(template_id="python-basic")
    call = world.stub.CreateSession(
        pb.CreateSessionRequest(session=spec), metadata=world.keys.as_user()
    )
    session = await call
    metadata = dict(await call.initial_metadata())

    assert metadata["x-http-code"] == "201"
    assert metadata["location"] == f"/api/v1/sessions/{session.session_id}"


async def test_what_was_asked_for_reaches_the_services(world: World) -> None:
    session = await world.create(
        domain="tenant",
        mode=pb.SessionMode.ephemeral,
        timeout=60,
        resources={"cpu": "0.5", "memory": "2Gi", "disk": "50Gi", "max_processes": 1024},
        env_vars={"A": "1"},
    )
    spec = only(world.runtime.specs)
    attached = world.executors.sessions[session.session_id]

    assert (spec.session_id, spec.generation, spec.domain) == (session.session_id, 1, "tenant")
    assert (spec.template_id, spec.resources.memory) == ("python-basic", "2Gi")
    assert spec.token.startswith(f"container.{spec.sandbox_id}.")
    assert (attached.domain, attached.sandbox_id) == ("tenant", spec.sandbox_id)
    assert attached.config.memory_bytes == 2 << 30
    assert attached.config.disk_bytes == 50 << 30
    assert attached.config.max_processes == 1024
    assert (attached.config.ephemeral, attached.config.concurrency) == (True, 1)
    assert dict(attached.config.env_vars) == {"A": "1"}


@pytest.mark.parametrize(
    ("spec", "detail"),
    [
        ({"template_id": ""}, "Field 'template_id' is required"),
        ({"mode": 7}, "Field 'mode' must be ephemeral or persistent"),
        ({"timeout": 59}, "Field 'timeout' must be between 60 and 3600"),
        ({"timeout": 3601}, "Field 'timeout' must be between 60 and 3600"),
        ({"timeout": 0}, "Field 'timeout' must be between 60 and 3600"),
        ({"runtime_type": pb.RuntimeType.docker}, "Field 'runtime_type' must be process"),
        ({"resources": {"cpu": "0.4"}}, "Field 'resources.cpu' .* from 0.5 to 4"),
        ({"resources": {"cpu": "4.1"}}, "Field 'resources.cpu' .* from 0.5 to 4"),
        ({"resources": {"cpu": "500m"}}, "Field 'resources.cpu' .* from 0.5 to 4"),
        ({"resources": {"cpu": "NaN"}}, "Field 'resources.cpu' .* from 0.5 to 4"),
        ({"resources": {"cpu": "١"}}, "Field 'resources.cpu' .* from 0.5 to 4"),
        ({"resources": {"cpu": ""}}, "Field 'resources.cpu' .* from 0.5 to 4"),
        ({"resources": {"memory": "255Mi"}}, "Field 'resources.memory' .* from 256Mi to 8Gi"),
        ({"resources": {"memory": "9Gi"}}, "Field 'resources.memory' .* from 256Mi to 8Gi"),
        ({"resources": {"memory": "1G"}}, "Field 'resources.memory' .* from 256Mi to 8Gi"),
        ({"resources": {"memory": "1.5Gi"}}, "Field 'resources.memory' .* from 256Mi to 8Gi"),
        ({"resources": {"memory": "١Gi"}}, "Field 'resources.memory' .* from 256Mi to 8Gi"),
        ({"resources": {"disk": "1023Mi"}}, "Field 'resources.disk' .* from 1Gi to 50Gi"),
        ({"resources": {"disk": "51Gi"}}, "Field 'resources.disk' .* from 1Gi to 50Gi"),
        ({"resources": {"max_processes": 31}}, "'resources.max_processes' .* 32 and 1024"),
        ({"resources": {"max_processes": 1025}}, "'resources.max_processes' .* 32 and 1024"),
        ({"env_vars": {"1A": "x"}}, r"Field 'env_vars' must have names that match"),
        ({"env_vars": {"A" * 129: "x"}}, "at most 128 characters"),
        ({"env_vars": {"A": "x" * 32769}}, "Field 'env_vars.A' must have at most 32768 bytes"),
        ({"env_vars": {"A": "a\0b"}}, "Field 'env_vars.A' must not hold a NUL"),
        ({"env_vars": {f"A{n}": "" for n in range(129)}}, "'env_vars' .* at most 128 entries"),
        (
            {"env_vars": {f"A{n}": "x" * 32768 for n in range(8)}},
            "'env_vars' .* at most 262144 bytes in all",
        ),
        ({"metadata": {"": "x"}}, "Field 'metadata' must not have an empty name"),
        ({"metadata": {"k" * 129: "x"}}, "'metadata .a name.' must have at most 128 bytes"),
        ({"metadata": {"k": "x" * 4097}}, "Field 'metadata.k' must have at most 4096 bytes"),
        ({"metadata": {"k": "\0"}}, "Field 'metadata.k' must not hold a NUL"),
        ({"metadata": {str(n): "" for n in range(65)}}, "'metadata' .* at most 64 entries"),
    ],
)
async def test_a_value_out_of_range_is_named_with_its_limit(
    world: World, spec: dict[str, Any], detail: str
) -> None:
    error = await refusal(world.create(**spec))

    assert isinstance(error, InvalidParameter)
    assert re.search(detail, error.detail), error.detail
    assert (await world.list()).total == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"timeout": 60},
        {"timeout": 3600},
        {"resources": {"cpu": "0.5", "memory": "256Mi", "disk": "1Gi", "max_processes": 32}},
        {"resources": {"cpu": "4", "memory": "8192Mi", "disk": "50Gi", "max_processes": 1024}},
        {"resources": {"cpu": "4.000"}},
        {"env_vars": {"_": "", "A" * 128: "x" * 32768}},
        {"metadata": {"ключ": "значение"}},
        {"runtime_type": pb.RuntimeType.process},
    ],
)
async def test_values_at_their_limits_are_taken(world: World, spec: dict[str, Any]) -> None:
    assert word(await world.create(**spec)) == "running"


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
async def test_a_bad_idempotency_key_is_named(world: World, key: str) -> None:
    error = await refusal(world.create(key=key))
    assert isinstance(error, InvalidParameter)
    assert "Idempotency-Key" in error.detail


@pytest.mark.parametrize("template_id", ["python-none", "../x", "x" * 64, "é"])
async def test_an_unknown_template_is_not_found(world: World, template_id: str) -> None:
    error = await refusal(world.create(template_id=template_id))
    assert isinstance(error, NotFound)
    assert error.error_code == "Sandbox.TemplateNotFound"


async def test_without_waiting_it_is_creating(make_world: MakeWorld) -> None:
    executors = AwaitedExecutors()
    world = await make_world(executors=executors)
    session = await world.create(wait=False)
    assert word(session) == "creating"

    executors.come.set()
    assert (await world.becomes(session.session_id, "running")).container_id


async def test_a_client_that_goes_away_breaks_nothing(make_world: MakeWorld) -> None:
    executors = AwaitedExecutors()
    world = await make_world(executors=executors)
    client = asyncio.ensure_future(world.create())
    await executors.attaching.wait()
    client.cancel()
    await asyncio.gather(client, return_exceptions=True)
    session = only((await world.list()).sessions)
    assert word(session) == "creating"

    executors.come.set()
    await world.becomes(session.session_id, "running")


async def test_an_executor_that_refuses_fails_the_session(make_world: MakeWorld) -> None:
    world = await make_world(executors=RefusingExecutors())
    session = await world.create()

    assert word(session) == "failed"
    assert session.status_reason == "isolation cannot be set up: no user namespaces"
    assert world.runtime.sandboxes == {}
    assert world.executors.sessions[session.session_id].detached


async def test_an_executor_that_dies_fails_the_session_at_once(make_world: MakeWorld) -> None:
    world = await make_world(runtime=StillbornRuntime(), executors=AwaitedExecutors())
    world.run_loops()
    session = await world.create()

    assert (word(session), session.status_reason) == ("failed", "exit code 1")
    assert world.runtime.sandboxes == {}


async def test_an_executor_that_never_comes_fails_the_session(make_world: MakeWorld) -> None:
    world = await make_world(executors=AwaitedExecutors(), attach_seconds=0.2)
    session = await world.create()

    assert word(session) == "failed"
    assert session.status_reason.startswith("the executor was not attached within 0.2 s")
    assert world.runtime.sandboxes == {}


async def test_no_room_is_told_with_its_limit(make_world: MakeWorld) -> None:
    world = await make_world(runtime=FullRuntime())
    error = await refusal(world.create())

    assert isinstance(error, TooManyRequests)
    assert (error.detail, error.retry_after) == ("all 1 sandboxes are in use", 7)
    session = only((await world.list()).sessions)
    assert (word(session), session.status_reason) == ("failed", error.detail)
    assert world.executors.sessions[session.session_id].detached


async def test_a_scheduler_that_is_down_is_told(world: World) -> None:
    await world.scheduler_svc.stop_serving()
    assert isinstance(await refusal(world.create()), ServiceUnavailable)
    assert word(only((await world.list()).sessions)) == "failed"


async def test_after_no_room_the_same_key_tries_again(make_world: MakeWorld) -> None:
    runtime = FullRuntime()
    world = await make_world(runtime=runtime)
    assert isinstance(await refusal(world.create(key="k")), TooManyRequests)

    runtime.full = False
    assert word(await world.create(key="k")) == "running"


async def test_100_creates_with_one_key_make_one_session(world: World) -> None:
    sessions = await asyncio.gather(*(world.create(key="k") for _ in range(100)))

    assert len({session.session_id for session in sessions}) == 1
    assert {word(session) for session in sessions} == {"running"}
    assert len(world.runtime.specs) == 1
    assert (await world.list()).total == 1


async def test_a_key_used_with_another_request_is_a_conflict(world: World) -> None:
    await world.create(key="k", timeout=60)
    error = await refusal(world.create(key="k", timeout=61))

    assert isinstance(error, StateConflict)
    assert "Idempotency-Key" in error.detail
    assert (await world.list()).total == 1


async def test_a_key_answers_with_the_session_as_it_is_now(world: World) -> None:
    first = await world.create(key="k")
    await world.delete(first.session_id)
    again = await world.create(key="k")

    assert again.session_id == first.session_id
    assert word(again) == "terminated"


async def test_a_key_belongs_to_its_domain(world: World) -> None:
    first = await world.create(key="k", domain="a")
    second = await world.create(key="k", domain="b")
    assert first.session_id != second.session_id


@pytest.mark.parametrize("tidied", [True, False])
async def test_a_key_is_free_again_after_24_hours(world: World, tidied: bool) -> None:
    first = await world.create(key="k", timeout=3600)
    world.clock.advance(24 * 3600)
    if tidied:
        await world.reconciler.reconcile()
    second = await world.create(key="k", timeout=60)
    assert first.session_id != second.session_id


async def test_only_users_may_call(world: World) -> None:
    request = pb.ListSessionsRequest()
    for metadata in (world.keys.as_service(), world.keys.as_container("sbx_x-1"), ()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.ListSessions(request, metadata=metadata)
        assert caught.value.code() in (
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
        )
