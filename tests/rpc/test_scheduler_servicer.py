"""SchedulerService over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from sandbox.scheduler.v1 import scheduler_pb2 as pb
from sandbox.scheduler.v1 import scheduler_pb2_grpc
from sandbox.session.v1.session_pb2 import Resources, RuntimeType
from sandbox_rpc.auth import Principal
from sandbox_rpc.channel import Channel
from sandbox_rpc.errors import InvalidParameter, NotFound, TooManyRequests
from scheduler_svc.servicer import service

from tests.rpc.doubles import FullRuntime, MemoryRuntime
from tests.support import PATIENCE, Platform, only

SESSION = "sess_0123456789abcdef"
SANDBOX = "sbx_0123456789abcdef-2"


@dataclass
class Served:
    """A scheduler_svc over a runtime in memory, and a channel to it."""

    runtime: MemoryRuntime
    channel: Channel
    stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub
    target: str

    async def call(self, method: Any, request: Any) -> Any:
        return await self.channel.call(method, request, timeout=PATIENCE)


@pytest_asyncio.fixture(params=[MemoryRuntime])
async def served(request: pytest.FixtureRequest, platform: Platform) -> AsyncIterator[Served]:
    runtime = request.param()
    target = await platform.serve(service(runtime, platform.keys.secret))
    channel = platform.dial(target)
    stub = scheduler_pb2_grpc.SchedulerServiceStub(channel.grpc)
    yield Served(runtime, channel, stub, target)
    await runtime.close()


def start_request(**values: Any) -> pb.StartSandboxRequest:
    resources = Resources(cpu="1", memory="512Mi", disk="1Gi", max_processes=128)
    given = {"session_id": SESSION, "generation": 2, "template_id": "t", "domain": "d"}
    return pb.StartSandboxRequest(resources=resources, **(given | values))


async def test_start_get_list_stop(served: Served) -> None:
    started = await served.call(served.stub.StartSandbox, start_request())
    assert (started.sandbox_id, started.session_id, started.generation) == (SANDBOX, SESSION, 2)
    assert started.runtime_type == RuntimeType.process
    assert started.status == pb.SandboxStatus.running
    assert not started.HasField("exit_code")

    found = await served.call(served.stub.GetSandbox, pb.GetSandboxRequest(sandbox_id=SANDBOX))
    assert found == started
    listed = await served.call(served.stub.ListSandboxes, pb.ListSandboxesRequest())
    assert only(listed.sandboxes) == started

    for _ in range(2):
        await served.call(served.stub.StopSandbox, pb.StopSandboxRequest(sandbox_id=SANDBOX))
    with pytest.raises(NotFound) as caught:
        await served.call(served.stub.GetSandbox, pb.GetSandboxRequest(sandbox_id=SANDBOX))
    assert caught.value.error_code == "Sandbox.ContainerNotFound"


async def test_the_spec_reaches_the_runtime_with_a_token_for_this_sandbox(
    served: Served, platform: Platform
) -> None:
    await served.call(served.stub.StartSandbox, start_request())
    spec = only(served.runtime.specs)

    assert (spec.template_id, spec.domain) == ("t", "d")
    assert (spec.resources.cpu, spec.resources.max_processes) == ("1", 128)
    assert platform.keys.secret.verify(spec.token) == Principal("container", SANDBOX)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"session_id": "sess_../../etc/passwd"}, "session_id"),
        ({"session_id": ""}, "session_id"),
        ({"generation": 0}, "generation"),
        ({"runtime_type": RuntimeType.docker}, "runtime_type"),
    ],
)
async def test_what_no_runtime_may_see_is_refused(
    served: Served, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidParameter, match=f"Field '{field}' must"):
        await served.call(served.stub.StartSandbox, start_request(**values))
    assert served.runtime.specs == []


@pytest.mark.parametrize("served", [FullRuntime], indirect=True)
async def test_no_room_crosses_the_wire_with_its_limit(served: Served) -> None:
    with pytest.raises(TooManyRequests, match="all 1 sandboxes are in use") as caught:
        await served.call(served.stub.StartSandbox, start_request())
    assert caught.value.retry_after == 7


async def test_a_watch_sends_the_snapshot_and_each_change(served: Served) -> None:
    await served.call(served.stub.StartSandbox, start_request())
    watch = served.channel.stream(served.stub.WatchSandboxes, pb.WatchSandboxesRequest())
    async with asyncio.timeout(PATIENCE):
        assert (await anext(watch)).changed.sandbox_id == SANDBOX
        assert (await anext(watch)).snapshot_complete

        served.runtime.die(SANDBOX, exit_code=3)
        changed = (await anext(watch)).changed
        assert (changed.status, changed.exit_code) == (pb.SandboxStatus.failed, 3)
        assert changed.reason == "exit code 3"

        await served.runtime.stop(SANDBOX)
        assert (await anext(watch)).removed == SANDBOX

        await served.runtime.close()
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_only_services_may_call(served: Served, platform: Platform) -> None:
    client = scheduler_pb2_grpc.SchedulerServiceStub(platform.dial_plainly(served.target))
    for metadata in (platform.keys.as_user(), platform.keys.as_container(SANDBOX)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.ListSandboxes(pb.ListSandboxesRequest(), metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
