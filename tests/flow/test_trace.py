"""One trace: from Envoy through every service into the executor and the run itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.edge.collector import Collector, Received, collecting
from tests.flow.stack import Stack

SECRETS = {name: f"planted-{name}" for name in ("code", "event", "env", "stdout", "metadata")}

SESSION = "/sandbox.session.v1.SessionService/"
SCHEDULER = "/sandbox.scheduler.v1.SchedulerService/"
ATTACHMENT = "/sandbox.execution.v1.AttachmentService/"
REST = "/sandbox.execution.v1.ExecutionRestService/"

# Service, span, and the same of its parent: the whole tree, nothing more.
CREATE = {
    ("edge", "ingress", "client"),
    ("edge", "router session_svc egress", "edge ingress"),
    ("session_svc", f"{SESSION}CreateSession", "edge router"),
    ("session_svc", f"{SCHEDULER}StartSandbox", "session_svc CreateSession"),
    ("scheduler_svc", f"{SCHEDULER}StartSandbox", "session_svc StartSandbox"),
    ("session_svc", f"{ATTACHMENT}RegisterSession", "session_svc CreateSession"),
    ("exec_svc", f"{ATTACHMENT}RegisterSession", "session_svc RegisterSession"),
    ("session_svc", f"{ATTACHMENT}AttachSession", "session_svc CreateSession"),
    ("exec_svc", f"{ATTACHMENT}AttachSession", "session_svc AttachSession"),
    ("executor", "executor.configure", "exec_svc AttachSession"),
}
EXECUTE = {
    ("edge", "ingress", "client"),
    ("edge", "router exec_svc egress", "edge ingress"),
    ("exec_svc", f"{REST}ExecuteJson", "edge router"),
    ("executor", "executor.run", "exec_svc ExecuteJson"),
    ("executor", "sandbox.run", "executor executor.run"),
}


@pytest.fixture
def traced(place: Path) -> Iterator[tuple[Stack, Collector]]:
    with collecting() as collector:
        stack = Stack(place / "data")
        stack.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
        stack.environment["OTEL_BSP_SCHEDULE_DELAY"] = "100"
        stack.sandbox("up")
        try:
            yield stack, collector
        finally:
            stack.sandbox("down")


class Caller:
    """A client that begins a trace of its own with each request."""

    def __init__(self, stack: Stack) -> None:
        token = stack.places.token.read_text().strip()
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{stack.port}/api/v1",
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
        )
        self.token = token

    def post(self, path: str, body: object) -> tuple[str, str, httpx.Response]:
        """The ids of the trace and of the client's span, and the answer."""
        trace, span = secrets.token_hex(16), secrets.token_hex(8)
        headers = {"traceparent": f"00-{trace}-{span}-01"}
        return trace, span, self._client.post(path, json=body, headers=headers)

    def close(self) -> None:
        self._client.close()


async def collect(collector: Collector, trace: str, count: int) -> list[Received]:
    """The next `count` spans of one trace; those of others go by."""
    found: list[Received] = []
    while len(found) < count:
        (received,) = await collector.take(1)
        if received.span.trace_id.hex() == trace:
            found.append(received)
    return found


def check_tree(spans: list[Received], client: str, expected: set[tuple[str, str, str]]) -> None:
    by_id = {each.span.span_id.hex(): each for each in spans}
    assert len(by_id) == len(spans)
    unseen = set(expected)
    for each in spans:
        parent_id = each.span.parent_span_id.hex()
        assert parent_id == client or parent_id in by_id, f"{each.span.name} is an orphan"
        parent = "client" if parent_id == client else by_id[parent_id]
        (match,) = [
            entry
            for entry in unseen
            if entry[:2] == (each.service, each.span.name) and _is(parent, entry[2])
        ]
        unseen.discard(match)
        if parent != "client":
            assert parent.span.start_time_unix_nano <= each.span.start_time_unix_nano
    assert not unseen


def _is(parent: Received | str, words: str) -> bool:
    if isinstance(parent, str):
        return parent == words
    service, _, name = words.partition(" ")
    return parent.service == service and parent.span.name.rpartition("/")[2].startswith(name)


async def test_create_and_execute_are_one_trace_each(traced: tuple[Stack, Collector]) -> None:
    stack, collector = traced
    caller = Caller(stack)

    body = {
        "template_id": "python-basic",
        "env_vars": {"X": SECRETS["env"]},
        "metadata": {"m": SECRETS["metadata"]},
    }
    trace, span, answer = caller.post("/sessions", body)
    assert answer.status_code == 201, answer.text
    session = answer.json()["session_id"]
    created = await collect(collector, trace, len(CREATE))
    check_tree(created, span, CREATE)

    code = (
        f"def handler(event):\n    print({SECRETS['stdout']!r})\n    return 1  # {SECRETS['code']}"
    )
    run = {"code": code, "language": "python", "event": {"e": SECRETS["event"]}}
    trace, span, answer = caller.post(f"/sessions/{session}/execute?wait=30", run)
    assert answer.json()["status"] == "success", answer.text
    executed = await collect(collector, trace, len(EXECUTE))
    check_tree(executed, span, EXECUTE)

    sandbox = next(each for each in executed if each.span.name == "sandbox.run")
    assert sandbox.attributes["sandbox.execution.id"] == answer.json()["execution_id"]
    everything = " ".join(str(each.span) for each in created + executed)
    for secret in (*SECRETS.values(), caller.token):
        assert secret not in everything
    caller.close()
