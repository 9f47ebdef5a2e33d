"""Environments of packages, made by the real pip from wheels of the tests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from sandbox_rpc.errors import InvalidParameter
from scheduler_svc.packages.environments import (
    CONCURRENT_BUILDS,
    IDLE_SECONDS,
    Environment,
    Environments,
)
from scheduler_svc.packages.pip import InstallError, Pip

from tests.support import PATIENCE, eventually, only
from tests.wheels import make_wheel


@dataclass
class Shelf:
    """A directory of environments, and the wheels they are made from."""

    place: Path
    in_use: Callable[[], Collection[str]] = tuple

    @property
    def wheels(self) -> Path:
        return self.place / "wheels"

    @property
    def directory(self) -> Path:
        return self.place / "environments"

    def open(
        self, *, max_bytes: int = 1 << 30, one: int = 1 << 30, seconds: float = 600
    ) -> Environments:
        installer = Pip(find_links=str(self.wheels), offline=True, max_bytes=one, seconds=seconds)
        made = Environments(self.directory, installer, max_bytes=max_bytes)
        made.open(lambda: self.in_use())
        return made

    def names(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}


@pytest_asyncio.fixture
async def shelf(place: Path) -> AsyncIterator[Shelf]:
    made = Shelf(place)
    make_wheel(made.wheels, "alpha", {"alpha/__init__.py": "NAME = 'alpha'\n"}, requires=["beta"])
    make_wheel(
        made.wheels,
        "beta",
        {"beta.py": "def main():\n    print('from beta')\n"},
        scripts={"beta-says": "beta:main"},
    )
    make_wheel(made.wheels, "beta", {"beta.py": ""}, version="2.0")
    yield made


PYTHON = os.path.realpath(sys.executable)


def output_of(*command: str) -> bytes:
    return subprocess.check_output(command)


def name_of(pid: int) -> str | None:
    """Of a process that runs; None for one that has ended, reaped or not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    return None if rest.split()[0] in "ZX" else name


async def get(environments: Environments, *packages: str) -> tuple[Environment, list[str]]:
    reports: list[str] = []
    async with asyncio.timeout(PATIENCE):
        async with environments.hold(packages, reports.append) as environment:
            return environment, reports


async def test_packages_are_installed_with_what_they_need(shelf: Shelf) -> None:
    environments = shelf.open()
    made, reports = await get(environments, "Alpha", "beta<2")

    assert made.packages == shelf.directory.resolve() / made.key / "packages"
    code = "import sys; sys.path.append(sys.argv[1]); import alpha, beta; beta.main()"
    assert output_of(PYTHON, "-I", "-S", "-c", code, str(made.packages)) == b"from beta\n"
    script = (made.packages / "bin" / "beta-says").read_text()
    assert script.startswith(f"#!{PYTHON}\n")
    assert list(made.packages.rglob("*.pyc"))
    for path in (shelf.directory, made.packages.parent, *made.packages.rglob("*")):
        wanted = 0o555 if path.is_dir() else 0o444
        assert path.stat().st_mode & wanted == wanted, path

    assert reports[0] == "installing 2 packages"
    assert reports[-1] == "installing 2 packages: unpacking 2, with what they need"
    assert shelf.names() == {made.key}


async def test_an_equal_set_is_found(shelf: Shelf) -> None:
    first, _ = await get(shelf.open(), "alpha", "beta")
    again, reports = await get(shelf.open(), "BETA", "alpha", "alpha")
    assert again == first
    assert reports == []


async def test_equal_sets_at_the_same_time_are_made_once(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    installs = []
    install = Pip.install

    async def counted(self: Pip, *arguments: object) -> Path:
        installs.append(arguments)
        return await install(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Pip, "install", counted)
    environments = shelf.open()
    made = await asyncio.gather(*(get(environments, "beta") for _ in range(5)))
    assert len({environment.key for environment, _ in made}) == 1
    assert len(installs) == 1
    assert all(reports for _, reports in made)


@pytest.mark.parametrize(
    ("packages", "reason"),
    [
        (["nowhere-to-be-found"], "No matching distribution found for nowhere-to-be-found"),
        (["beta==1.0", "beta==2.0"], "Cannot install beta==1.0 and beta==2.0 because"),
        (["beta>3"], "No matching distribution found for beta>3"),
    ],
)
async def test_a_failure_says_why_and_leaves_nothing(
    shelf: Shelf, packages: list[str], reason: str
) -> None:
    environments = shelf.open()
    with pytest.raises(InstallError) as caught:
        await get(environments, *packages)
    assert caught.value.detail.startswith("the packages could not be installed (wheels only): ")
    assert reason in caught.value.detail
    assert shelf.names() == set()
    await get(environments, "beta")


async def test_a_source_distribution_is_not_built(shelf: Shelf) -> None:
    trap = shelf.place / "trap"
    source = shelf.place / "evil-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(trap)!r}, 'w')\n")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    archive = shelf.wheels / "evil-1.0.tar.gz"
    output_of("/bin/tar", "-C", str(shelf.place), "-czf", str(archive), "evil-1.0")
    with pytest.raises(InstallError, match="No matching distribution found for evil"):
        await get(shelf.open(), "evil")
    assert not trap.exists()


async def test_an_address_never_reaches_pip(shelf: Shelf) -> None:
    with pytest.raises(InvalidParameter):
        await get(shelf.open(), f"beta @ file://{shelf.wheels}/beta-1.0-py3-none-any.whl")
    assert shelf.names() == set()


async def test_code_in_a_package_does_not_run_while_it_is_installed(shelf: Shelf) -> None:
    trap = shelf.place / "trap"
    code = f"open({str(trap)!r}, 'w').close()\n"
    names = ("sitecustomize.py", "usercustomize.py", "json.py", "evil/__init__.py")
    files = dict.fromkeys(names, code) | {"evil.pth": f"import os; {code}"}
    make_wheel(shelf.wheels, "evil", files)
    await get(shelf.open(), "evil")
    assert not trap.exists()


async def test_an_installation_is_bounded_in_time(shelf: Shelf) -> None:
    with pytest.raises(InstallError, match="it took longer than 1e-09 s"):
        await get(shelf.open(seconds=1e-9), "alpha")
    assert shelf.names() == set()


async def test_an_installation_is_bounded_on_disk(shelf: Shelf) -> None:
    make_wheel(shelf.wheels, "large", {"large.txt": "x" * (8 << 20)})
    with pytest.raises(InstallError):
        await get(shelf.open(one=1 << 20), "large")
    assert shelf.names() == set()


async def test_when_nobody_waits_any_more_the_installation_ends(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(self: Pip, requirements: object, place: Path, report: object) -> Path:
        (place / "half").touch()
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return place

    with monkeypatch.context() as patched:
        patched.setattr(Pip, "install", endless)
        environments = shelf.open()
        callers = [asyncio.create_task(get(environments, "beta")) for _ in range(2)]
        await begun.wait()
        callers[0].cancel()
        await asyncio.gather(callers[0], return_exceptions=True)
        assert not ended.is_set()
        callers[1].cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE)
        await asyncio.gather(callers[1], return_exceptions=True)

    async def clean() -> bool:
        return shelf.names() == set()

    await eventually(clean)
    await get(environments, "beta")


async def test_only_so_many_install_at_the_same_time(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    install, go, running = Pip.install, asyncio.Event(), 0

    async def held_up(self: Pip, *arguments: object) -> Path:
        nonlocal running
        running += 1
        await go.wait()
        return await install(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Pip, "install", held_up)
    environments = shelf.open()
    sets = ("beta", "beta==1.0", "beta==2.0")
    callers = [asyncio.create_task(get(environments, each)) for each in sets]

    async def both_slots_taken() -> bool:
        return running == CONCURRENT_BUILDS

    await eventually(both_slots_taken)
    go.set()
    made = await asyncio.gather(*callers)
    waited = [reports for _, reports in made if "waiting for other installations to end" in reports]
    assert len(waited) == len(sets) - CONCURRENT_BUILDS
    assert running == len(sets)


async def test_what_a_crash_left_is_removed_at_the_start(shelf: Shelf) -> None:
    made, _ = await get(shelf.open(), "beta")
    half = shelf.directory / ".new-half" / "packages"
    half.mkdir(parents=True)
    (half / "beta.py").touch()
    shelf.open()
    assert shelf.names() == {made.key}


async def test_pip_dies_with_the_service(shelf: Shelf) -> None:
    """confine.py, which every installation is started by, ends with its parent."""
    confine = Path(sys.modules[Pip.__module__].__file__ or "").with_name("confine.py")
    command = [sys.executable, "-I", "-S", str(confine), "{}", "60", str(1 << 30), str(1 << 30)]
    parent = (
        "import os, subprocess, sys\n"
        f"command = {command!r} + ['/bin/sleep', '1000000']\n"
        "command[4] = str(os.getpid())\n"
        "child = subprocess.Popen(command, stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", parent),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    child = int(await process.stdout.readline())

    async def sleeps() -> bool:
        return name_of(child) == "sleep"

    await eventually(sleeps)
    process.kill()
    await process.communicate()

    async def gone() -> bool:
        return name_of(child) is None

    await eventually(gone)


async def test_the_least_recently_used_go_first_and_those_in_use_stay(shelf: Shelf) -> None:
    environments = shelf.open()
    keys = []
    for age, packages in ((300, ["beta==1.0"]), (200, ["beta==2.0"]), (100, ["alpha"])):
        made, _ = await get(environments, *packages)
        stamp = time.time() - age
        os.utime(made.packages.parent / "environment.json", (stamp, stamp))
        keys.append(made.key)
    oldest, _, newest = keys
    shelf.in_use = lambda: {oldest}
    size = sum(
        path.stat().st_blocks * 512
        for key in (oldest, newest)
        for path in (shelf.directory / key).rglob("*")
        if path.is_file()
    )
    shelf.open(max_bytes=size)
    assert shelf.names() == {oldest, newest}


async def test_what_nobody_used_for_long_goes(shelf: Shelf) -> None:
    environments = shelf.open()
    old, _ = await get(environments, "beta==1.0")
    found, _ = await get(environments, "beta==2.0")
    for each in (old, found):
        stamp = time.time() - IDLE_SECONDS - 60
        os.utime(each.packages.parent / "environment.json", (stamp, stamp))
    await get(environments, "beta==2.0")
    shelf.open()
    assert only(sorted(shelf.names())) == found.key
