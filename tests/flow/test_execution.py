"""exec_svc and a real executor: from Execute to the result, and what languages promise."""

from __future__ import annotations

import asyncio
import json

import grpc
import grpc.aio
import pytest
from sandbox.execution.v1 import execution_pb2 as pb

from tests.flow.execution import ExecService

PYTHON, JAVASCRIPT, SHELL = pb.Language.python, pb.Language.javascript, pb.Language.shell
SUCCESS, FAILED, TIMEOUT = pb.ResultStatus.success, pb.ResultStatus.failed, pb.ResultStatus.timeout


async def test_a_handler_gets_its_event_and_returns_a_value_exactly(
    exec_service: ExecService,
) -> None:
    session = await exec_service.ready_session("a")
    event = '{"z": 1, "a": [9007199254740993, 1e400, "\\u00e9é", {"deep": null}]}'
    code = (
        "def handler(event):\n    print('seen')\n    return {'back': event['a'][0], 'big': 2**63}"
    )
    result = await exec_service.run(session, code, event_json=event.encode())
    assert result.status == SUCCESS
    assert result.return_value_json == b'{"back": 9007199254740993, "big": 9223372036854775808}'
    assert result.stdout == b"seen\n"
    assert (result.exit_code, result.attempt) == (0, 1)
    assert result.metrics.peak_memory_mb > 1


@pytest.mark.parametrize(
    ("language", "code", "status", "exit_code", "value", "message"),
    [
        (PYTHON, "print('a script')", SUCCESS, 0, None, None),
        (PYTHON, "import sys; sys.exit(3)", FAILED, 3, None, "exited with code 3"),
        (PYTHON, "import sys; sys.exit(0)", SUCCESS, 0, None, None),
        (PYTHON, "def handler(e): raise SystemExit(0)", FAILED, 0, None, "handler exited"),
        (PYTHON, "import os; os._exit(0)", FAILED, 0, None, "without a result"),
        (PYTHON, "import os; os.abort()", FAILED, 134, None, "SIGABRT"),
        (PYTHON, "def handler(e): return 1 / 0", FAILED, 1, None, "ZeroDivisionError"),
        (PYTHON, "def handler(e): return float('nan')", FAILED, 1, None, "not JSON"),
        (PYTHON, "def handler(e): return {1, 2}", FAILED, 1, None, "not JSON"),
        (PYTHON, "async def handler(e): return e['x']", SUCCESS, 0, b"7", None),
        (PYTHON, "def handler(e: return", FAILED, 1, None, "SyntaxError"),
        (JAVASCRIPT, "exports.handler = async (e) => ({y: e.x})", SUCCESS, 0, b'{"y":7}', None),
        (JAVASCRIPT, "console.log(1)", SUCCESS, 0, None, None),
        (JAVASCRIPT, "exports.handler = () => { throw new Error('no') }", FAILED, 1, None, "no"),
        (JAVASCRIPT, "process.exit(4)", FAILED, 4, None, "code 4"),
        (JAVASCRIPT, "exports.handler = () => { process.exit(0) }", FAILED, 0, None, "without"),
        (SHELL, 'test "$EVENT_JSON" = \'{"x": 7}\'', SUCCESS, 0, None, None),
        (SHELL, "exit 5", FAILED, 5, None, "code 5"),
        (SHELL, "kill -9 $$", FAILED, 137, None, "SIGKILL"),
    ],
)
async def test_every_end_has_its_name(
    exec_service: ExecService,
    language: pb.Language.Value,
    code: str,
    status: pb.ResultStatus.Value,
    exit_code: int,
    value: bytes | None,
    message: str | None,
) -> None:
    session = await exec_service.ready_session("b")
    result = await exec_service.run(session, code, language=language, event_json=b'{"x": 7}')
    assert (result.status, result.exit_code) == (status, exit_code), result
    assert (result.return_value_json if result.HasField("return_value_json") else None) == value
    if message is None:
        assert not result.HasField("error")
    else:
        assert message in result.error.message
        assert result.error.error_code == "Sandbox.ExecException"


async def test_a_traceback_shows_the_users_lines_and_nothing_of_ours(
    exec_service: ExecService,
) -> None:
    session = await exec_service.ready_session("c")
    result = await exec_service.run(session, "def handler(event):\n    return event['missing']\n")
    assert 'File "main.py", line 2, in handler' in result.error.traceback
    assert "event['missing']" in result.error.traceback
    assert "/run/guest" not in result.error.traceback
    assert result.stderr.decode() == result.error.traceback


async def test_time_out_kills_the_whole_tree_and_says_so(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("d")
    code = (
        "import subprocess, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    result = await exec_service.run(session, code, timeout=1)
    assert (result.status, result.exit_code) == (TIMEOUT, 137)
    assert result.error.error_code == "Sandbox.ExecTimeout"
    assert result.stdout == b"up\n"
    assert (await exec_service.run(session, "print(1)")).status == SUCCESS


async def test_environment_stdin_and_workspace(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("e", FROM_SESSION="s", BOTH="session")
    code = (
        "import os, sys, pathlib\n"
        "pathlib.Path('out.txt').write_text('x')\n"
        "pathlib.Path('.hidden').write_text('x')\n"
        "def handler(event):\n"
        "    return [os.environ['FROM_SESSION'], os.environ['BOTH'], sys.stdin.read(),\n"
        "            sorted(os.environ), os.getcwd()]\n"
    )
    result = await exec_service.run(session, code, env_vars={"BOTH": "run"}, stdin=b"typed")
    assert result.status == SUCCESS, result
    value = json.loads(result.return_value_json)
    assert value[:3] == ["s", "run", "typed"]
    assert value[4] == "/workspace"
    assert not [name for name in value[3] if "TOKEN" in name or name.startswith("SANDBOX")]
    assert list(result.artifacts) == ["out.txt"]
    again = await exec_service.run(session, "print(open('out.txt').read())")
    assert (again.stdout, list(again.artifacts)) == (b"x\n", [])


async def test_events_come_in_order_and_resume_anywhere(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("f")
    code = "import sys\nfor i in range(50): print('é' * 7, i, file=(sys.stdout, sys.stderr)[i % 2])"
    execution = await exec_service.submit(session, code)
    events = await exec_service.events(execution)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[0].status.status == pb.ExecutionStatus.running
    assert events[-1].result.status == SUCCESS
    result = await exec_service.result(execution)
    for cut in range(len(events)):
        rest = await exec_service.events(execution, after=cut)
        assert [event.id for event in rest] == [event.id for event in events[cut:]]
    for stream in ("stdout", "stderr"):
        assert b"".join(getattr(event, stream) for event in events) == getattr(result, stream)
    for event in events:
        event.stdout.decode()  # no chunk cuts a character


async def test_one_runs_and_the_others_wait_in_order(exec_service: ExecService) -> None:
    session = await exec_service.session("g")
    append = "open('log', 'a').write('{} ')"
    submitted = [await exec_service.submit(session, append.format(i)) for i in range(5)]
    await exec_service.attach(session, exec_service.executor(session))
    for execution in submitted:
        assert (await exec_service.result(execution)).status == SUCCESS
    assert (await exec_service.run(session, "print(open('log').read())")).stdout == b"0 1 2 3 4 \n"


async def test_a_full_queue_refuses_and_an_ended_session_accepts_nothing(
    exec_service: ExecService,
) -> None:
    session = await exec_service.session("h")
    for _ in range(11):
        await exec_service.submit(session, "print(1)")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await exec_service.submit(session, "print(1)")
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(refused.value.trailing_metadata() or ())["retry-after"] == "1"


async def test_cancel_ends_a_running_and_a_waiting_execution(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("i")
    running = await exec_service.submit(session, "print('up', flush=True)\nwhile True: pass")
    waiting = await exec_service.submit(session, "print('never')")
    await exec_service.said(running, b"up")
    for execution in (waiting, running):
        state = await exec_service.api.CancelExecution(
            pb.CancelExecutionRequest(execution_id=execution), metadata=exec_service.keys.as_user()
        )
        assert state.status == pb.ExecutionStatus.failed
        assert "cancelled" in (await exec_service.result(execution)).error.message
    assert (await exec_service.run(session, "print(2)")).stdout == b"2\n"


async def test_the_same_idempotency_key_makes_one_execution(exec_service: ExecService) -> None:
    session = await exec_service.ready_session("j")
    request = pb.ExecuteRequest(session_id=session, code="print(1)", language=PYTHON)
    metadata = exec_service.keys.as_user(idempotency_key="once")
    answers = await asyncio.gather(
        *(exec_service.api.Execute(request, metadata=metadata) for _ in range(100))
    )
    assert len({answer.execution_id for answer in answers}) == 1
    listed = await exec_service.api.ListExecutions(
        pb.ListExecutionsRequest(session_id=session), metadata=exec_service.keys.as_user()
    )
    assert listed.total == 1
    request.code = "print(2)"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await exec_service.api.Execute(request, metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_an_ephemeral_session_has_one_execution_and_its_executor_leaves(
    exec_service: ExecService,
) -> None:
    session = await exec_service.ready_session("k", ephemeral=True)
    assert (await exec_service.run(session, "print(1)")).status == SUCCESS
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await exec_service.submit(session, "print(1)")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert await asyncio.to_thread(exec_service.executors[0].wait, 60) == 0


@pytest.mark.parametrize("domain", ["default", "other"])
async def test_a_foreign_id_is_the_same_as_none(exec_service: ExecService, domain: str) -> None:
    session = await exec_service.session("l")
    execution = await exec_service.submit(session, "print(1)")
    metadata = exec_service.keys.as_user("other")
    wanted = execution if domain == "other" else "exec_20260101_00000000"
    for call in (
        exec_service.api.GetExecution(
            pb.GetExecutionRequest(execution_id=wanted), metadata=metadata
        ),
        exec_service.api.GetExecutionStatus(
            pb.GetExecutionStatusRequest(execution_id=wanted), metadata=metadata
        ),
        exec_service.api.CancelExecution(
            pb.CancelExecutionRequest(execution_id=wanted), metadata=metadata
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
