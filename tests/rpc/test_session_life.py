"""Sessions after they have been created: read, listed, deleted, idle, recovered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, timedelta

import pytest
from sandbox.session.v1 import health_pb2
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.errors import InvalidParameter, NotFound, ServiceUnavailable
from session_svc.reconciler import attempt

from tests.rpc.conftest import MakeWorld
from tests.rpc.doubles import (
    Attached,
    AwaitedExecutors,
    FullRuntime,
    MemoryRuntime,
    PromptExecutors,
)
from tests.rpc.world import World, refusal, word
from tests.support import eventually, only


def sandbox(session: pb.Session, generation: int = 1) -> str:
    return f"sbx_{session.session_id.removeprefix('sess_')}-{generation}"


async def test_a_foreign_session_does_not_exist(world: World) -> None:
    session = await world.create(domain="a")
    for session_id in (session.session_id, "sess_0000000000000000", "nonsense", ""):
        for call in (world.get, world.delete):
            error = await refusal(call(session_id, "b"))
            assert isinstance(error, NotFound)
            assert error.error_code == "Sandbox.SessionNotFound"
            assert error.detail == f"Session '{session_id}' does not exist"
    assert (await world.list("b")).total == 0
    assert word(await world.get(session.session_id, "a")) == "running"


async def test_lists_are_newest_first_filtered_and_paged(world: World) -> None:
    made = []
    for _ in range(5):
        made.append((await world.create()).session_id)
        world.clock.advance(1)
    await world.create(domain="other")
    await world.delete(made[1])

    def ids(response: pb.ListSessionsResponse) -> list[str]:
        return [session.session_id for session in response.sessions]

    assert ids(await world.list()) == made[::-1]
    page = await world.list(limit=2, offset=1)
    assert (ids(page), page.total) == ([made[3], made[2]], 5)
    ended = await world.list(status=pb.SessionStatus.terminated)
    assert (ids(ended), ended.total) == ([made[1]], 1)
    assert (await world.list(template_id="python-basic")).total == 5
    assert (await world.list(template_id="python-none")).total == 0
    assert ids(await world.list(offset=5)) == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "Field 'limit' must be between 1 and 200"),
        ({"limit": 201}, "Field 'limit' must be between 1 and 200"),
        ({"offset": -1}, "Field 'offset' must be at least 0"),
        ({"status": 99}, "Field 'status'"),
        ({"template_id": "a b"}, "Field 'template_id'"),
    ],
)
async def test_a_list_out_of_bounds_is_refused(
    world: World, query: dict[str, int], field: str
) -> None:
    error = await refusal(world.list(**query))
    assert isinstance(error, InvalidParameter)
    assert error.detail.startswith(field)


async def test_delete_leaves_nothing_and_may_be_repeated(world: World) -> None:
    session = await world.create()
    call = world.stub.DeleteSession(
        pb.DeleteSessionRequest(session_id=session.session_id), metadata=world.keys.as_user()
    )
    await call
    assert dict(await call.initial_metadata())["x-http-code"] == "204"
    assert world.runtime.sandboxes == {}
    attached = world.executors.sessions[session.session_id]
    assert (attached.detached, attached.detach_reason) == (True, "deleted by a client")
    assert word(await world.get(session.session_id)) == "terminated"

    await world.delete(session.session_id)
    assert (await world.get(session.session_id)).status_reason == "deleted by a client"


async def test_delete_while_creating_wins(make_world: MakeWorld) -> None:
    executors = AwaitedExecutors()
    world = await make_world(executors=executors)
    creation = asyncio.ensure_future(world.create())
    await executors.attaching.wait()
    session = only((await world.list()).sessions)
    await world.delete(session.session_id)

    assert world.runtime.sandboxes == {}
    assert executors.sessions[session.session_id].detached
    assert word(await creation) == "terminated"
    executors.come.set()
    assert word(await world.get(session.session_id)) == "terminated"


async def test_a_delete_that_could_not_finish_is_finished_later(world: World) -> None:
    session = await world.create()
    await world.exec_svc.stop_serving()
    assert isinstance(await refusal(world.delete(session.session_id)), ServiceUnavailable)
    assert word(await world.get(session.session_id)) == "terminated"
    assert world.runtime.sandboxes == {}

    target = world.exec_target
    await world.exec_svc.serve(world.executors.service(), listen=target)

    async def released() -> bool:
        # The channel may still be in its back-off; the reconciler's own loop tries again too.
        await attempt("reconciling", world.reconciler.reconcile())
        return await world.store.unreleased() == []

    await eventually(released)
    assert world.executors.sessions[session.session_id].detached


async def test_activity_is_what_exec_svc_knows(world: World) -> None:
    session = await world.create()
    latest = world.clock.now() + timedelta(seconds=42)
    world.executors.sessions[session.session_id].last_activity_at = latest

    for seen in (await world.get(session.session_id), only((await world.list()).sessions)):
        assert seen.last_activity_at.ToDatetime(tzinfo=UTC) == latest
        assert seen.expires_at.ToDatetime(tzinfo=UTC) == latest + timedelta(seconds=300)

    await world.exec_svc.stop_serving()
    stored = await world.get(session.session_id)
    assert stored.last_activity_at == session.last_activity_at


async def test_an_execution_that_runs_is_activity_now(world: World) -> None:
    session = await world.create(timeout=60)
    world.executors.sessions[session.session_id].open_executions = 1
    world.clock.advance(100)

    now = world.clock.now()
    for seen in (await world.get(session.session_id), only((await world.list()).sessions)):
        assert seen.last_activity_at.ToDatetime(tzinfo=UTC) == now
        assert seen.expires_at.ToDatetime(tzinfo=UTC) == now + timedelta(seconds=60)
    await world.reaper.reap()
    assert word(await world.get(session.session_id)) == "running"


async def test_the_activity_of_a_session_that_has_ended_stays_as_it_was(world: World) -> None:
    session = await world.create()
    world.clock.advance(10)
    latest = world.clock.now()
    world.executors.sessions[session.session_id].last_activity_at = latest
    world.clock.advance(10)
    await world.delete(session.session_id)
    world.clock.advance(10)

    for seen in (await world.get(session.session_id), only((await world.list()).sessions)):
        assert word(seen) == "terminated"
        assert seen.last_activity_at.ToDatetime(tzinfo=UTC) == latest
        assert seen.expires_at.ToDatetime(tzinfo=UTC) == latest + timedelta(seconds=300)
        assert seen.updated_at.ToDatetime(tzinfo=UTC) == latest + timedelta(seconds=10)


async def test_an_idle_session_times_out(world: World) -> None:
    session = await world.create(timeout=60)
    world.clock.advance(59)
    assert await world.reaper.reap() == 1
    assert word(await world.get(session.session_id)) == "running"

    world.clock.advance(1)
    await world.reaper.reap()
    ended = await world.get(session.session_id)
    assert (word(ended), ended.status_reason) == ("timeout", "idle for 60 s")
    assert world.runtime.sandboxes == {}
    assert world.executors.sessions[session.session_id].detached


async def test_activity_puts_the_timeout_off(world: World) -> None:
    session = await world.create(timeout=60)
    attached = world.executors.sessions[session.session_id]
    attached.last_activity_at = world.clock.now() + timedelta(seconds=40)
    world.clock.advance(60)
    await world.reaper.reap()
    assert word(await world.get(session.session_id)) == "running"

    world.clock.advance(40)
    attached.open_executions = 1
    await world.reaper.reap()
    assert word(await world.get(session.session_id)) == "running"

    attached.open_executions = 0
    world.clock.advance(60)
    await world.reaper.reap()
    assert word(await world.get(session.session_id)) == "timeout"


async def test_nothing_times_out_while_exec_svc_is_down(world: World) -> None:
    session = await world.create(timeout=60)
    await world.exec_svc.stop_serving()
    world.clock.advance(3600)
    with pytest.raises(ServiceUnavailable):
        await world.reaper.reap()
    assert word(await world.get(session.session_id)) == "running"


async def test_the_reaper_wakes_when_a_session_is_due(world: World) -> None:
    session = await world.create(timeout=60)
    world.run_loops()
    for seconds in (30, 30):

        async def asleep() -> bool:
            return world.clock.slept.count(30) >= 2  # the reaper and the reconciler

        await eventually(asleep)
        world.clock.slept.clear()
        world.clock.advance(seconds)
    await world.becomes(session.session_id, "timeout")


async def test_a_lost_sandbox_is_replaced_at_once(world: World) -> None:
    session = await world.create(env_vars={"A": "1"})
    world.run_loops()
    world.runtime.die(sandbox(session))
    recovered = await world.recovered(session.session_id, 2)

    assert recovered.status_reason == "recovered: exit code 137"
    assert list(world.runtime.sandboxes) == [sandbox(session, 2)]
    assert world.executors.sessions[session.session_id].sandbox_id == sandbox(session, 2)
    before, after = world.runtime.specs
    assert (after.resources, after.template_id) == (before.resources, before.template_id)


async def test_a_removed_sandbox_is_replaced(world: World) -> None:
    session = await world.create()
    world.run_loops()
    await world.runtime.stop(sandbox(session))
    recovered = await world.recovered(session.session_id, 2)
    assert recovered.status_reason == "recovered: the sandbox is gone"


async def test_a_sandbox_lost_while_nobody_watched_is_replaced(world: World) -> None:
    session = await world.create()
    await world.restart()
    await world.runtime.stop(sandbox(session))
    await world.reconciler.reconcile()
    await world.recovered(session.session_id, 2)


async def test_a_silent_executor_is_replaced(world: World) -> None:
    session = await world.create()
    attached = world.executors.sessions[session.session_id]
    attached.silent_for = timedelta(seconds=15)
    await world.reconciler.reconcile()
    assert world.lifecycle.works.get(session.session_id) is None

    attached.silent_for = timedelta(seconds=16)
    await world.reconciler.reconcile()
    recovered = await world.recovered(session.session_id, 2)
    assert recovered.status_reason == "recovered: the executor has been silent for 16 s"
    assert list(world.runtime.sandboxes) == [sandbox(session, 2)]


async def test_a_healthy_session_is_left_alone(world: World) -> None:
    session = await world.create()
    for _ in range(3):
        await world.reconciler.reconcile()
    assert list(world.runtime.sandboxes) == [sandbox(session)]
    assert len(world.runtime.specs) == 1


class RuntimeThatFills(FullRuntime):
    full = False


async def test_a_recovery_that_fails_backs_off_and_ends_in_failed(make_world: MakeWorld) -> None:
    runtime = RuntimeThatFills()
    world = await make_world(runtime=runtime)
    session = await world.create()
    world.clock.advance(60)
    runtime.full = True
    runtime.die(sandbox(session))
    await world.reconciler.reconcile()
    for seconds in (1, 2, 4, 8):

        async def asleep(seconds: int = seconds) -> bool:
            return world.clock.slept[-1:] == [seconds]

        await eventually(asleep)
        world.clock.advance(seconds)
    failed = await world.becomes(session.session_id, "failed")

    assert failed.status_reason == (
        "exit code 137; 5 recoveries in a row did not last: all 1 sandboxes are in use"
    )
    assert world.clock.slept == [1, 2, 4, 8]
    assert world.runtime.sandboxes == {}
    assert world.executors.sessions[session.session_id].detached


async def test_a_sandbox_that_keeps_dying_is_given_up(world: World) -> None:
    session = await world.create()
    for generation in range(1, 7):
        assert word(await world.get(session.session_id)) == "running"
        world.runtime.die(sandbox(session, generation))
        await world.reconciler.reconcile()
        if generation == 6:
            break
        if generation > 1:

            async def asleep(times: int = generation - 1) -> bool:
                return len(world.clock.slept) == times

            await eventually(asleep)
            world.clock.advance(30)
        await world.recovered(session.session_id, generation + 1)
    await world.becomes(session.session_id, "failed")


async def test_a_sandbox_that_stayed_begins_a_new_count(world: World) -> None:
    session = await world.create()
    for generation in range(1, 9):
        world.clock.advance(60)
        world.runtime.die(sandbox(session, generation))
        await world.reconciler.reconcile()
        await world.recovered(session.session_id, generation + 1)
    assert world.clock.slept == []


async def test_delete_during_the_back_off_does_not_wait_for_it(make_world: MakeWorld) -> None:
    runtime = RuntimeThatFills()
    world = await make_world(runtime=runtime)
    session = await world.create()
    runtime.full = True
    runtime.die(sandbox(session))
    await world.reconciler.reconcile()

    async def asleep() -> bool:
        return bool(world.clock.slept)

    await eventually(asleep)
    await world.delete(session.session_id)
    assert word(await world.get(session.session_id)) == "terminated"
    assert world.runtime.sandboxes == {}


async def test_an_ephemeral_session_completes_when_its_executor_leaves(world: World) -> None:
    session = await world.create(mode=pb.SessionMode.ephemeral)
    world.run_loops()
    world.executors.sessions[session.session_id].ended_executions = 1
    world.runtime.die(sandbox(session), exit_code=0)
    completed = await world.becomes(session.session_id, "completed")

    assert not completed.HasField("status_reason")

    async def removed() -> bool:
        return world.runtime.sandboxes == {}

    await eventually(removed)
    assert world.executors.sessions[session.session_id].detached


@pytest.mark.parametrize(
    ("mode", "open_executions", "ended_executions"),
    [
        (pb.SessionMode.ephemeral, 1, 0),
        (pb.SessionMode.ephemeral, 0, 0),
        (pb.SessionMode.persistent, 0, 1),
    ],
)
async def test_a_session_that_is_not_used_up_is_recovered(
    world: World,
    mode: pb.SessionMode.Value.ValueType,
    open_executions: int,
    ended_executions: int,
) -> None:
    session = await world.create(mode=mode)
    world.run_loops()
    attached = world.executors.sessions[session.session_id]
    attached.open_executions, attached.ended_executions = open_executions, ended_executions
    world.runtime.die(sandbox(session))
    await world.recovered(session.session_id, 2)


class ExecutorsDoneAtOnce(PromptExecutors):
    """An ephemeral session's execution is over before the attach is answered, or right after."""

    runtime: MemoryRuntime
    answer: asyncio.Event

    async def arrival(self, session: Attached) -> None:
        for session_id, attached in self.sessions.items():
            attached.ended_executions = 1
            self.runtime.die(f"sbx_{session_id.removeprefix('sess_')}-1", exit_code=0)
        await self.answer.wait()


@pytest.mark.parametrize("answered", [True, False])
async def test_an_ephemeral_session_that_is_quicker_than_its_creation_completes(
    make_world: MakeWorld, answered: bool
) -> None:
    executors = ExecutorsDoneAtOnce()
    executors.answer = asyncio.Event()
    if answered:
        executors.answer.set()
    world = await make_world(executors=executors)
    executors.runtime = world.runtime
    world.run_loops()
    session = await world.create(mode=pb.SessionMode.ephemeral)
    assert word(session) in ("running", "completed")
    await world.becomes(session.session_id, "completed")


@pytest.mark.parametrize("sandbox_started", [True, False])
async def test_a_creation_cut_by_a_crash_is_taken_up(
    make_world: MakeWorld, sandbox_started: bool
) -> None:
    executors = AwaitedExecutors()
    world = await make_world(executors=executors)
    session = await world.create(wait=False, key="k")
    await executors.attaching.wait()
    await world.restart()
    assert word(await world.get(session.session_id)) == "creating"
    if not sandbox_started:
        await world.runtime.stop(sandbox(session))
    executors.come.set()
    world.run_loops()

    await world.becomes(session.session_id, "running")
    assert list(world.runtime.sandboxes) == [sandbox(session)]
    assert (await world.create(key="k")).session_id == session.session_id


async def test_a_recovery_cut_by_a_crash_is_taken_up(make_world: MakeWorld) -> None:
    executors = AwaitedExecutors()
    executors.come.set()
    world = await make_world(executors=executors)
    session = await world.create()
    executors.come.clear()
    executors.attaching.clear()
    world.runtime.die(sandbox(session))
    await world.reconciler.reconcile()
    await executors.attaching.wait()
    # The binding to the new sandbox was lost too: exec_svc still names the old one.
    executors.sessions[session.session_id].sandbox_id = sandbox(session)
    await world.restart()
    executors.come.set()
    await world.reconciler.reconcile()
    world.clock.advance(30)

    async def running() -> bool:
        world.clock.advance(30)
        return executors.sessions[session.session_id].sandbox_id == sandbox(session, 3)

    await eventually(running)
    await world.recovered(session.session_id, 3)
    assert list(world.runtime.sandboxes) == [sandbox(session, 3)]


async def test_sandboxes_that_no_session_owns_are_removed(world: World) -> None:
    session = await world.create()
    spec = only(world.runtime.specs)
    for session_id, generation in (("sess_" + "0" * 16, 1), (session.session_id, 2)):
        name = f"sbx_{session_id.removeprefix('sess_')}-{generation}"
        await world.runtime.start(
            replace(spec, sandbox_id=name, session_id=session_id, generation=generation)
        )
    await world.reconciler.reconcile()
    assert list(world.runtime.sandboxes) == [sandbox(session)]


async def test_health_names_what_does_not_answer(world: World) -> None:
    answer = await world.health.Check(health_pb2.CheckRequest())
    assert answer.status == "ok"

    await world.exec_svc.stop_serving()
    error = await refusal(world.health.Check(health_pb2.CheckRequest()))
    assert isinstance(error, ServiceUnavailable)
    assert error.detail == "exec_svc does not answer its health check"

    await world.scheduler_svc.stop_serving()
    error = await refusal(world.health.Check(health_pb2.CheckRequest()))
    assert error.detail == "scheduler_svc does not answer its health check"
