"""A whole stack of its own, driven by the `sandbox` command, for tests of any folder."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli import layout, ports
from cli.client import Client
from cli.layout import Layout

SANDBOX = [sys.executable, "-m", "cli.main"]
SECONDS = 60.0


def free_ports() -> list[int]:
    """Two that nobody has; below those that the kernel gives to outgoing connections."""
    candidates = iter(random.SystemRandom().sample(range(15_000, 32_000), 100))
    found = (port for port in candidates if ports.problem("127.0.0.1", port) is None)
    return list(itertools.islice(found, 2))


class Stack:
    """One data directory with ports of its own, driven by the command."""

    def __init__(self, data: Path) -> None:
        self.places = Layout(data)
        self.port, self.internal_port = free_ports()
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SANDBOX_")
        } | {
            "SANDBOX_DATA_DIR": str(data),
            "SANDBOX_PORT": str(self.port),
            "SANDBOX_INTERNAL_PORT": str(self.internal_port),
        }

    def sandbox(self, *arguments: str, code: int = 0) -> str:
        """Runs the command; its standard output. Fails for another exit code."""
        done = subprocess.run(
            [*SANDBOX, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", self.places.token.read_text().strip())

    def processes(self) -> dict[str, Any]:
        rows = json.loads(self.places.state.read_text())["processes"]
        return {row["name"]: row for row in rows}

    def executors(self) -> list[int]:
        """By scheduler_svc's own records."""
        records = self.places.sandboxes.glob("*/sandbox.json")
        return [json.loads(record.read_text())["process"]["pid"] for record in records]

    def until_restarted(self, name: str) -> None:
        """Waits for the log line of a start after the one that is there."""
        log = self.places.log(layout.SUPERVISOR)
        follow = subprocess.Popen(
            [*SANDBOX, "logs", layout.SUPERVISOR, "-f", "-n", "1000"],
            env=self.environment,
            stdout=subprocess.PIPE,
        )
        assert follow.stdout
        seen = b""
        while seen.count(f"{name} started".encode()) < 2:
            assert select.select([follow.stdout], [], [], SECONDS)[0], log.read_text()
            seen += os.read(follow.stdout.fileno(), 4096)
        follow.kill()
        follow.wait()
        follow.stdout.close()
