"""Reading sessions, with the activity that exec_svc knows of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sandbox.execution.v1.attachment_pb2 import Attachment
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.auth import Caller
from sandbox_rpc.errors import NotFound, SandboxError

from session_svc.clients import Attachments
from session_svc.clock import Clock
from session_svc.models import LIVE, SessionRow
from session_svc.store import Store, status_word, to_message
from session_svc.validation import DEFAULT_PAGE, is_session_id

log = logging.getLogger(__name__)


class Queries:
    def __init__(self, store: Store, attachments: Attachments, clock: Clock) -> None:
        self._store = store
        self._attachments = attachments
        self._clock = clock

    async def find(self, session_id: str, caller: Caller) -> SessionRow:
        """The row. Raises NotFound where the caller may not see it."""
        row = await self._store.get(session_id) if is_session_id(session_id) else None
        if row is None:
            raise NotFound("Session", session_id)
        caller.require(row.domain, "Session", session_id)
        return row

    async def get(self, session_id: str, caller: Caller) -> pb.Session:
        """Raises NotFound where the caller may not see it."""
        (session,) = await self._present([await self.find(session_id, caller)])
        return session

    async def page(
        self, request: pb.ListSessionsRequest, caller: Caller
    ) -> pb.ListSessionsResponse:
        """The domain's sessions that match a request which has been checked."""
        rows, total = await self._store.page(
            caller.domain,
            status=status_word(request.status),
            template_id=request.template_id if request.HasField("template_id") else None,
            limit=request.limit if request.HasField("limit") else DEFAULT_PAGE,
            offset=request.offset,
        )
        return pb.ListSessionsResponse(sessions=await self._present(rows), total=total)

    async def _present(self, rows: Sequence[SessionRow]) -> list[pb.Session]:
        attachments = await self._glance(rows)
        sessions = []
        for row in rows:
            session = to_message(row)
            if attachment := attachments.get(row.session_id):
                latest = last_activity(row, attachment, self._clock.now())
                session.last_activity_at.FromDatetime(latest)
                session.expires_at.FromDatetime(latest + timedelta(seconds=row.timeout))
            sessions.append(session)
        return sessions

    async def _glance(self, rows: Sequence[SessionRow]) -> dict[str, Attachment]:
        """Of all of them: the activity of a session that has ended is not in its row either."""
        if not rows:
            return {}
        try:
            return await self._attachments.list((row.session_id for row in rows), glance=True)
        except SandboxError as error:
            log.warning("showing the last known activity: %s", error.detail)
            return {}


def last_activity(row: SessionRow, attachment: Attachment, now: datetime) -> datetime:
    """The latest that either service knows of; an execution that has not ended is activity."""
    if row.status in LIVE and attachment.open_executions:
        return now
    return max(row.last_activity_at, attachment.last_activity_at.ToDatetime(tzinfo=UTC))
