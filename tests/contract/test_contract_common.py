"""What holds of every call: token, domain, request id, and the table of errors row by row."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.contract.callers import Rest, check_error
from tests.contract.test_contract_limits import DOCUMENT

NOBODYS_SESSION = "/sessions/sess_0000000000000000"
NOBODYS_EXECUTION = "/executions/exec_20200101_00000000"
CALLS = [
    ("POST", "/sessions"),
    ("GET", "/sessions"),
    ("GET", NOBODYS_SESSION),
    ("DELETE", NOBODYS_SESSION),
    ("POST", f"{NOBODYS_SESSION}/execute"),
    ("GET", f"{NOBODYS_SESSION}/executions"),
    ("GET", NOBODYS_EXECUTION),
    ("GET", f"{NOBODYS_EXECUTION}/status"),
    ("GET", f"{NOBODYS_EXECUTION}/result"),
    ("GET", f"{NOBODYS_EXECUTION}/events"),
    ("POST", f"{NOBODYS_EXECUTION}/cancel"),
    ("GET", "/containers"),
    ("GET", "/containers/nobodys"),
    ("GET", "/containers/nobodys/status"),
    ("GET", "/containers/nobodys/logs"),
    ("GET", f"{NOBODYS_SESSION}/files"),
    ("POST", f"{NOBODYS_SESSION}/files/upload"),
    ("GET", f"{NOBODYS_SESSION}/files/a/b"),
    ("DELETE", f"{NOBODYS_SESSION}/files/a/b"),
    ("GET", "/templates"),
    ("POST", "/templates"),
    ("GET", "/templates/no-such"),
    ("PUT", "/templates/no-such"),
    ("DELETE", "/templates/no-such"),
]
NAMED = [f"{verb} {path}" for verb, path in CALLS]

GOOD_SESSION = {"template_id": "python-basic"}
# verb, path, options, status, error_code, what error_detail has in it
ERRORS: list[tuple[str, str, dict[str, Any], int, str, str]] = [
    # a value out of range
    ("POST", "/sessions", {"json": GOOD_SESSION | {"timeout": 59}}, 400, "InvalidParameter", "60"),
    ("GET", "/sessions", {"params": {"limit": 201}}, 400, "InvalidParameter", "200"),
    # a missing field
    ("POST", "/sessions", {"json": {}}, 400, "InvalidParameter", "template_id"),
    ("POST", "/sessions", {}, 400, "InvalidParameter", "template_id"),
    (
        "POST",
        f"{NOBODYS_SESSION}/execute",
        {"json": {"language": "python"}},
        400,
        "InvalidParameter",
        "code",
    ),
    # malformed JSON
    ("POST", "/sessions", {"content": b"{"}, 400, "InvalidParameter", "."),
    ("POST", "/sessions", {"content": b"\xff"}, 400, "InvalidParameter", "."),
    ("POST", f"{NOBODYS_SESSION}/execute", {"content": b"{"}, 400, "InvalidParameter", "JSON"),
    ("POST", f"{NOBODYS_SESSION}/execute", {"content": b"[]"}, 400, "InvalidParameter", "object"),
    ("POST", f"{NOBODYS_SESSION}/execute", {}, 400, "InvalidParameter", "JSON"),
    # a body over its limit
    ("POST", "/sessions", {"content": b" " * 2_000_000}, 400, "InvalidParameter", "bytes"),
    (
        "POST",
        f"{NOBODYS_SESSION}/execute",
        {"content": b" " * 2_000_000},
        400,
        "InvalidParameter",
        "bytes",
    ),
    # query parameters that are not known
    ("GET", "/sessions", {"params": {"colour": "red"}}, 400, "InvalidParameter", "colour"),
    ("GET", NOBODYS_EXECUTION, {"params": {"x": "1"}}, 400, "InvalidParameter", "x"),
    # headers
    (
        "POST",
        "/sessions",
        {"json": GOOD_SESSION, "headers": {"idempotency-key": "a b"}},
        400,
        "InvalidParameter",
        "Idempotency-Key",
    ),
    (
        "POST",
        "/sessions",
        {"json": GOOD_SESSION, "headers": {"idempotency-key": "k" * 256}},
        400,
        "InvalidParameter",
        "Idempotency-Key",
    ),
    (
        "GET",
        f"{NOBODYS_EXECUTION}/events",
        {"headers": {"last-event-id": "first"}},
        400,
        "InvalidParameter",
        "Last-Event-ID",
    ),
    # what does not exist
    ("GET", NOBODYS_SESSION, {}, 404, "SessionNotFound", "sess_0000000000000000"),
    ("GET", "/sessions/no-id", {}, 404, "SessionNotFound", "no-id"),
    ("DELETE", NOBODYS_SESSION, {}, 404, "SessionNotFound", "sess_0000000000000000"),
    ("GET", f"{NOBODYS_SESSION}/executions", {}, 404, "SessionNotFound", "sess_"),
    (
        "POST",
        f"{NOBODYS_SESSION}/execute",
        {"json": {"code": "1", "language": "python"}},
        404,
        "SessionNotFound",
        "sess_",
    ),
    ("GET", NOBODYS_EXECUTION, {}, 404, "ExecutionNotFound", "exec_20200101_00000000"),
    ("GET", f"{NOBODYS_EXECUTION}/status", {}, 404, "ExecutionNotFound", "exec_"),
    ("GET", f"{NOBODYS_EXECUTION}/result", {}, 404, "ExecutionNotFound", "exec_"),
    ("GET", f"{NOBODYS_EXECUTION}/events", {}, 404, "ExecutionNotFound", "exec_"),
    ("POST", f"{NOBODYS_EXECUTION}/cancel", {}, 404, "ExecutionNotFound", "exec_"),
    ("POST", "/sessions", {"json": {"template_id": "no"}}, 404, "TemplateNotFound", "no"),
    ("GET", "/containers/nobodys", {}, 404, "ContainerNotFound", "nobodys"),
    ("GET", "/templates/no", {}, 404, "TemplateNotFound", "no"),
    ("DELETE", "/templates/no", {}, 404, "TemplateNotFound", "no"),
    ("GET", f"{NOBODYS_SESSION}/files", {}, 404, "SessionNotFound", "sess_"),
    ("GET", f"{NOBODYS_SESSION}/files/x", {}, 404, "SessionNotFound", "sess_"),
    # unknown routes, and known ones with another method
    ("GET", "/nothing", {}, 404, "NotFound", "/api/v1/nothing"),
    ("GET", "", {}, 404, "NotFound", "/api/v1"),
    ("PUT", "/sessions", {}, 404, "NotFound", "PUT"),
    ("PATCH", NOBODYS_SESSION, {}, 404, "NotFound", "PATCH"),
    ("OPTIONS", "/sessions", {}, 404, "NotFound", "OPTIONS"),
    ("GET", f"{NOBODYS_SESSION}/execute", {}, 404, "NotFound", "GET"),
]


@pytest.mark.parametrize(
    ("verb", "path", "options", "status", "code", "mentions"),
    ERRORS,
    ids=[f"{row[0]} {row[1]} {str(row[2])[:40]}" for row in ERRORS],
)
def test_error_row(
    rest: Rest, verb: str, path: str, options: dict[str, Any], status: int, code: str, mentions: str
) -> None:
    answer = rest.call(verb, path, **options)

    assert answer.status_code == status, answer.text
    assert answer.json()["error_code"] == f"Sandbox.{code}"
    assert mentions in answer.json()["error_detail"]
    page = rest.http.get(answer.json()["error_link"])
    assert page.status_code == 200
    assert page.text.startswith(f"# Sandbox.{code}\n")


def test_a_file_that_is_not_there(shared: tuple[Rest, str]) -> None:
    rest, session = shared
    rest.execute(session, "open('is-there', 'w').write('x')")
    assert rest.call("GET", f"/sessions/{session}/files/is-there").text == "x"

    for verb in ("GET", "DELETE"):
        answer = rest.call(verb, f"/sessions/{session}/files/not/there")
        assert (answer.status_code, answer.json()["error_code"]) == (404, "Sandbox.FileNotFound")


def test_every_binding_is_among_the_calls() -> None:
    """So that what is tested of every call is tested of one that is added, too."""
    bindings = {
        (verb.upper(), re.sub(r"\{\w+\}", "X", path))
        for path, item in DOCUMENT["paths"].items()
        for verb in item
        if path != "/api/v1/health"
    }
    names = rf"({NOBODYS_SESSION[10:]}|{NOBODYS_EXECUTION[12:]}|nobodys|no-such|a/b)"

    assert {(verb, "/api/v1" + re.sub(names, "X", path)) for verb, path in CALLS} == bindings


def test_a_field_that_is_not_known_is_ignored(rest: Rest) -> None:
    body = {"template_id": "no-such", "colour": "red"}
    answer = rest.call("POST", "/sessions", json=body)

    assert answer.json()["error_code"] == "Sandbox.TemplateNotFound"


@pytest.mark.parametrize(("verb", "path"), CALLS, ids=NAMED)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer no-such-token", "Basic b3BlcmF0b3I6eA==", "TOKEN"],
)
def test_every_call_needs_a_token(
    rest: Rest, verb: str, path: str, authorization: str | None
) -> None:
    del rest.headers["authorization"]
    if authorization is not None:
        rest.headers["authorization"] = authorization.replace("TOKEN", rest.token)

    answer = rest.call(verb, path)

    assert (answer.status_code, answer.json()["error_code"]) == (401, "Sandbox.Unauthorized")


@pytest.mark.parametrize(("verb", "path"), CALLS, ids=NAMED)
def test_a_token_stays_in_its_domains(rest: Rest, limited: str, verb: str, path: str) -> None:
    """Of a domain that the token has no right to, nothing is said but that."""
    rest.headers["authorization"] = f"Bearer {limited}"
    rest.headers["x-business-domain"] = "elsewhere"

    answer = rest.call(verb, path)

    assert (answer.status_code, answer.json()["error_code"]) == (403, "Sandbox.Forbidden")


@pytest.mark.parametrize("word", ["", "a b", "-a", "a" * 64, "ä", "a/b"])
def test_a_domain_is_a_word(rest: Rest, word: str) -> None:
    rest.headers["x-business-domain"] = word.encode()

    answer = rest.call("GET", "/sessions")

    assert (answer.status_code, answer.json()["error_code"]) == (400, "Sandbox.InvalidParameter")
    assert "x-business-domain" in answer.json()["error_detail"]


def test_without_a_domain_it_is_the_default_one(rest: Rest) -> None:
    session = rest.session(metadata={"of": rest.domain})["session_id"]
    rest.headers["x-business-domain"] = "default"
    assert rest.call("GET", f"/sessions/{session}").status_code == 404
    mine = rest.session()["session_id"]

    del rest.headers["x-business-domain"]

    assert rest.call("GET", f"/sessions/{mine}").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/sessions", NOBODYS_SESSION, "/nothing"])
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("my-own-id", True),
        ("!#$%&()*+,-./:;<=>?@[]^_`{|}~", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("two words", False),
        ("naïve", False),
        ("", False),
    ],
)
def test_a_request_id_is_kept_or_made(rest: Rest, path: str, sent: str, kept: bool) -> None:
    answer = rest.call("GET", path, headers={"x-request-id": sent.encode()})

    returned = answer.headers["x-request-id"]
    assert (returned == sent) is kept
    assert kept or re.fullmatch(r"[0-9a-f-]{36}", returned)


def test_health_needs_no_token(rest: Rest) -> None:
    rest.headers.clear()

    answer = rest.call("GET", "/health")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_the_documentation_needs_no_token(http: httpx.Client) -> None:
    for path in ("/docs", "/openapi.json", "/errors"):
        assert http.get(path).status_code == 200


def test_what_cannot_be_read_is_an_error_like_all_others(http: httpx.Client) -> None:
    """Refused by Envoy's codec, long before any route."""
    answer = http.get("/api/v1/sessions", headers={"x-large": "x" * 70_000})

    assert answer.status_code == 400
    check_error(answer)
