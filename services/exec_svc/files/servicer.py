"""FileService and its REST form: unpack, call once, pack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from sandbox.execution.v1 import files_pb2 as pb
from sandbox.execution.v1 import files_pb2_grpc
from sandbox_rpc.auth import caller
from sandbox_rpc.errors import InvalidParameter, SandboxError, StateConflict, TooManyRequests

from exec_svc.files.files import Files
from exec_svc.files.form import Form
from exec_svc.files.limits import MAX_FILE_BYTES, MAX_INLINE_BYTES
from exec_svc.files.tickets import Tickets
from exec_svc.files.transfers import Uploaded
from exec_svc.files.version import Version
from exec_svc.validation import DEFAULT_LIMIT, MAX_LIMIT

MAX_OFFSET = 100_000
_DISCARD_SECONDS = 10.0
# What a Timestamp can say; a program may give its files any time.
_FIRST_NS = -62_135_596_800 * 10**9
_LAST_NS = 253_402_300_799 * 10**9


class FileServicer(files_pb2_grpc.FileServiceServicer):
    def __init__(self, files: Files) -> None:
        self._files = files

    async def UploadFile(
        self, requests: AsyncIterator[pb.UploadFileRequest], context: Any
    ) -> pb.UploadedFile:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("kind") != "target":
            raise InvalidParameter("Field 'target' is required in the first message")
        target = first.target
        async with self._files.uploading(target.session_id, caller()) as upload:
            await upload.aim(target.path)
            async for request in requests:
                if request.WhichOneof("kind") != "data":
                    raise InvalidParameter("Field 'target' must be in the first message alone")
                await upload.run(upload.write, request.data)
            return to_uploaded(await upload.publish(target.path))

    async def DownloadFile(
        self, request: pb.DownloadFileRequest, context: Any
    ) -> AsyncIterator[pb.DownloadFileResponse]:
        async with self._files.downloading(request.session_id, request.path, caller()) as download:
            version = download.version
            if request.etag and request.etag != version.etag:
                raise StateConflict(f"'{version.path}' is no longer the version {request.etag}")
            if request.offset > version.size:
                raise InvalidParameter(f"Field 'offset' must be at most {version.size}")
            described = pb.FileVersion(file=to_file(version), etag=version.etag)
            yield pb.DownloadFileResponse(version=described)
            rest = version.size - request.offset
            async for data in download.chunks(request.offset, rest):
                yield pb.DownloadFileResponse(data=data)

    async def ListFiles(self, request: pb.ListFilesRequest, context: Any) -> pb.ListFilesResponse:
        limit, offset = page(request)
        versions, total = await self._files.page(
            request.session_id, request.prefix, caller(), offset=offset, limit=limit
        )
        return pb.ListFilesResponse(files=map(to_file, versions), total=total)

    async def DeleteFile(self, request: pb.DeleteFileRequest, context: Any) -> Empty:
        await self._files.delete(request.session_id, request.path, caller())
        await context.send_initial_metadata((("x-http-code", "204"),))
        return Empty()


class FileRestServicer(files_pb2_grpc.FileRestServiceServicer):
    def __init__(self, files: Files, tickets: Tickets) -> None:
        self._files = files
        self._tickets = tickets

    async def UploadFileForm(
        self, requests: AsyncIterator[pb.UploadFileFormRequest], context: Any
    ) -> pb.UploadedFile:
        first = await anext(aiter(requests), None)
        if first is None:
            raise InvalidParameter("Field 'file' is required")
        try:
            return await self._upload(first, requests)
        except TooManyRequests:
            raise  # the answer to overload must not wait
        except SandboxError:
            await _discard(requests)
            raise

    async def _upload(
        self, first: pb.UploadFileFormRequest, rest: AsyncIterator[pb.UploadFileFormRequest]
    ) -> pb.UploadedFile:
        async with self._files.uploading(first.session_id, caller()) as upload:
            form = Form(first.body.content_type, upload.write, upload.check)
            await upload.run(form.feed, first.body.data)
            async for request in rest:
                await upload.run(form.feed, request.body.data)
            return to_uploaded(await upload.publish(form.finish()))

    async def GetFileContent(self, request: pb.GetFileContentRequest, context: Any) -> HttpBody:
        async with self._files.downloading(request.session_id, request.path, caller()) as download:
            version = download.version
            if version.size > MAX_INLINE_BYTES:
                url = self._tickets.url(request.session_id, version.path, version.inode)
                metadata = (("x-http-code", "307"), ("location", url))
                await context.send_initial_metadata(metadata)
                return HttpBody()
            data = await download.whole()
        await context.send_initial_metadata(tuple(headers(version).items()))
        return HttpBody(content_type=version.mime_type, data=data)


async def _discard(requests: AsyncIterator[pb.UploadFileFormRequest]) -> None:
    """Reads the rest of a refused upload, within limits.

    Most clients of HTTP/1.1 read an answer only after they have sent everything; where the
    edge hangs up before that, they see a broken connection and not the reason.
    """
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            async for request in requests:
                size += len(request.body.data)
                if size > MAX_FILE_BYTES:
                    return


def headers(version: Version) -> dict[str, str]:
    """What comes with a file's bytes, besides their type and length.

    A browser must not take what user code wrote for a page of the platform's own.
    """
    name = quote(version.path.rpartition("/")[2], safe="")
    return {
        "etag": version.etag,
        "content-disposition": f"attachment; filename*=UTF-8''{name}",
        "content-security-policy": "sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "private, no-cache",
    }


def to_uploaded(uploaded: Uploaded) -> pb.UploadedFile:
    return pb.UploadedFile(path=uploaded.path, size=uploaded.size, sha256=uploaded.sha256)


def to_file(version: Version) -> pb.File:
    modified_at = Timestamp()
    modified_at.FromNanoseconds(min(max(version.modified_ns, _FIRST_NS), _LAST_NS))
    return pb.File(
        path=version.path,
        size=version.size,
        mime_type=version.mime_type,
        modified_at=modified_at,
    )


def page(request: pb.ListFilesRequest) -> tuple[int, int]:
    """(limit, offset) of a list request."""
    limit = request.limit if request.HasField("limit") else DEFAULT_LIMIT
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"Parameter 'limit' must be between 1 and {MAX_LIMIT}")
    if not 0 <= request.offset <= MAX_OFFSET:
        raise InvalidParameter(
            f"Parameter 'offset' must be between 0 and {MAX_OFFSET}; "
            "name a directory in 'prefix' to see the rest"
        )
    return limit, request.offset
