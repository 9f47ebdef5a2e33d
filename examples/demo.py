"""What `make demo` runs: a stack of its own, one execution over REST, everything stopped.

State goes to a temporary directory and the ports are free ones, so this never meets a
stack that runs already.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
SANDBOX = [sys.executable, "-m", "cli.main"]


def main() -> int:
    # SIGTERM ends this like Ctrl-C does: through the `finally` below.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sandbox-demo-") as directory:
        port, internal_port = free_ports(2)
        environment = os.environ | {
            "SANDBOX_DATA_DIR": directory,
            "SANDBOX_PORT": str(port),
            "SANDBOX_INTERNAL_PORT": str(internal_port),
        }
        try:
            step("Start the stack: sandbox up")
            sandbox("up", environment)
            show(run(f"http://127.0.0.1:{port}", Path(directory, "token").read_text().strip()))
        finally:
            # Not to be cut short: a second Ctrl-C would leave processes behind.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            step("Stop it: sandbox down")
            sandbox("down", environment)
    print(f"\nDone in {time.monotonic() - begun:.1f} s. Nothing is left running.")
    return 0


def sandbox(command: str, environment: dict[str, str]) -> None:
    """Runs `sandbox COMMAND`; interrupted, it lets the command undo what it has begun."""
    with subprocess.Popen([*SANDBOX, command], env=environment) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if code != 0:
        raise SystemExit(f"'sandbox {command}' ended with exit code {code}")


def run(url: str, token: str) -> dict[str, Any]:
    """Opens a session, runs the example in it, closes it; returns the handler's value."""
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, headers=headers, timeout=90, trust_env=False) as client:
        step("Open a session: a sandbox with a workspace")
        session = call(client, "POST", "/api/v1/sessions", {"template_id": "python-basic"})
        print(f"  {session['session_id']} is {session['status']} ({session['runtime_type']})")

        step("Run examples/summarise.py in it on examples/sales.csv, and wait for the result")
        result = call(
            client,
            "POST",
            f"/api/v1/sessions/{session['session_id']}/execute?wait=60",
            {
                "language": "python",
                "code": (HERE / "summarise.py").read_text(),
                "event": {"csv": (HERE / "sales.csv").read_text()},
            },
        )
        print(f"  {result['execution_id']}: {result['status']}, exit code {result['exit_code']}")
        print(f"  it printed: {result['stdout'].strip()}")
        if result["status"] != "success":
            raise SystemExit(f"the execution failed: {result['error']}")

        step("Close the session: its sandbox is gone")
        call(client, "DELETE", f"/api/v1/sessions/{session['session_id']}")
    value: dict[str, Any] = result["return_value"]
    return value


def call(client: httpx.Client, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """One request, shown; its answer. Ends the demo at an error."""
    print(f"  {method} {path}")
    begun = time.monotonic()
    answer = client.request(method, path, json=body)
    print(f"  {answer.status_code} {answer.reason_phrase}, {time.monotonic() - begun:.3f} s")
    if answer.is_error:
        raise SystemExit(f"the platform answered: {answer.text}")
    decoded: dict[str, Any] = json.loads(answer.content or b"{}")
    return decoded


def show(summary: dict[str, Any]) -> None:
    step("The handler's return value")
    print(f"  {'region':<12} {'revenue':>10}")
    for region, revenue in summary["regions"].items():
        print(f"  {region:<12} {revenue:>10,.2f}")
    print(f"  {'total':<12} {summary['total']:>10,.2f}")
    best = summary["best_month"]
    print(f"  best month: {best['month']} ({best['revenue']:,.2f})")
    print(f"  best seller: {summary['best_seller']}")


def step(title: str) -> None:
    print(f"\n▸ {title}", flush=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives to connections."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(15_000, 32_000), 200):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.append(port)
        if len(found) == count:
            return found
    raise SystemExit("no free ports were found")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
