"""multipart/form-data, well-formed and not, in pieces of every size."""

from __future__ import annotations

import pytest
from exec_svc.files import form as module
from exec_svc.files.form import Form
from sandbox_rpc.errors import InvalidParameter

TYPE = "multipart/form-data; boundary=BOUND"


def part(name: str, data: bytes, *headers: str, filename: str | None = None) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    head = "\r\n".join([disposition, *headers]).encode()
    return b"--BOUND\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


END = b"--BOUND--\r\n"
FILE = part("file", b"content", "Content-Type: text/plain", filename="a.txt")
PATH = part("path", b"dir/b.txt")


class Taken:
    """Where a form's file goes, and the paths that it aimed at."""

    def __init__(self, content_type: str = TYPE) -> None:
        self.data = b""
        self.aims: list[str] = []
        self.form = Form(content_type, self._sink, self.aims.append)

    def _sink(self, data: memoryview) -> None:
        self.data += data

    def take(self, body: bytes, size: int = 1 << 20) -> str:
        for start in range(0, len(body), size):
            self.form.feed(body[start : start + size])
        return self.form.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("order", [FILE + PATH, PATH + FILE])
def test_a_file_and_its_path(order: bytes, size: int) -> None:
    taken = Taken()

    assert taken.take(order + END, size) == "dir/b.txt"
    assert taken.data == b"content"
    assert taken.aims == ["dir/b.txt"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"\r\n--BOUN",
        b"\r\n--BOUND_",
        b"--BOUND",
        b"\r" * 1000,
        bytes(range(256)) * 40,
        b"\r\n--\r\n--BOUN\r\n" * 50,
    ],
)
@pytest.mark.parametrize("size", [1, 5, 1 << 20])
def test_any_bytes(content: bytes, size: int) -> None:
    taken = Taken()

    taken.take(part("file", content, filename="f") + END, size)

    assert taken.data == content


@pytest.mark.parametrize(
    ("filename", "path"),
    [("a.txt", "a.txt"), ("dir/a.txt", "dir/a.txt"), ('q\\"uote', 'q"uote'), ("käse", "käse")],
)
def test_the_file_name_where_there_is_no_path(filename: str, path: str) -> None:
    assert Taken().take(part("file", b"", filename=filename) + END) == path


@pytest.mark.parametrize("filename", ["../x", "/etc/passwd", "..", "a/", "", "n" * 256])
def test_a_file_name_that_is_no_path(filename: str) -> None:
    with pytest.raises(InvalidParameter, match=r"file name|Field 'path' is required"):
        Taken().take(part("file", b"x", filename=filename) + END)


def test_a_file_without_a_name_that_has_a_path() -> None:
    taken = Taken()

    assert taken.take(PATH + part("file", b"x") + END) == "dir/b.txt"
    assert taken.data == b"x"


def test_other_fields_are_ignored_and_so_is_what_follows() -> None:
    body = part("colour", b"red") + FILE + part("colour", b"blue") + END + b"epilogue"
    taken = Taken()

    assert taken.take(b"\r\n" + body) == "a.txt"
    assert taken.data == b"content"


def test_a_content_length_that_is_true() -> None:
    assert Taken().take(part("file", b"four", "Content-Length: 4", filename="f") + END) == "f"


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=BOUND",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 71,
    ],
)
def test_a_body_of_another_type(content_type: str) -> None:
    with pytest.raises(InvalidParameter, match="Header 'content-type'"):
        Taken(content_type)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (PATH + END, "Field 'file' is required"),
        (END, "Field 'file' is required"),
        (part("file", b"x") + END, "Field 'path' is required"),
        (FILE + FILE + END, "Field 'file' appears twice"),
        (PATH + PATH + FILE + END, "Field 'path' appears twice"),
        (b"", "Field 'file' is cut off"),
        (FILE, "cut off"),
        (FILE[:-10], "Field 'file' is cut off"),
        (PATH[:-4], "Field 'path' is cut off"),
        (FILE + b"--BOUND-", "cut off"),
        (b"nonsense", "not well-formed"),
        (b"--OTHER\r\n\r\n", "not well-formed"),
        (b"--BOUND\r\nbad header\r\n\r\nx\r\n" + END, "not well-formed"),
        (b"--BOUND\r\n\r\nx\r\n" + END, "a field without a name"),
        (b"--BOUND\r\nContent-Disposition: attachment; name=file\r\n\r\n\r\n" + END, "without a"),
        (part("file", b"x", "Content-Disposition: form-data; name=path") + END, "two headers"),
        (part("file", b"eight by", "Content-Length: 7", filename="f") + END, "'file' has 8 bytes"),
        (part("file", b"eight by", "Content-Length: 9", filename="f") + END, "'file' has 8 bytes"),
        (part("file", b"", "Content-Length: -1", filename="f") + END, "valid content-length"),
        (part("file", b"", "Content-Length: x", filename="f") + END, "valid content-length"),
        (part("file", b"", "Content-Length: " + "9" * 99, filename="f") + END, "valid content-le"),
        (part("file", b"", "Content-Transfer-Encoding: base64") + END, "transfer-encoding"),
        (part("path", b"\xff") + FILE + END, "Field 'path' must be valid UTF-8"),
        (part("path", b"../x") + FILE + END, "Field 'path' must not have a part"),
        (part("path", b"/x") + FILE + END, "Field 'path' must be relative"),
        (part("path", b"a\0b") + FILE + END, "Field 'path' must not hold a NUL"),
        (part("path", b"") + FILE + END, "Field 'path' is required"),
        (part("path", b"p" * 5000) + FILE + END, "Field 'path' must have at most 1024 bytes"),
        (part("x", b"") * 17 + END, "at most 16 fields"),
        (part("file", b"", *[f"X-{n}: y" for n in range(20)]) + END, "not well-formed"),
        (part("file", b"", "X: " + "y" * 10_000) + END, "not well-formed"),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_body_that_is_refused(body: bytes, detail: str, size: int) -> None:
    with pytest.raises(InvalidParameter, match=detail):
        Taken().take(body, size)


def test_a_wrong_path_is_refused_before_the_file_comes() -> None:
    taken = Taken()

    with pytest.raises(InvalidParameter):
        taken.form.feed(part("path", b"../x") + FILE[:9])
    assert taken.data == b""


@pytest.mark.parametrize("filler", ["field", "epilogue", "preamble"])
def test_what_comes_around_the_file_has_an_end(
    filler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1000)
    taken = Taken()
    begin = {"field": part("x", b"")[:-2], "epilogue": FILE + END, "preamble": b""}[filler]

    def feed_for_ever() -> None:
        while True:
            taken.form.feed(b"\r\n" * 500)

    taken.form.feed(begin)
    with pytest.raises(InvalidParameter, match="Field 'file' must have at most 1000 bytes"):
        feed_for_ever()
