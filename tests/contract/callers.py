"""The two kinds of clients: REST and native gRPC, both through the public edge."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import grpc
import httpx
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sandbox.execution.v1 import execution_pb2_grpc
from sandbox.rpc.v1 import error_pb2
from sandbox.session.v1 import health_pb2_grpc, session_pb2_grpc
from sandbox_rpc import errors

from tests.flow.stack import Stack

FIELDS = ["description", "error_code", "error_detail", "error_link", "solution"]
CODE = "def handler(event):\n    return event\n"


class Rest:
    """A client of the REST API in one business domain, with the operator's token."""

    def __init__(self, http: httpx.Client, token: str, domain: str) -> None:
        self.http = http
        self.token = token
        self.domain = domain
        # Bytes, since some tests send what is no ASCII.
        self.headers: dict[str, str | bytes] = {
            "authorization": f"Bearer {token}",
            "x-business-domain": domain,
        }

    def call(
        self, verb: str, path: str, headers: Mapping[str, str | bytes] | None = None, **options: Any
    ) -> httpx.Response:
        """`path` is below /api/v1. What holds of every answer is checked here."""
        sent: Any = self.headers | dict(headers or {})
        answer = self.http.request(verb, f"/api/v1{path}", headers=sent, **options)
        assert answer.headers["x-request-id"]
        assert not [name for name in answer.headers if name.startswith(("grpc-", "x-http-code"))]
        if answer.status_code >= 400:
            check_error(answer)
        return answer

    def session(self, **fields: Any) -> dict[str, Any]:
        answer = self.call("POST", "/sessions", json={"template_id": "python-basic", **fields})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def execute(self, session_id: str, code: str = CODE, **fields: Any) -> dict[str, Any]:
        """The execution's result."""
        body = {"code": code, "language": "python", **fields}
        answer = self.call("POST", f"/sessions/{session_id}/execute?wait=60", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def submit(self, session_id: str, code: str = CODE, **fields: Any) -> str:
        """The execution's id."""
        body = {"code": code, "language": "python", **fields}
        answer = self.call("POST", f"/sessions/{session_id}/execute", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["execution_id"])


class Native:
    """A client of the gRPC services in one business domain, with the operator's token."""

    def __init__(self, stack: Stack, domain: str) -> None:
        token = stack.places.token.read_text().strip()
        self.metadata = (("authorization", f"Bearer {token}"), ("x-business-domain", domain))
        self._channel = grpc.insecure_channel(f"127.0.0.1:{stack.port}")
        self.sessions = session_pb2_grpc.SessionServiceStub(self._channel)
        self.executions = execution_pb2_grpc.ExecutionServiceStub(self._channel)
        self.health = health_pb2_grpc.HealthServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()


def check_error(answer: httpx.Response) -> None:
    """The one error body, whoever made it."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert sorted(body) == FIELDS, body
    assert all(isinstance(value, str) and value for value in body.values()), body
    assert body["error_link"] == errors.link_of(body["error_code"])
    assert "Traceback" not in answer.text
    assert ("retry-after" in answer.headers) is (answer.status_code == 503)


def refusal_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, error_pb2.ApiError]:
    """Status and ApiError of a refused call, its ErrorInfo checked."""
    status: Any = rpc_status.from_call(error)
    api, info = error_pb2.ApiError(), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(api)
    assert status.details[1].Unpack(info)
    assert len(status.details) == 2
    assert (info.domain, info.reason) == ("sandbox", errors.reason_of(api.error_code))
    assert api.error_link == errors.link_of(api.error_code)
    assert status.message == api.description
    code: grpc.StatusCode = error.code()
    return code, api
