"""A client that adds little of its own: one kept connection, the standard library."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tests.flow.stack import Stack

WAIT_SECONDS = 60


class Rest:
    """One connection to the public edge. Not for several threads."""

    def __init__(self, stack: Stack) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=2 * WAIT_SECONDS)
        token = stack.places.token.read_text().strip()
        self._headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
        }

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The answer's JSON. Raises AssertionError for an error answer."""
        data = None if body is None else json.dumps(body).encode()
        self._http.request(method, f"/api/v1{path}", data, self._headers | headers)
        response = self._http.getresponse()
        answer = response.read()
        assert response.status < 300, answer
        return json.loads(answer) if answer else None

    def session(self, **fields: Any) -> str:
        body = {"template_id": "python-basic", "timeout": 3600, **fields}
        return str(self.call("POST", "/sessions", body)["session_id"])

    def delete(self, session: str) -> None:
        self.call("DELETE", f"/sessions/{session}")

    def run(self, session: str, code: str, language: str = "python", **headers: str) -> Any:
        """Executes and waits. Raises AssertionError for anything but success."""
        path = f"/sessions/{session}/execute?wait={WAIT_SECONDS}"
        result = self.call("POST", path, {"code": code, "language": language}, **headers)
        assert result["status"] == "success", result
        return result

    def close(self) -> None:
        self._http.close()
