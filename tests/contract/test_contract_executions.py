"""The contract of executions, a row for each rule."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.contract.callers import CODE, Rest
from tests.contract.test_contract_sessions import moment

RESULT = {
    *("execution_id", "status", "stdout", "stderr", "stdout_truncated", "stderr_truncated"),
    *("exit_code", "execution_time", "return_value", "error", "metrics", "artifacts", "attempt"),
}
METRICS = {
    *("duration_ms", "cpu_time_ms", "peak_memory_mb"),
    *("io_read_bytes", "io_write_bytes", "queue_ms"),
}
SUBMISSION = ["execution_id", "session_id", "status", "submitted_at"]


def handler(expression: str) -> str:
    return f"def handler(event):\n    return {expression}\n"


def test_execute_answers_at_once(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    body = {"code": CODE, "language": "python"}

    answer = rest.call("POST", f"/sessions/{session}/execute", json=body)

    assert answer.status_code == 200
    assert sorted(answer.json()) == SUBMISSION
    assert answer.json()["status"] == "submitted"
    assert answer.json()["session_id"] == session
    assert re.fullmatch(r"exec_\d{8}_[a-z0-9]{8}", answer.json()["execution_id"])
    accepted = moment(answer.json()["submitted_at"])
    assert answer.json()["execution_id"].split("_")[1] == f"{accepted:%Y%m%d}"


def test_a_wait_that_is_too_short_answers_where_it_stands(rest: Rest) -> None:
    session = rest.session()["session_id"]
    body = {"code": "import time\ntime.sleep(600)\n", "language": "python", "timeout": 900}

    answer = rest.call("POST", f"/sessions/{session}/execute?wait=1", json=body)

    assert answer.status_code == 200
    assert sorted(answer.json()) == SUBMISSION
    assert answer.json()["status"] in ("pending", "running")
    path = f"/executions/{answer.json()['execution_id']}"
    assert rest.call("GET", f"{path}/result").status_code == 409
    assert rest.call("GET", f"{path}/result?wait=1").status_code == 409
    detail = rest.call("GET", path).json()
    assert detail["result"] is None

    cancelled = rest.call("POST", f"{path}/cancel")

    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "failed")
    result = rest.call("GET", f"{path}/result").json()
    assert result["status"] == "failed"
    assert "cancelled" in result["error"]["message"]
    again = rest.call("POST", f"{path}/cancel").json()
    assert again == cancelled.json()


def test_a_result_has_every_field(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n" + handler("event['n'] + 1")

    result = rest.execute(session, code, event={"n": 1})

    assert set(result) == RESULT
    assert set(result["metrics"]) == METRICS
    assert all(isinstance(value, int | float) for value in result["metrics"].values())
    assert result["status"] == "success"
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")
    assert (result["stdout_truncated"], result["stderr_truncated"]) == (False, False)
    assert (result["exit_code"], result["attempt"], result["return_value"]) == (0, 1, 2)
    assert result["error"] is None
    assert result["artifacts"] == []
    path = f"/executions/{result['execution_id']}"
    assert rest.call("GET", f"{path}/result").json() == result
    assert rest.call("GET", f"{path}/result?wait=5").json() == result
    status = rest.call("GET", f"{path}/status").json()
    assert sorted(status) == [
        *("completed_at", "created_at", "execution_id"),
        *("session_id", "started_at", "status"),
    ]
    assert status["status"] == "completed"
    assert moment(status["created_at"]) <= moment(status["completed_at"])
    detail = rest.call("GET", path).json()
    assert set(detail) == {*status, "language", "timeout", "attempt", "code", "event", "result"}
    assert (detail["code"], detail["event"], detail["result"]) == (code, {"n": 1}, result)
    assert (detail["language"], detail["timeout"]) == ("python", 30)


EXACT = [
    '{"n": 9223372036854775808}',
    '{"n": -123456789012345678901234567890}',
    '{"z": 1, "a": {"y": [], "b": null}}',
    '{"f": 0.1, "g": 1e-7, "t": true}',
    '{"s": "\\u00e9\\ud83d\\ude00 \\u0000 \\"", "": ""}',
    '{"deep": [[[[[[[[[[{"a": [1, [2, [3]]]}]]]]]]]]]]}',
]


@pytest.mark.parametrize("text", EXACT)
def test_json_comes_out_as_it_went_in(shared: tuple[Rest, str], text: str) -> None:
    rest, session = shared
    body = f'{{"code": {json.dumps(CODE)}, "language": "python", "event": {text}}}'

    answer = rest.call("POST", f"/sessions/{session}/execute?wait=60", content=body.encode())

    value = answer.json()["return_value"]
    assert json.dumps(value) == json.dumps(json.loads(text))
    detail = rest.call("GET", f"/executions/{answer.json()['execution_id']}")
    assert text in detail.text


def test_a_return_value_may_be_any_json(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    for expression in ("None", "0", "2**63", "-1.5", "''", "[]", "{}", "'\\x00'", "[1, [None]]"):
        result = rest.execute(session, handler(expression))
        assert result["return_value"] == eval(expression), expression  # noqa: S307  # ours


# language, code, options, status, exit code, return value, error code
OUTCOMES: list[tuple[str, str, dict[str, Any], str, int, Any, str | None]] = [
    ("python", "print('a script')", {}, "success", 0, None, None),
    ("python", "raise SystemExit(3)", {}, "failed", 3, None, "Sandbox.ExecException"),
    ("python", "1 / 0", {}, "failed", 1, None, "Sandbox.ExecException"),
    ("python", handler("1 / 0"), {}, "failed", 1, None, "Sandbox.ExecException"),
    ("python", handler("object()"), {}, "failed", 1, None, "Sandbox.ExecException"),
    ("python", "def f(:", {}, "failed", 1, None, "Sandbox.ExecException"),
    ("python", "while True: pass", {"timeout": 1}, "timeout", 137, None, "Sandbox.ExecTimeout"),
    ("javascript", "exports.handler = (event) => event.n * 2", {}, "success", 0, 4, None),
    ("javascript", "exports.handler = async (e) => [e.n]", {}, "success", 0, [2], None),
    ("javascript", "throw new Error('x')", {}, "failed", 1, None, "Sandbox.ExecException"),
    ("shell", 'test "$EVENT_JSON" = "$(cat)"', {}, "success", 0, None, None),
    ("shell", "exit 4", {}, "failed", 4, None, "Sandbox.ExecException"),
]


@pytest.mark.parametrize(
    ("language", "code", "options", "status", "exit_code", "value", "error"),
    OUTCOMES,
    ids=[f"{row[0]} {row[1][:30]}" for row in OUTCOMES],
)
def test_outcome(
    shared: tuple[Rest, str],
    language: str,
    code: str,
    options: dict[str, Any],
    status: str,
    exit_code: int,
    value: Any,
    error: str | None,
) -> None:
    rest, session = shared

    result = rest.execute(session, code, language=language, event={"n": 2}, **options)

    assert (result["status"], result["exit_code"]) == (status, exit_code), result
    assert result["return_value"] == value
    if error is None:
        assert result["error"] is None
    else:
        assert sorted(result["error"]) == ["error_code", "message", "traceback"]
        assert result["error"]["error_code"] == error
        assert result["error"]["message"]
    assert result["attempt"] == 1


def test_stdin_reaches_the_program(shared: tuple[Rest, str]) -> None:
    rest, session = shared

    result = rest.execute(session, "print(input()[::-1])", stdin="abc\n")

    assert result["stdout"] == "cba\n"


def test_output_over_its_limit_is_cut_and_says_so(shared: tuple[Rest, str]) -> None:
    rest, session = shared

    result = rest.execute(session, "print('x' * (10 * 1024 * 1024 + 1))")

    assert len(result["stdout"]) == 10 * 1024 * 1024
    assert (result["stdout_truncated"], result["stderr_truncated"]) == (True, False)


def test_bytes_that_are_no_text_are_replaced(shared: tuple[Rest, str]) -> None:
    rest, session = shared

    result = rest.execute(session, r"import os; os.write(1, b'a\xff\x00b')")

    assert result["stdout"] == "a\ufffd\x00b"


def test_artifacts_are_what_it_made(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    code = (
        "import pathlib\n"
        "for name in ('made.txt', 'sub/made.txt', '.hidden'):\n"
        "    path = pathlib.Path(name)\n"
        "    path.parent.mkdir(exist_ok=True)\n"
        "    path.write_text('x')\n"
    )

    assert rest.execute(session, code)["artifacts"] == ["made.txt", "sub/made.txt"]
    assert rest.execute(session, "print(open('made.txt').read())")["artifacts"] == []


def test_code_is_not_in_the_workspace(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    found = "import subprocess\ndef handler(event):\n    return subprocess.run(['grep', '-rl', "
    found += "'un' + 'ique-marker', '/workspace'], capture_output=True, text=True).stdout\n"

    assert rest.execute(session, found + "# unique-marker")["return_value"] == ""


def test_a_list_is_newest_first_and_counts_all(rest: Rest) -> None:
    session = rest.session()["session_id"]
    ids = [rest.execute(session, code)["execution_id"] for code in ("1", "2", "1 / 0")]
    ids.reverse()

    def page(**query: Any) -> tuple[list[str], int]:
        answer = rest.call("GET", f"/sessions/{session}/executions", params=query).json()
        assert sorted(answer) == ["executions", "total"]
        return [each["execution_id"] for each in answer["executions"]], answer["total"]

    assert page() == (ids, 3)
    assert page(limit=1, offset=1) == (ids[1:2], 3)
    assert page(status="completed") == (ids[1:], 2)
    assert page(status="failed") == (ids[:1], 1)
    assert page(status="pending") == ([], 0)


def test_a_full_queue_is_503_and_says_when_to_come_again(rest: Rest) -> None:
    session = rest.session()["session_id"]
    body = {"code": "import time\ntime.sleep(600)", "language": "python", "timeout": 900}

    answers = [rest.call("POST", f"/sessions/{session}/execute", json=body) for _ in range(30)]

    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert answers[0].status_code == 200
    for answer in refused:
        assert answer.json()["error_code"] == "Sandbox.TooManyRequestsExection"
        assert "at most" in answer.json()["error_detail"]
        assert int(answer.headers["retry-after"]) >= 1
    rest.call("DELETE", f"/sessions/{session}")
