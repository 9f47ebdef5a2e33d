"""Sandboxes of the process runtime that have packages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sandbox_rpc.errors import StateConflict, TooManyRequests
from scheduler_svc.packages.pip import InstallError, Pip
from scheduler_svc.runtimes.base import Change, Changed, Removed, SandboxSpec

from tests.runtime.conftest import ProcessHost, spec
from tests.runtime.test_process import environment, record
from tests.support import PATIENCE, only
from tests.wheels import make_wheel


def wanting(*packages: str, letter: str = "a") -> SandboxSpec:
    return replace(spec(letter), packages=packages)


@pytest.fixture(autouse=True)
def _wheels(host: ProcessHost) -> None:
    make_wheel(host.wheels, "alpha", {"alpha.py": ""})
    make_wheel(host.wheels, "beta", {"beta.py": ""})


class SlowPip:
    """Holds installations up until `go` is set; then the real pip does them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = asyncio.Event()
        install = Pip.install

        async def held_up(pip: Pip, *arguments: object) -> Path:
            self.begun.set()
            try:
                await self.go.wait()
                return await install(pip, *arguments)  # type: ignore[arg-type]
            finally:
                self.ended.set()

        monkeypatch.setattr(Pip, "install", held_up)


async def test_a_sandbox_is_creating_until_its_packages_are_there(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    watch = runtime.watch()
    await next_of(watch)
    state = await runtime.start(wanting("alpha"))
    assert (state.status, state.reason) == ("running", None)

    seen = []
    while not isinstance(change := await next_of(watch), Changed) or (
        change.state.status == "creating"
    ):
        seen.append(change)
    assert change == Changed(state)
    reasons = [each.state.reason for each in seen if isinstance(each, Changed)]
    assert "installing 1 package" in reasons
    assert "installing 1 package: unpacking 1, with what they need" in reasons
    assert all(isinstance(each, Changed) for each in seen)

    kept = record(host, spec())
    packages = Path(environment(kept.process.pid)["SANDBOX_PACKAGES"])
    assert packages == host.environments.resolve() / str(kept.environment) / "packages"
    assert (packages / "alpha.py").exists()


async def next_of(changes: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(PATIENCE):
        return await anext(changes)


async def test_without_packages_there_is_no_wait(host: ProcessHost) -> None:
    runtime = host.start_runtime()
    await runtime.start(spec())
    assert "SANDBOX_PACKAGES" not in environment(record(host, spec()).process.pid)
    assert record(host, spec()).environment is None
    assert os.listdir(host.environments) == []


async def test_packages_that_cannot_be_had_are_named_and_nothing_is_left(
    host: ProcessHost,
) -> None:
    runtime = host.start_runtime()
    watch = runtime.watch()
    await next_of(watch)
    with pytest.raises(InstallError, match="No matching distribution found for nowhere"):
        await runtime.start(wanting("nowhere"))
    assert await runtime.list() == []
    assert not (host.sandboxes / spec().sandbox_id).exists()
    while not isinstance(change := await next_of(watch), Removed):
        pass
    assert change == Removed(spec().sandbox_id)
    assert (await runtime.start(wanting("alpha"))).status == "running"


async def test_a_start_goes_on_without_its_caller(
    host: ProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowPip(monkeypatch)
    runtime = host.start_runtime()
    caller = asyncio.create_task(runtime.start(wanting("alpha")))
    await slow.begun.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert only(await runtime.list()).status == "creating"
    assert await runtime.status(spec().sandbox_id) == only(await runtime.list())

    slow.go.set()
    assert (await runtime.start(wanting("alpha"))).status == "running"
    assert len(await runtime.list()) == 1


async def test_a_stop_ends_the_wait(host: ProcessHost, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowPip(monkeypatch)
    runtime = host.start_runtime()
    caller = asyncio.create_task(runtime.start(wanting("alpha")))
    await slow.begun.wait()
    await runtime.stop(spec().sandbox_id)
    with pytest.raises(StateConflict, match="stopped before it had started"):
        await caller
    assert await runtime.list() == []
    await asyncio.wait_for(slow.ended.wait(), PATIENCE)


async def test_those_who_wait_count_against_the_limit(
    host: ProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowPip(monkeypatch)
    runtime = host.start_runtime(max_sandboxes=1)
    caller = asyncio.create_task(runtime.start(wanting("alpha")))
    await slow.begun.wait()
    with pytest.raises(TooManyRequests):
        await runtime.start(spec("b"))
    slow.go.set()
    await caller


async def test_an_environment_that_a_sandbox_has_outlives_scheduler_svc(
    host: ProcessHost,
) -> None:
    runtime = host.start_runtime()
    await runtime.start(wanting("alpha"))
    await runtime.start(wanting("beta", letter="b"))
    await runtime.stop(spec("b").sandbox_id)
    await runtime.close()
    kept = record(host, spec()).environment
    for name in os.listdir(host.environments):
        os.utime(host.environments / name / "environment.json", (0, 0))

    host.start_runtime()
    assert os.listdir(host.environments) == [kept]


async def test_a_runtime_that_closes_ends_its_installations(
    host: ProcessHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowPip(monkeypatch)
    runtime = host.start_runtime()
    caller = asyncio.create_task(runtime.start(wanting("alpha")))
    await slow.begun.wait()
    await runtime.close()
    assert slow.ended.is_set()
    with pytest.raises(StateConflict):
        await caller
