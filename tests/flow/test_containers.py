"""Containers through the real edge, of sessions whose executors are real."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cli.client import Client, Json, NotFound
from tests.flow.stack import SECONDS, Stack

T = TypeVar("T")

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")
SPIN = "print('spinning', flush=True)\nwhile True: pass"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One for all: each test has a session of its own."""
    place = Path(tempfile.mkdtemp(prefix="sbx"))
    place.chmod(0o711)
    made = Stack(place / "data")
    made.sandbox("up")
    yield made
    made.sandbox("down")
    shutil.rmtree(place)


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as made:
        yield made


@pytest.fixture
def stranger(stack: Stack) -> Iterator[Client]:
    """The same token in another domain."""
    token = stack.places.token.read_text().strip()
    with Client(f"http://127.0.0.1:{stack.port}", token, domain="elsewhere") as made:
        yield made


@pytest.fixture
def session(client: Client) -> Iterator[Json]:
    made = client.create_session("python-basic", resources={"cpu": "0.5", "max_processes": 64})
    yield made
    client.delete_session(made["session_id"])


def eventually(look: Callable[[], T]) -> T:
    """The first true thing that `look` returns; for what gives no signal of its own."""
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def lines(client: Client, session: Json, **limits: Any) -> list[str]:
    return list(client.container_logs(session["container_id"], **limits))


def test_the_container_of_a_session(client: Client, session: Json) -> None:
    found = client.container(session["container_id"])

    expected = ("container_id", "session_id", "template_id", "runtime_type", "resources", "status")
    assert {name: found[name] for name in expected} == {name: session[name] for name in expected}
    assert found["node_name"] == session["runtime_node"]
    assert set(found) == {*expected, "node_name", "usage", "created_at", "uptime_seconds"}
    assert found["usage"]["memory_bytes"] > 1024 * 1024
    assert found["usage"]["pids"] >= 1
    assert 0 < found["uptime_seconds"] < 2 * SECONDS
    created = datetime.fromisoformat(found["created_at"])
    assert abs(datetime.now(UTC) - created) < timedelta(seconds=2 * SECONDS)


def test_a_list_holds_the_live_ones(client: Client, session: Json) -> None:
    def listed(**filters: Any) -> list[str]:
        page = client.containers(**filters)
        assert page["total"] == len(page["containers"])
        return [container["container_id"] for container in page["containers"]]

    assert session["container_id"] in listed()
    assert session["container_id"] in listed(status="running", runtime_type="process")
    assert session["container_id"] not in listed(status="failed")
    assert listed(runtime_type="kubernetes") == []


def test_usage_is_that_of_the_code_that_runs(client: Client, session: Json) -> None:
    spinning = client.execute(session["session_id"], SPIN, "python", timeout=3600)["execution_id"]
    said = (event.data for event in client.events(spinning) if event.kind == "stdout")
    assert next(said)["data"].startswith("spinning")

    def busy() -> bool:
        # Of the half core that it may use, on a machine that has other things to do.
        return bool(client.container(session["container_id"])["usage"]["cpu_percent"] > 10)

    assert eventually(busy)


def test_the_log_tells_of_executions_and_not_what_they_print(client: Client, session: Json) -> None:
    code = "import sys\nprint('planted-out')\nprint('planted-err', file=sys.stderr)"
    ran = client.execute(session["session_id"], code, "python", wait=60)
    assert ran["stdout"] == "planted-out\n"

    # Its end is logged right after it has been told.
    log = eventually(lambda: _with(lines(client, session), ran["execution_id"]))
    assert all(STAMP.match(line) for line in log)
    assert "planted" not in "".join(log)
    assert lines(client, session, tail=1) == log[-1:]

    last = log[-1].split()[0]
    assert lines(client, session, since=last)[-1:] == log[-1:]
    assert lines(client, session, since="3600") == log
    later = datetime.fromisoformat(last) + timedelta(milliseconds=1)
    assert lines(client, session, since=later.isoformat()) == []


def _with(log: list[str], word: str) -> list[str]:
    return log if any(word in line for line in log) else []


def test_a_reader_that_follows_sees_each_execution_and_the_end(
    client: Client, stack: Stack
) -> None:
    session = client.create_session("python-basic")
    seen: queue.Queue[str | None] = queue.Queue()

    def follow() -> None:
        with stack.client() as reader:
            for line in reader.container_logs(session["container_id"], follow=True):
                seen.put(line)
        seen.put(None)

    reader = threading.Thread(target=follow)
    reader.start()
    for _ in range(3):
        ran = client.execute(session["session_id"], "pass", "shell", wait=60)
        line = seen.get(timeout=SECONDS)
        while line is not None and ran["execution_id"] not in line:
            line = seen.get(timeout=SECONDS)
        assert line is not None
    client.delete_session(session["session_id"])
    while seen.get(timeout=SECONDS) is not None:
        pass
    reader.join()


def test_a_stranger_finds_nothing(client: Client, stranger: Client, session: Json) -> None:
    foreign = session["container_id"]
    assert stranger.containers() == {"containers": [], "total": 0}
    for container_id in (foreign, "sbx_zzzzzzzzzzzzzzzz-1"):
        for call in (stranger.container, lambda name: list(stranger.container_logs(name))):
            with pytest.raises(NotFound) as caught:
                call(container_id)
            assert caught.value.error_code == "Sandbox.ContainerNotFound"
            assert caught.value.detail == f"Container '{container_id}' does not exist"


def test_a_container_goes_with_its_session(client: Client) -> None:
    session = client.create_session("python-basic")
    client.delete_session(session["session_id"])
    for call in (client.container, lambda name: list(client.container_logs(name))):
        with pytest.raises(NotFound):
            call(session["container_id"])


def test_a_dead_executor_leaves_its_log_in_the_service_s(
    client: Client, stack: Stack, session: Json
) -> None:
    ran = client.execute(session["session_id"], "pass", "shell", wait=60)
    eventually(lambda: _with(lines(client, session), ran["execution_id"]))
    record = stack.places.sandboxes / session["container_id"] / "sandbox.json"
    os.kill(json.loads(record.read_text())["process"]["pid"], signal.SIGKILL)

    def told() -> list[Json]:
        log = map(json.loads, stack.places.log("scheduler_svc").read_text().splitlines())
        return [line for line in log if "executor_log" in line]

    line = eventually(told)[-1]
    assert line["message"] == f"{session['container_id']}: the executor was killed by signal 9"
    assert _with(line["executor_log"], ran["execution_id"])
