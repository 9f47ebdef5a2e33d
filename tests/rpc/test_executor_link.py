"""A real executor against a scripted exec_svc: what it keeps, says and sends again.

The script is a synchronous servicer, so pytest-grpc serves it.
"""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from sandbox.executor.v1 import link_pb2 as pb
from sandbox.executor.v1 import link_pb2_grpc

from tests.support import PATIENCE

grpc_max_workers = 8
UID = 61_997


class Connection:
    """One Connect call: what came in, and what to send or how to end it."""

    def __init__(self, requests: Iterator[pb.ConnectRequest], token: str) -> None:
        self.token = token
        self.received: queue.Queue[pb.ConnectRequest] = queue.Queue()
        self.answers: queue.Queue[pb.ConnectResponse | None] = queue.Queue()
        self._requests = requests

    def read(self) -> None:
        try:
            for request in self._requests:
                for message in request.batch.messages or [request]:
                    self.received.put(message)
        except grpc.RpcError:
            return  # the executor hung up

    def expect(self, kind: str) -> Any:
        """The next message, which has to be a `kind`; heartbeats go by."""
        while True:
            message = self.received.get(timeout=PATIENCE)
            if message.WhichOneof("kind") != "heartbeat" or kind == "heartbeat":
                break
        assert message.WhichOneof("kind") == kind, message
        return message

    def send(self, **kind: Any) -> None:
        self.answers.put(pb.ConnectResponse(**kind))

    def cut(self) -> None:
        self.answers.put(None)


class Script(link_pb2_grpc.ExecutorLinkServiceServicer):
    def __init__(self) -> None:
        self.connections: queue.Queue[Connection] = queue.Queue()
        self._pool = ThreadPoolExecutor()

    def Connect(
        self, requests: Iterator[pb.ConnectRequest], context: Any
    ) -> Iterator[pb.ConnectResponse]:
        token = dict(context.invocation_metadata())["authorization"]
        connection = Connection(requests, token)
        self.connections.put(connection)
        self._pool.submit(connection.read)
        while (answer := connection.answers.get()) is not None:
            yield answer
        context.abort(grpc.StatusCode.UNAVAILABLE, "cut by the script")

    def accept(self) -> Connection:
        return self.connections.get(timeout=PATIENCE)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sbx"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def grpc_addr(directory: Path) -> str:
    return f"unix:{directory}/link.sock"


@pytest.fixture(scope="module")
def grpc_servicer() -> Script:
    return Script()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return link_pb2_grpc.add_ExecutorLinkServiceServicer_to_server


@pytest.fixture
def executor(
    grpc_server: Any, grpc_addr: str, directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    (directory / "link.sock").chmod(0o666)
    environment = {
        "PATH": os.environ["PATH"],
        "SANDBOX_ID": "sbx_a-1",
        "SANDBOX_LINK_TARGET": grpc_addr,
        "INTERNAL_API_TOKEN": "the-token",
        "SANDBOX_WORKSPACE": str(directory / "workspace"),
        "SANDBOX_STATE": str(directory / "state"),
    }
    for name in ("workspace", "state"):
        (directory / name).mkdir()
        if os.geteuid() == 0:
            shutil.chown(directory / name, UID, UID)
            environment["SANDBOX_UID"] = str(UID)
    process = subprocess.Popen([sys.executable, "-m", "executor"], env=environment, cwd="/")
    yield process
    process.kill()
    process.wait()
    for name in ("workspace", "state"):
        shutil.rmtree(directory / name)


def run(name: str, code: str, attempt: int = 1) -> pb.Run:
    return pb.Run(
        run=pb.RunRef(execution_id=name, attempt=attempt),
        language="python",
        code=code.encode(),
        event_json=b"{}",
        timeout_seconds=30,
    )


CONFIG = pb.SessionConfig(memory_bytes=512 * 1024 * 1024, max_processes=64, concurrency=1)


def configured(connection: Connection) -> pb.Hello:
    """Takes a connection as exec_svc does: Hello, Configure, Configured."""
    hello: pb.Hello = connection.expect("hello").hello
    connection.send(configure=pb.Configure(session_id="sess_a", config=CONFIG))
    return hello


def test_nothing_unacknowledged_is_lost_and_nothing_runs_twice(
    executor: subprocess.Popen[bytes], grpc_servicer: Script
) -> None:
    first = grpc_servicer.accept()
    assert first.token == "Bearer the-token"
    hello = configured(first)
    assert (hello.sandbox_id, list(hello.known), hello.first_unacknowledged) == ("sbx_a-1", [], 0)
    assert first.expect("configured").configured.refusal == ""

    code = "open('starts', 'a').write('x')\ndef handler(e): return open('starts').read()"
    first.send(run=run("exec_1", code))
    first.send(run=run("exec_1", code))  # a repeat is ignored
    started, ended = first.expect("started"), first.expect("finished")
    assert (started.seq, ended.seq) == (1, 2)
    assert ended.finished.outcome.return_value_json == b'"x"'
    first.cut()  # before any acknowledgement

    second = grpc_servicer.accept()
    again = configured(second)
    assert again.boot_id == hello.boot_id
    assert [(ref.execution_id, ref.attempt) for ref in again.known] == [("exec_1", 1)]
    assert again.first_unacknowledged == 1
    assert second.expect("started") == started
    assert second.expect("finished") == ended
    second.send(run=run("exec_1", code))  # still known
    second.send(ack=pb.Ack(seq=1))
    second.cut()

    third = grpc_servicer.accept()
    assert configured(third).first_unacknowledged == 2
    assert third.expect("finished") == ended
    third.send(ack=pb.Ack(seq=2))
    third.send(stop=pb.Stop())
    assert executor.wait(PATIENCE) == 0


def test_work_goes_on_while_the_link_is_cut(
    executor: subprocess.Popen[bytes], grpc_servicer: Script, directory: Path
) -> None:
    first = grpc_servicer.accept()
    configured(first)
    first.expect("configured")
    code = (
        "import os, time\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "print('after the cut')\n"
    )
    first.send(run=run("exec_2", code))
    first.expect("started")
    first.cut()
    (directory / "workspace" / "go").touch()
    second = grpc_servicer.accept()
    assert [ref.execution_id for ref in configured(second).known] == ["exec_2"]
    second.expect("started")
    kinds = {second.received.get(timeout=PATIENCE).WhichOneof("kind") for _ in range(3)}
    assert kinds == {"output", "finished", "configured"}


def test_cancel_kills_and_heartbeats_name_what_runs(
    executor: subprocess.Popen[bytes], grpc_servicer: Script
) -> None:
    link = grpc_servicer.accept()
    configured(link)
    link.expect("configured")
    begun = time.monotonic()
    link.send(run=run("exec_3", "while True: pass"))
    link.expect("started")
    beat = link.expect("heartbeat")
    assert [ref.execution_id for ref in beat.heartbeat.known] == ["exec_3"]
    assert time.monotonic() - begun > 1  # a state every few seconds, not a flood
    link.send(cancel=pb.Cancel(run=pb.RunRef(execution_id="exec_3", attempt=1)))
    ended = link.expect("finished")
    assert ended.finished.outcome.status == pb.Outcome.STATUS_CANCELLED
    link.send(cancel=pb.Cancel(run=pb.RunRef(execution_id="exec_3", attempt=1)))  # too late
    link.send(run=run("exec_4", "print(1)"))
    link.expect("started")
