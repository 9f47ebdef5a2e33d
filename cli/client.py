"""A thin Python client of the REST API.

    with Client("http://127.0.0.1:8080", token) as client:
        session = client.create_session("python-basic")
        result = client.execute(session["session_id"], code, "python", event={"n": 1}, wait=60)

Answers are the API's JSON as it is: integers of any size are exact. Every call raises
ApiError for an error body and Unreachable when there is no answer.

    ClientError
    ├── Unreachable            no connection, or it broke
    └── ApiError               the platform answered with its error body
        ├── InvalidParameter   400
        ├── Unauthorized       401
        ├── Forbidden          403
        ├── NotFound           404
        ├── StateConflict      409
        ├── InternalError      500
        └── Unavailable        503, a full queue or a service that is down
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote

import httpx

Json = dict[str, Any]

REQUEST_SECONDS = 60.0
# Beyond that, for a session that pulls an image or installs packages: a little more than the
# edge gives it, so that whoever is too slow is told by it.
OPEN_SECONDS = 1300.0
# How often a broken event stream is taken up again without one new event.
STREAM_ATTEMPTS = 6
FIRST_RETRY_SECONDS = 0.2


class ClientError(Exception):
    """Base of everything a call raises."""


class Unreachable(ClientError):
    """There was no answer; the message names the address and the reason."""


class ApiError(ClientError):
    """The platform's error body.

    `retry_after` is in seconds, where the platform said how long to wait.
    """

    def __init__(self, response: httpx.Response) -> None:
        body = _error_body(response)
        self.http_status = response.status_code
        self.error_code = str(body.get("error_code", "Sandbox.InternalError"))
        self.description = str(body.get("description", response.reason_phrase))
        self.detail = str(body.get("error_detail", ""))
        self.solution = str(body.get("solution", ""))
        self.request_id = response.headers.get("x-request-id", "")
        after = response.headers.get("retry-after", "")
        self.retry_after = int(after) if after.isdigit() else None
        said = f"{self.description}: {self.detail}" if self.detail else self.description
        words = f"{said.rstrip('.')}. {self.solution}".rstrip()
        super().__init__(f"{words} [{self.error_code}, request {self.request_id}]")


class InvalidParameter(ApiError):
    """400"""


class Unauthorized(ApiError):
    """401"""


class Forbidden(ApiError):
    """403"""


class NotFound(ApiError):
    """404; `error_code` says what was not found."""


class StateConflict(ApiError):
    """409"""


class InternalError(ApiError):
    """500"""


class Unavailable(ApiError):
    """503; try again after `retry_after`."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidParameter,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: StateConflict,
    500: InternalError,
    503: Unavailable,
}


@dataclass(frozen=True)
class Event:
    """One server-sent event: `kind` is stdout, stderr, status or result."""

    id: int
    kind: str
    data: Json


class Client:
    """A connection to one platform as one tenant. Not for use from several threads."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        domain: str | None = None,
        timeout: float = REQUEST_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`timeout` (seconds) bounds each call on top of the `wait` that it asks for."""
        headers = {"authorization": f"Bearer {token}"}
        if domain is not None:
            headers["x-business-domain"] = domain
        self._url = url
        self._timeout = timeout
        # trust_env off: a proxy of the environment must not see the token.
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def create_session(
        self,
        template_id: str,
        *,
        wait: bool = True,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Json:
        """Opens a session; `fields` are those of the request body, e.g. mode="ephemeral"."""
        return self._call(
            "POST",
            "/api/v1/sessions",
            query={} if wait else {"wait": "false"},
            body={"template_id": template_id, **fields},
            idempotency_key=idempotency_key,
            longer=OPEN_SECONDS if wait else 0,
        )

    def session(self, session_id: str) -> Json:
        return self._call("GET", f"/api/v1/sessions/{_segment(session_id)}")

    def sessions(self, **filters: Any) -> Json:
        """{sessions, total}; `filters` are status, template_id, limit, offset."""
        return self._call("GET", "/api/v1/sessions", query=filters)

    def delete_session(self, session_id: str) -> None:
        """Ends a session and its sandbox; doing it again succeeds."""
        self._call("DELETE", f"/api/v1/sessions/{_segment(session_id)}")

    def create_template(self, **fields: Any) -> Json:
        """Adds a template; `fields` are those of the request body, `id` among them."""
        return self._call("POST", "/api/v1/templates", body=fields)

    def template(self, template_id: str) -> Json:
        return self._call("GET", f"/api/v1/templates/{_segment(template_id)}")

    def templates(self, **filters: Any) -> Json:
        """{templates, total}; `filters` are limit, offset."""
        return self._call("GET", "/api/v1/templates", query=filters)

    def replace_template(self, template_id: str, **fields: Any) -> Json:
        """Gives a template these fields; one that is left out takes its default."""
        return self._call("PUT", f"/api/v1/templates/{_segment(template_id)}", body=fields)

    def delete_template(self, template_id: str) -> None:
        """Removes a template that no live session uses."""
        self._call("DELETE", f"/api/v1/templates/{_segment(template_id)}")

    def execute(
        self,
        session_id: str,
        code: str,
        language: str,
        *,
        wait: int | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Json:
        """Runs code. With `wait` (seconds, 1 to 3600) the ExecutionResult if it ends in
        time; otherwise {execution_id, session_id, status, submitted_at}.

        `fields` are those of the request body: event, timeout, env_vars, stdin.
        """
        return self._call(
            "POST",
            f"/api/v1/sessions/{_segment(session_id)}/execute",
            query={} if wait is None else {"wait": wait},
            body={"code": code, "language": language, **fields},
            idempotency_key=idempotency_key,
            longer=wait or 0,
        )

    def executions(self, session_id: str, **filters: Any) -> Json:
        """{executions, total} of a session; `filters` are status, limit, offset."""
        path = f"/api/v1/sessions/{_segment(session_id)}/executions"
        return self._call("GET", path, query=filters)

    def execution(self, execution_id: str) -> Json:
        """Everything about an execution, its code, event and result included."""
        return self._call("GET", f"/api/v1/executions/{_segment(execution_id)}")

    def status(self, execution_id: str) -> Json:
        return self._call("GET", f"/api/v1/executions/{_segment(execution_id)}/status")

    def result(self, execution_id: str, *, wait: int | None = None) -> Json:
        """The ExecutionResult. Raises StateConflict while there is none, after `wait` s."""
        return self._call(
            "GET",
            f"/api/v1/executions/{_segment(execution_id)}/result",
            query={} if wait is None else {"wait": wait},
            longer=wait or 0,
        )

    def files(self, session_id: str, **filters: Any) -> Json:
        """{files, total} of a session's workspace; `filters` are prefix, limit, offset."""
        return self._call("GET", f"/api/v1/sessions/{_segment(session_id)}/files", query=filters)

    def upload_file(self, session_id: str, path: str, file: BinaryIO) -> Json:
        """Stores what `file` holds, at most 100 MiB, under `path`: {path, size, sha256}."""
        url = f"/api/v1/sessions/{_segment(session_id)}/files/upload"
        return self._call("POST", url, form={"path": path}, file=file)

    def delete_file(self, session_id: str, path: str) -> None:
        self._call("DELETE", _file_url(session_id, path))

    def download_file(self, session_id: str, path: str, to: BinaryIO) -> None:
        """Writes the bytes of a file to `to`; when it returns, they are all there.

        A download that breaks is taken up where it broke. Raises Unreachable when that
        fails STREAM_ATTEMPTS times in a row, or the file has changed meanwhile.
        """
        done, etag, failures = 0, "", 0
        while True:
            headers = {"range": f"bytes={done}-", "if-range": etag} if done else {}
            try:
                with self._http.stream(
                    "GET", _file_url(session_id, path), headers=headers, follow_redirects=True
                ) as response:
                    if not response.is_success:
                        response.read()
                        raise _error(response)
                    if done and response.status_code != 206:
                        raise Unreachable(f"{self._url}: '{path}' changed while it was read")
                    etag = response.headers.get("etag", "")
                    for piece in response.iter_raw():
                        to.write(piece)
                        done += len(piece)
                        failures = 0
            except httpx.TransportError as error:
                failures += 1
                if failures == STREAM_ATTEMPTS:
                    raise Unreachable(f"{self._url}: {error}") from error
            else:
                return
            time.sleep(FIRST_RETRY_SECONDS * 2 ** (failures - 1))

    def containers(self, **filters: Any) -> Json:
        """{containers, total}; `filters` are status, runtime_type, limit, offset."""
        return self._call("GET", "/api/v1/containers", query=filters)

    def container(self, container_id: str) -> Json:
        """One container with what it uses now, measured in a fraction of a second."""
        return self._call("GET", f"/api/v1/containers/{_segment(container_id)}")

    def container_logs(
        self,
        container_id: str,
        *,
        tail: int | None = None,
        since: str | None = None,
        follow: bool = False,
    ) -> Iterator[str]:
        """The lines of its log, without their ends: the last `tail` (1 to 10000, default 100).

        `since` is an RFC 3339 time or a number of seconds before now. With `follow` new
        lines come as they are written, until the container ends.
        """
        wanted = {"tail": tail, "since": since, "follow": "true" if follow else None}
        query = {name: value for name, value in wanted.items() if value is not None}
        path = f"/api/v1/containers/{_segment(container_id)}/logs"
        # Nothing may be logged for as long as the container lives.
        limits = httpx.Timeout(self._timeout, read=None if follow else self._timeout)
        try:
            with self._http.stream("GET", path, params=query, timeout=limits) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error(response)
                yield from _lines(response.iter_bytes())
        except httpx.TransportError as error:
            raise Unreachable(f"{self._url}: {error}") from error

    def events(self, execution_id: str, *, after: int = 0) -> Iterator[Event]:
        """Output and status as they come, from the event after id `after` to `result`.

        A stream that breaks is taken up where it broke, with Last-Event-ID. Raises
        Unreachable or Unavailable when that fails STREAM_ATTEMPTS times in a row.
        """
        failures = 0
        while True:
            try:
                for event in self._stream(execution_id, after):
                    failures = 0
                    after = event.id
                    yield event
                    if event.kind == "result":
                        return
                failure: ClientError = Unreachable(
                    f"{self._url}: the events of {execution_id} ended before its result"
                )
            except (Unreachable, Unavailable) as error:
                failure = error
            failures += 1
            if failures == STREAM_ATTEMPTS:
                raise failure
            time.sleep(FIRST_RETRY_SECONDS * 2 ** (failures - 1))

    def _stream(self, execution_id: str, after: int) -> Iterator[Event]:
        path = f"/api/v1/executions/{_segment(execution_id)}/events"
        headers = {"accept": "text/event-stream"}
        if after:
            headers["last-event-id"] = str(after)
        # A program may be silent for its whole timeout: reading has no limit.
        limits = httpx.Timeout(self._timeout, read=None)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=limits) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error(response)
                for event in parse_events(_lines(response.iter_bytes())):
                    if event.id > after:
                        yield event
        except httpx.TransportError as error:
            raise Unreachable(f"{self._url}: {error}") from error

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Json | None = None,
        form: Mapping[str, str] | None = None,
        file: BinaryIO | None = None,
        idempotency_key: str | None = None,
        longer: float = 0,
    ) -> Json:
        headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        try:
            response = self._http.request(
                method,
                path,
                params=dict(query or {}),
                headers=headers,
                content=content,
                data=form,
                files=None if file is None else {"file": file},
                timeout=self._timeout + longer,
            )
        except httpx.TransportError as error:
            raise Unreachable(f"{self._url}: {error}") from error
        if not response.is_success:
            raise _error(response)
        try:
            return dict(json.loads(response.content)) if response.content else {}
        except ValueError as error:
            raise Unreachable(f"{self._url}: the answer is not the platform's JSON") from error


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Lines end at a newline and nowhere else: httpx would also end them at U+2028 and its
    like, which the output of a program may hold."""
    begun: list[bytes] = []
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield b"".join((*begun, end)).decode(errors="replace")
            begun.clear()
        begun.append(rest)
    if any(begun):
        yield b"".join(begun).decode(errors="replace")


def parse_events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events from their lines; one that a cut left unfinished is dropped."""
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}


def _error(response: httpx.Response) -> ApiError:
    return _BY_STATUS.get(response.status_code, InternalError)(response)


def _error_body(response: httpx.Response) -> Json:
    """The error's JSON object; empty where something else than the platform answered."""
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _file_url(session_id: str, path: str) -> str:
    """ValueError for a path that a URL cannot hold: '..' would name the directory above."""
    if path in ("", ".", ".."):
        raise ValueError(f"{path!r} is not the path of a file")
    return f"/api/v1/sessions/{_segment(session_id)}/files/{_segment(path)}"


def _segment(value: str) -> str:
    return quote(value, safe="")
