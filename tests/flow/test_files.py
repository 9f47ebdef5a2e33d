"""Workspace files through the real edge: what the contract promises."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import grpc
import grpc.aio
import pytest
from exec_svc.files.tickets import TICKET_SECONDS, Tickets
from sandbox.execution.v1 import files_pb2 as pb

from tests.flow.execution import UNPRIVILEGED_UID
from tests.flow.files import FileService, error_of, file_url, upload_url

MIB = 1024 * 1024
LARGE = os.urandom(3 * MIB + 17)


async def large_file(service: FileService) -> tuple[str, Path, str]:
    """A session with a large file `big`: its id, its workspace, the URL of the file."""
    session_id, home = await service.workspace()
    assert (await service.upload(session_id, "big", LARGE)).status_code == 200
    answer = await service.get(session_id, "big")
    assert answer.status_code == 307
    return session_id, home, answer.headers["location"]


async def test_a_file_from_upload_to_delete(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()

    uploaded = await file_service.upload(session_id, "data/sales.csv", b"a,b\n1,2\n")

    assert uploaded.status_code == 200
    sha256 = hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    assert uploaded.json() == {"path": "data/sales.csv", "size": 8, "sha256": sha256}
    made = (home / "data" / "sales.csv").stat()
    assert stat.S_IMODE(made.st_mode) == 0o644
    if os.geteuid() == 0:
        assert made.st_uid == made.st_gid == UNPRIVILEGED_UID

    answer = await file_service.get(session_id, "data/sales.csv")
    assert (answer.status_code, answer.content) == (200, b"a,b\n1,2\n")
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["content-length"] == "8"
    assert answer.headers["etag"].startswith('"')
    # Nothing that user code writes is a page of the platform's own.
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment")

    listing = (await file_service.http.get(f"/api/v1/sessions/{session_id}/files")).json()
    (file,) = listing["files"]
    assert (listing["total"], file["path"], file["size"]) == (1, "data/sales.csv", 8)
    assert file["mime_type"] == "text/csv"
    age = datetime.now(UTC) - datetime.fromisoformat(file["modified_at"][:26] + "+00:00")
    assert timedelta(hours=-1) < age < timedelta(hours=1)

    deleted = await file_service.delete(session_id, "data/sales.csv")
    assert (deleted.status_code, deleted.content) == (204, b"")
    again = await file_service.delete(session_id, "data/sales.csv")
    assert error_of(again)[:2] == (404, "Sandbox.FileNotFound")
    assert error_of(await file_service.get(session_id, "data/sales.csv"))[0] == 404
    assert await file_service.listed(session_id) == []


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, MIB])
async def test_up_to_1_mib_the_bytes_come_with_the_answer(
    file_service: FileService, size: int
) -> None:
    session_id, _ = await file_service.workspace()
    data = os.urandom(size)
    await file_service.upload(session_id, "f", data)

    answer = await file_service.get(session_id, "f")

    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-length"] == str(size)
    assert answer.headers["content-type"] == "application/octet-stream"


NAMES = [
    "with space",
    "100%",
    "50%25",
    "a%2Fb",
    "q?x=1&y=2",
    "#;=+,:@[]!$'()*~^",
    "back\\slash",
    'quo"te',
    "line\nbreak\t",
    "käse/日本/🧀",
    "...",
    "-rf",
    ".hidden",
    "n" * 255,
    "upload",
]


@pytest.mark.parametrize("name", NAMES)
async def test_any_name(file_service: FileService, name: str) -> None:
    """Large, so that the name passes through the signed URL, too."""
    session_id, home = await file_service.workspace()
    uploaded = await file_service.upload(session_id, name, LARGE)

    assert uploaded.json()["path"] == name
    assert (home / name).read_bytes() == LARGE
    assert await file_service.listed(session_id) == [name]
    assert await file_service.listed(session_id, prefix=name) == [name]
    redirected = await file_service.get(session_id, quote(name), follow_redirects=True)
    assert (redirected.status_code, redirected.content) == (200, LARGE)
    assert (await file_service.delete(session_id, quote(name, safe=""))).status_code == 204


# --- large files


async def test_a_large_file_comes_from_a_signed_url(file_service: FileService) -> None:
    session_id, _, url = await large_file(file_service)

    answer = await file_service.anonymous.get(url)  # no token

    assert url.startswith(f"/api/v1/downloads/{session_id}/big?")
    assert (answer.status_code, answer.content) == (200, LARGE)
    assert answer.headers["content-length"] == str(len(LARGE))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]
    head = await file_service.anonymous.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(LARGE))
    assert head.headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-1999999", 1_000_000, 2_000_000),
        (f"bytes={len(LARGE) - 1}-", len(LARGE) - 1, len(LARGE)),
        ("bytes=100-", 100, len(LARGE)),
        ("bytes=-5", len(LARGE) - 5, len(LARGE)),
        ("bytes=0-99999999", 0, len(LARGE)),
        ("bytes=-99999999", 0, len(LARGE)),
    ],
)
async def test_a_range(file_service: FileService, asked: str, start: int, stop: int) -> None:
    _, _, url = await large_file(file_service)

    answer = await file_service.anonymous.get(url, headers={"range": asked})

    assert (answer.status_code, answer.content) == (206, LARGE[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(LARGE)}"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=2-1", "bytes=x", "lines=1-2", "bytes=0-1,5-6", "bytes="])
async def test_what_is_no_range_is_the_whole_file(file_service: FileService, asked: str) -> None:
    _, _, url = await large_file(file_service)

    answer = await file_service.anonymous.get(url, headers={"range": asked})

    assert (answer.status_code, len(answer.content)) == (200, len(LARGE))


async def test_a_range_after_the_end(file_service: FileService) -> None:
    _, _, url = await large_file(file_service)
    headers = {"range": f"bytes={len(LARGE)}-"}

    answer = await file_service.anonymous.get(url, headers=headers)

    status, code, detail = error_of(answer)
    assert (status, code) == (400, "Sandbox.InvalidParameter")
    assert f"'range' must begin before the end, {len(LARGE)}" in detail


async def test_conditions(file_service: FileService) -> None:
    _, _, url = await large_file(file_service)
    etag = (await file_service.anonymous.head(url)).headers["etag"]

    async def get(**headers: str) -> tuple[int, int]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await file_service.anonymous.get(url, headers=named)
        return answer.status_code, len(answer.content)

    assert await get(if_none_match=etag) == (304, 0)
    assert await get(if_none_match='"other"') == (200, len(LARGE))
    assert await get(range="bytes=0-9", if_range=etag) == (206, 10)
    assert await get(range="bytes=0-9", if_range='"other"') == (200, len(LARGE))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/big?", "/other?"),
        ("/downloads/sess_", "/downloads/sess-"),
        ("file=", "file=1"),
        ("expires=", "expires=9"),
        ("signature=", "signature=0"),
        ("signature=", "mac="),
        ("/big?", "/big/../big2?"),
        ("/big?", "/%00?"),
    ],
)
async def test_a_url_that_was_tampered_with(file_service: FileService, old: str, new: str) -> None:
    _, home, url = await large_file(file_service)
    (home / "other").write_bytes(LARGE)
    assert old in url

    answer = await file_service.anonymous.get(url.replace(old, new))

    assert error_of(answer)[:2] in [
        (403, "Sandbox.Forbidden"),
        (400, "Sandbox.InvalidParameter"),  # Envoy's, for %00
    ]


async def test_a_url_that_has_expired(file_service: FileService) -> None:
    session_id, home, _ = await large_file(file_service)
    inode = (home / "big").stat().st_ino
    key = file_service.keys.secret.derive("downloads")

    async def status(age: float) -> int:
        made = datetime.now(UTC).timestamp() - age
        url = Tickets(key, lambda: made).url(session_id, "big", inode)
        return (await file_service.anonymous.head(url)).status_code

    assert await status(TICKET_SECONDS - 60) == 200
    assert await status(TICKET_SECONDS + 2) == 403


async def test_another_method_on_the_file_server(file_service: FileService) -> None:
    _, _, url = await large_file(file_service)

    for method in ("POST", "PUT", "DELETE"):
        answer = await file_service.anonymous.request(method, url)
        assert error_of(answer)[:2] == (404, "Sandbox.NotFound")


async def test_a_file_that_was_replaced_or_removed_since(file_service: FileService) -> None:
    session_id, home, url = await large_file(file_service)

    (home / "big").rename(home / "moved")
    assert error_of(await file_service.anonymous.get(url))[:2] == (404, "Sandbox.FileNotFound")
    await file_service.upload(session_id, "big", LARGE)
    assert error_of(await file_service.anonymous.get(url))[:2] == (409, "Sandbox.StateConflict")
    # One that a program writes to is the same file.
    (home / "moved").rename(home / "big")
    with (home / "big").open("ab") as file:
        file.write(b"more")
    assert (await file_service.anonymous.get(url)).content == LARGE + b"more"


# --- lists


async def test_pages(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    names = [f"d{number % 3}/f{number:03}" for number in range(250)]
    for directory in ("d0", "d1", "d2"):
        (home / directory).mkdir()
    for name in names:
        (home / name).write_bytes(b"")
    names.sort()

    assert await file_service.listed(session_id) == names[:50]
    assert await file_service.listed(session_id, limit=200) == names[:200]
    assert await file_service.listed(session_id, limit=7, offset=248) == names[248:]
    assert await file_service.listed(session_id, offset=250) == []
    assert await file_service.listed(session_id, prefix="d1/f00", limit=9) == [
        name for name in names if name.startswith("d1/f00")
    ]
    answer = await file_service.http.get(
        f"/api/v1/sessions/{session_id}/files", params={"prefix": "d2/", "limit": 1}
    )
    assert answer.json()["total"] == len([name for name in names if name.startswith("d2/")])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("offset=-1", "offset"),
        ("offset=100001", "offset"),
        ("prefix=../", "prefix"),
        ("prefix=..", "prefix"),
        ("prefix=/etc", "prefix"),
        ("prefix=a%2F%2Fb", "prefix"),
        ("limit=x", "limit"),
        ("depth=1", "depth"),
    ],
)
async def test_a_list_that_is_refused(file_service: FileService, query: str, field: str) -> None:
    session_id, _ = await file_service.workspace()

    answer = await file_service.http.get(f"/api/v1/sessions/{session_id}/files?{query}")

    status, code, detail = error_of(answer)
    assert (status, code) == (400, "Sandbox.InvalidParameter")
    assert field in detail


async def test_times_that_no_calendar_has(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    (home / "f").write_bytes(b"")
    for moment in (-(2**62), 2**62):
        os.utime(home / "f", ns=(moment, moment))
        assert await file_service.listed(session_id) == ["f"]


# --- sessions


async def test_another_domains_session_is_one_that_does_not_exist(
    file_service: FileService,
) -> None:
    theirs, home = await file_service.workspace("theirs", domain="theirs")
    (home / "f").write_bytes(b"secret")
    nobodys = f"sess_{'0' * 16}"

    async def answers(session_id: str) -> list[tuple[int, str, str]]:
        http = file_service.http
        body = {"file": ("f", b"x")}
        made = [
            await http.get(f"/api/v1/sessions/{session_id}/files"),
            await http.get(file_url(session_id, "f")),
            await http.get(file_url(session_id, "none")),
            await http.get(file_url(session_id, "..%2Ff")),
            await http.delete(file_url(session_id, "f")),
            await http.post(upload_url(session_id), files=body),
        ]
        errors = [error_of(answer) for answer in made]
        return [(*error[:2], error[2].replace(session_id, "ID")) for error in errors]

    expected = [(404, "Sandbox.SessionNotFound", "Session 'ID' does not exist")] * 6
    assert await answers(theirs) == expected
    assert await answers(nobodys) == expected
    assert (home / "f").read_bytes() == b"secret"
    mine = {"x-business-domain": "theirs"}
    assert (await file_service.get(theirs, "f", headers=mine)).content == b"secret"


async def test_a_token_is_needed(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    (home / "f").write_bytes(b"secret")

    for method, url in [
        ("GET", f"/api/v1/sessions/{session_id}/files"),
        ("GET", file_url(session_id, "f")),
        ("DELETE", file_url(session_id, "f")),
        ("POST", upload_url(session_id)),
    ]:
        answer = await file_service.anonymous.request(method, url)
        assert error_of(answer)[:2] == (401, "Sandbox.Unauthorized")
    assert (home / "f").exists()


async def test_a_session_without_a_workspace_yet(file_service: FileService) -> None:
    session_id = await file_service.session("early")

    assert await file_service.listed(session_id) == []
    assert error_of(await file_service.get(session_id, "f"))[0] == 404
    assert error_of(await file_service.delete(session_id, "f"))[0] == 404
    status, code, detail = error_of(await file_service.upload(session_id, "f", b""))
    assert (status, code) == (409, "Sandbox.StateConflict")
    assert "has no workspace" in detail


async def test_files_outlive_their_session_by_a_day(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    other, other_home = await file_service.workspace("b")
    await file_service.upload(session_id, "f", b"kept")
    await file_service.upload(session_id, "g", b"kept")
    (home / "link").symlink_to(other_home)
    (home / "below").mkdir()
    (home / "below" / "link").symlink_to("../../" + other)
    await file_service.upload(other, "f", b"another's")
    await file_service.detach(session_id)
    ended = datetime.now(UTC)
    await file_service.detach(session_id)  # again: it does not begin anew

    assert (await file_service.get(session_id, "f")).content == b"kept"
    assert await file_service.listed(session_id) == ["f", "g"]
    assert (await file_service.delete(session_id, "g")).status_code == 204
    refused = await file_service.upload(session_id, "f", b"new")
    assert error_of(refused)[:2] == (409, "Sandbox.StateConflict")

    early = file_service.retention(lambda: ended + timedelta(hours=23, minutes=59))
    await early.remove_old()
    assert (await file_service.get(session_id, "f")).content == b"kept"
    late = file_service.retention(lambda: ended + timedelta(hours=24, seconds=1))
    await late.remove_old()
    await late.remove_old()

    assert not home.exists()
    assert (other_home / "f").read_bytes() == b"another's"
    assert await file_service.listed(session_id) == []
    assert error_of(await file_service.get(session_id, "f"))[:2] == (404, "Sandbox.FileNotFound")
    early.close()
    late.close()


async def test_a_session_that_ends_during_an_upload(file_service: FileService) -> None:
    session_id, home = await file_service.workspace()
    sent, proceed = asyncio.Event(), asyncio.Event()
    await file_service.upload(session_id, "f", b"old")

    async def messages() -> object:
        target = pb.UploadTarget(session_id=session_id, path="f")
        yield pb.UploadFileRequest(target=target)
        yield pb.UploadFileRequest(data=b"new")
        sent.set()
        await proceed.wait()

    metadata = file_service.keys.as_user()
    call = asyncio.create_task(_result(file_service.grpc.UploadFile(messages(), metadata=metadata)))
    await sent.wait()
    await file_service.detach(session_id)
    proceed.set()

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert [entry.name for entry in home.iterdir()] == ["f"]
    assert (home / "f").read_bytes() == b"old"


async def _result(call: object) -> object:
    return await call  # type: ignore[misc]  # a call is awaitable, which its stub does not say
