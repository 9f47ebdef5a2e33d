"""The client against a real HTTP server that answers what each test scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from cli import client as api
from cli.client import Client, Event, parse_events
from tests.unit.scripted import Scripted, event


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


@pytest.fixture
def client(server: Scripted) -> Iterator[Client]:
    with Client(server.url, "secret-token", domain="sales") as made:
        yield made


def test_a_call_carries_token_domain_and_body(server: Scripted, client: Client) -> None:
    server.json(201, '{"session_id": "sess_1"}')
    made = client.create_session(
        "python-basic", wait=False, mode="ephemeral", idempotency_key="once"
    )
    assert made == {"session_id": "sess_1"}
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/api/v1/sessions?wait=false")
    assert request.headers["authorization"] == "Bearer secret-token"
    assert request.headers["x-business-domain"] == "sales"
    assert request.headers["idempotency-key"] == "once"
    assert json.loads(request.body) == {"template_id": "python-basic", "mode": "ephemeral"}


def test_integers_are_exact_both_ways(server: Scripted, client: Client) -> None:
    large = 2**63 + 1
    server.json(200, json.dumps({"return_value": large}))
    result = client.execute("sess_1", "code", "python", wait=5, event={"n": large})
    assert result["return_value"] == large
    assert json.loads(server.requests[0].body)["event"] == {"n": large}
    assert server.requests[0].path == "/api/v1/sessions/sess_1/execute?wait=5"


def test_delete_has_no_body(server: Scripted, client: Client) -> None:
    server.json(204, "")
    client.delete_session("sess_1")
    assert server.requests[0].method == "DELETE"


def test_a_container_log_is_its_lines(server: Scripted, client: Client) -> None:
    for _ in range(2):
        server.answers.append((200, {"content-type": "text/plain"}, b"one\ntwo \xc3\xa9\n"))
    assert list(client.container_logs("c/1")) == ["one", "two é"]
    assert list(client.container_logs("c", tail=5, since="2026-01-01T00:00:00+01:00", follow=True))
    assert [request.path for request in server.requests] == [
        "/api/v1/containers/c%2F1/logs",
        "/api/v1/containers/c/logs?tail=5&since=2026-01-01T00%3A00%3A00%2B01%3A00&follow=true",
    ]


def test_a_container_log_that_is_refused_is_an_error(server: Scripted, client: Client) -> None:
    server.json(404, '{"error_code": "Sandbox.ContainerNotFound"}')
    with pytest.raises(api.NotFound) as caught:
        list(client.container_logs("c"))
    assert caught.value.error_code == "Sandbox.ContainerNotFound"


def test_an_id_cannot_leave_its_place_in_the_path(server: Scripted, client: Client) -> None:
    server.json(200, "{}")
    client.session("../x?y=z")
    assert server.requests[0].path == "/api/v1/sessions/..%2Fx%3Fy%3Dz"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, api.InvalidParameter),
        (401, api.Unauthorized),
        (403, api.Forbidden),
        (404, api.NotFound),
        (409, api.StateConflict),
        (500, api.InternalError),
        (503, api.Unavailable),
    ],
)
def test_an_error_body_is_raised_as_its_type(
    server: Scripted, client: Client, status: int, kind: type[api.ApiError]
) -> None:
    body = {
        "error_code": "Sandbox.X",
        "description": "It failed",
        "error_detail": "Field 'x' must be y",
        "error_link": "/errors/x",
        "solution": "Do z.",
    }
    server.json(status, json.dumps(body), x_request_id="r-1", retry_after="3")
    with pytest.raises(kind) as caught:
        client.status("exec_1")
    error = caught.value
    assert error.error_code == "Sandbox.X"
    assert error.detail == "Field 'x' must be y"
    assert error.request_id == "r-1"
    assert error.retry_after == 3
    assert str(error) == "It failed: Field 'x' must be y. Do z. [Sandbox.X, request r-1]"


def test_an_error_that_is_not_ours_is_an_error_too(server: Scripted, client: Client) -> None:
    server.json(502, "<html>proxy</html>")
    with pytest.raises(api.ApiError) as caught:
        client.status("exec_1")
    assert caught.value.http_status == 502


def test_nobody_there_is_unreachable(server: Scripted) -> None:
    server.close()
    with Client(server.url, "token") as client, pytest.raises(api.Unreachable, match=server.url):
        client.sessions()
    server.close = lambda: None  # type: ignore[method-assign]  # closed already


def test_an_answer_that_is_not_json_is_unreachable(server: Scripted, client: Client) -> None:
    server.json(200, "<html>welcome</html>")
    with pytest.raises(api.Unreachable, match="not the platform's JSON"):
        client.sessions()


def test_events_end_with_the_result(server: Scripted, client: Client) -> None:
    server.stream(
        event(1, "status", {"status": "running"}),
        ": keep-alive\n\n",
        event(2, "stdout", {"data": "a\nb"}),
        event(3, "result", {"return_value": 2**64}),
    )
    assert list(client.events("exec_1")) == [
        Event(1, "status", {"status": "running"}),
        Event(2, "stdout", {"data": "a\nb"}),
        Event(3, "result", {"return_value": 2**64}),
    ]
    assert server.requests[0].headers["last-event-id"] is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "FIRST_RETRY_SECONDS", 0.001)


@pytest.mark.usefixtures("impatient")
def test_a_cut_stream_is_resumed_without_loss_or_repeat(server: Scripted, client: Client) -> None:
    server.stream(event(1, "stdout", {"data": "a"}), "id: 2\nevent: stdout\nda")
    server.json(503, "{}")
    server.stream(
        event(1, "stdout", {"data": "a"}),
        event(2, "stdout", {"data": "b"}),
        event(3, "result", {}),
    )
    kinds = [(event.id, event.kind) for event in client.events("exec_1")]
    assert kinds == [(1, "stdout"), (2, "stdout"), (3, "result")]
    assert [request.headers["last-event-id"] for request in server.requests] == [None, "1", "1"]


def test_output_holds_whatever_some_call_a_line_end(server: Scripted, client: Client) -> None:
    text = "a\u2028b\u2029c\x85d\x1ce\x0bf\rg"
    server.stream(event(1, "stdout", {"data": text}), event(2, "result", {}))
    assert next(iter(client.events("exec_1"))).data == {"data": text}


@pytest.mark.usefixtures("impatient")
def test_a_stream_that_never_comes_is_given_up(server: Scripted, client: Client) -> None:
    for _ in range(api.STREAM_ATTEMPTS):
        server.stream()
    with pytest.raises(api.Unreachable, match="before its result"):
        list(client.events("exec_1"))
    assert server.answers == []


def test_an_unknown_execution_is_not_asked_for_twice(server: Scripted, client: Client) -> None:
    server.json(404, "{}")
    with pytest.raises(api.NotFound):
        list(client.events("exec_1"))
    assert len(server.requests) == 1


def test_an_unfinished_event_is_dropped() -> None:
    lines = iter(["id: 1", "event: stdout", 'data: {"data": "x"}', "", "id: 2", "event: stdout"])
    assert [event.id for event in parse_events(lines)] == [1]
