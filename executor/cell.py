"""A sandbox together with the control group that bounds it."""

from __future__ import annotations

import asyncio

from executor.cgroups import Cgroups, Group, Limits, Used
from executor.sandbox import Sandbox


class Cell:
    """Made ahead, used once. Moving a process into a control group waits for the kernel to
    settle with every processor, several milliseconds, so that too is done ahead."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.group: Group | None = None
        self._binding = asyncio.Lock()

    async def bind(self, cgroups: Cgroups, limits: Limits) -> None:
        """Bounds the sandbox, once. Raises OSError: then nothing may run in it."""
        async with self._binding:
            if self.group is not None:
                return
            group = cgroups.make(limits)
            try:
                await asyncio.to_thread(group.add, self.sandbox.init())
            except OSError:
                group.remove()
                raise
            self.group = group

    async def close(self) -> Used | None:
        """Ends what runs in it and removes the group; what was used."""
        await self.sandbox.close()
        async with self._binding:
            if self.group is None:
                return None
            used = self.group.used()
            self.group.remove()
            self.group = None
            return used
