"""Which requirement strings are taken: names, never where from or how."""

from __future__ import annotations

import pytest
from sandbox_rpc.errors import InvalidParameter
from session_svc.requirements import check_requirements


@pytest.mark.parametrize(
    "text",
    [
        "numpy",
        "numpy>=1.26,<3",
        "Foo.Bar_baz == 1.0.post1",
        "requests[socks,security]~=2.31",
        'tomli; python_version < "3.11"',
        "x" * 256,
    ],
)
def test_names_with_versions_extras_and_markers_are_taken(text: str) -> None:
    check_requirements("dependencies", [text])


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-r requirements.txt",
        "--index-url=x",
        "-e .",
        "-",
        ".",
        "..",
        "./package",
        "/etc/passwd",
        "../../x.whl",
        "file:///etc/passwd",
        "https://example.org/x.whl",
        "git+https://example.org/x",
        "numpy --pre",
        "numpy --hash=sha256:00",
        "numpy # comment",
        "numpy\n--index-url x",
        "numpy\\",
        "a b",
        "${HOME}",
        "$(id)",
        "a;b",
        "nümpy",
        "numpy\0",
    ],
)
def test_anything_else_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_requirements("dependencies", ["numpy", text])
    assert caught.value.detail.startswith("Field 'dependencies[1]' must be ")


@pytest.mark.parametrize("url", ["file:///etc", "https://example.org/x.whl", "./x", "git+ssh://x"])
def test_a_name_with_an_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameter, match="must name a package, not a URL or a path"):
        check_requirements("dependencies", [f"numpy @ {url}"])


def test_length_and_number_are_bounded() -> None:
    with pytest.raises(InvalidParameter, match=r"'dependencies\[0\]' must have at most 256 char"):
        check_requirements("dependencies", ["x" * 257])
    check_requirements("dependencies", ["x"] * 64)
    with pytest.raises(InvalidParameter, match="'dependencies' must have at most 64 entries"):
        check_requirements("dependencies", ["x"] * 65)
