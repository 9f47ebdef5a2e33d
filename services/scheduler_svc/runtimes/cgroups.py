"""A control group for each sandbox of the process runtime, handed to the sandbox's user.

Its executor makes a group below it for each run: that is what bounds the memory of a run
as a whole. Only root can have one here; without it, `create` answers nothing, and memory
is bounded for each process alone (`sandbox doctor` says so).
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
SECONDS_TO_END = 10
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
        """Removes them and ends what is still in them; absent is fine. May wait: not for
        the event loop. OSError when a process does not end within SECONDS_TO_END."""
        for _, parent in self._parents():
            group = parent / _NAME / sandbox_id
            for below in (*group.glob("*/"), group):
                with suppress(FileNotFoundError):
                    _empty(below)
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


def _empty(group: Path) -> None:
    """Kills the group's processes and waits for each. An executor that was killed leaves its
    sandboxes dying: the kernel ends them, but not before the executor is reaped."""
    for line in (group / "cgroup.procs").read_text().split():
        try:
            pidfd = os.pidfd_open(int(line))
        except ProcessLookupError:
            continue
        try:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            ended.poll(SECONDS_TO_END * 1000)
        finally:
            os.close(pidfd)


def _delegate(parent: Path, group: Path) -> None:
    """Lets `group` hand memory, pids and cpu on to groups that its owner makes."""
    for path in (parent, parent / _NAME, group):
        (path / "cgroup.subtree_control").write_text("+memory +pids +cpu")
