"""A control group for each sandbox of the process runtime, handed to the sandbox's user.

Its executor makes a group below it for each run: that is what bounds the memory of a run
as a whole. Only root can have one here; without it, `create` answers nothing, and memory
is bounded for each process alone (`sandbox doctor` says so).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
_NAME = "sandbox"


class Cgroups:
    """`root` is where the control groups are mounted; tests give another."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup")) -> None:
        self._root = root

    def create(self, sandbox_id: str, owner: int) -> str:
        """Makes the sandbox's groups, `controller=path` joined by commas; "" without any.

        With version 2 there is one group for all controllers, named `unified`.
        """
        made: list[str] = []
        try:
            for controller, parent in self._parents():
                group = parent / _NAME / sandbox_id
                group.mkdir(parents=True, exist_ok=True)
                if controller == "unified":
                    _delegate(parent, group)
                for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
                    if path.exists():
                        os.chown(path, owner, owner)
                made.append(f"{controller}={group}")
        except OSError as error:
            log.warning("no control group for %s: %s", sandbox_id, error)
            self.remove(sandbox_id)
            return ""
        return ",".join(made)

    def remove(self, sandbox_id: str) -> None:
        """Removes them; absent is fine. Its processes are gone."""
        for _, parent in self._parents():
            group = parent / _NAME / sandbox_id
            for below in (*group.glob("*/"), group):
                with suppress(FileNotFoundError):
                    below.rmdir()

    def _parents(self) -> Iterator[tuple[str, Path]]:
        """For each controller, the group below which ours go; none without them."""
        if (self._root / "cgroup.controllers").exists():
            # At the top: a group that has processes of its own cannot have controlled ones.
            yield "unified", self._root
            return
        if not all((self._root / name / "cgroup.procs").exists() for name in CONTROLLERS):
            return
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            for name in names.split(","):
                if name in CONTROLLERS:
                    # Below our own, so that what bounds us bounds them.
                    yield name, self._root / name / path.lstrip("/")


def _delegate(parent: Path, group: Path) -> None:
    """Lets `group` hand memory, pids and cpu on to groups that its owner makes."""
    for path in (parent, parent / _NAME, group):
        (path / "cgroup.subtree_control").write_text("+memory +pids +cpu")
