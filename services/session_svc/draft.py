"""The row of a new session: what was asked for, and the template's word on the rest."""

from __future__ import annotations

from datetime import datetime, timedelta

from sandbox.session.v1 import session_pb2 as pb
from sandbox_rpc.auth import Caller
from sandbox_rpc.errors import InvalidParameter

from session_svc.models import SessionRow, TemplateRow
from session_svc.requirements import MAX_REQUIREMENTS
from session_svc.validation import DEFAULT_TIMEOUT, check_env_vars


def draft(
    spec: pb.SessionSpec,
    template: TemplateRow,
    caller: Caller,
    *,
    session_id: str,
    runtime: str,
    now: datetime,
) -> SessionRow:
    """A row `creating`, for a spec that has been checked by itself.

    Everything that the session takes from its template is copied: what happens to the
    template afterwards is for other sessions. Raises InvalidParameter for what this
    template does not allow, and where `runtime`, the platform's, is not the template's.
    """
    if template.runtime_type not in (None, runtime):
        raise InvalidParameter(
            f"Field 'template_id': template '{template.template_id}' needs the runtime "
            f"{template.runtime_type}, and this platform offers {runtime}"
        )
    env_vars = template.env_vars | dict(spec.env_vars)
    check_env_vars(env_vars)
    if len(template.packages) + len(spec.dependencies) > MAX_REQUIREMENTS:
        raise InvalidParameter(
            f"Field 'dependencies' must have at most {MAX_REQUIREMENTS} entries, with the "
            f"{len(template.packages)} packages of template '{template.template_id}'"
        )
    asked = spec.resources
    timeout = spec.timeout if spec.HasField("timeout") else DEFAULT_TIMEOUT
    return SessionRow(
        session_id=session_id,
        domain=caller.domain,
        principal=caller.principal.subject,
        template_id=template.template_id,
        mode="ephemeral" if spec.mode == pb.SessionMode.ephemeral else "persistent",
        status="creating",
        released=False,
        generation=1,
        recoveries=0,
        runtime_type=runtime,
        cpu=asked.cpu if asked.HasField("cpu") else template.cpu,
        memory=asked.memory if asked.HasField("memory") else template.memory,
        disk=asked.disk if asked.HasField("disk") else template.disk,
        max_processes=_max_processes(asked, template),
        env_vars=env_vars,
        labels=dict(spec.metadata),
        timeout=timeout,
        template=template.snapshot(),
        dependencies=list(spec.dependencies),
        created_at=now,
        updated_at=now,
        last_activity_at=now,
        expires_at=now + timedelta(seconds=timeout),
    )


def _max_processes(asked: pb.Resources, template: TemplateRow) -> int:
    if not asked.HasField("max_processes"):
        return template.max_processes
    limit = template.process_limit
    if limit is not None and asked.max_processes > limit:
        raise InvalidParameter(
            f"Field 'resources.max_processes' must be at most {limit}, "
            f"the limit of template '{template.template_id}'"
        )
    return asked.max_processes
