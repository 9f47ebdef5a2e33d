"""The file server: large files over plain HTTP, for whoever has a signed URL.

gRPC cannot do it: a transcoded stream has no content-length, and one that breaks off looks
to the client like one that has ended. The edge sends /api/v1/downloads/ here.
"""

from __future__ import annotations

import json
import logging
import os
from urllib.parse import parse_qsl, unquote, urlsplit

from aiohttp import web
from sandbox_rpc.errors import (
    Forbidden,
    InternalError,
    InvalidParameter,
    NotFound,
    SandboxError,
    ServiceUnavailable,
    StateConflict,
    TooManyRequests,
    link_of,
)

from exec_svc.files.files import Files
from exec_svc.files.servicer import headers
from exec_svc.files.tickets import PREFIX, Tickets
from exec_svc.files.transfers import Download

log = logging.getLogger(__name__)

# Longer than the edge keeps a quiet connection, so that the edge closes it, never we.
_KEEP_ALIVE_SECONDS = 75.0
_DRAIN_SECONDS = 10.0

# As envoy/edge.lua has it; this server's answers pass it as they are.
_STATUS: dict[type[SandboxError], int] = {
    InvalidParameter: 400,
    Forbidden: 403,
    NotFound: 404,
    StateConflict: 409,
    TooManyRequests: 503,
    ServiceUnavailable: 503,
}


class FileServer:
    """A running file server."""

    def __init__(self, runner: web.ServerRunner) -> None:
        self._runner = runner

    async def close(self) -> None:
        """Takes no new requests, lets those that run end, cuts what is left after 10 s."""
        await self._runner.cleanup()


async def serve_files(listen: str, files: Files, tickets: Tickets) -> FileServer:
    """Binds `listen` ("host:port" or "unix:/path") and starts. OSError if it is taken."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await _answer(request, files, tickets)
        except SandboxError as error:
            return _error(error)

    runner = web.ServerRunner(
        web.Server(answer, access_log=None, keepalive_timeout=_KEEP_ALIVE_SECONDS, logger=log),
        handle_signals=False,
        shutdown_timeout=_DRAIN_SECONDS,
    )
    await runner.setup()
    if listen.startswith("unix:"):
        path = listen.removeprefix("unix:")
        site: web.BaseSite = web.UnixSite(runner, path)
        await site.start()
        # The edge is of the same user; executors have no business here.
        os.chmod(path, 0o600)
    else:
        host, _, port = listen.rpartition(":")
        site = web.TCPSite(runner, host, int(port))
        await site.start()
    return FileServer(runner)


async def _answer(request: web.BaseRequest, files: Files, tickets: Tickets) -> web.StreamResponse:
    url = urlsplit(request.raw_path)
    session_id, _, path = url.path.removeprefix(PREFIX).partition("/")
    if request.method not in ("GET", "HEAD") or not url.path.startswith(PREFIX):
        raise web.HTTPNotFound
    path = unquote(path)
    inode = tickets.check(session_id, path, dict(parse_qsl(url.query)))
    async with files.granted(session_id, path) as download:
        if download.version.inode != inode:
            raise StateConflict(f"'{path}' was replaced meanwhile; ask for the file again")
        return await _send(request, download)


async def _send(request: web.BaseRequest, download: Download) -> web.StreamResponse:
    version = download.version
    response = web.StreamResponse(headers=headers(version))
    response.headers["accept-ranges"] = "bytes"
    if any(f'"{tag.value}"' == version.etag for tag in request.if_none_match or ()):
        response.set_status(304)
        await response.prepare(request)
        return response
    response.content_type = version.mime_type
    start, size = 0, version.size
    if (wanted := _range(request, version.etag, version.size)) is not None:
        start, size = wanted
        response.set_status(206)
        response.headers["content-range"] = f"bytes {start}-{start + size - 1}/{version.size}"
    response.content_length = size
    await response.prepare(request)
    if request.method == "GET":
        try:
            async for data in download.chunks(start, size):
                await response.write(data)
        except StateConflict as error:
            # Fewer bytes than were announced: only a cut tells the client.
            log.info("%s", error.detail)
            if request.transport is not None:
                request.transport.abort()
            return response
    await response.write_eof()
    return response


def _range(request: web.BaseRequest, etag: str, size: int) -> tuple[int, int] | None:
    """The one range that is asked for, as (start, length); None for the whole file.

    Raises InvalidParameter for one that begins after the end.
    """
    if request.method != "GET" or request.headers.get("if-range", etag) != etag:
        return None
    try:
        asked = request.http_range
    except ValueError:
        return None  # RFC 9110, 14.2: what is no valid range is ignored
    if asked.start is None and asked.stop is None:
        return None
    start, stop, _ = asked.indices(size)
    if start >= stop:
        raise InvalidParameter(f"Header 'range' must begin before the end, {size}")
    return start, stop - start


def _error(error: SandboxError) -> web.Response:
    status = next((_STATUS[kind] for kind in type(error).mro() if kind in _STATUS), None)
    if status is None:
        error, status = InternalError("the service log has the reason"), 500
    body = {
        "error_code": error.error_code,
        "description": error.description,
        "error_detail": error.detail,
        "error_link": link_of(error.error_code),
        "solution": error.solution,
    }
    response = web.Response(
        status=status, body=json.dumps(body).encode(), content_type="application/json"
    )
    if error.retry_after is not None:
        response.headers["retry-after"] = str(error.retry_after)
    return response
