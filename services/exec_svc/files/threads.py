"""Blocking work off the event loop, a bounded number at a time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """`count` threads. What finds them busy waits for its turn."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `work` in a thread. A caller that is cancelled meanwhile waits for its end:
        what the work uses may then be closed."""
        call = functools.partial(work, *args, **kwargs)
        future = asyncio.get_running_loop().run_in_executor(self._pool, call)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            future.exception()  # seen; nobody is left to be told
            raise cancelled
        return future.result()

    def close(self) -> None:
        """Waits for the work that runs."""
        self._pool.shutdown()
