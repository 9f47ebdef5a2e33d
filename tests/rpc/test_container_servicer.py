"""ContainerService over real gRPC."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from sandbox.scheduler.v1 import container_pb2 as pb
from sandbox.scheduler.v1 import container_pb2_grpc
from sandbox.session.v1.session_pb2 import RuntimeType
from sandbox_rpc.errors import InvalidParameter, NotFound, from_rpc_error
from scheduler_svc.container_servicer import container_service
from scheduler_svc.runtimes.base import Resources, SandboxSpec, sandbox_id

from tests.rpc.doubles import MemoryRuntime
from tests.support import PATIENCE, Metadata, Platform, only

REQUESTS: dict[str, Any] = {
    "GetContainer": pb.GetContainerRequest,
    "GetContainerStatus": pb.GetContainerStatusRequest,
}
TOO_MANY_SECONDS = 7 * 24 * 3600 + 1


@dataclass
class Served:
    """Containers of a runtime in memory, and a client of theirs."""

    platform: Platform
    runtime: MemoryRuntime
    target: str
    stub: container_pb2_grpc.ContainerServiceAsyncStub

    async def start(self, letter: str, domain: str = "default") -> str:
        """Starts a sandbox for a session of that domain; the container's id."""
        session_id = "sess_" + letter * 16
        state = await self.runtime.start(
            SandboxSpec(
                sandbox_id=sandbox_id(session_id, 1),
                session_id=session_id,
                generation=1,
                template_id="python-basic",
                domain=domain,
                resources=Resources(cpu="0.5", memory="512Mi", disk="1Gi", max_processes=64),
                token="t",
            )
        )
        return state.container_id

    def change(self, letter: str, **fields: Any) -> None:
        name = sandbox_id("sess_" + letter * 16, 1)
        self.runtime.sandboxes[name] = replace(self.runtime.sandboxes[name], **fields)

    async def call(self, name: str, request: Any, metadata: Metadata | None = None) -> Any:
        """As the operator, in the domain `default`, unless `metadata` says otherwise."""
        method = getattr(self.stub, name)
        metadata = metadata or self.platform.keys.as_user()
        try:
            return await method(request, metadata=metadata, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def page(self, metadata: Metadata | None = None, **fields: Any) -> Any:
        return await self.call("ListContainers", pb.ListContainersRequest(**fields), metadata)

    async def log(self, metadata: Metadata | None = None, **fields: Any) -> bytes:
        request = pb.GetContainerLogsRequest(**fields)
        metadata = metadata or self.platform.keys.as_user()
        call = self.stub.GetContainerLogs(request, metadata=metadata, timeout=PATIENCE)
        try:
            messages = [message async for message in call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        assert {message.content_type for message in messages} == {"text/plain; charset=utf-8"}
        return b"".join(message.data for message in messages)


@pytest_asyncio.fixture
async def served(platform: Platform) -> AsyncIterator[Served]:
    runtime = MemoryRuntime()
    target = await platform.serve(container_service(runtime))
    stub = container_pb2_grpc.ContainerServiceStub(platform.dial_plainly(target))
    yield Served(platform, runtime, target, stub)
    await runtime.close()


async def test_a_container_has_every_field(served: Served) -> None:
    container_id = await served.start("a")
    found = await served.call("GetContainer", pb.GetContainerRequest(container_id=container_id))

    assert found.container_id == container_id
    assert found.runtime_type == RuntimeType.process
    assert found.status == pb.ContainerStatus.running
    assert found.session_id == "sess_" + "a" * 16
    assert found.template_id == "python-basic"
    assert found.node_name == "node-1"
    resources = found.resources
    assert (resources.cpu, resources.memory, resources.disk) == ("0.5", "512Mi", "1Gi")
    assert resources.max_processes == 64
    usage = found.usage
    assert (usage.cpu_percent, usage.memory_bytes, usage.pids) == (12.5, 1 << 33, 3)
    assert found.HasField("created_at")
    assert 0 <= found.uptime_seconds < PATIENCE
    assert not found.HasField("pod_name")

    request = pb.GetContainerStatusRequest(container_id=container_id)
    again = await served.call("GetContainerStatus", request)
    again.uptime_seconds = found.uptime_seconds
    assert again == found


async def test_a_container_that_has_ended_uses_nothing(served: Served) -> None:
    container_id = await served.start("a")
    began = datetime(2026, 1, 1, tzinfo=UTC)
    served.change(
        "a", status="failed", created_at=began, ended_at=began + timedelta(seconds=90), exit_code=3
    )
    request = pb.GetContainerRequest(container_id=container_id)
    found = await served.call("GetContainer", request)
    assert found.status == pb.ContainerStatus.failed
    assert not found.HasField("usage")
    assert found.uptime_seconds == 90

    served.change("a", ended_at=None)  # nobody saw it
    found = await served.call("GetContainer", request)
    assert not found.HasField("uptime_seconds")


async def test_a_clock_that_was_set_back_makes_no_negative_uptime(served: Served) -> None:
    container_id = await served.start("a")
    served.change("a", created_at=datetime.now(UTC) + timedelta(hours=1))
    found = await served.call("GetContainer", pb.GetContainerRequest(container_id=container_id))
    assert found.uptime_seconds == 0


async def test_the_list_is_newest_first_and_filtered_before_it_is_cut(served: Served) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    for number, letter in enumerate("abcde"):
        await served.start(letter)
        served.change(letter, created_at=moment + timedelta(seconds=number))
    served.change("b", status="failed")
    served.change("d", stopping=True)

    def letters(answer: Any) -> str:
        return "".join(container.session_id[-1] for container in answer.containers)

    everything = await served.page()
    assert (letters(everything), everything.total) == ("edcba", 5)
    running = await served.page(status=pb.ContainerStatus.running, limit=2)
    assert (letters(running), running.total) == ("ec", 3)
    running = await served.page(status=pb.ContainerStatus.running, limit=2, offset=2)
    assert (letters(running), running.total) == ("a", 3)
    assert letters(await served.page(status=pb.ContainerStatus.failed)) == "b"
    assert letters(await served.page(status=pb.ContainerStatus.terminated)) == "d"
    assert letters(await served.page(status=pb.ContainerStatus.timeout)) == ""
    assert letters(await served.page(runtime_type=RuntimeType.process)) == "edcba"
    elsewhere = await served.page(runtime_type=RuntimeType.docker)
    assert (letters(elsewhere), elsewhere.total) == ("", 0)
    beyond = await served.page(offset=5)
    assert (letters(beyond), beyond.total) == ("", 5)


async def test_usage_is_measured_once_and_for_the_page_alone(served: Served) -> None:
    for letter in "abc":
        await served.start(letter)
    served.runtime.measured.clear()
    page = await served.page(limit=2)

    assert len(page.containers) == 2
    assert [len(names) for names in served.runtime.measured] == [2]
    assert all(container.usage.pids == 3 for container in page.containers)


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"limit": 0}, "Field 'limit' must be between 1 and 200"),
        ({"limit": 201}, "Field 'limit' must be between 1 and 200"),
        ({"offset": -1}, "Field 'offset' must be at least 0"),
        ({"status": 99}, "Field 'status' must be one of"),
        ({"runtime_type": 99}, "Field 'runtime_type' must be one of"),
    ],
)
async def test_a_list_request_out_of_range(
    served: Served, fields: dict[str, Any], detail: str
) -> None:
    with pytest.raises(InvalidParameter, match=detail):
        await served.page(**fields)


@pytest.mark.parametrize("limit", [1, 200])
async def test_the_limits_themselves_are_in_range(served: Served, limit: int) -> None:
    await served.page(limit=limit)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tail": 0}, "tail"),
        ({"tail": 10_001}, "tail"),
        ({"tail": -1}, "tail"),
        ({"since": ""}, "since"),
        ({"since": "0"}, "since"),
        ({"since": "-5"}, "since"),
        ({"since": "1.5"}, "since"),
        ({"since": "٣"}, "since"),
        ({"since": str(TOO_MANY_SECONDS)}, "since"),
        ({"since": "1767225600"}, "since"),  # a Unix time, not an age
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-01-01"}, "since"),
        ({"since": "2026-01-01T00:00:00"}, "since"),  # whose midnight?
        ({"since": "2026-02-30T00:00:00Z"}, "since"),
        ({"since": "0000-01-01T00:00:00Z"}, "since"),
        ({"since": "0001-01-01T00:00:00+23:59"}, "since"),
        ({"since": "2026-W01-1T00:00:00Z"}, "since"),
    ],
)
async def test_a_log_request_out_of_range(
    served: Served, fields: dict[str, Any], field: str
) -> None:
    container_id = await served.start("a")
    with pytest.raises(InvalidParameter, match=f"^Field '{field}' must be"):
        await served.log(container_id=container_id, **fields)


async def test_a_log_request_reaches_the_runtime(served: Served) -> None:
    container_id = await served.start("a")
    log = served.log
    assert await log(container_id=container_id) == b"tail=100 since=None follow=False\n"
    assert b"follow=True" in await log(container_id=container_id, follow=True)
    for tail in (1, 10_000):
        assert b"tail=%d " % tail in await log(container_id=container_id, tail=tail)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31 12:00:00+00:00"),
        ("2026-01-31t12:00:00.5z", "2026-01-31 12:00:00.500000+00:00"),
        ("2026-01-31T12:00:00+05:30", "2026-01-31 06:30:00+00:00"),
        ("2026-01-31T12:00:00.123456789Z", "2026-01-31 12:00:00.123456+00:00"),
    ],
)
async def test_since_may_be_a_time(served: Served, text: str, moment: str) -> None:
    container_id = await served.start("a")
    said = await served.log(container_id=container_id, since=text)
    assert f"since={moment} " in said.decode()


@pytest.mark.parametrize("seconds", [1, 300, TOO_MANY_SECONDS - 1])
async def test_since_may_be_an_age(served: Served, seconds: int) -> None:
    container_id = await served.start("a")
    before = datetime.now(UTC)
    said = await served.log(container_id=container_id, since=str(seconds))
    after = datetime.now(UTC)
    found = re.search(r"since=(\S+ \S+) ", said.decode())
    assert found is not None
    moment = datetime.fromisoformat(found[1]) + timedelta(seconds=seconds)
    assert before <= moment <= after


async def test_another_domain_sees_what_nobody_sees(served: Served) -> None:
    ours = await served.start("a", "ours")
    await served.start("b", "theirs")
    stranger = served.platform.keys.as_user("theirs")

    listed = await served.page(stranger)
    assert (only(listed.containers).session_id, listed.total) == ("sess_" + "b" * 16, 1)

    def ask(name: str, container_id: str) -> Awaitable[Any]:
        if name == "GetContainerLogs":
            return served.log(stranger, container_id=container_id)
        return served.call(name, REQUESTS[name](container_id=container_id), stranger)

    for name in (*REQUESTS, "GetContainerLogs"):
        details = set()
        for container_id in (ours, "no-such-id"):
            with pytest.raises(NotFound) as caught:
                await ask(name, container_id)
            assert caught.value.error_code == "Sandbox.ContainerNotFound"
            details.add(caught.value.detail.replace(container_id, "ID"))
        assert len(details) == 1


async def test_a_warm_container_is_for_admins(served: Served) -> None:
    keys = served.platform.keys
    container_id = await served.start("a", "default")
    request = pb.GetContainerRequest(container_id=container_id)
    user = keys.as_user(token=keys.issue(role="user", domains=None))
    admin = keys.as_user(token=keys.issue(role="admin", domains=None))
    assert (await served.call("GetContainer", request, user)).session_id

    served.change("a", session_id="", domain="")
    with pytest.raises(NotFound):
        await served.call("GetContainer", request, user)
    assert not (await served.call("GetContainer", request, admin)).HasField("session_id")
    assert not only((await served.page(admin)).containers).HasField("session_id")


async def test_a_user_sees_what_is_of_their_domain(served: Served) -> None:
    keys = served.platform.keys
    container_id = await served.start("a", "default")
    user = keys.as_user(token=keys.issue(role="user"))
    assert only((await served.page(user)).containers).container_id == container_id
    for name, request in REQUESTS.items():
        assert await served.call(name, request(container_id=container_id), user)


async def test_only_users_may_call(served: Served) -> None:
    keys = served.platform.keys
    for metadata in (keys.as_service(), keys.as_container("sbx_0123456789abcdef-1")):
        call = served.stub.ListContainers(pb.ListContainersRequest(), metadata=metadata)
        assert await call.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_reader_that_goes_away_is_let_go(served: Served) -> None:
    container_id = await served.start("a")
    left = asyncio.Event()

    async def endless(*_: Any, **__: Any) -> AsyncIterator[bytes]:
        try:
            yield b"one\n"
            await asyncio.Event().wait()
        finally:
            left.set()

    served.runtime.logs = endless  # type: ignore[method-assign, assignment]
    request = pb.GetContainerLogsRequest(container_id=container_id, follow=True)
    call = served.stub.GetContainerLogs(request, metadata=served.platform.keys.as_user())
    async for message in call:
        assert message.data == b"one\n"
        call.cancel()
        break
    async with asyncio.timeout(PATIENCE):
        await left.wait()
