"""What the edge serves itself: the API's description, swagger-ui on it, a page for each error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sandbox_rpc import errors

from cli import pages
from tests.edge.envoy_process import RunningEdge
from tests.edge.test_errors import FIELDS, TABLE

ROOT = Path(__file__).parents[2]
ERRORS = ROOT / "docs" / "errors"
IN_RESULTS = {"Sandbox.ExecException", "Sandbox.ExecTimeout"}
INTERNAL = {"Internal.InvalidExecution"}
CODES = [code for _, _, code in TABLE] + sorted(IN_RESULTS | INTERNAL)


@pytest.fixture
def stranger(edge: RunningEdge) -> Iterator[httpx.Client]:
    """A client without a token."""
    with httpx.Client(base_url=edge.url) as made:
        yield made


@pytest.mark.parametrize("page", list(pages.pages()), ids=lambda page: page.path)
def test_each_page_is_its_file(stranger: httpx.Client, page: pages.Page) -> None:
    answer = stranger.get(page.path)

    assert answer.status_code == 200
    assert answer.content == page.file.read_bytes()
    assert answer.headers["content-type"] == page.content_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-request-id"]

    head = stranger.head(page.path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_pages_are_only_read(stranger: httpx.Client, verb: str) -> None:
    answer = stranger.request(verb, "/docs")

    assert (answer.status_code, answer.json()["error_code"]) == (404, "Sandbox.NotFound")


@pytest.mark.parametrize("path", ["/errors/", "/errors/no-such", "/docs/..%2fx", "/docs/x.js"])
def test_what_is_no_page_is_an_error_of_the_usual_form(stranger: httpx.Client, path: str) -> None:
    answer = stranger.get(path)

    assert answer.status_code in (400, 404)
    assert sorted(answer.json()) == sorted(FIELDS)


def test_the_docs_load_nothing_from_elsewhere(stranger: httpx.Client) -> None:
    """Whatever the page names is served here, and its policy forbids the rest."""
    page = stranger.get("/docs")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    named += re.findall(r'url: "([^"]+)"', stranger.get("/docs/start.js").text)

    assert "/openapi.json" in named
    for target in named:
        if target != "data:,":
            assert stranger.get(target).status_code == 200, target
    policy = page.headers["content-security-policy"]
    assert "http" not in policy
    assert "script-src 'self';" in policy
    assert "<script>" not in page.text
    assert "validatorUrl: null" in stranger.get("/docs/start.js").text


def test_swagger_ui_can_show_openapi_3_1(stranger: httpx.Client) -> None:
    version = re.search(
        r'PACKAGE_VERSION:"(\d+)\.', stranger.get("/docs/swagger-ui-bundle.js").text
    )

    assert version
    assert int(version[1]) >= 5
    assert stranger.get("/openapi.json").json()["openapi"].startswith("3.1.")


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_has_its_page(stranger: httpx.Client, code: str) -> None:
    text = stranger.get(errors.link_of(code)).text

    assert text.startswith(f"# {code}\n")
    (example,) = re.findall(r"```json\n(.+?)```", text, re.DOTALL)
    body = json.loads(example)
    assert body["error_code"] == code
    if code not in IN_RESULTS:
        assert list(body) == FIELDS
        assert body["error_link"] == errors.link_of(code)
    for error, status, listed in TABLE:
        if listed == code:
            assert f"HTTP {status} · gRPC {error.status.name}" in text
            assert body["description"] == error.description
    assert "## What to do" in text


def test_the_index_lists_every_page() -> None:
    listed = re.findall(r"\]\(([a-z-]+)\.md\)", (ERRORS / "README.md").read_text())

    assert sorted(listed) == sorted(path.stem for path in ERRORS.glob("[!R]*.md"))
    assert sorted(f"/errors/{slug}" for slug in listed) == sorted(map(errors.link_of, CODES))
