"""exec_svc with workspace files, behind a real Envoy, as clients have it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from exec_svc.__main__ import file_services
from exec_svc.files.files import Files
from exec_svc.files.retention import Retention
from exec_svc.files.server import FileServer, serve_files
from exec_svc.files.tickets import Tickets
from exec_svc.files.workspace import Workspaces
from exec_svc.session_store import SessionStore
from sandbox.execution.v1 import files_pb2_grpc
from sandbox_rpc.server import Service

from tests.flow.execution import UNPRIVILEGED_UID, ExecService

BOUNDARY = "----boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


class FileService(ExecService):
    """Workspaces lie in `place`, by their session's id."""

    files: Files
    tickets: Tickets
    file_server: FileServer
    # REST calls of the operator and of nobody, and native gRPC past the edge.
    http: httpx.AsyncClient
    anonymous: httpx.AsyncClient
    grpc: Any

    async def start(self) -> None:
        await super().start()
        self.file_server = await serve_files(
            f"unix:{self.place}/files.sock", self.files, self.tickets
        )

    def more_services(self, sessions: SessionStore) -> list[Service]:
        self.sessions = sessions
        self.workspaces = Workspaces(self.place)
        self.files = Files(sessions, self.workspaces)
        self.tickets = Tickets(self.keys.secret.derive("downloads"))
        return file_services(self.files, self.tickets)

    async def crash(self) -> None:
        await self.file_server.close()
        await super().crash()
        self.files.close()

    def connect(self, url: str) -> None:
        """Makes the clients of the edge at `url`."""
        token = {"authorization": f"Bearer {self.keys.token_file.read_text()}"}
        self.http = httpx.AsyncClient(base_url=url, headers=token, timeout=60)
        self.anonymous = httpx.AsyncClient(base_url=url, timeout=60)
        self.grpc = files_pb2_grpc.FileServiceStub(
            self._platform.dial_plainly(url.removeprefix("http://"))
        )

    async def disconnect(self) -> None:
        await self.http.aclose()
        await self.anonymous.aclose()

    async def workspace(self, name: str = "a", **options: Any) -> tuple[str, Path]:
        """A session that has a workspace and no executor: its id, and the directory."""
        session_id = await self.session(name, **options)
        home = self.place / session_id
        home.mkdir()
        if os.geteuid() == 0:
            shutil.chown(home, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
        return session_id, home

    def retention(self, clock: Callable[[], datetime]) -> Retention:
        return Retention(self.sessions, self.workspaces, clock)

    async def upload(
        self, session_id: str, path: str, data: bytes, **headers: str
    ) -> httpx.Response:
        return await self.http.post(
            upload_url(session_id),
            files={"file": ("file", data)},
            data={"path": path},
            headers=headers,
        )

    async def post(
        self, session_id: str, body: bytes | AsyncIterator[bytes], content_type: str = MULTIPART
    ) -> httpx.Response:
        """An upload whose body is the test's own."""
        headers = {"content-type": content_type}
        return await self.http.post(upload_url(session_id), content=body, headers=headers)

    async def talk(self, session_id: str, body: AsyncIterator[bytes]) -> tuple[int, bytes, str]:
        """An upload by a client that reads while it sends, as curl does: status, body, head."""
        url = self.http.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            f"POST {upload_url(session_id)} HTTP/1.1\r\nhost: edge\r\n"
            f"content-type: {MULTIPART}\r\ntransfer-encoding: chunked\r\n"
            f"authorization: {self.http.headers['authorization']}\r\n\r\n".encode()
        )

        async def send() -> None:
            async for data in body:
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
            writer.write(b"0\r\n\r\n")

        sending = asyncio.create_task(send())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].split()[0])
            return int(head.split()[1]), await reader.readexactly(length), head
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()

    async def get(self, session_id: str, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(file_url(session_id, path), **options)

    async def delete(self, session_id: str, path: str) -> httpx.Response:
        return await self.http.delete(file_url(session_id, path))

    async def listed(self, session_id: str, **query: Any) -> list[str]:
        answer = await self.http.get(f"/api/v1/sessions/{session_id}/files", params=query)
        assert answer.status_code == 200, answer.text
        return [file["path"] for file in answer.json()["files"]]


def upload_url(session_id: str) -> str:
    return f"/api/v1/sessions/{session_id}/files/upload"


def file_url(session_id: str, path: str) -> str:
    """`path` is as it stands in the URL: escape what has to be."""
    return f"/api/v1/sessions/{session_id}/files/{path}"


def part(name: str, data: bytes, *headers: str, filename: str | None = None) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = "\r\n".join([f"--{BOUNDARY}", disposition, *headers, "", ""])
    return head.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and detail of an error, checked for its shape."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error_code", "description", "error_detail", "error_link", "solution"}
    return answer.status_code, body["error_code"], body["error_detail"]
