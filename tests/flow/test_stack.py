"""`sandbox up`, `down`, `status`, `run` with the real services, Envoy and executors."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import layout, proctree
from tests.flow.stack import SANDBOX, SECONDS, Stack


@pytest.fixture
def data(place: Path) -> Path:
    return place / "data"


@pytest.fixture
def machine(data: Path) -> Iterator[Stack]:
    """A stack that is not started; whatever the test leaves is ended."""
    made = Stack(data)
    yield made
    made.sandbox("down")


@pytest.fixture
def running(machine: Stack) -> Stack:
    machine.sandbox("up")
    return machine


def test_up_says_where_and_down_leaves_nothing(machine: Stack) -> None:
    said = machine.sandbox("up")
    assert f"http://127.0.0.1:{machine.port}" in said
    assert "token" in said
    supervisor = layout.holder(machine.places.lock)
    assert supervisor is not None
    with machine.client() as client:
        client.create_session("python-basic")
    assert len(machine.executors()) == 1
    tree = [supervisor, *proctree.descendants(supervisor)]
    assert len(tree) >= 6
    machine.sandbox("down")
    assert proctree.end(tree, [(0, 0.0)]) == []
    assert list(machine.places.run.iterdir()) == []
    assert layout.holder(machine.places.lock) is None
    assert "not running" in machine.sandbox("status", code=1)


def test_a_second_up_says_that_it_runs(running: Stack) -> None:
    supervisor = layout.holder(running.places.lock)
    assert "already running" in running.sandbox("up")
    assert layout.holder(running.places.lock) == supervisor


def test_status_tells_of_every_process(running: Stack) -> None:
    rows = json.loads(running.sandbox("status", "--json"))["processes"]
    assert [row["name"] for row in rows] == [
        "supervisor",
        "session_svc",
        "scheduler_svc",
        "exec_svc",
        "edge",
    ]
    assert all(row["healthy"] and row["restarts"] == 0 for row in rows)


def test_a_taken_port_is_named_with_its_setting(machine: Stack) -> None:
    with socket.create_server(("127.0.0.1", machine.port)):
        said = machine.sandbox("up", code=1)
    assert str(machine.port) in said
    assert "SANDBOX_PORT" in said
    assert layout.holder(machine.places.lock) is None


def test_a_start_that_fails_shows_the_right_log_and_leaves_nothing(machine: Stack) -> None:
    machine.places.data.mkdir(mode=0o700)
    machine.places.secret.write_text("short")
    said = machine.sandbox("up", code=1)
    assert "at least 32 bytes" in said
    assert layout.holder(machine.places.lock) is None
    assert list(machine.places.run.iterdir()) == []


def test_a_killed_service_comes_back_and_executors_stay(running: Stack) -> None:
    with running.client() as client:
        session = client.create_session("python-basic")["session_id"]
        executors = running.executors()
        before = running.processes()["scheduler_svc"]["pid"]
        os.kill(before, signal.SIGKILL)
        running.until_restarted("scheduler_svc")
        assert running.executors() == executors
        code = "def handler(event): return event['n'] + 1"
        result = client.execute(session, code, "python", event={"n": 2**63}, wait=30)
    assert result["return_value"] == 2**63 + 1


def test_down_after_a_killed_supervisor_leaves_nothing(running: Stack) -> None:
    with running.client() as client:
        client.create_session("python-basic")
    supervisor = layout.holder(running.places.lock)
    assert supervisor is not None
    tree = proctree.descendants(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    running.sandbox("down")
    assert proctree.end(tree, [(0, SECONDS)]) == []


def test_a_stack_starts_again_after_a_killed_supervisor(running: Stack) -> None:
    supervisor = layout.holder(running.places.lock)
    assert supervisor is not None
    tree = proctree.descendants(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    assert proctree.end(tree, [(0, SECONDS)]) == []
    running.sandbox("up")
    assert layout.holder(running.places.lock) not in (None, supervisor)


def test_run_behaves_like_the_program(running: Stack, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "def handler(event):\n    print('hello')\n    return {'n': event['n'] * 2}\n"
    )
    event = json.dumps({"n": 2**63})
    assert running.sandbox("run", str(program), "--event", event) == f'hello\n{{"n": {2**64}}}\n'
    program.write_text("import sys\nprint('err', file=sys.stderr)\nsys.exit(7)\n")
    assert "err" in running.sandbox("run", str(program), code=7)


def test_a_data_directory_with_a_long_path_works(place: Path) -> None:
    machine = Stack(place / ("d" * 100))
    machine.environment["XDG_RUNTIME_DIR"] = str(place)
    try:
        machine.sandbox("up")
        with machine.client() as client:
            assert client.create_session("python-basic")["status"] == "running"
    finally:
        machine.sandbox("down")
    assert list(place.iterdir()) == [machine.places.data]


def test_the_foreground_ends_with_ctrl_c(machine: Stack) -> None:
    with subprocess.Popen(
        [*SANDBOX, "up", "--foreground"],
        env=machine.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        assert "healthy" in process.stdout.readline()
        tree = proctree.descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0
    assert proctree.end(tree, [(0, 0.0)]) == []
