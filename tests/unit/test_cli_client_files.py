"""The client's file calls against a real HTTP server that answers what each test scripts."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from cli import client as api
from cli.client import Client
from tests.unit.scripted import Scripted

URL = "/api/v1/sessions/sess_1/files"


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.close()


@pytest.fixture
def client(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(api, "FIRST_RETRY_SECONDS", 0)
    with Client(server.url, "secret-token") as made:
        yield made


def answer(server: Scripted, data: bytes, *, status: int = 200, announced: int = -1) -> None:
    length = len(data) if announced < 0 else announced
    server.answers.append((status, {"content-length": str(length), "etag": '"e"'}, data))


def test_a_list(server: Scripted, client: Client) -> None:
    server.json(200, '{"files": [], "total": 0}')

    assert client.files("sess_1", prefix="a b/", limit=5) == {"files": [], "total": 0}
    assert server.requests[0].path == f"{URL}?prefix=a+b%2F&limit=5"


def test_an_upload_is_a_form(server: Scripted, client: Client) -> None:
    server.json(200, '{"path": "dir/f", "size": 4, "sha256": "0"}')

    assert client.upload_file("sess_1", "dir/f", io.BytesIO(b"data"))["size"] == 4
    [request] = server.requests
    assert (request.method, request.path) == ("POST", f"{URL}/upload")
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
    path, file = request.body.find(b'name="path"\r\n\r\ndir/f'), request.body.find(b"data\r\n")
    assert 0 < path < file  # so that a wrong path is refused before the file comes


def test_a_delete(server: Scripted, client: Client) -> None:
    server.json(204, "")

    client.delete_file("sess_1", "dir/a b%?")

    assert (server.requests[0].method, server.requests[0].path) == (
        "DELETE",
        f"{URL}/dir%2Fa%20b%25%3F",
    )


@pytest.mark.parametrize("path", ["", ".", ".."])
def test_a_path_that_would_be_another_call(server: Scripted, client: Client, path: str) -> None:
    with pytest.raises(ValueError, match="not the path of a file"):
        client.delete_file("sess_1", path)
    assert server.requests == []


def test_a_download(server: Scripted, client: Client) -> None:
    answer(server, b"data")
    to = io.BytesIO()

    client.download_file("sess_1", "f", to)

    assert to.getvalue() == b"data"


def test_a_redirected_download_that_breaks_goes_on(server: Scripted, client: Client) -> None:
    for data, status in ((b"abcde", 200), (b"fg", 206), (b"hij", 206)):
        server.answers.append((307, {"location": "/d?x=1", "content-length": "0"}, b""))
        answer(server, data, status=status, announced=len(data) + (data != b"hij"))
    to = io.BytesIO()

    client.download_file("sess_1", "f", to)

    assert to.getvalue() == b"abcdefghij"
    sent = [(request.path, request.headers["range"]) for request in server.requests]
    asked = [None, None, "bytes=5-", "bytes=5-", "bytes=7-", "bytes=7-"]
    assert sent == list(zip([f"{URL}/f", "/d?x=1"] * 3, asked, strict=True))
    assert server.requests[-1].headers["if-range"] == '"e"'


def test_a_file_that_changed_meanwhile(server: Scripted, client: Client) -> None:
    answer(server, b"abcde", announced=10)
    answer(server, b"0123456789")

    with pytest.raises(api.Unreachable, match="changed"):
        client.download_file("sess_1", "f", io.BytesIO())


def test_a_download_that_never_gets_on(server: Scripted, client: Client) -> None:
    for _ in range(api.STREAM_ATTEMPTS):
        answer(server, b"", announced=10)

    with pytest.raises(api.Unreachable):
        client.download_file("sess_1", "f", io.BytesIO())
    assert server.answers == []


def test_no_such_file(server: Scripted, client: Client) -> None:
    server.json(404, '{"error_code": "Sandbox.FileNotFound"}')

    with pytest.raises(api.NotFound):
        client.download_file("sess_1", "f", io.BytesIO())
