"""Workspace files against those who mean harm: user code on one side, clients on the other.

Everything goes through the real edge; what user code does, a real sandbox does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from sandbox.execution.v1 import execution_pb2
from sandbox.execution.v1 import files_pb2 as pb

from tests.flow.files import BOUNDARY, END, FileService, error_of, file_url, part, upload_url
from tests.support import eventually

MIB = 1024 * 1024
INVALID = (400, "Sandbox.InvalidParameter")
SECRET = b"what only the platform may read"


def everything(home: Path) -> dict[str, bytes]:
    """What a workspace really holds, hidden files too."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


# --- paths

BAD_PATHS = [
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a//b",
    "a/",
    "./a",
    "n" * 256,
    "d/" + "ü" * 128,
    "a\0b",
]


@pytest.mark.parametrize("path", BAD_PATHS)
async def test_a_bad_path_is_refused_everywhere(file_service: FileService, path: str) -> None:
    session_id, home = await file_service.workspace()
    (file_service.place / "x").write_bytes(SECRET)
    escaped = "".join(f"%{byte:02X}" for byte in path.encode())  # every byte, slashes too

    answers = [
        await file_service.get(session_id, escaped),
        await file_service.delete(session_id, escaped),
        await file_service.upload(session_id, path, b"evil"),
        await file_service.post(session_id, part("file", b"evil", filename=path) + END),
    ]

    assert [error_of(answer)[:2] for answer in answers] == [INVALID] * 4
    assert everything(home) == {}
    assert (file_service.place / "x").read_bytes() == SECRET
    await refused_natively(file_service, session_id, path)


async def refused_natively(service: FileService, session_id: str, path: str) -> None:
    metadata = service.keys.as_user()
    target = pb.UploadTarget(session_id=session_id, path=path)
    calls: list[Any] = [
        service.grpc.UploadFile(iter([pb.UploadFileRequest(target=target)]), metadata=metadata),
        service.grpc.DeleteFile(
            pb.DeleteFileRequest(session_id=session_id, path=path), metadata=metadata
        ),
        anext(
            aiter(
                service.grpc.DownloadFile(
                    pb.DownloadFileRequest(session_id=session_id, path=path), metadata=metadata
                )
            )
        ),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "path", ["..%2F..%2Fetc%2Fpasswd", "%2e%2e%2fx", "a%2f..%2f..%2fx", "%2Fx"]
)
async def test_encoded_slashes_and_dots(file_service: FileService, path: str) -> None:
    session_id, _ = await file_service.workspace()

    assert error_of(await file_service.get(session_id, path))[:2] == INVALID


# --- what user code puts in the way

THINGS = """
import os, socket
os.symlink("/etc/passwd", "absolute")
os.symlink("../" * 8 + "etc/passwd", "relative")
os.symlink("/", "root")
os.symlink("nowhere", "dangling")
os.symlink("loop", "loop")
os.symlink("dangling", "chain")
os.mkdir("dir")
os.symlink("dir", "inside")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
open("dir/file", "w").write("mine")
os.link("dir/file", "hard")
"""


async def test_links_and_other_things_of_user_code(file_service: FileService) -> None:
    session_id = await file_service.ready_session("t")
    result = await file_service.run(session_id, THINGS)
    assert result.exit_code == 0, result.stderr
    home = file_service.place / session_id
    before = sorted(os.listdir(home))

    things = ["absolute", "relative", "dangling", "loop", "chain", "fifo", "socket", "dir", "root"]
    for path in [
        *things,
        *("root%2Fetc%2Fpasswd", "inside/file", "absolute/x", "inside/new/x"),
        *("absolute%2F", "dangling%2F", "inside%2F"),
    ]:
        for answer in (
            await file_service.get(session_id, path),
            await file_service.delete(session_id, path),
            await file_service.upload(session_id, path.replace("%2F", "/"), b"evil"),
        ):
            assert error_of(answer)[:2] == INVALID, path

    assert sorted(os.listdir(home)) == before
    assert await file_service.listed(session_id) == ["dir/file", "hard"]
    assert (await file_service.get(session_id, "hard")).content == b"mine"
    assert error_of(await file_service.get(session_id, "dir/file%2F"))[:2] == INVALID


SWAP = """
import os
os.makedirs("real", exist_ok=True)
open("real/secret", "w").write("decoy")
os.symlink("%s", "link")
print("swapping", flush=True)
while True:
    os.rename("real", "x"); os.rename("x", "real")
    os.rename("link", "x"); os.rename("x", "link")
"""


async def test_a_link_swapped_by_a_running_execution(file_service: FileService) -> None:
    """`x` is a directory and a link to the platform's own files, by turns, without an end."""
    outside = file_service.place / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (outside / "secret").write_bytes(SECRET)
    (outside / "secret").chmod(0o666)
    session_id = await file_service.ready_session("t")
    running = await file_service.submit(session_id, SWAP % outside, timeout=120)
    await file_service.said(running, b"swapping")

    seen = set()
    for number in range(150):
        read = await file_service.get(session_id, "x/secret")
        seen.add(read.status_code)
        assert read.content == b"decoy" or error_of(read)[0] in (400, 404)
        written = await file_service.upload(session_id, f"x/new{number}", b"evil")
        assert written.status_code == 200 or error_of(written)[0] in (400, 409)
        removed = await file_service.delete(session_id, "x/secret2")
        assert removed.status_code in (400, 404)
        listing = await file_service.http.get(f"/api/v1/sessions/{session_id}/files")
        assert len(SECRET) not in {file["size"] for file in listing.json()["files"]}
    cancel = execution_pb2.CancelExecutionRequest(execution_id=running)
    await file_service.api.CancelExecution(cancel, metadata=file_service.keys.as_user())

    assert everything(outside) == {"secret": SECRET}
    assert seen - {200}, "the attack was never met"


async def test_a_file_that_shrinks_while_it_is_sent(file_service: FileService) -> None:
    """The announced length cannot be kept: the client is to notice."""
    session_id, home = await file_service.workspace()
    with (home / "big").open("wb") as file:
        file.truncate(64 * MIB)
    url = (await file_service.get(session_id, "big")).headers["location"]

    async def read() -> int:
        size = 0
        async with file_service.anonymous.stream("GET", url) as answer:
            assert answer.headers["content-length"] == str(64 * MIB)
            async for chunk in answer.aiter_raw():
                if size == 0:
                    os.truncate(home / "big", 1000)
                size += len(chunk)
        return size

    with pytest.raises(httpx.RemoteProtocolError):
        await read()
    assert (await file_service.get(session_id, "big")).status_code == 200
    # The same over native gRPC is an error.
    with (home / "big").open("wb") as file:
        file.truncate(64 * MIB)
    request = pb.DownloadFileRequest(session_id=session_id, path="big")
    call = file_service.grpc.DownloadFile(request, metadata=file_service.keys.as_user())
    await anext(aiter(call))
    os.truncate(home / "big", 1000)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        [message async for message in call]
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


# --- uploads

LIES = [
    (part("path", b"f") + END, "Field 'file' is required"),
    (part("file", b"x") + END, "Field 'path' is required"),
    (part("file", b"x", filename="f") * 2 + END, "Field 'file' appears twice"),
    (part("path", b"a") * 2 + part("file", b"x") + END, "Field 'path' appears twice"),
    (part("file", b"x" * 9, "Content-Length: 5", filename="f") + END, "Field 'file' has 9 bytes"),
    (part("file", b"x" * 9, "Content-Length: 99", filename="f") + END, "Field 'file' has 9 bytes"),
    (part("file", b"x", filename="f"), "Field 'file' is cut off"),
    (part("file", b"x", filename="f") + END[:-4], "cut off"),
    (b"", "Field 'file' is cut off"),
    (b"\0" * 1000, "not well-formed multipart"),
    (part("x", b"") * 20 + END, "at most 16 fields"),
    (part("file", b"", "X: " + "y" * 20_000, filename="f") + END, "not well-formed multipart"),
]


@pytest.mark.parametrize(("body", "detail"), LIES)
async def test_a_form_that_lies(file_service: FileService, body: bytes, detail: str) -> None:
    session_id, home = await file_service.workspace()
    (home / "f").write_bytes(b"old")

    answer = await file_service.post(session_id, body)

    assert error_of(answer)[:2] == INVALID
    assert detail in error_of(answer)[2]
    assert everything(home) == {"f": b"old"}


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data", "multipart/mixed; boundary=b"]
)
async def test_a_body_of_another_type(file_service: FileService, content_type: str) -> None:
    session_id, _ = await file_service.workspace()

    answer = await file_service.post(session_id, b"{}", content_type)

    assert error_of(answer)[:2] == INVALID
    assert "Header 'content-type'" in error_of(answer)[2]


async def endless(begin: bytes) -> AsyncIterator[bytes]:
    yield begin
    while True:
        yield b"z" * MIB


@pytest.mark.parametrize(
    ("begin", "field"),
    [
        (part("file", b"", filename="f")[:-2], "file"),
        (part("path", b"")[:-2], "path"),
        (part("other", b"")[:-2], "file"),
        (part("file", b"", filename="f") + END, "file"),
        (f"--{BOUNDARY}\r\nContent-Disposition: ".encode(), "multipart"),
    ],
    ids=["file", "path", "another field", "epilogue", "header"],
)
async def test_an_endless_body(file_service: FileService, begin: bytes, field: str) -> None:
    session_id, home = await file_service.workspace()

    status, body, _ = await file_service.talk(session_id, endless(begin))

    assert (status, json.loads(body)["error_code"]) == INVALID
    assert field in json.loads(body)["error_detail"]
    assert everything(home) == {}


async def test_100_mib_and_not_one_byte_more(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()

    async def body(size: int) -> AsyncIterator[bytes]:
        yield part("file", b"", filename="f")[:-2]
        for _ in range(size // MIB):
            yield bytes(MIB)
        yield bytes(size % MIB)
        yield b"\r\n" + END

    refused = await file_service.post(session_id, body(100 * MIB + 1))
    assert error_of(refused)[:2] == INVALID
    assert f"'file' must have at most {100 * MIB} bytes" in error_of(refused)[2]
    assert everything(home) == {}
    accepted = await file_service.post(session_id, body(100 * MIB))
    assert accepted.json()["size"] == 100 * MIB
    assert accepted.json()["sha256"] == hashlib.sha256(bytes(100 * MIB)).hexdigest()


async def test_the_sessions_disk(file_service: FileService) -> None:
    session_id, home = await file_service.workspace(disk=4 * MIB)

    assert (await file_service.upload(session_id, "a", os.urandom(2 * MIB))).status_code == 200
    refused = await file_service.upload(session_id, "b", os.urandom(3 * MIB))
    assert error_of(refused)[:2] == INVALID
    assert f"disk of {4 * MIB} bytes" in error_of(refused)[2]
    assert sorted(everything(home)) == ["a"]
    # What a program wrote counts, and what was removed does not.
    (home / "by code").write_bytes(os.urandom(MIB))
    answers = [await file_service.upload(session_id, "c", os.urandom(2 * MIB))]
    await file_service.delete(session_id, "a")
    answers.append(await file_service.upload(session_id, "c", os.urandom(2 * MIB)))
    assert [answer.status_code for answer in answers] == [400, 200]


async def test_uploads_at_the_same_time_share_the_disk(file_service: FileService) -> None:
    session_id, home = await file_service.workspace(disk=4 * MIB)

    answers = await asyncio.gather(
        *(file_service.upload(session_id, f"f{n}", os.urandom(3 * MIB)) for n in range(6))
    )

    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {200, 400}
    assert codes.count(200) <= 1
    assert sum(map(len, everything(home).values())) <= 4 * MIB


async def test_more_uploads_than_a_session_may_have(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    _, other_home = await file_service.workspace("b")
    proceed = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield part("file", b"", filename="f")[:-2]
        await proceed.wait()
        yield b"\r\n" + END

    uploads = [asyncio.create_task(file_service.talk(session_id, slow())) for _ in range(9)]
    done, rest = await asyncio.wait(uploads, return_when=asyncio.FIRST_COMPLETED)
    status, body, head = done.pop().result()
    assert (status, json.loads(body)["error_code"]) == (503, "Sandbox.TooManyRequestsExection")
    assert "retry-after: 1\r\n" in head
    # Nobody else is held up.
    assert (await file_service.upload(other_home.name, "f", b"x")).status_code == 200
    proceed.set()
    assert [status for status, _, _ in await asyncio.gather(*rest)] == [200] * 8
    assert everything(home) == {"f": b""}


@pytest.mark.parametrize("old", [b"old", None])
async def test_a_cut_upload_leaves_the_old_file_or_none(
    file_service: FileService, old: bytes | None
) -> None:
    session_id, home = await file_service.workspace()
    if old is not None:
        (home / "f").write_bytes(old)
    before = everything(home)
    body = part("file", b"new" * MIB, filename="f") + END
    head = (
        f"POST {upload_url(session_id)} HTTP/1.1\r\nhost: edge\r\ncontent-type: "
        f"multipart/form-data; boundary={BOUNDARY}\r\ncontent-length: {len(body)}\r\n"
        f"authorization: {file_service.http.headers['authorization']}\r\n\r\n"
    )
    url = file_service.http.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head.encode() + body[: 2 * MIB])
    await writer.drain()
    await eventually(uploads_of(file_service, session_id, 1))

    writer.transport.abort()
    await eventually(uploads_of(file_service, session_id, 0))

    assert everything(home) == before
    assert (await file_service.post(session_id, body)).status_code == 200


def uploads_of(service: FileService, session_id: str, count: int) -> Any:
    """Looks whether so many uploads of the session are under way."""

    async def look() -> bool:
        return service.files._uploads._taken[session_id] == count

    return look


async def test_a_cut_upload_over_native_grpc(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()

    async def messages() -> AsyncIterator[pb.UploadFileRequest]:
        target = pb.UploadTarget(session_id=session_id, path="f")
        yield pb.UploadFileRequest(target=target)
        while True:
            yield pb.UploadFileRequest(data=b"x" * 1000)
            await asyncio.sleep(0)

    call = file_service.grpc.UploadFile(messages(), metadata=file_service.keys.as_user())
    await eventually(uploads_of(file_service, session_id, 1))
    call.cancel()
    await eventually(uploads_of(file_service, session_id, 0))

    assert everything(home) == {}


async def test_two_writers_of_one_path_and_a_reader(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    versions = [bytes([65 + number]) * (200_000 + number) for number in range(8)]
    whole = {hashlib.sha256(version).digest() for version in versions}
    await file_service.upload(session_id, "f", versions[0])
    writing = True

    async def read() -> int:
        reads = 0
        while writing:
            answer = await file_service.get(session_id, "f")
            assert hashlib.sha256(answer.content).digest() in whole
            reads += 1
        return reads

    reader = asyncio.create_task(read())
    for _ in range(5):
        answers = await asyncio.gather(
            *(file_service.upload(session_id, "f", version) for version in versions)
        )
        assert {answer.status_code for answer in answers} == {200}
    writing = False

    assert await reader > 0
    assert hashlib.sha256((home / "f").read_bytes()).digest() in whole
    assert list(everything(home)) == ["f"]


async def test_a_slow_reader_holds_nobody_up(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    with (home / "big").open("wb") as file:
        file.truncate(32 * MIB)
    url = (await file_service.get(session_id, "big")).headers["location"]

    async with file_service.anonymous.stream("GET", url) as stopped:
        await anext(stopped.aiter_raw(1))
        # It reads nothing more, and everybody else goes on.
        for number in range(10):
            name = f"f{number}"
            assert (await file_service.upload(session_id, name, b"x")).status_code == 200
            assert (await file_service.get(session_id, name)).content == b"x"
        assert len((await file_service.anonymous.get(url)).content) == 32 * MIB


async def test_a_file_url_is_not_a_session_url(file_service: FileService) -> None:
    """What a signed URL opens is one file: no other call takes it."""
    session_id, home = await file_service.workspace()
    (home / "big").write_bytes(os.urandom(2 * MIB))
    url = (await file_service.get(session_id, "big")).headers["location"]
    query = url.partition("?")[2]

    answer = await file_service.anonymous.get(f"{file_url(session_id, 'big')}?{query}")

    assert answer.status_code in (400, 401)
