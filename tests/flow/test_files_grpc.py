"""Workspace files over native gRPC, through the edge."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from exec_svc.files.servicer import to_file
from exec_svc.files.version import Version
from sandbox.execution.v1 import files_pb2 as pb

from tests.flow.files import FileService

DATA = os.urandom(3 * 1024 * 1024 + 17)


def messages(session_id: str, path: str, data: bytes) -> Iterator[pb.UploadFileRequest]:
    yield pb.UploadFileRequest(target=pb.UploadTarget(session_id=session_id, path=path))
    for start in range(0, len(data), 100_000):
        yield pb.UploadFileRequest(data=data[start : start + 100_000])


async def upload(service: FileService, session_id: str, path: str, data: bytes) -> pb.UploadedFile:
    call = service.grpc.UploadFile(
        messages(session_id, path, data), metadata=service.keys.as_user()
    )
    uploaded: pb.UploadedFile = await call
    return uploaded


async def download(
    service: FileService, session_id: str, path: str, **fields: Any
) -> tuple[pb.FileVersion, bytes]:
    request = pb.DownloadFileRequest(session_id=session_id, path=path, **fields)
    call = service.grpc.DownloadFile(request, metadata=service.keys.as_user())
    first, *rest = [message async for message in call]
    return first.version, b"".join(message.data for message in rest)


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    code: grpc.StatusCode = raised.value.code()
    return code


async def test_a_file_from_upload_to_delete(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    metadata = file_service.keys.as_user()

    uploaded = await upload(file_service, session_id, "data/big.bin", DATA)

    assert (uploaded.path, uploaded.size) == ("data/big.bin", len(DATA))
    assert uploaded.sha256 == hashlib.sha256(DATA).hexdigest()
    version, data = await download(file_service, session_id, "data/big.bin")
    assert data == DATA
    assert (version.file.path, version.file.size) == ("data/big.bin", len(DATA))
    listed = await file_service.grpc.ListFiles(
        pb.ListFilesRequest(session_id=session_id, prefix="data/"), metadata=metadata
    )
    assert (list(listed.files), listed.total) == ([version.file], 1)
    request = pb.DeleteFileRequest(session_id=session_id, path="data/big.bin")
    await file_service.grpc.DeleteFile(request, metadata=metadata)
    code = await code_of(file_service.grpc.DeleteFile(request, metadata=metadata))
    assert code is grpc.StatusCode.NOT_FOUND
    assert list((home / "data").iterdir()) == []


async def test_going_on_after_a_cut(file_service: FileService) -> None:
    session_id, _ = await file_service.workspace()
    await upload(file_service, session_id, "f", DATA)
    version, _ = await download(file_service, session_id, "f")

    _, rest = await download(file_service, session_id, "f", offset=1_000_000, etag=version.etag)
    assert rest == DATA[1_000_000:]
    _, nothing = await download(file_service, session_id, "f", offset=len(DATA))
    assert nothing == b""
    code = await code_of(download(file_service, session_id, "f", offset=len(DATA) + 1))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    await upload(file_service, session_id, "f", DATA[::-1])
    code = await code_of(download(file_service, session_id, "f", offset=1, etag=version.etag))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_an_empty_file(file_service: FileService) -> None:
    session_id, _ = await file_service.workspace()

    assert (await upload(file_service, session_id, "f", b"")).size == 0
    assert (await download(file_service, session_id, "f"))[1] == b""


async def test_messages_out_of_order(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    target = pb.UploadFileRequest(target=pb.UploadTarget(session_id=session_id, path="f"))
    data = pb.UploadFileRequest(data=b"x")

    for sent in ([], [data], [target, data, target], [target, pb.UploadFileRequest()]):
        call = file_service.grpc.UploadFile(iter(sent), metadata=file_service.keys.as_user())
        assert await code_of(call) is grpc.StatusCode.INVALID_ARGUMENT
    assert list(home.iterdir()) == []


async def test_a_foreign_session(file_service: FileService) -> None:
    theirs, home = await file_service.workspace(domain="theirs")
    (home / "f").write_bytes(b"secret")
    metadata = file_service.keys.as_user()

    for call in (
        upload(file_service, theirs, "f", b""),
        download(file_service, theirs, "f"),
        file_service.grpc.ListFiles(pb.ListFilesRequest(session_id=theirs), metadata=metadata),
        file_service.grpc.DeleteFile(
            pb.DeleteFileRequest(session_id=theirs, path="f"), metadata=metadata
        ),
    ):
        assert await code_of(call) is grpc.StatusCode.NOT_FOUND
    assert (home / "f").read_bytes() == b"secret"


@pytest.mark.parametrize("moment", [-(2**63), -1, 0, 2**63 - 1])
def test_a_time_that_no_timestamp_holds(moment: int) -> None:
    file = to_file(Version("f", 0, "t", moment, '"e"', 1))

    assert file.modified_at.ToJsonString()
