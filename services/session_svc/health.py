"""Whether the platform can serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from sandbox_rpc.channel import Channel
from sandbox_rpc.errors import ServiceUnavailable
from sqlalchemy.exc import SQLAlchemyError

from session_svc.store import Store

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1.0


class Health:
    def __init__(self, store: Store, peers: Mapping[str, Channel]) -> None:
        """`peers` maps the names of the other services to channels to them."""
        self._store = store
        self._peers = peers

    async def check(self) -> None:
        """Raises ServiceUnavailable naming the first service that does not serve."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._store.ping()
        except (TimeoutError, SQLAlchemyError) as error:
            log.warning("the database does not answer: %s", error)
            raise ServiceUnavailable("session_svc's database does not answer") from error
        serving = await asyncio.gather(
            *(channel.is_serving(timeout=TIMEOUT_SECONDS) for channel in self._peers.values())
        )
        for name, answer in zip(self._peers, serving, strict=True):
            if not answer:
                raise ServiceUnavailable(f"{name} does not answer its health check")
