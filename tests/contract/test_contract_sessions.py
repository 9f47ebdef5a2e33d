"""The contract of sessions, a row for each rule."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.contract.callers import Rest

ALWAYS = {
    *("session_id", "template_id", "mode", "status", "runtime_type", "workspace_path"),
    *("resources", "env_vars", "metadata", "timeout"),
    *("created_at", "updated_at", "last_activity_at", "expires_at"),
}
PERHAPS = {"status_reason", "runtime_node", "container_id", "pod_name", "dependencies"}


def moment(text: str) -> datetime:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text)
    return datetime.fromisoformat(text)


def test_a_created_session_is_running_and_has_every_field(rest: Rest) -> None:
    answer = rest.call("POST", "/sessions", json={"template_id": "python-basic"})

    assert answer.status_code == 201
    session = answer.json()
    assert answer.headers["location"] == f"/api/v1/sessions/{session['session_id']}"
    assert set(session) - PERHAPS == ALWAYS
    assert re.fullmatch(r"sess_[a-z0-9]{16}", session["session_id"])
    assert session["status"] == "running"
    assert session["mode"] == "persistent"
    assert session["timeout"] == 300
    assert session["runtime_type"] == "process"
    assert (session["env_vars"], session["metadata"]) == ({}, {})
    assert sorted(session["resources"]) == ["cpu", "disk", "max_processes", "memory"]
    assert session["resources"]["max_processes"] == 128
    expires = moment(session["last_activity_at"]) + timedelta(seconds=300)
    assert abs(moment(session["expires_at"]) - expires) < timedelta(milliseconds=1)
    assert abs(moment(session["created_at"]) - datetime.now(UTC)) < timedelta(minutes=5)
    again = rest.call("GET", f"/sessions/{session['session_id']}").json()
    assert again == session | {"updated_at": again["updated_at"]}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({"mode": "ephemeral"}, {"mode": "ephemeral"}),
        ({"mode": "persistent", "timeout": 60}, {"mode": "persistent", "timeout": 60}),
        ({"env_vars": {"A": "1", "_b": ""}}, {"env_vars": {"A": "1", "_b": ""}}),
        ({"metadata": {"ä": "ü"}}, {"metadata": {"ä": "ü"}}),
        ({"runtime_type": "process"}, {"runtime_type": "process"}),
        ({"unknown": 1}, {"timeout": 300}),
    ],
    ids=str,
)
def test_what_is_asked_is_given(rest: Rest, asked: dict[str, Any], given: dict[str, Any]) -> None:
    session = rest.session(**asked)

    assert {name: session[name] for name in given} == given


@pytest.mark.parametrize(
    "asked",
    [{"memory": "256Mi"}, {"cpu": "0.5"}, {"disk": "2Gi"}, {"max_processes": 64}],
    ids=str,
)
def test_resources_that_are_not_asked_are_the_templates(rest: Rest, asked: dict[str, Any]) -> None:
    defaults = rest.session()["resources"]

    assert rest.session(resources=asked)["resources"] == defaults | asked


def test_without_waiting_it_is_creating_and_takes_work(rest: Rest) -> None:
    body = {"template_id": "python-basic"}
    answer = rest.call("POST", "/sessions?wait=false", json=body)

    assert answer.status_code == 201
    assert answer.json()["status"] == "creating"
    assert rest.execute(answer.json()["session_id"], event={"n": 1})["return_value"] == {"n": 1}


def test_a_list_is_newest_first_and_counts_all(rest: Rest) -> None:
    made = [
        rest.call("POST", "/sessions?wait=false", json={"template_id": "python-basic"}).json()
        for _ in range(3)
    ]
    ids = [session["session_id"] for session in reversed(made)]

    def page(**query: Any) -> tuple[list[str], int]:
        body = rest.call("GET", "/sessions", params=query).json()
        assert sorted(body) == ["sessions", "total"]
        return [session["session_id"] for session in body["sessions"]], body["total"]

    assert page() == (ids, 3)
    assert page(limit=2) == (ids[:2], 3)
    assert page(limit=2, offset=2) == (ids[2:], 3)
    assert page(offset=3) == ([], 3)
    assert page(template_id="python-basic") == (ids, 3)
    assert page(template_id="python-datascience") == ([], 0)
    rest.call("DELETE", f"/sessions/{ids[0]}")
    assert page(status="terminated") == ([ids[0]], 1)
    assert page(status="failed") == ([], 0)


def test_a_deleted_session_is_terminated_and_deleting_again_succeeds(rest: Rest) -> None:
    session = rest.session()["session_id"]
    running = rest.submit(session, "import time\ntime.sleep(600)\n")

    for _ in range(2):
        answer = rest.call("DELETE", f"/sessions/{session}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert "content-type" not in answer.headers

    assert rest.call("GET", f"/sessions/{session}").json()["status"] == "terminated"
    assert rest.call("GET", f"/executions/{running}/status").json()["status"] == "failed"
    body = {"code": "1", "language": "python"}
    answer = rest.call("POST", f"/sessions/{session}/execute", json=body)
    assert (answer.status_code, answer.json()["error_code"]) == (409, "Sandbox.StateConflict")


def test_an_ephemeral_session_has_one_execution(rest: Rest) -> None:
    session = rest.session(mode="ephemeral")["session_id"]
    rest.execute(session)

    body = {"code": "1", "language": "python"}
    answer = rest.call("POST", f"/sessions/{session}/execute", json=body)

    assert (answer.status_code, answer.json()["error_code"]) == (409, "Sandbox.StateConflict")


def test_environment_reaches_every_execution(rest: Rest) -> None:
    session = rest.session(env_vars={"A": "session", "B": "session"})["session_id"]
    code = "import os\ndef handler(event):\n    return [os.environ['A'], os.environ['B']]\n"

    assert rest.execute(session, code)["return_value"] == ["session", "session"]
    result = rest.execute(session, code, env_vars={"B": "execution"})
    assert result["return_value"] == ["session", "execution"]


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/sessions/{session}"),
        ("DELETE", "/sessions/{session}"),
        ("GET", "/sessions/{session}/executions"),
        ("POST", "/sessions/{session}/execute"),
        ("GET", "/executions/{execution}"),
        ("GET", "/executions/{execution}/status"),
        ("GET", "/executions/{execution}/result"),
        ("GET", "/executions/{execution}/events"),
        ("POST", "/executions/{execution}/cancel"),
    ],
)
def test_a_foreign_id_is_answered_like_a_random_one(
    shared: tuple[Rest, str], rest: Rest, verb: str, path: str
) -> None:
    owner, session = shared
    ids = {"session": session, "execution": owner.submit(session, "print('mine')")}
    randoms = {"session": "sess_zzzzzzzzzzzzzzzz", "execution": "exec_20200101_zzzzzzzz"}
    body = {"code": "1", "language": "python"} if verb == "POST" else None

    foreign = rest.call(verb, path.format(**ids), json=body)
    random = rest.call(verb, path.format(**randoms), json=body)

    assert foreign.status_code == random.status_code == 404
    told = [answer.json() for answer in (foreign, random)]
    for each, named in zip(told, (ids, randoms), strict=True):
        for value in named.values():
            each["error_detail"] = each["error_detail"].replace(value, "ID")
    assert told[0] == told[1]
