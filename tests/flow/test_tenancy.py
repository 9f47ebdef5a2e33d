"""Tokens, domains, quotas and the audit log on a running stack."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sandbox_rpc.tokens import Quotas, new_token

from cli import tokens
from tests.flow.stack import Stack
from tests.support import PATIENCE

EXECUTE = {"language": "python", "code": "planted = 'code-secret'", "env_vars": {"A": "env-secret"}}
# One read of each service.
READS = ["/sessions", "/executions/exec_20260101_aaaaaaaa", "/containers/none"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One for all: each test has tokens and a domain of its own."""
    place = Path(tempfile.mkdtemp(prefix="sbx"))
    place.chmod(0o711)
    made = Stack(place / "data")
    made.sandbox("up")
    yield made
    made.sandbox("down")
    shutil.rmtree(place)


class User:
    """Somebody with a token."""

    def __init__(self, stack: Stack, token: str, domain: str | None = None) -> None:
        headers = {"authorization": f"Bearer {token}"}
        if domain is not None:
            headers["x-business-domain"] = domain
        url = f"http://127.0.0.1:{stack.port}"
        self._http = httpx.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False)

    def __enter__(self) -> User:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> int:
        return self._http.get(f"/api/v1{path}").status_code

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self._http.post(f"/api/v1{path}", json=body)

    def delete(self, path: str) -> int:
        return self._http.delete(f"/api/v1{path}").status_code

    def create(self, **fields: Any) -> httpx.Response:
        return self.post("/sessions", {"template_id": "python-basic", **fields})


def create(stack: Stack, *options: str) -> tuple[str, str]:
    """(token, its id)"""
    made = json.loads(stack.sandbox("token", "create", "test", *options, "--json"))
    return made["token"], made["id"]


def test_a_token_counts_at_once_and_so_does_its_end(stack: Stack) -> None:
    token, token_id = create(stack)
    with User(stack, token) as user:
        assert [user.get(path) for path in READS] == [200, 404, 404]
        stack.sandbox("token", "revoke", token_id)
        # Each service's first call after it; nothing waits here.
        assert [user.get(path) for path in READS] == [401, 401, 401]
        assert user.create().status_code == 401


def test_an_expired_token_is_no_better_than_none(stack: Stack) -> None:
    token = new_token()
    tokens.create(
        stack.places.tokens,
        "expired",
        role="user",
        domains=frozenset({"default"}),
        quotas=Quotas(),
        lifetime=timedelta(seconds=-1),
        token=token,
    )
    with User(stack, token) as user:
        assert [user.get(path) for path in READS] == [401, 401, 401]


def test_a_domain_that_is_not_the_tokens_is_403(stack: Stack) -> None:
    token, _ = create(stack, "--domain", "acme")
    with User(stack, token, "acme") as here, User(stack, token, "other") as elsewhere:
        assert [here.get(path) for path in READS] == [200, 404, 404]
        assert [elsewhere.get(path) for path in READS] == [403, 403, 403]
        assert elsewhere.create().status_code == 403


def test_admins_only(stack: Stack) -> None:
    token, _ = create(stack)
    with User(stack, token) as user:
        assert user.get("/templates") == 200
        assert user.post("/templates", {"id": "mine"}).status_code == 403
        assert user.delete("/templates/python-basic") == 403
    admin, _ = create(stack, "--role", "admin")
    with User(stack, admin, "any") as user:
        assert user.delete("/templates/none") == 404


def test_live_sessions_are_limited(stack: Stack) -> None:
    token, _ = create(stack, "--live-sessions", "1")
    with User(stack, token) as user:
        session = user.create(timeout=120).json()["session_id"]
        refused = user.create()
        assert refused.status_code == 503
        assert refused.json()["error_code"] == "Sandbox.TooManyRequestsExection"
        assert "at most 1 live sessions" in refused.json()["error_detail"]
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert user.delete(f"/sessions/{session}") == 204
        again = user.create()
        assert again.status_code == 201
        user.delete(f"/sessions/{again.json()['session_id']}")


def test_executions_per_minute_are_limited(stack: Stack) -> None:
    token, _ = create(stack, "--executions-per-minute", "2")
    with User(stack, token) as user:
        path = f"/sessions/{user.create().json()['session_id']}"
        answers = [user.post(f"{path}/execute", EXECUTE) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 503]
        assert "at most 2 executions per minute" in answers[2].json()["error_detail"]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 60
        user.delete(path)


def test_the_audit_log_says_who_did_what(stack: Stack) -> None:
    token, token_id = create(stack, "--domain", "audited")
    with User(stack, token, "audited") as user, User(stack, token, "other") as stray:
        created = user.create(env_vars={"A": "env-secret"})
        session = created.json()["session_id"]
        ran = user.post(f"/sessions/{session}/execute?wait=60", EXECUTE).json()
        user.get(f"/sessions/{session}")
        user.get("/executions/exec_20260101_aaaaaaaa")
        stray.create()
        user.delete(f"/sessions/{session}")

    text = stack.sandbox("logs", "audit", "-n", "10000")
    lines = [json.loads(line) for line in text.splitlines()]
    mine = [line for line in lines if line["principal"] == token_id]
    assert [(line["method"].rpartition("/")[2], line["outcome"]) for line in mine] == [
        ("CreateSession", "allowed"),
        ("ExecuteJson", "allowed"),
        ("GetExecutionJson", "refused"),
        ("CreateSession", "refused"),
        ("DeleteSession", "allowed"),
    ]
    assert mine[0]["request_id"] == created.headers["x-request-id"]
    assert mine[0]["ids"]["session_id"] == session
    assert mine[1]["ids"] == {"session_id": session, "execution_id": ran["execution_id"]}
    assert mine[2]["error_code"] == "Sandbox.ExecutionNotFound"
    assert (mine[3]["domain"], mine[3]["error_code"]) == ("other", "Sandbox.Forbidden")
    secrets = (token, "env-secret", "code-secret", stack.places.token.read_text().strip())
    assert not [secret for secret in secrets if secret in text]
    assert "CreateSession" not in stack.sandbox("logs", "session_svc")
