"""kill -9 with code running, on a whole stack: what a client sees is the truth, and it comes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.client import Client, Unavailable
from tests.flow.stack import SECONDS, Stack

# Marks each start in the workspace, and runs until the test lets it end.
HELD = (
    "import os, time\n"
    "open('starts', 'a').write('x')\n"
    "print('up', flush=True)\n"
    "while not os.path.exists('go'): time.sleep(0.01)\n"
    "print('done')\n"
    "def handler(event): return open('starts').read()\n"
)


@pytest.fixture
def running(place: Path) -> Iterator[Stack]:
    stack = Stack(place / "data")
    stack.sandbox("up")
    yield stack
    stack.sandbox("down")


def begin(client: Client) -> tuple[str, str]:
    """A session, and an execution of it whose code has written its first line."""
    session = client.create_session("python-basic")["session_id"]
    execution = client.execute(session, HELD, "python")["execution_id"]
    for event in client.events(execution):
        if event.kind == "stdout":
            break
    return session, execution


def patiently(client: Client, execution: str) -> dict[str, Any]:
    """The result, asked for as a client has to that is answered 503: again, after a pause."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return client.result(execution, wait=int(SECONDS))
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def let_go(stack: Stack, session: str) -> None:
    (stack.places.workspaces / session / "go").touch()


def test_exec_svc_is_killed_and_the_result_arrives(running: Stack) -> None:
    with running.client() as client:
        session, execution = begin(client)
        os.kill(running.processes()["exec_svc"]["pid"], signal.SIGKILL)
        let_go(running, session)
        running.until_restarted("exec_svc")
        result = patiently(client, execution)
    assert (result["status"], result["attempt"]) == ("success", 1)
    assert result["return_value"] == "x"  # started once
    assert result["stdout"] == "up\ndone\n"


def test_an_executor_is_killed_and_its_work_is_a_second_attempt(running: Stack) -> None:
    with running.client() as client:
        session, execution = begin(client)
        (executor,) = running.executors()
        os.kill(executor, signal.SIGKILL)
        for event in client.events(execution):
            if event.kind == "status" and event.data["status"] == "crashed":
                break
        let_go(running, session)
        result = client.result(execution, wait=int(SECONDS))
        assert (result["status"], result["attempt"]) == ("success", 2)
        assert result["return_value"] == "xx"
        assert client.session(session)["status"] == "running"
    assert executor not in running.executors()


def test_every_process_is_killed_at_once_and_nothing_accepted_is_lost(running: Stack) -> None:
    with running.client() as client:
        session, execution = begin(client)
        waiting = [
            client.execute(session, f"print({n})", "python")["execution_id"] for n in range(3)
        ]
        victims = [row["pid"] for row in running.processes().values()]
        for pid in (*victims, *running.executors()):
            os.kill(pid, signal.SIGKILL)
    running.sandbox("down")  # it finds nothing to end, and clears what is left
    running.sandbox("up")
    let_go(running, session)
    with running.client() as client:
        assert client.result(execution, wait=int(SECONDS))["status"] == "success"
        for n, name in enumerate(waiting):
            result = client.result(name, wait=int(SECONDS))
            assert (result["status"], result["stdout"]) == ("success", f"{n}\n")
