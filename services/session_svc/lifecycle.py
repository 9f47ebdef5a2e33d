"""What happens to a session: created, recovered, ended.

The row says what shall be; each step here may be repeated, and is, by the reconciler,
after a crash at any point:

    creating ──▶ running ──▶ completed | failed | timeout | terminated
        └──────────────────────────────────▲

Every move is a compare-and-set, so of two that race one wins; the loser cleans up what
it made. Whoever gives a session its final status also releases it: exec_svc lets go of
it, its sandbox is removed, and the row is marked `released`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import string
from collections.abc import Callable
from datetime import timedelta

from sandbox.execution.v1.attachment_pb2 import Attachment
from sandbox.scheduler.v1.scheduler_pb2 import Sandbox, SandboxStatus
from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.auth import Caller
from sandbox_rpc.errors import (
    InternalError,
    SandboxError,
    ServiceUnavailable,
    StateConflict,
    TooManyRequests,
)

from session_svc.clients import Attachments, Scheduler
from session_svc.clock import Clock
from session_svc.draft import draft
from session_svc.models import SessionRow, Status, session_of
from session_svc.store import IdempotencyKey, Store
from session_svc.template_store import TemplateStore
from session_svc.work import Work, Works

log = logging.getLogger(__name__)

ATTACH_SECONDS = 30.0
_ATTACH_RETRY_SECONDS = 0.5
_INTRODUCE_SECONDS = 1.0

MAX_RECOVERIES = 5
MAX_BACKOFF_SECONDS = 30
# A sandbox that stayed this long was a success: what kills it next is another matter.
STABLE = timedelta(seconds=60)

ENDED = (SandboxStatus.completed, SandboxStatus.failed)


def new_session_id() -> str:
    alphabet = string.ascii_lowercase + string.digits
    return "sess_" + "".join(secrets.choice(alphabet) for _ in range(16))


class Lifecycle:
    def __init__(
        self,
        store: Store,
        templates: TemplateStore,
        scheduler: Scheduler,
        attachments: Attachments,
        clock: Clock,
        *,
        runtime: pb.RuntimeType.Value.ValueType,
        new_id: Callable[[], str] = new_session_id,
        attach_seconds: float = ATTACH_SECONDS,
    ) -> None:
        """`runtime` is what this platform offers; an executor gets `attach_seconds` to come."""
        self.works = Works()
        self._store = store
        self._templates = templates
        self._scheduler = scheduler
        self._attachments = attachments
        self._clock = clock
        self._runtime = pb.RuntimeType.Value.Name(runtime)
        self._new_id = new_id
        self._attach_seconds = attach_seconds

    async def create(self, spec: pb.SessionSpec, caller: Caller, *, wait: bool) -> SessionRow:
        """Opens a session for a spec that has been checked, or finds it by its key.

        Answers with it `creating`, or with `wait` when that is over. Raises NotFound for
        the template, InvalidParameter for what that does not allow, StateConflict for a key
        used otherwise, TooManyRequests or Forbidden for the caller's quotas, and
        TooManyRequests or ServiceUnavailable when it was waited for and no sandbox can be had.
        """
        key = caller.idempotency_key
        keyed = IdempotencyKey(key, _hash(spec)) if key is not None else None
        # Asked first: the answer to a repeated request does not depend on the template of today.
        row = await self._store.keyed(caller.domain, keyed) if keyed else None
        if row is None:
            row = await self._store.insert(
                draft(
                    spec,
                    await self._templates.get(spec.template_id),
                    caller,
                    session_id=self._new_id(),
                    runtime=self._runtime,
                    now=self._clock.now(),
                ),
                keyed,
                caller.principal.quotas,
            )
        if row.status != "creating":
            return row
        work = self.resume(row)
        if wait:
            refusal = await asyncio.shield(work.task)
            if refusal:
                raise refusal
        else:
            await self._introduce(row)
        return await self._store.get(row.session_id) or row

    def resume(self, row: SessionRow) -> Work:
        """Goes on with a session that is `creating`, unless that is being done."""
        return self.works.start(row.session_id, lambda work: self._create(row.session_id, work))

    def recover(self, row: SessionRow, reason: str) -> None:
        """Gives a running session a new sandbox, unless it is being worked on."""
        self.works.start(row.session_id, lambda work: self._recover(row, reason, work))

    async def end(self, row: SessionRow, status: Status, reason: str | None) -> None:
        """Ends a session and answers when it holds nothing any more.

        Does nothing where it is so already. Raises what the services raise; the row is
        final even then, and the rest may be repeated.
        """
        ended = await self._store.end(row, status, reason) or await self._store.get(row.session_id)
        if ended is not None and not ended.released:
            await self.release(ended)

    async def release(self, row: SessionRow) -> None:
        """Lets go of what a session that has ended may still hold."""
        reason = row.status_reason or f"the session is {row.status}"
        if work := self.works.get(row.session_id):
            work.give_up(reason)
            await asyncio.wait({work.task})
        await self._let_go(row, reason)

    def note_end_of(self, sandbox_id: str, how: str) -> None:
        """Tells the work that may be waiting for this sandbox that it has ended."""
        session = session_of(sandbox_id)
        work = self.works.get(session[0]) if session else None
        if work:
            work.note_death(sandbox_id, how)

    async def _introduce(self, row: SessionRow) -> None:
        """Makes exec_svc know a session before its client does, who may submit work at once."""
        try:
            async with asyncio.timeout(_INTRODUCE_SECONDS):
                await self._attachments.register(row)
        except (SandboxError, TimeoutError) as error:
            # The work that goes on will do it.
            log.warning("%s is not known to exec_svc yet: %r", row.session_id, error)

    async def _create(self, session_id: str, work: Work) -> SandboxError | None:
        row = await self._store.get(session_id)
        if row is None or row.status != "creating":  # moved on before this work began
            return None
        problem = await self._bring_up(row, work, reason=None)
        if problem is None or await self._is_done(row):
            return None
        no_sandbox = isinstance(problem, TooManyRequests | ServiceUnavailable)
        log.warning("%s could not be created: %s", row.session_id, problem.detail)
        await self._store.end(row, "failed", problem.detail)
        if no_sandbox:
            # An error is no answer to keep: the client is told to try again, with its key.
            await self._store.forget_key(row.session_id)
        if not isinstance(problem, ServiceUnavailable):
            await self._try_to_let_go(row, problem.detail)
        # else: a service is down, so letting go would only make the client wait for the
        # answer; the reconciler does it.
        return problem if no_sandbox else None

    async def _recover(self, row: SessionRow, reason: str, work: Work) -> SandboxError | None:
        stayed = row.attached_at and self._clock.now() - row.attached_at >= STABLE
        recoveries = 0 if stayed else row.recoveries
        problem: SandboxError | None = None
        while recoveries < MAX_RECOVERIES:
            if recoveries:
                seconds = min(2 ** (recoveries - 1), MAX_BACKOFF_SECONDS)
                try:
                    await work.wait(self._clock.sleep(seconds))
                except InternalError:  # ended meanwhile
                    return None
            recoveries += 1
            log.info("%s: recovery %d: %s", row.session_id, recoveries, reason)
            lost = row.sandbox_id
            renewed = await self._store.renew(row, recoveries, f"being recovered: {reason}")
            if renewed is None:  # ended or recovered by another replica meanwhile
                return None
            row = renewed
            problem = await self._bring_up(row, work, reason=f"recovered: {reason}", lost=lost)
            if problem is None or await self._is_done(row):
                return None
            log.warning("%s: recovery %d failed: %s", row.session_id, recoveries, problem.detail)
        said = f": {problem.detail}" if problem else ""
        why = f"{reason}; {MAX_RECOVERIES} recoveries in a row did not last{said}"
        if ended := await self._store.end(row, "failed", why):
            await self._try_to_let_go(ended, why)
        return None

    async def _bring_up(
        self, row: SessionRow, work: Work, *, reason: str | None, lost: str | None = None
    ) -> SandboxError | None:
        """Makes a session running on the sandbox of its generation; or says what is in the way.

        `lost` is the sandbox before, which must be gone first: they share the workspace.
        """
        try:
            if lost:
                await self._scheduler.stop(lost)
            started, registered = await asyncio.gather(
                self._start(row, work), self._attachments.register(row), return_exceptions=True
            )
            if isinstance(started, BaseException):
                raise started
            if isinstance(registered, BaseException):
                raise registered
            if started.status in ENDED:
                raise InternalError(started.reason or "the executor ended at once")
            if await self._store.place(row, started) is None:
                raise StateConflict("the session has ended meanwhile")
            attach = self._attach(row.session_id, started.sandbox_id)
            await work.wait(attach, sandbox_id=started.sandbox_id)
            if await self._store.run(row, reason) is None:
                raise StateConflict("the session has ended meanwhile")
        except SandboxError as error:
            return error
        except Exception:
            log.exception("%s: unexpected error", row.session_id)
            return InternalError("the sandbox could not be set up; the service log has the reason")
        return None

    async def _start(self, row: SessionRow, work: Work) -> Sandbox:
        start = self._scheduler.start(row)
        # To install packages may take minutes, and the end of the session ends that too.
        return await (work.wait(start) if row.packages else start)

    async def _is_done(self, row: SessionRow) -> bool:
        """Completes an ephemeral session whose executor has done its work and left already.

        It may do so before exec_svc's answer, that it is attached, has arrived here.
        """
        if row.mode != "ephemeral":
            return False
        try:
            known = await self._attachments.list([row.session_id])
        except SandboxError:
            return False
        if not is_used_up(row, known.get(row.session_id)):
            return False
        await self._store.end(row, "completed", None)
        await self._try_to_let_go(row, "the session is completed")
        return True

    async def _attach(self, session_id: str, sandbox_id: str) -> None:
        """Waits for the executor, past restarts of exec_svc. Raises InternalError in the end."""
        said = ""
        try:
            async with asyncio.timeout(self._attach_seconds):
                while True:
                    try:
                        return await self._attachments.attach(
                            session_id, sandbox_id, timeout=self._attach_seconds
                        )
                    except ServiceUnavailable as error:
                        said = f" ({error.detail})"
                        await asyncio.sleep(_ATTACH_RETRY_SECONDS)
        except TimeoutError:
            raise InternalError(
                f"the executor was not attached within {self._attach_seconds:g} s{said}"
            ) from None

    async def _let_go(self, row: SessionRow, reason: str) -> None:
        # In this order: exec_svc should see a session that ends, not a sandbox that dies.
        try:
            await self._attachments.detach(row.session_id, reason)
        finally:
            await self._scheduler.stop(row.sandbox_id)
        await self._store.release(row)

    async def _try_to_let_go(self, row: SessionRow, reason: str) -> None:
        try:
            await self._let_go(row, reason)
        except SandboxError as error:
            log.warning("%s is not released yet, will be: %s", row.session_id, error.detail)


def is_used_up(row: SessionRow, attachment: Attachment | None) -> bool:
    """Whether this is an ephemeral session that has had its execution."""
    return (
        row.mode == "ephemeral"
        and attachment is not None
        and attachment.ended_executions > 0
        and attachment.open_executions == 0
    )


def _hash(spec: pb.SessionSpec) -> str:
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()
