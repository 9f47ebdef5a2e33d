"""Rows of templates, and the one place that turns them into messages and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sandbox.session.v1 import session_pb2
from sandbox.session.v1 import template_pb2 as pb
from sandbox_rpc.errors import NotFound, StateConflict
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from session_svc.clock import Clock
from session_svc.database import Database
from session_svc.models import LIVE, SessionRow, TemplateRow
from session_svc.validation import MAX_PROCESSES, is_template_id

_CPU, _MEMORY, _DISK = "1", "512Mi", "1Gi"
_PROCESSES = 128
_USER = 1000


class TemplateStore:
    """Every change is a single transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self, template_id: str) -> TemplateRow:
        """Raises NotFound."""
        if is_template_id(template_id):
            async with self._database.read() as session:
                row = await session.get(TemplateRow, template_id)
                if row is not None:
                    return row
        raise NotFound("Template", template_id)

    async def page(self, *, limit: int, offset: int) -> tuple[Sequence[TemplateRow], int]:
        """A page of the templates, by id, and how many there are in all."""
        rows = select(TemplateRow).order_by(TemplateRow.template_id).limit(limit).offset(offset)
        async with self._database.read() as session:
            total = await session.scalar(select(func.count()).select_from(TemplateRow))
            return (await session.scalars(rows)).all(), total or 0

    async def insert(self, template: pb.Template) -> TemplateRow:
        """Adds a template that has been checked. Raises StateConflict when its id is taken."""
        now = self._clock.now()
        row = TemplateRow(
            template_id=template.id, **_columns(template), created_at=now, updated_at=now
        )
        try:
            async with self._database.write() as session:
                session.add(row)
        except IntegrityError:
            raise StateConflict(f"Template '{template.id}' exists already") from None
        return row

    async def replace(self, template_id: str, template: pb.Template) -> TemplateRow:
        """Gives a template these values, which have been checked. Raises NotFound."""
        async with self._database.write() as session:
            row = await session.get(TemplateRow, template_id, with_for_update=True)
            if row is None:
                raise NotFound("Template", template_id)
            for name, value in _columns(template).items():
                setattr(row, name, value)
            row.updated_at = self._clock.now()
        return row

    async def delete(self, template_id: str) -> None:
        """Raises NotFound, and StateConflict while a live session was made from it."""
        uses = select(func.count()).select_from(SessionRow)
        uses = uses.where(SessionRow.template_id == template_id, SessionRow.status.in_(LIVE))
        async with self._database.write() as session:
            row = await session.get(TemplateRow, template_id, with_for_update=True)
            if row is None:
                raise NotFound("Template", template_id)
            if live := await session.scalar(uses):
                raise StateConflict(f"Template '{template_id}' is used by {live} live sessions")
            await session.delete(row)


def _columns(template: pb.Template) -> dict[str, Any]:
    """Every column that a client decides on, defaults filled in."""
    resources, security = template.default_resources, template.security_context
    limit = security.max_processes if security.HasField("max_processes") else None
    processes = min(_PROCESSES, limit or MAX_PROCESSES[1])
    return {
        "name": template.name,
        "image": template.image,
        "base_image": template.base_image if template.HasField("base_image") else None,
        "packages": list(template.pre_installed_packages),
        "cpu": resources.cpu if resources.HasField("cpu") else _CPU,
        "memory": resources.memory if resources.HasField("memory") else _MEMORY,
        "disk": resources.disk if resources.HasField("disk") else _DISK,
        "max_processes": (
            resources.max_processes if resources.HasField("max_processes") else processes
        ),
        "network_enabled": security.network_enabled,
        "process_limit": limit,
        "run_as_user": security.run_as_user if security.HasField("run_as_user") else _USER,
        "runtime_type": (
            session_pb2.RuntimeType.Value.Name(template.runtime_type)
            if template.HasField("runtime_type")
            else None
        ),
        "warm_pool_size": template.warm_pool_size,
        "env_vars": dict(template.env_vars),
    }


def to_message(row: TemplateRow) -> pb.Template:
    message = pb.Template(
        id=row.template_id,
        name=row.name,
        image=row.image,
        base_image=row.base_image,
        pre_installed_packages=row.packages,
        default_resources=session_pb2.Resources(
            cpu=row.cpu, memory=row.memory, disk=row.disk, max_processes=row.max_processes
        ),
        security_context=pb.SecurityContext(
            network_enabled=row.network_enabled,
            max_processes=row.process_limit,
            run_as_user=row.run_as_user,
        ),
        runtime_type=(
            session_pb2.RuntimeType.Value.Value(row.runtime_type) if row.runtime_type else None
        ),
        warm_pool_size=row.warm_pool_size,
        env_vars=row.env_vars,
    )
    message.created_at.FromDatetime(row.created_at)
    message.updated_at.FromDatetime(row.updated_at)
    return message
