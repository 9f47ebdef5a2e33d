"""A collector of OTLP over HTTP on a port of the kernel's choice.

The oteltap package drops the resource, and with it which service sent a span.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Received:
    """One span, with what its sender says of itself."""

    service: str
    span: Span

    @property
    def attributes(self) -> dict[str, str]:
        return _strings(self.span.attributes)


@dataclass(frozen=True)
class Collector:
    endpoint: str
    spans: Queue[Received] = field(default_factory=Queue)

    async def take(self, count: int) -> list[Received]:
        """The next `count` spans. queue.Empty when one does not come within 30 s."""
        return [await asyncio.to_thread(self.spans.get, True, WAIT_SECONDS) for _ in range(count)]


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            size = self.headers["content-length"]
            body = self.rfile.read(int(size)) if size else self._read_chunks()
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = _strings(resource.resource.attributes)["service.name"]
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        collector.spans.put(Received(service, span))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def _read_chunks(self) -> bytes:
            """The body as Envoy sends it: chunked."""
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: the test reads the spans."""

    # A thread each: every service keeps its connection open.
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _strings(attributes: Iterator[KeyValue]) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes}
