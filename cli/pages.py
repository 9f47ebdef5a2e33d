"""The pages that the edge itself serves, without a token: the API's description and errors.

/openapi.json     gen/openapi.json
/docs             swagger-ui on it, from the assets of an installed package
/errors/SLUG      docs/errors/SLUG.md, where `error_link` leads
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_ERRORS = _ROOT / "docs" / "errors"
_DOCS = _ROOT / "envoy" / "docs"

# The largest is swagger-ui's script.
MAX_PAGE_BYTES = 4 * 1024 * 1024

HTML = "text/html; charset=utf-8"
SCRIPT = "text/javascript; charset=utf-8"
STYLE = "text/css; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

# swagger-ui sets styles in line and draws its icons from data: URLs. Everything else comes
# from here, and goes here: a token that is entered cannot leave for another host.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class Page:
    path: str
    file: Path
    content_type: str


def pages() -> Iterator[Page]:
    """Raises ModuleNotFoundError when the package with swagger-ui is not installed."""
    yield Page("/openapi.json", _ROOT / "gen" / "openapi.json", JSON)
    for path in ("/docs", "/docs/"):
        yield Page(path, _DOCS / "index.html", HTML)
    yield Page("/docs/start.js", _DOCS / "start.js", SCRIPT)
    with resources.as_file(resources.files("mkdocs_swagger_ui_tag") / "swagger-ui") as assets:
        script, style = "swagger-ui-bundle.js", "swagger-ui.css"
        yield Page(f"/docs/{script}", assets / "javascripts" / script, SCRIPT)
        yield Page(f"/docs/{style}", assets / "stylesheets" / style, STYLE)
    for file in sorted(_ERRORS.glob("*.md")):
        slug = "" if file.stem == "README" else f"/{file.stem}"
        yield Page(f"/errors{slug}", file, TEXT)


def routes() -> list[dict[str, object]]:
    """Envoy's routes for them. It reads the files once, when it starts."""
    return [_route(page) for page in pages()]


def _route(page: Page) -> dict[str, object]:
    headers = {"content-type": page.content_type} | _HEADERS
    return {
        "match": {
            "path": page.path,
            "headers": [{"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}],
        },
        "direct_response": {"status": 200, "body": {"filename": str(page.file)}},
        "response_headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
        "tracing": {"random_sampling": {"numerator": 0}},
        # It refuses whatever is no call of a service.
        "typed_per_filter_config": {
            "envoy.filters.http.grpc_json_transcoder": {
                "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                "disabled": True,
            }
        },
    }
