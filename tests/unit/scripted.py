"""A real HTTP server that answers what a test scripts."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Request:
    """What the client sent."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.method = handler.command
        self.path = handler.path
        self.headers = handler.headers
        size = int(handler.headers.get("content-length", 0))
        self.body = handler.rfile.read(size)


Answer = tuple[int, dict[str, str], bytes]


class Scripted:
    """A server that gives its answers in order and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                outer.requests.append(Request(self))
                status, headers, body = outer.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def json(self, status: int, body: str, **headers: str) -> None:
        content = body.encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        length = {"content-length": str(len(content))} if status != 204 else {}
        self.answers.append((status, length | named, content))

    def stream(self, *events: str) -> None:
        """A stream that ends, cut or not, after these."""
        self.answers.append((200, {"content-type": "text/event-stream"}, "".join(events).encode()))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def event(number: int, kind: str, data: Any) -> str:
    """One server-sent event as exec_svc writes it."""
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
