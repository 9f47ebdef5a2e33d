"""The runtimes that the contract suite runs against."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from scheduler_svc.packages.environments import Environments
from scheduler_svc.packages.pip import Pip
from scheduler_svc.runtimes.base import Resources, Runtime, SandboxSpec, sandbox_id
from scheduler_svc.runtimes.process import ProcessRuntime

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))


class ProcessHost:
    """A machine on which the process runtime runs stand-in executors."""

    def __init__(self, place: Path) -> None:
        self.sandboxes = place / "sandboxes"
        self.workspaces = place / "workspaces"
        self.environments = place / "environments"
        self.wheels = place / "wheels"
        self._runtimes: list[ProcessRuntime] = []

    def start_runtime(self, *, max_sandboxes: int = 20, grace: float = 30) -> ProcessRuntime:
        """A runtime as a scheduler_svc that starts on this host makes it."""
        runtime = ProcessRuntime(
            sandboxes=self.sandboxes,
            workspaces=self.workspaces,
            link_target="unix:/nowhere",
            max_sandboxes=max_sandboxes,
            environments=Environments(
                self.environments, Pip(find_links=str(self.wheels), offline=True)
            ),
            command=STAND_IN,
            grace=grace,
        )
        runtime.open()
        self._runtimes.append(runtime)
        return runtime

    def order(self, session_id: str, order: str) -> None:
        """Tells the session's next executor what to do, see stand_in.py."""
        workspace = self.workspaces / session_id
        workspace.mkdir(parents=True, exist_ok=True)
        (workspace / "order").write_text(order)

    async def close(self) -> None:
        for runtime in self._runtimes:
            await runtime.close()
        cleaner = self.start_runtime(grace=0)
        for state in await cleaner.list():
            await cleaner.stop(state.sandbox_id)
        await cleaner.close()


@pytest_asyncio.fixture(params=[ProcessHost])
async def host(request: pytest.FixtureRequest, place: Path) -> AsyncIterator[ProcessHost]:
    made = request.param(place)
    yield made
    await made.close()


@pytest.fixture
def runtime(host: ProcessHost) -> Runtime:
    return host.start_runtime()


async def text(runtime: Runtime, sandbox_id: str, *, tail: int = 100, **limits: Any) -> bytes:
    """The whole of one answer of `logs`."""
    pieces = runtime.logs(sandbox_id, tail=tail, **limits)
    return b"".join([piece async for piece in pieces])


def spec(letter: str = "a", generation: int = 1) -> SandboxSpec:
    session_id = "sess_" + letter * 16
    return SandboxSpec(
        sandbox_id=sandbox_id(session_id, generation),
        session_id=session_id,
        generation=generation,
        template_id="python-basic",
        domain="default",
        resources=Resources(cpu="1", memory="512Mi", disk="1Gi", max_processes=128),
        token=f"container.{letter}",
    )
