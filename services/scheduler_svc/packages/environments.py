"""Installed sets of packages, kept by what they are made from.

`<directory>/<key>/packages` holds the packages and `environment.json` beside it what they
are. An environment is made under another name and renamed when it is complete, so one that
can be found is whole. Nothing changes it afterwards; it goes when it has not been used for
long, or when all of them together take too much.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scheduler_svc.packages.pip import InstallError, Pip, bytes_below
from scheduler_svc.packages.requirements import canonical, key_of

log = logging.getLogger(__name__)

MAX_BYTES = 20 << 30
IDLE_SECONDS = 30 * 24 * 3600
CONCURRENT_BUILDS = 2

_ABOUT = "environment.json"
_UNFINISHED = "."  # the first character of whatever is not an environment, or no longer

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Environment:
    """Installed packages: `packages` is the directory for sys.path."""

    key: str
    packages: Path


@dataclass(slots=True)
class _Build:
    """An environment in the making, and who wants to hear of it."""

    task: asyncio.Task[Environment] = field(init=False)
    progress: str = ""
    reports: list[Report] = field(default_factory=list)

    def report(self, progress: str) -> None:
        self.progress = progress
        for report in tuple(self.reports):
            report(progress)


class Environments:
    """Finds environments, makes those that are missing, once each, removes old ones."""

    def __init__(self, directory: Path, pip: Pip, *, max_bytes: int = MAX_BYTES) -> None:
        """`max_bytes` bounds all together, as far as they are not in use."""
        self._directory = directory.resolve()
        self._pip = pip
        self._max_bytes = max_bytes
        self._builds: dict[str, _Build] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_BUILDS)
        self._held: Counter[str] = Counter()
        self._in_use: Callable[[], Collection[str]] = tuple

    def open(self, in_use: Callable[[], Collection[str]]) -> None:
        """Makes the directory, removes what an earlier scheduler_svc left unfinished.

        `in_use` answers the keys of the environments that sandboxes have. Raises OSError.
        """
        self._in_use = in_use
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o755)  # sandboxes are other users where we are root
        for path in self._directory.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path)
        for path in self._retire():
            shutil.rmtree(path)

    @asynccontextmanager
    async def hold(self, packages: Sequence[str], report: Report) -> AsyncIterator[Environment]:
        """The environment with these packages, which stays at least until the end of the block.

        Makes it where there is none, and `report`s the progress. Raises InvalidParameter
        and InstallError.
        """
        requirements = canonical(packages)
        key = key_of(requirements)
        self._held[key] += 1
        try:
            yield self._find(key) or await self._make(key, requirements, report)
        finally:
            self._held[key] -= 1

    async def close(self) -> None:
        """Ends what is being made."""
        tasks = [build.task for build in self._builds.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _find(self, key: str) -> Environment | None:
        home = self._directory / key
        try:
            os.utime(home / _ABOUT)
        except FileNotFoundError:
            return None
        return Environment(key, home / "packages")

    async def _make(self, key: str, requirements: Sequence[str], report: Report) -> Environment:
        """Joins the build of this key. The last one who leaves before its end, ends it."""
        build = self._builds.get(key)
        if build is None:
            build = self._builds[key] = _Build()
            # In a context of its own: it may outlive the request that started it.
            build.task = asyncio.get_running_loop().create_task(
                self._build(build, key, requirements), context=contextvars.Context()
            )
        build.reports.append(report)
        if build.progress:
            report(build.progress)
        try:
            return await asyncio.shield(build.task)
        finally:
            build.reports.remove(report)
            if not build.reports and not build.task.done():
                build.task.cancel()
                # Whoever comes next begins anew.
                if self._builds.get(key) is build:
                    del self._builds[key]

    async def _build(self, build: _Build, key: str, requirements: Sequence[str]) -> Environment:
        try:
            if self._slots.locked():
                build.report("waiting for other installations to end")
            async with self._slots:
                started = time.monotonic()
                made = await self._install(build, key, requirements)
            log.info("installed %s in %.1f s", ", ".join(requirements), time.monotonic() - started)
        except OSError as error:
            raise InstallError(error.strerror or str(error)) from error
        else:
            return made
        finally:
            if self._builds.get(key) is build:
                del self._builds[key]

    async def _install(self, build: _Build, key: str, requirements: Sequence[str]) -> Environment:
        place = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}new-", dir=self._directory))
        try:
            await self._pip.install(requirements, place, build.report)
            await asyncio.to_thread(_complete, place, requirements)
            os.rename(place, self._directory / key)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
            raise
        for path in self._retire():
            await asyncio.to_thread(shutil.rmtree, path)
        return Environment(key, self._directory / key / "packages")

    def _retire(self) -> list[Path]:
        """Takes environments that have to go out of sight, least recently used first.

        In one step of the loop: none of them is found by anybody after this.
        """
        about = sorted(
            self._directory.glob(f"[!{_UNFINISHED}]*/{_ABOUT}"),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: int(json.loads(path.read_text())["bytes"]) for path in about}
        total = sum(sizes.values())
        kept = {*self._in_use(), *(key for key, count in self._held.items() if count)}
        retired = []
        for path in about:
            idle = time.time() - path.stat().st_mtime
            if path.parent.name in kept or (total <= self._max_bytes and idle < IDLE_SECONDS):
                continue
            total -= sizes[path]
            gone = self._directory / f"{_UNFINISHED}old-{path.parent.name}"
            path.parent.rename(gone)
            retired.append(gone)
            log.info("removing the environment %s", path.parent.name)
        return retired


def _complete(place: Path, requirements: Sequence[str]) -> None:
    """Everything an environment has beside its packages, and all of it on the disk."""
    shutil.rmtree(place / "tmp")
    about = {"requirements": list(requirements), "bytes": bytes_below(place)}
    (place / _ABOUT).write_text(json.dumps(about, indent=2))
    place.chmod(0o755)
    # Or a power cut could leave the name and not the files: a set that never works again.
    os.sync()
