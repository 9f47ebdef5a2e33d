"""A stack with somebody in it who must not notice anything, and secrets that nobody may see."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scheduler_svc.runtimes.cgroups import Cgroups

from cli import proctree
from cli.client import Client
from executor.runs import IDLE_SANDBOXES
from tests.edge.collector import collecting
from tests.flow.stack import Stack
from tests.support import PATIENCE

Json = dict[str, Any]

# What was planted, and the token of a container in any of its copies.
SECRET = r"planted-[0-9a-f]{32}|(?:container|service)\.[\w-]+\.[0-9]+\.[0-9a-f]{64}"
FINAL = ("completed", "failed", "timeout")
# Of one execution's result: how its final status is called.
CALLED = {"success": "completed", "failed": "failed", "timeout": "timeout"}
SMALL = {"cpu": "1", "memory": "256Mi", "disk": "1Gi", "max_processes": 32}
WITNESS = (
    "import os, time\n"
    "open('mine', 'w').write('untouched')\n"
    "def handler(event):\n"
    "    while not os.path.exists('go'): time.sleep(0.1)\n"
    "    return open('mine').read()\n"
)


class Arena:
    """One stack for many attacks. The bystander's execution runs from its start to its end."""

    def __init__(self, place: Path) -> None:
        self.stack = Stack(place / "data")
        self.planted = {name: plant() for name in ("token", "secret", "environment", "file")}
        places = self.stack.places
        places.data.mkdir(mode=0o700)
        for path in (places.token, places.secret, places.data / "file"):
            path.write_text(self.planted[path.name])
            path.chmod(0o600)
        self.stack.environment["PLANTED"] = self.planted["environment"]
        self._traces = ExitStack()
        self._collector = self._traces.enter_context(collecting())
        self.stack.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = self._collector.endpoint
        self.stack.sandbox("up")
        self.client: Client = self.stack.client()
        self.bystander: str = self.client.create_session("python-basic")["session_id"]
        submitted = self.client.execute(self.bystander, WITNESS, "python", timeout=3600)
        self.witness: str = submitted["execution_id"]

    def attack(self, **resources: Any) -> Attack:
        """A small session of its own, for one test."""
        session = self.client.create_session("python-basic", resources={**SMALL, **resources})
        return Attack(self, session["session_id"])

    def check_bystander(self) -> None:
        eventually(lambda: self.client.status(self.witness)["status"] == "running")

    def close(self) -> None:
        """Ends the stack; nothing of what was planted is left in what it wrote."""
        try:
            (self.stack.places.workspaces / self.bystander / "go").touch()
            result = self.client.result(self.witness, wait=60)
            assert result["status"] == "success", result
            assert (result["return_value"], result["attempt"]) == ("untouched", 1)
            self.client.close()
        finally:
            self.stack.sandbox("down")
            self._traces.close()
        spans = list(self._collector.spans.queue)
        assert any(each.span.name == "sandbox.run" for each in spans)
        for each in spans:
            assert not re.search(SECRET, str(each.span)), each.span.name
        places = self.stack.places
        written = [*places.logs.iterdir(), *places.sandboxes.rglob("*"), *places.data.glob("*.db*")]
        for path in written:
            if path.is_file():
                leaked = re.search(SECRET.encode(), path.read_bytes())
                assert not leaked, f"{path} holds {leaked!r}"


class Attack:
    """One session that misbehaves."""

    def __init__(self, arena: Arena, session: str) -> None:
        self.arena = arena
        self.session = session
        self.client = arena.client
        self._results: list[Json] = []
        self.generation = 1  # of the sandbox: one more for each that died

    @property
    def workspace(self) -> Path:
        return self.arena.stack.places.workspaces / self.session

    def run(self, code: str, language: str = "python", *, timeout: int = 30, **fields: Any) -> Json:
        """Runs code to its end; the ExecutionResult. Checked again by `check`."""
        result = self.client.execute(
            self.session, code, language, timeout=timeout, wait=int(PATIENCE), **fields
        )
        assert "exit_code" in result, result
        self._results.append(result)
        return result

    def submit(self, code: str, language: str = "python", **fields: Any) -> str:
        answer = self.client.execute(self.session, code, language, **fields)
        return str(answer["execution_id"])

    def finish(self, execution: str) -> Json:
        """Waits for the end of what was submitted."""
        result = self.client.result(execution, wait=int(PATIENCE))
        self._results.append(result)
        return result

    def check(self) -> None:
        """What holds after every attack."""
        for result in self._results:
            self._check_one_true_end(result)
            assert not re.search(SECRET, json.dumps(result, ensure_ascii=False))
        canary = self.client.execute(
            self.session, "def handler(e): return e['n'] + 1", "python", event={"n": 41}, wait=60
        )
        assert (canary["status"], canary["return_value"]) == ("success", 42), canary
        self._check_nothing_runs()
        self.arena.check_bystander()
        self.client.delete_session(self.session)
        assert not list(self.arena.stack.places.sandboxes.glob(f"{self._sandbox}-*"))

    @property
    def _sandbox(self) -> str:
        return f"sbx_{self.session.removeprefix('sess_')}"

    def executor(self) -> int:
        record = (
            self.arena.stack.places.sandboxes
            / f"{self._sandbox}-{self.generation}"
            / "sandbox.json"
        )
        return int(json.loads(record.read_text())["process"]["pid"])

    def _check_one_true_end(self, result: Json) -> None:
        execution = result["execution_id"]
        final = CALLED[result["status"]]
        events = list(self.client.events(execution))
        statuses = [event.data["status"] for event in events if event.kind == "status"]
        assert [status for status in statuses if status in FINAL] == [final]
        assert [event.kind for event in events].count("result") == 1
        assert events[-1].kind == "result"
        for stream in ("stdout", "stderr"):
            assert "".join(e.data["data"] for e in events if e.kind == stream) == result[stream]
        again = self.client.execution(execution)
        assert again["status"] == final
        assert again["result"] == result == events[-1].data

    def _check_nothing_runs(self) -> None:
        """Of a run, no process and no control group; the sandboxes made ahead have no job."""
        executor = self.executor()
        eventually(lambda: not user_processes(executor))
        eventually(lambda: sandboxes(executor) <= IDLE_SANDBOXES + 1)  # and a zygote
        eventually(lambda: len(groups_of_runs(self._sandbox)) <= IDLE_SANDBOXES)


def plant() -> str:
    return f"planted-{secrets.token_hex(16)}"


def eventually(look: Callable[[], object]) -> None:
    """Returns once `look` answers something true: for what gives no signal of its own."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def pids_inside(pid: int) -> list[int]:
    """A process's ids, from our pid namespace down to its own."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    found = re.search(r"^NSpid:\t(.*)$", text, re.MULTILINE)
    assert found
    return [int(number) for number in found.group(1).split()]


def user_processes(executor: int) -> list[int]:
    """Processes below an executor that are in a sandbox and are not its process 1."""
    outside = len(pids_inside(executor))
    found = {pid: pids_inside(pid)[outside:] for pid in proctree.descendants(executor)}
    return [pid for pid, inside in found.items() if inside and inside[-1] != 1]


def sandboxes(executor: int) -> int:
    outside = len(pids_inside(executor))
    found = [pids_inside(pid)[outside:] for pid in proctree.descendants(executor)]
    return sum(inside[-1:] == [1] for inside in found)


def groups_of_runs(sandbox: str) -> set[str]:
    """The names of a sandbox's control groups; each has one of every controller."""
    return {
        path.name
        for parent in control_groups()
        for path in (parent / "sandbox").glob(f"{sandbox}-*/run-*")
    }


def remove(place: Path) -> None:
    """What shutil.rmtree cannot: a tree deeper than Python's recursion."""
    subprocess.run(["/bin/rm", "-rf", place], check=True)


def control_groups() -> list[Path]:
    """The groups below which the platform makes its own; none where it cannot."""
    if os.geteuid() != 0:
        return []
    return [path for _, path in Cgroups()._parents()]
