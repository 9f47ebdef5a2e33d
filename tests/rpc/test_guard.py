"""What the server makes of every call: who is let in, under which request id, and the audit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.empty_pb2 import Empty
from sandbox.session.v1 import session_pb2 as pb
from sandbox.session.v1 import session_pb2_grpc
from sandbox_rpc import telemetry
from sandbox_rpc.auth import caller
from sandbox_rpc.errors import (
    Forbidden,
    InvalidParameter,
    NotFound,
    SandboxError,
    Unauthorized,
)
from sandbox_rpc.guard import ANONYMOUS_LINES, AuditLog
from sandbox_rpc.server import Service

from cli import tokens
from tests.rpc.world import refusal
from tests.support import Keys, Platform, eventually

SESSION = "sess_0123456789abcdef"
SERVICE = "sandbox.session.v1.SessionService"
GET = pb.GetSessionRequest(session_id=SESSION)
LIST = pb.ListSessionsRequest()
DELETE = pb.DeleteSessionRequest(session_id=SESSION)
CREATE = pb.CreateSessionRequest(
    session=pb.SessionSpec(template_id="python-basic", env_vars={"KEY": "env-secret"})
)


class Sessions(session_pb2_grpc.SessionServiceServicer):
    """Answers with who asked; `error` is what it raises instead."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.entered = asyncio.Event()
        self.never = asyncio.Event()

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.Session:
        if self.error:
            raise self.error
        call = caller()
        return pb.Session(
            session_id=request.session_id,
            status_reason=call.request_id,
            metadata={"domain": call.domain, "role": call.principal.role},
        )

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Any) -> pb.Session:
        if self.error:
            raise self.error
        telemetry.note(session__id=SESSION, session__status="running", container__id="c-1")
        return pb.Session(session_id=SESSION, template_id=request.session.template_id)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Any) -> Empty:
        self.entered.set()
        await self.never.wait()
        return Empty()

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Any
    ) -> pb.ListSessionsResponse:
        return pb.ListSessionsResponse()


class Door:
    """One service behind the guard, and its audit log."""

    def __init__(self, keys: Keys, audit_file: Path) -> None:
        self.keys = keys
        self.sessions = Sessions()
        self._audit_file = audit_file
        self._platform = Platform(keys, AuditLog(audit_file, "session_svc"))

    async def open(self) -> None:
        def register(server: grpc.aio.Server) -> None:
            session_pb2_grpc.add_SessionServiceServicer_to_server(self.sessions, server)

        service = Service(SERVICE, register, frozenset({"user"}), frozenset({"ListSessions"}))
        channel = self._platform.dial_plainly(await self._platform.serve(service))
        self.channel = channel
        self.stub = session_pb2_grpc.SessionServiceStub(channel)

    async def close(self) -> None:
        await self._platform.close()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._audit_file.read_text().splitlines()]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line


@pytest_asyncio.fixture
async def door(keys: Keys, tmp_path: Path) -> AsyncIterator[Door]:
    made = Door(keys, tmp_path / "audit.log")
    await made.open()
    yield made
    await made.close()


async def test_a_token_is_held_to_its_domains(door: Door, keys: Keys) -> None:
    token = keys.issue(domains=("acme", "b"))
    answer = await door.stub.GetSession(GET, metadata=keys.as_user("acme", token=token))
    assert dict(answer.metadata) == {"domain": "acme", "role": "user"}
    for domain in ("other", None):  # absent means `default`
        call = door.stub.GetSession(GET, metadata=keys.as_user(domain, token=token))
        refused = await refusal(call)
        assert isinstance(refused, Forbidden)
        assert f"'{domain or 'default'}'" in refused.detail


async def test_an_admin_sees_every_domain_by_its_name(door: Door, keys: Keys) -> None:
    token = keys.issue(role="admin", domains=None)
    answer = await door.stub.GetSession(GET, metadata=keys.as_user("any", token=token))
    assert dict(answer.metadata) == {"domain": "any", "role": "admin"}


async def test_what_is_for_admins_is_403_to_users(door: Door, keys: Keys) -> None:
    await door.stub.ListSessions(LIST, metadata=keys.as_user())
    user = keys.as_user(token=keys.issue())
    refused = await refusal(door.stub.ListSessions(LIST, metadata=user))
    assert isinstance(refused, Forbidden)
    assert "'admin'" in refused.detail


async def test_a_revoked_token_is_refused_at_the_next_call(door: Door, keys: Keys) -> None:
    token = keys.issue()
    user = keys.as_user(token=token)
    await door.stub.GetSession(GET, metadata=user)
    tokens.revoke(keys.tokens_file, tokens.known(keys.tokens_file)[-1].id)
    assert isinstance(await refusal(door.stub.GetSession(GET, metadata=user)), Unauthorized)
    await door.stub.GetSession(GET, metadata=keys.as_user())


@pytest.mark.parametrize("given", ["r-1", "a" * 128, "~!{}\"';<>"])
async def test_a_request_id_is_the_clients(door: Door, keys: Keys, given: str) -> None:
    metadata = (*keys.as_user(), ("x-request-id", given))
    assert (await door.stub.GetSession(GET, metadata=metadata)).status_reason == given


@pytest.mark.parametrize("given", [None, "", "a" * 129, "a b"])
async def test_or_is_made_where_it_is_none(door: Door, keys: Keys, given: str | None) -> None:
    metadata = keys.as_user()
    if given is not None:
        metadata = (*metadata, ("x-request-id", given))
    made = [(await door.stub.GetSession(GET, metadata=metadata)).status_reason for _ in range(2)]
    assert len({*made, given}) == 3
    assert all(len(each) == 36 for each in made)


async def test_a_change_is_written_down(door: Door, keys: Keys) -> None:
    token = keys.issue(domains=("acme",))
    metadata = keys.as_user("acme", token=token, x_request_id="r-1")
    await door.stub.CreateSession(CREATE, metadata=metadata)
    line = door.line()
    assert line.pop("time").endswith("Z")
    assert line == {
        "service": "session_svc",
        "request_id": "r-1",
        "principal": tokens.known(keys.tokens_file)[-1].id,
        "role": "user",
        "domain": "acme",
        "method": f"{SERVICE}/CreateSession",
        "ids": {"session_id": SESSION, "template_id": "python-basic", "container_id": "c-1"},
        "outcome": "allowed",
        "error_code": None,
    }


async def test_reading_is_not_written_down(door: Door, keys: Keys) -> None:
    await door.stub.GetSession(GET, metadata=keys.as_user())
    assert door.lines() == []


@pytest.mark.parametrize(
    ("who", "principal", "code"),
    [
        (lambda keys: (), None, "Sandbox.Unauthorized"),
        (lambda keys: keys.as_user(token="x" * 40), None, "Sandbox.Unauthorized"),
        (lambda keys: keys.as_service("exec_svc"), "exec_svc", "Sandbox.Forbidden"),
        (lambda keys: keys.as_container("sbx_1"), "sbx_1", "Sandbox.Forbidden"),
    ],
    ids=["nobody", "a guess", "a service", "a container"],
)
async def test_whoever_is_not_let_in_is_written_down(
    door: Door, keys: Keys, who: Callable[[Keys], Any], principal: str | None, code: str
) -> None:
    await refusal(door.stub.GetSession(GET, metadata=who(keys)))
    line = door.line()
    assert (line["principal"], line["outcome"], line["error_code"]) == (principal, "refused", code)
    assert line["ids"] == {"session_id": SESSION}
    assert line["request_id"]


async def test_a_domain_that_is_refused_is_named(door: Door, keys: Keys) -> None:
    token = keys.issue()
    await refusal(door.stub.GetSession(GET, metadata=keys.as_user("other", token=token)))
    assert (door.line()["domain"], door.line()["outcome"]) == ("other", "refused")


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (NotFound("Session", SESSION), "refused", "Sandbox.SessionNotFound"),
        (RuntimeError("a secret of ours"), "failed", "Sandbox.InternalError"),
    ],
)
async def test_how_a_change_ended(
    door: Door, keys: Keys, error: Exception, outcome: str, code: str
) -> None:
    door.sessions.error = error
    refused = await refusal(door.stub.CreateSession(CREATE, metadata=keys.as_user()))
    assert isinstance(refused, SandboxError)
    assert (door.line()["outcome"], door.line()["error_code"]) == (outcome, code)


async def test_a_foreign_id_is_written_down_when_it_is_read(door: Door, keys: Keys) -> None:
    door.sessions.error = NotFound("Session", SESSION)
    await refusal(door.stub.GetSession(GET, metadata=keys.as_user()))
    assert door.line()["error_code"] == "Sandbox.SessionNotFound"


async def test_a_caller_that_leaves_is_written_down(door: Door, keys: Keys) -> None:
    call = door.stub.DeleteSession(DELETE, metadata=keys.as_user())
    await door.sessions.entered.wait()
    call.cancel()

    async def written() -> bool:
        return bool(door.lines())

    await eventually(written)
    assert door.line()["outcome"] == "cancelled"


async def test_nothing_secret_is_written_down(door: Door, keys: Keys) -> None:
    token = keys.issue()
    await door.stub.CreateSession(CREATE, metadata=keys.as_user(token=token))
    await refusal(door.stub.CreateSession(CREATE, metadata=keys.as_user("other", token=token)))
    await refusal(door.stub.CreateSession(CREATE, metadata=keys.as_user(token="guessed-" * 8)))
    text = json.dumps(door.lines())
    assert len(door.lines()) == 3
    assert not [secret for secret in (token, "env-secret", "guessed-") if secret in text]


async def test_ids_cannot_make_a_line_long_or_two(door: Door, keys: Keys) -> None:
    request = pb.GetSessionRequest(session_id="x\n" * 10_000)
    door.sessions.error = NotFound("Session", "x")
    await refusal(door.stub.GetSession(request, metadata=keys.as_user()))
    assert len(door.line()["ids"]["session_id"]) == 256


def test_nobody_without_a_token_fills_the_disk(tmp_path: Path) -> None:
    now = 5.0
    path = tmp_path / "audit.log"
    log = AuditLog(path, "session_svc", clock=lambda: now)
    for _ in range(1000):
        log.write({}, anonymous=True)
    log.write({"principal": "tok_1"})
    now = 6.0
    log.write({}, anonymous=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == ANONYMOUS_LINES + 2
    assert lines[-1]["lines_left_out"] == 1000 - ANONYMOUS_LINES


def test_a_log_that_is_renamed_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    first, second = AuditLog(path, "a"), AuditLog(path, "b")
    first.write({"n": 1})
    second.write({"n": 2})
    path.rename(tmp_path / "audit.log.1")
    first.write({"n": 3})
    old = [json.loads(line)["n"] for line in (tmp_path / "audit.log.1").read_text().splitlines()]
    assert (old, json.loads(path.read_text())["n"]) == ([1, 2], 3)
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_its_audit_file_a_service_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AuditLog(tmp_path / "nowhere" / "audit.log", "session_svc")


@pytest.mark.parametrize("raw", [b"\x0a\x01\xff", b"\x0a\xff", b"\xff"])
async def test_a_message_that_cannot_be_read_is_the_callers_fault(
    door: Door, keys: Keys, raw: bytes
) -> None:
    call = door.channel.unary_unary(f"/{SERVICE}/GetSession")

    refused = await refusal(call(raw, metadata=keys.as_user()))
    assert isinstance(refused, InvalidParameter)
    assert isinstance(await refusal(call(raw)), Unauthorized)
