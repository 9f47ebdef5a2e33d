"""`sandbox run`: what it prints where, and the exit code, against scripted answers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from tests.unit.scripted import Scripted, event

SESSION = '{"session_id": "sess_0123456789abcdef", "status": "running"}'
SUBMITTED = '{"execution_id": "exec_20250101_abcdefgh", "status": "submitted"}'


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    made = Scripted()
    monkeypatch.setenv("SANDBOX_URL", made.url)
    monkeypatch.setenv("SANDBOX_TOKEN", "secret-token")
    monkeypatch.chdir(tmp_path)
    yield made
    made.close()


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text("print('hello')")
    return str(path)


def result(**fields: Any) -> dict[str, Any]:
    plain = {"status": "success", "exit_code": 0, "return_value": None, "error": None}
    return plain | fields


def accept(server: Scripted, *events: str) -> None:
    server.json(201, SESSION)
    server.json(200, SUBMITTED)
    server.stream(*events)


def bodies(server: Scripted) -> list[Any]:
    return [json.loads(request.body) for request in server.requests if request.body]


def test_output_goes_where_the_program_wrote_it(
    server: Scripted, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(
        server,
        event(1, "stdout", {"data": "out\n"}),
        event(2, "stderr", {"data": "err\n"}),
        event(3, "result", result(return_value={"n": 2**63})),
    )
    assert main(["run", program, "--event", '{"n": 18446744073709551616}', "--timeout", "7"]) == 0
    output = capsys.readouterr()
    assert output.out == 'out\n{"n": 9223372036854775808}\n'
    assert output.err == "err\n"
    session, execution = bodies(server)
    assert session == {"template_id": "python-basic", "mode": "ephemeral"}
    assert execution == {
        "code": "print('hello')",
        "language": "python",
        "event": {"n": 2**64},
        "timeout": 7,
    }


def test_the_value_starts_a_line_of_its_own(
    server: Scripted, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    accept(
        server,
        event(1, "stdout", {"data": "no newline"}),
        event(2, "result", result(return_value=[1])),
    )
    assert main(["run", program]) == 0
    assert capsys.readouterr().out == "no newline\n[1]\n"


def test_the_exit_code_is_the_programs(server: Scripted, program: str) -> None:
    accept(server, event(1, "result", result(status="failed", exit_code=7)))
    assert main(["run", program]) == 7


def test_a_failure_never_exits_with_0(server: Scripted, program: str) -> None:
    accept(server, event(1, "result", result(status="failed", exit_code=0)))
    assert main(["run", program]) == 1


@pytest.mark.parametrize("shown", ["", "Trace\nboom\n"])
def test_an_exception_is_told_once(
    server: Scripted, program: str, capsys: pytest.CaptureFixture[str], shown: str
) -> None:
    error = {"error_code": "Sandbox.ExecException", "message": "boom", "traceback": "Trace\nboom"}
    accept(
        server,
        event(1, "stderr", {"data": shown}),
        event(2, "result", result(status="failed", exit_code=1, error=error)),
    )
    assert main(["run", program]) == 1
    assert capsys.readouterr().err == "Trace\nboom\n"


def test_an_end_without_a_traceback_is_told(
    server: Scripted, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"error_code": "Sandbox.ExecTimeout", "message": "it took too long", "traceback": ""}
    accept(
        server,
        event(1, "stderr", {"data": "unended"}),
        event(2, "result", result(status="timeout", exit_code=137, error=error)),
    )
    assert main(["run", program]) == 137
    assert capsys.readouterr().err == "unended\nsandbox: it took too long\n"


def test_json_prints_the_whole_result_and_nothing_else(
    server: Scripted, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = result(stdout="out\n", return_value=2**70, attempt=1)
    accept(server, event(1, "stdout", {"data": "out\n"}), event(2, "result", whole))
    assert main(["run", program, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == whole


def test_a_refusal_is_125_and_ends_the_session(
    server: Scripted, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.json(201, SESSION)
    server.json(
        400, '{"error_code": "Sandbox.InvalidParameter", "description": "Invalid parameter"}'
    )
    server.json(204, "")
    assert main(["run", program, "--timeout", "99999"]) == 125
    assert "Invalid parameter" in capsys.readouterr().err
    assert server.requests[-1].method == "DELETE"
    assert server.requests[-1].path == "/api/v1/sessions/sess_0123456789abcdef"


def test_a_sandbox_that_does_not_start_is_125(
    server: Scripted, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.json(201, '{"session_id": "s", "status": "failed", "status_reason": "no bwrap"}')
    assert main(["run", program]) == 125
    assert "no bwrap" in capsys.readouterr().err


def test_a_given_session_is_used_and_kept(server: Scripted, program: str) -> None:
    server.json(200, SUBMITTED)
    server.stream(event(1, "result", result()))
    assert main(["run", program, "--session", "sess_x"]) == 0
    assert [request.path for request in server.requests] == [
        "/api/v1/sessions/sess_x/execute",
        "/api/v1/executions/exec_20250101_abcdefgh/events",
    ]


def test_standard_input_holds_the_code(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("exports.handler = () => 1"))
    accept(server, event(1, "result", result()))
    assert main(["run", "-", "--language", "javascript"]) == 0
    assert bodies(server)[1]["code"] == "exports.handler = () => 1"
    assert bodies(server)[1]["language"] == "javascript"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["program.txt"], "--language"),
        (["absent.py"], "cannot read 'absent.py'"),
        (["program.py", "--event", "[1]"], "must be a JSON object"),
        (["program.py", "--event", "{"], "--event is not JSON"),
        (["program.py", "--event", '{"x": NaN}'], "--event is not JSON"),
    ],
)
def test_a_bad_argument_is_named_before_anything_is_sent(
    server: Scripted,
    program: str,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert main(["run", *arguments]) == 125
    assert words in capsys.readouterr().err
    assert server.requests == []


def test_without_a_stack_it_says_how_to_start_one(
    program: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SANDBOX_TOKEN", raising=False)
    assert main(["run", program, "--data-dir", str(tmp_path / "none")]) == 125
    assert "sandbox up" in capsys.readouterr().err
