"""What a path may look like, before the kernel is asked."""

from __future__ import annotations

import pytest
from exec_svc.files.paths import MAX_DEPTH, MAX_PATH_BYTES, checked, checked_prefix
from sandbox_rpc.errors import InvalidParameter

LONGEST_NAME = "n" * 255


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b.csv",
        ".hidden",
        "...",
        "a..b/..c",
        "-rf",
        "a b\n\t\\",
        "100%25?#&+;=:@",
        "käse/日本",
        LONGEST_NAME,
        "ü" * 127,
        "/".join(["d"] * MAX_DEPTH),
        "/".join([LONGEST_NAME] * 4),
    ],
)
def test_a_path(path: str) -> None:
    assert checked(path, "Field 'path'") == path


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("", "is required"),
        ("/etc/passwd", "must be relative"),
        ("/", "must be relative"),
        ("..", "empty, '.' or '..'"),
        ("../x", "empty, '.' or '..'"),
        ("a/../b", "empty, '.' or '..'"),
        ("a/..", "empty, '.' or '..'"),
        (".", "empty, '.' or '..'"),
        ("a/./b", "empty, '.' or '..'"),
        ("a//b", "empty, '.' or '..'"),
        ("a/", "empty, '.' or '..'"),
        ("a\0b", "NUL"),
        ("n" * 256, "255 bytes"),
        ("ü" * 128, "255 bytes"),
        ("d/" + "n" * 256, "255 bytes"),
        ("/".join(["d"] * (MAX_DEPTH + 1)), f"{MAX_DEPTH} parts"),
        ("/".join([LONGEST_NAME] * 4) + "/x", f"{MAX_PATH_BYTES} bytes"),
        (".upload-x", "must not begin with"),
        (".upload-x/y", "must not begin with"),
    ],
)
def test_no_path(path: str, detail: str) -> None:
    with pytest.raises(InvalidParameter, match=f"Field 'path' .*{detail}"):
        checked(path, "Field 'path'")


@pytest.mark.parametrize(
    ("prefix", "parts"),
    [
        ("", ("", "")),
        ("a", ("", "a")),
        ("a/", ("a", "")),
        ("a/b/c", ("a/b", "c")),
        (".", ("", ".")),
        ("a/.", ("a", ".")),
        ("a/" + LONGEST_NAME, ("a", LONGEST_NAME)),
    ],
)
def test_a_prefix(prefix: str, parts: tuple[str, str]) -> None:
    assert checked_prefix(prefix) == parts


@pytest.mark.parametrize("prefix", ["/", "/a", "..", "../", "a/..", "a/../b", "a//", "a\0", "\0/a"])
def test_no_prefix(prefix: str) -> None:
    with pytest.raises(InvalidParameter, match="Parameter 'prefix'"):
        checked_prefix(prefix)
