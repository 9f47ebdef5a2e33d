"""Sessions while their packages are installed: what is said, and how it ends."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.errors import InvalidParameter, StateConflict
from scheduler_svc.runtimes.base import Changed, Removed, SandboxSpec, SandboxState

from tests.rpc.conftest import MakeWorld
from tests.rpc.doubles import MemoryRuntime
from tests.rpc.world import World, refusal, word
from tests.support import eventually, only


class InstallingRuntime(MemoryRuntime):
    """Installs until it is told how that ended; goes on without the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.installing = asyncio.Event()
        self.starts = 0
        self._outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, spec: SandboxSpec) -> SandboxState:
        self.starts += 1
        if not self._outcome.done():
            self._say(spec, "installing 1 package")
            self.installing.set()
        try:
            await asyncio.shield(self._outcome)
        except StateConflict:
            self._feed.publish(Removed(spec.sandbox_id))
            raise
        return await super().start(spec)

    def succeed(self) -> None:
        self._outcome.set_result(None)

    def fail(self, detail: str) -> None:
        self._outcome.set_exception(StateConflict(detail))

    def _say(self, spec: SandboxSpec, reason: str) -> None:
        state = SandboxState(
            sandbox_id=spec.sandbox_id,
            session_id=spec.session_id,
            generation=spec.generation,
            template_id=spec.template_id,
            domain=spec.domain,
            resources=spec.resources,
            status="creating",
            node="node-1",
            container_id=spec.sandbox_id,
            created_at=datetime.now(UTC),
            reason=reason,
        )
        self._feed.publish(Changed(state))


@pytest.fixture
async def runtime() -> InstallingRuntime:
    return InstallingRuntime()


@pytest.fixture
async def world(make_world: MakeWorld, runtime: InstallingRuntime) -> World:
    made = await make_world(runtime=runtime)
    made.run_loops()
    return made


async def installing(world: World, runtime: InstallingRuntime) -> pb.Session:
    session = await world.create(wait=False, dependencies=["one"])
    await runtime.installing.wait()

    async def said() -> pb.Session | None:
        found = await world.get(session.session_id)
        return found if found.status_reason == "installing 1 package" else None

    found = await eventually(said)
    assert found is not None
    assert word(found) == "creating"
    return found


async def test_the_progress_is_the_reason_until_it_runs(
    world: World, runtime: InstallingRuntime
) -> None:
    session = await installing(world, runtime)
    assert session.session_id in world.executors.sessions  # executions may be queued
    runtime.succeed()
    running = await world.becomes(session.session_id, "running")
    assert not running.HasField("status_reason")


async def test_a_failure_is_the_session_s_with_its_reason(
    world: World, runtime: InstallingRuntime
) -> None:
    runtime.fail("the packages could not be installed: No matching distribution")
    session = await world.create(dependencies=["one"])
    assert word(session) == "failed"
    assert session.status_reason == "the packages could not be installed: No matching distribution"
    assert await world.store.unreleased() == []


async def test_delete_does_not_wait_for_an_installation(
    world: World, runtime: InstallingRuntime
) -> None:
    session = await installing(world, runtime)
    await world.delete(session.session_id)
    assert word(await world.get(session.session_id)) == "terminated"
    assert world.executors.sessions[session.session_id].detached


async def test_an_installation_outlives_session_svc(
    world: World, runtime: InstallingRuntime
) -> None:
    session = await installing(world, runtime)
    await world.restart()
    world.run_loops()

    async def asked_again() -> bool:
        return runtime.starts == 2

    await eventually(asked_again)
    runtime.succeed()
    await world.becomes(session.session_id, "running")
    assert only(runtime.specs).packages == ("one",)


@pytest.mark.parametrize(
    ("dependencies", "detail"),
    [
        (["-r x"], "Field 'dependencies[0]' must be a requirement such as"),
        (["a", "b @ file:///x"], "Field 'dependencies[1]' must name a package"),
        (["a"] * 65, "Field 'dependencies' must have at most 64 entries"),
    ],
)
async def test_what_may_not_be_installed_is_named(
    world: World, dependencies: list[str], detail: str
) -> None:
    error = await refusal(world.create(dependencies=dependencies))
    assert isinstance(error, InvalidParameter)
    assert error.detail.startswith(detail)


async def test_dependencies_are_part_of_what_a_key_stands_for(
    world: World, runtime: InstallingRuntime
) -> None:
    runtime.succeed()
    first = await world.create(key="k", dependencies=["one"])
    assert (await world.create(key="k", dependencies=["one"])).session_id == first.session_id
    error = await refusal(world.create(key="k", dependencies=["two"]))
    assert isinstance(error, StateConflict)
