"""A control group for each run, where the sandbox was given one to make them in.

It bounds the run as a whole, all its processes and its tmpfs pages together, and counts
exactly. Versions 1 and 2 differ in names; `_V1` and `_V2` say which.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PERIOD_MICROSECONDS = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """`cpus` in cores; 0 leaves the processor unbounded."""

    memory_bytes: int
    max_processes: int
    cpus: float


@dataclass(frozen=True, slots=True)
class Used:
    """What a run used, and how often it met a limit."""

    cpu_seconds: float
    peak_bytes: int
    killed_for_memory: int
    forks_refused: int


class Cgroups:
    """Makes the groups of runs. `parents` is what the scheduler handed over."""

    def __init__(self, parents: Mapping[str, Path]) -> None:
        self._parents = parents
        self._made = 0

    @classmethod
    def parse(cls, text: str) -> Cgroups | None:
        """From `memory=/path,pids=/path,…` or `unified=/path`; None from an empty text."""
        if not text:
            return None
        parents = {}
        for entry in text.split(","):
            controller, _, path = entry.partition("=")
            parents[controller] = Path(path)
        return cls(parents)

    def make(self, limits: Limits) -> Group:
        """Raises OSError: then the limits cannot be had, and the run must not be."""
        self._made += 1
        paths = {name: path / f"run-{self._made}" for name, path in self._parents.items()}
        group = V2(paths["unified"]) if "unified" in paths else V1(paths)
        try:
            group.limit(limits)
        except OSError:
            group.remove()
            raise
        return group


class V1:
    """One directory for each controller."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths
        self._oom_control = -1
        self.oom = -1

    def limit(self, limits: Limits) -> None:
        for path in self._paths.values():
            path.mkdir()
        memory = self._paths["memory"]
        (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
        swap = memory / "memory.memsw.limit_in_bytes"
        if swap.exists():  # a kernel that counts swap
            swap.write_text(str(limits.memory_bytes))
        (self._paths["pids"] / "pids.max").write_text(str(limits.max_processes + 1))  # and init
        if limits.cpus:
            cpu = self._paths["cpu"]
            (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
            quota = int(limits.cpus * _PERIOD_MICROSECONDS)
            (cpu / "cpu.cfs_quota_us").write_text(str(quota))
        # Readable when the group runs out of memory: what is left of it is then ended.
        self.oom = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._oom_control = os.open(memory / "memory.oom_control", os.O_RDONLY)
        (memory / "cgroup.event_control").write_text(f"{self.oom} {self._oom_control}")

    def add(self, pid: int) -> None:
        for path in self._paths.values():
            (path / "cgroup.procs").write_text(str(pid))

    def used(self) -> Used:
        memory = self._paths["memory"]
        return Used(
            cpu_seconds=int((self._paths["cpuacct"] / "cpuacct.usage").read_text()) / 1e9,
            peak_bytes=int((memory / "memory.max_usage_in_bytes").read_text()),
            killed_for_memory=_named(memory / "memory.oom_control", "oom_kill"),
            forks_refused=_named(self._paths["pids"] / "pids.events", "max"),
        )

    def remove(self) -> None:
        """The group's processes are gone."""
        for descriptor in (self.oom, self._oom_control):
            if descriptor >= 0:
                os.close(descriptor)
        self.oom = self._oom_control = -1
        for path in self._paths.values():
            with suppress(FileNotFoundError):
                path.rmdir()


class V2:
    """One directory for everything; the kernel ends the whole group when memory runs out."""

    oom = -1

    def __init__(self, path: Path) -> None:
        self._path = path

    def limit(self, limits: Limits) -> None:
        self._path.mkdir()
        (self._path / "memory.max").write_text(str(limits.memory_bytes))
        swap = self._path / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
        (self._path / "memory.oom.group").write_text("1")
        (self._path / "pids.max").write_text(str(limits.max_processes + 1))  # and init
        if limits.cpus:
            quota = int(limits.cpus * _PERIOD_MICROSECONDS)
            (self._path / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")

    def add(self, pid: int) -> None:
        (self._path / "cgroup.procs").write_text(str(pid))

    def used(self) -> Used:
        peak = self._path / "memory.peak"  # since Linux 5.19
        return Used(
            cpu_seconds=_named(self._path / "cpu.stat", "usage_usec") / 1e6,
            peak_bytes=int(peak.read_text()) if peak.exists() else 0,
            killed_for_memory=_named(self._path / "memory.events", "oom_kill"),
            forks_refused=_named(self._path / "pids.events", "max"),
        )

    def remove(self) -> None:
        """The group's processes are gone."""
        with suppress(FileNotFoundError):
            self._path.rmdir()


Group = V1 | V2


def _named(path: Path, name: str) -> int:
    """One number of a file of `name number` lines; 0 where the kernel does not count it."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
