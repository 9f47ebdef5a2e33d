"""The server end of the executor link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sandbox.executor.v1 import link_pb2 as pb
from sandbox.executor.v1 import link_pb2_grpc
from sandbox_rpc.auth import caller
from sandbox_rpc.errors import Forbidden, InvalidParameter, ServiceUnavailable

from exec_svc.link import Link
from exec_svc.links import Links

NUMBERED = ("started", "output", "finished")
# Read ahead of the database by at most this much; then the executor waits.
MAX_UNCOMMITTED = 256


class LinkServicer(link_pb2_grpc.ExecutorLinkServiceServicer):
    def __init__(self, links: Links) -> None:
        self._links = links

    async def Connect(
        self, requests: AsyncIterator[pb.ConnectRequest], context: Any
    ) -> AsyncIterator[pb.ConnectResponse]:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("kind") != "hello":
            raise InvalidParameter("the first message of a link must be Hello")
        if first.hello.sandbox_id != caller().principal.subject:
            raise Forbidden("the token is another sandbox's")
        link = await self._links.connect(first.hello)
        reader = asyncio.create_task(self._read(link, requests))
        # Whatever ends the reading ends the stream: after a failed commit nothing is
        # acknowledged, and the executor sends it again on its next connection.
        reader.add_done_callback(lambda _: link.close())
        try:
            while (message := await link.outbox.get()) is not None:
                yield message
            if not reader.done():
                raise ServiceUnavailable("the link is closed here; dial again")
            reader.result()
        finally:
            reader.cancel()
            self._links.disconnect(link)

    async def _read(self, link: Link, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        """Receives while it commits: what came meanwhile is the next transaction."""
        received: asyncio.Queue[list[pb.ConnectRequest] | None] = asyncio.Queue(MAX_UNCOMMITTED)

        async def commit() -> None:
            while (batch := await received.get()) is not None:
                while not received.empty() and (more := received.get_nowait()) is not None:
                    batch += more
                await self._links.numbered(link, batch)

        async with asyncio.TaskGroup() as group:
            group.create_task(commit())
            async for message in requests:
                link.heard()
                kind = message.WhichOneof("kind")
                if kind in NUMBERED:
                    await received.put([message])
                elif kind == "batch":
                    await received.put(list(message.batch.messages))
                elif kind == "heartbeat":
                    await self._links.heartbeat(link, message.heartbeat.known)
                elif kind == "configured":
                    await self._links.configured(link, message.configured)
            await received.put(None)
