"""Idempotency-Key: however often and however fast it comes, one thing is made."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.contract.callers import CODE, Rest
from tests.support import PATIENCE

POSTS = 100


async def post_at_once(rest: Rest, path: str, bodies: list[Any], key: str) -> list[httpx.Response]:
    """All on their way before one is answered, over connections of their own."""
    headers: Any = rest.headers | {"idempotency-key": key}
    limits = httpx.Limits(max_connections=POSTS)
    async with httpx.AsyncClient(
        base_url=str(rest.http.base_url), headers=headers, timeout=PATIENCE, limits=limits
    ) as client:
        posts = [client.post(f"/api/v1{path}", json=body) for body in bodies]
        return await asyncio.gather(*posts)


async def test_one_hundred_posts_make_one_session(rest: Rest) -> None:
    bodies = [{"template_id": "python-basic"}] * POSTS

    answers = await post_at_once(rest, "/sessions", bodies, uuid4().hex)

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    assert rest.call("GET", "/sessions").json()["total"] == 1


@pytest.mark.parametrize("wait", ["", "?wait=60"])
async def test_one_hundred_posts_make_one_execution(rest: Rest, wait: str) -> None:
    session = rest.session()["session_id"]
    code = "open('ran', 'a').write('x')\n" + CODE
    bodies = [{"code": code, "language": "python", "event": {"n": 1}}] * POSTS

    answers = await post_at_once(rest, f"/sessions/{session}/execute{wait}", bodies, uuid4().hex)

    assert {answer.status_code for answer in answers} == {200}
    (execution,) = {answer.json()["execution_id"] for answer in answers}
    assert rest.call("GET", f"/sessions/{session}/executions").json()["total"] == 1
    rest.call("GET", f"/executions/{execution}/result?wait=60")
    assert rest.execute(session, "print(open('ran').read())")["stdout"] == "x\n"


async def test_of_two_bodies_with_one_key_one_wins(rest: Rest) -> None:
    session = rest.session()["session_id"]
    bodies = [{"code": CODE, "language": "python", "event": {"n": n % 2}} for n in range(20)]

    answers = await post_at_once(rest, f"/sessions/{session}/execute", bodies, uuid4().hex)

    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [409] * 10
    refused = [answer.json() for answer in answers if answer.status_code == 409]
    assert {body["error_code"] for body in refused} == {"Sandbox.StateConflict"}
    assert all("Idempotency-Key" in body["error_detail"] for body in refused)
    assert rest.call("GET", f"/sessions/{session}/executions").json()["total"] == 1


def test_a_session_with_another_body_is_a_conflict(rest: Rest) -> None:
    headers = {"idempotency-key": uuid4().hex}
    body = {"template_id": "python-basic"}
    first = rest.call("POST", "/sessions", json=body, headers=headers)

    again = rest.call("POST", "/sessions", json=body, headers=headers)
    other = rest.call("POST", "/sessions", json=body | {"timeout": 60}, headers=headers)

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["session_id"] == again.json()["session_id"]
    assert (other.status_code, other.json()["error_code"]) == (409, "Sandbox.StateConflict")


def test_a_key_is_the_domains_own(rest: Rest) -> None:
    headers = {"idempotency-key": uuid4().hex}
    body = {"template_id": "python-basic"}
    path = "/sessions?wait=false"
    mine = rest.call("POST", path, json=body, headers=headers).json()["session_id"]
    rest.headers["x-business-domain"] = f"{rest.domain}-2"

    theirs = rest.call("POST", path, json=body, headers=headers)

    assert theirs.status_code == 201
    assert theirs.json()["session_id"] != mine


def test_without_a_key_each_post_makes_one(rest: Rest) -> None:
    session = rest.session()["session_id"]

    assert rest.submit(session) != rest.submit(session)
