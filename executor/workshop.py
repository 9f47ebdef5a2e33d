"""Where sandboxes are made: by the zygote as long as there is one, by bwrap otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from executor import cold
from executor.bwrap import IsolationError, Tools
from executor.preload import modules_of
from executor.sandbox import Sandbox
from executor.zygote import Zygote

log = logging.getLogger(__name__)

MAX_ZYGOTES = 10  # of one executor: after so many that died, bwrap alone makes sandboxes


class Workshop:
    """The guarantees are the same on both paths; only the time differs (31 ms and 6 ms here)."""

    def __init__(
        self, workspace: Path, packages: Path | None = None, preload: Sequence[str] = ()
    ) -> None:
        """`packages` is a directory of installed ones, which sandboxes see read-only;
        `preload` names those whose modules the zygote imports."""
        self._workspace = workspace
        self._packages = packages
        self._modules = modules_of(packages, preload) if packages else []
        self._tools: Tools | None = None
        self._zygote: Zygote | None = None
        self._zygotes = 0
        self._lock = asyncio.Lock()

    async def make(self) -> Sandbox:
        """Makes one sandbox. Raises IsolationError when that is not possible here."""
        if self._tools is None:
            self._tools = Tools.find(self._packages)
        zygote = await self._running()
        if zygote is not None:
            try:
                return await zygote.make()
            except IsolationError as error:
                log.warning("%s", error)
                await self._retire(zygote)
        return await cold.make(self._tools, self._workspace)

    async def close(self) -> None:
        """Ends the zygote, and with it every sandbox that it made."""
        if self._zygote is not None:
            await self._retire(self._zygote)

    async def _running(self) -> Zygote | None:
        async with self._lock:
            if self._zygote is None and self._zygotes < MAX_ZYGOTES:
                self._zygotes += 1
                assert self._tools is not None
                try:
                    self._zygote = await Zygote.start(self._tools, self._workspace, self._modules)
                except (IsolationError, OSError) as error:
                    log.warning("%s", error)
            return self._zygote

    async def _retire(self, zygote: Zygote) -> None:
        if self._zygote is zygote:
            self._zygote = None
            await zygote.close()
