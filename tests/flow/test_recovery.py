"""What an execution comes to when a part of its path dies: never lost, never twice unsaid."""

from __future__ import annotations

import signal

import grpc
import grpc.aio
import pytest
from sandbox.execution.v1 import attachment_pb2
from sandbox.execution.v1 import execution_pb2 as pb

from executor.bwrap import Tools
from tests.flow.execution import ExecService
from tests.support import eventually

# Runs until the test lets it go on, and leaves a mark each time it is started.
HELD = (
    "import os, time\n"
    "open('starts', 'a').write('x')\n"
    "print('up', flush=True)\n"
    "while not os.path.exists('go'): time.sleep(0.01)\n"
    "print('done')\n"
    "def handler(event): return open('starts').read()\n"
)


def let_go(service: ExecService, session: str) -> None:
    (service.place / session / "go").touch()


async def test_exec_svc_dies_while_code_runs_and_the_result_arrives(
    exec_service: ExecService,
) -> None:
    session = await exec_service.ready_session("a")
    execution = await exec_service.submit(session, HELD)
    await exec_service.said(execution, b"up")
    await exec_service.crash()
    let_go(exec_service, session)  # it may well end while nobody listens
    await exec_service.start()
    result = await exec_service.result(execution)
    assert (result.status, result.attempt) == (pb.ResultStatus.success, 1)
    assert result.return_value_json == b'"x"'  # started once
    assert result.stdout == b"up\ndone\n"


async def test_what_was_accepted_before_a_crash_runs_after_it(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("b")
    running = await exec_service.submit(session, HELD)
    await exec_service.said(running, b"up")
    waiting = [await exec_service.submit(session, f"print({i})") for i in range(3)]
    await exec_service.crash()
    await exec_service.start()
    let_go(exec_service, session)
    for i, execution in enumerate(waiting):
        assert (await exec_service.result(execution)).stdout == b"%d\n" % i


async def test_a_killed_executor_is_a_crash_and_its_work_a_second_attempt(
    exec_service: ExecService,
) -> None:
    session = await exec_service.ready_session("c")
    execution = await exec_service.submit(session, HELD)
    await exec_service.said(execution, b"up")
    exec_service.executors[0].send_signal(signal.SIGKILL)
    exec_service.executors[0].wait()
    await exec_service.attach(session, exec_service.executor(session, generation=2))
    assert (await exec_service.state(execution)).status in (
        pb.ExecutionStatus.crashed,
        pb.ExecutionStatus.running,
    )
    let_go(exec_service, session)
    result = await exec_service.result(execution)
    assert (result.status, result.attempt) == (pb.ResultStatus.success, 2)
    assert result.return_value_json == b'"xx"'
    assert result.stdout == b"up\ndone\n"  # of the attempt that counts
    statuses = [
        pb.ExecutionStatus.Value.Name(event.status.status)
        for event in await exec_service.events(execution)
        if event.HasField("status")
    ]
    assert statuses == ["running", "crashed", "running", "completed"]


async def test_the_fourth_crash_is_a_failure(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("d")
    execution = await exec_service.submit(session, HELD)
    for generation in range(2, 6):

        async def runs() -> bool:
            return (await exec_service.state(execution)).status == pb.ExecutionStatus.running

        await eventually(runs)
        exec_service.executors[-1].send_signal(signal.SIGKILL)
        exec_service.executors[-1].wait()
        await exec_service.attach(session, exec_service.executor(session, generation))
    result = await exec_service.result(execution)
    assert (result.status, result.attempt) == (pb.ResultStatus.failed, 4)
    assert "died in each of 4 attempts" in result.error.message


async def test_a_frozen_executor_is_given_up_and_its_late_result_changes_nothing(
    exec_service: ExecService,
) -> None:
    session = await exec_service.ready_session("e")
    execution = await exec_service.submit(session, HELD)
    await exec_service.said(execution, b"up")
    frozen = exec_service.executors[0]
    frozen.send_signal(signal.SIGSTOP)
    # Sixteen seconds without a heartbeat, on the clock that the service goes by.
    for link in exec_service.links._links.values():
        link.last_heard -= 16
    await exec_service.links.check_silence()
    assert (await exec_service.state(execution)).status == pb.ExecutionStatus.crashed
    listed = await exec_service.attachments.ListAttachments(
        attachment_pb2.ListAttachmentsRequest(session_ids=[session]),
        metadata=exec_service.keys.as_service(),
    )
    assert listed.attachments[0].silent_for.seconds >= 15
    await exec_service.attach(session, exec_service.executor(session, generation=2))
    let_go(exec_service, session)
    result = await exec_service.result(execution)
    frozen.send_signal(signal.SIGCONT)
    assert (await exec_service.run(session, "print(1)")).stdout == b"1\n"
    assert await exec_service.result(execution) == result
    assert result.attempt == 2


async def test_a_session_that_ends_fails_what_runs_and_its_executor_leaves(
    exec_service: ExecService,
) -> None:
    session = await exec_service.ready_session("f")
    running = await exec_service.submit(session, HELD)
    waiting = await exec_service.submit(session, "print(1)")
    await exec_service.said(running, b"up")
    await exec_service.detach(session)
    await exec_service.detach(session)  # a repeat changes nothing
    for execution in (running, waiting):
        result = await exec_service.result(execution)
        assert result.status == pb.ResultStatus.failed
        assert result.error.message == "the session was deleted"
    assert exec_service.executors[0].wait(60) == 0
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await exec_service.submit(session, "print(1)")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_where_isolation_cannot_be_had_nothing_runs(exec_service: ExecService) -> None:
    session = await exec_service.session("9")
    execution = await exec_service.submit(session, "open('ran', 'w')")
    forbidden = [
        str(Tools.find().bwrap),
        *("--bind", "/", "/", "--dev-bind", "/dev", "/dev", "--proc", "/proc"),
        *("--unshare-user", "--uid", "1000", "--disable-userns", "--die-with-parent", "--"),
    ]
    sandbox_id = exec_service.executor(session, wrapper=forbidden)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await exec_service.attach(session, sandbox_id)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    trailing = dict(refused.value.trailing_metadata() or ())
    assert b"isolation refused" in trailing["grpc-status-details-bin"]
    assert (await exec_service.state(execution)).status == pb.ExecutionStatus.pending
    assert not (exec_service.place / session / "ran").exists()


@pytest.mark.parametrize("kind", ["user", "service", "other container"])
async def test_only_the_sandboxs_own_token_opens_its_link(
    exec_service: ExecService, kind: str
) -> None:
    from sandbox.executor.v1 import link_pb2, link_pb2_grpc

    metadata = {
        "user": exec_service.keys.as_user(),
        "service": exec_service.keys.as_service(),
        "other container": exec_service.keys.as_container("sbx_other-1"),
    }[kind]
    async with grpc.aio.insecure_channel(exec_service.target) as channel:
        stub = link_pb2_grpc.ExecutorLinkServiceStub(channel)
        call = stub.Connect(metadata=metadata)
        hello = link_pb2.Hello(sandbox_id="sbx_mine-1", boot_id="b")
        await call.write(link_pb2.ConnectRequest(hello=hello))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
