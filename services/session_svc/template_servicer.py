"""TemplateService: unpack, call once, pack."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.empty_pb2 import Empty
from sandbox.session.v1 import template_pb2 as pb
from sandbox.session.v1 import template_pb2_grpc
from sandbox_rpc import telemetry
from sandbox_rpc.server import Service

from session_svc.template_store import TemplateStore, to_message
from session_svc.template_validation import check_template
from session_svc.validation import DEFAULT_PAGE, check_window

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

TEMPLATES = "sandbox.session.v1.TemplateService"


def service(store: TemplateStore) -> Service:
    servicer = TemplateServicer(store)

    def register(server: grpc.aio.Server) -> None:
        template_pb2_grpc.add_TemplateServiceServicer_to_server(servicer, server)

    writes = frozenset({"CreateTemplate", "UpdateTemplate", "DeleteTemplate"})
    return Service(TEMPLATES, register, allowed=frozenset({"user"}), admin_only=writes)


class TemplateServicer(template_pb2_grpc.TemplateServiceServicer):
    def __init__(self, store: TemplateStore) -> None:
        self._store = store

    async def CreateTemplate(
        self, request: pb.CreateTemplateRequest, context: Context
    ) -> pb.Template:
        check_template(request.template, request.template.id)
        row = await self._store.insert(request.template)
        telemetry.note(template__id=row.template_id)
        location = f"/api/v1/templates/{row.template_id}"
        await context.send_initial_metadata((("x-http-code", "201"), ("location", location)))
        return to_message(row)

    async def ListTemplates(
        self, request: pb.ListTemplatesRequest, context: Context
    ) -> pb.ListTemplatesResponse:
        check_window(request)
        limit = request.limit if request.HasField("limit") else DEFAULT_PAGE
        rows, total = await self._store.page(limit=limit, offset=request.offset)
        return pb.ListTemplatesResponse(templates=map(to_message, rows), total=total)

    async def GetTemplate(self, request: pb.GetTemplateRequest, context: Context) -> pb.Template:
        return to_message(await self._store.get(request.template_id))

    async def UpdateTemplate(
        self, request: pb.UpdateTemplateRequest, context: Context
    ) -> pb.Template:
        # A template that is not there is told before what is wrong with its replacement.
        row = await self._store.get(request.template_id)
        telemetry.note(template__id=row.template_id)
        check_template(request.template, row.template_id)
        return to_message(await self._store.replace(row.template_id, request.template))

    async def DeleteTemplate(self, request: pb.DeleteTemplateRequest, context: Context) -> Empty:
        row = await self._store.get(request.template_id)
        telemetry.note(template__id=row.template_id)
        await self._store.delete(row.template_id)
        await context.send_initial_metadata((("x-http-code", "204"),))
        return Empty()
