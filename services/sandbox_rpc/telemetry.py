"""Logs and traces of a service.

Logs are JSON lines on standard error. Tracing is off unless
OTEL_EXPORTER_OTLP_ENDPOINT is set; then every RPC in and out makes a span, sent as
OTLP over HTTP. A collector that is down costs nothing: spans are exported from a
bounded queue in the background and dropped when it is full.

Attributes never hold user code, output, environment or tokens.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from sandbox_rpc.auth import current_request_id

# Long-lived streams and health checks: a span of theirs says nothing and never ends.
UNTRACED = ("Connect", "WatchSandboxes", "Watch", "Check", "ServerReflectionInfo")

_propagator = TraceContextTextMapPropagator()
_noted: ContextVar[dict[str, str | int]] = ContextVar("noted")


def enabled() -> bool:
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def resource(service: str) -> Resource:
    return Resource.create({"service.name": service, "service.namespace": "sandbox"})


def start(service: str) -> SpanProcessor | None:
    """Sets up logging, and tracing where it is on. The processor flushes on shutdown."""
    _start_logging(service)
    if not enabled():
        return None
    # Imported here: it costs 100 ms and nobody who has tracing off should wait for it.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    processor = BatchSpanProcessor(OTLPSpanExporter())
    provider = TracerProvider(resource=resource(service))
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return processor


def server_interceptors() -> list[Any]:
    if not enabled():
        return []
    from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

    make: Any = aio_server_interceptor  # untyped
    return [make(filter_=filters.negate(_untraced()))]


def client_interceptors() -> Sequence[Any]:
    if not enabled():
        return []
    from opentelemetry.instrumentation.grpc import aio_client_interceptors, filters

    make: Any = aio_client_interceptors  # untyped
    interceptors: Sequence[Any] = make(filter_=filters.negate(_untraced()))
    return interceptors


def _untraced() -> Any:
    from opentelemetry.instrumentation.grpc import filters

    return filters.any_of(*(filters.method_name(name) for name in UNTRACED))


def traceparent() -> str:
    """The current W3C trace context, to be stored or sent along; empty without a trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")


def span_context(traceparent: str) -> trace.SpanContext:
    """The parsed header; invalid (`is_valid` False) when it is empty or malformed."""
    context = _propagator.extract({"traceparent": traceparent})
    return trace.get_current_span(context).get_span_context()


def note(**attributes: str | int) -> None:
    """Adds `sandbox.*` attributes to the current span: ids and outcomes, never user data.

    What ends in `id` or `path` also goes to the call's line in the audit log.
    """
    span = trace.get_current_span()
    _noted.get({}).update(attributes)
    for name, value in attributes.items():
        span.set_attribute("sandbox." + name.replace("__", "."), value)


def collect() -> dict[str, str | int]:
    """What `note` is told from here on in the current call."""
    noted: dict[str, str | int] = {}
    _noted.set(noted)
    return noted


class ForeignSpans:
    """Exports spans that somebody without a collector timed for us (the executor)."""

    def __init__(self, processor: SpanProcessor | None, service: str) -> None:
        self._processor = processor
        self._resource = resource(service)

    def export(
        self,
        name: str,
        *,
        context: trace.SpanContext,
        parent: trace.SpanContext,
        start_ns: int,
        end_ns: int,
        error: bool,
        attributes: Mapping[str, str | int],
    ) -> None:
        if self._processor is None or not parent.trace_flags.sampled:
            return
        status = trace.StatusCode.ERROR if error else trace.StatusCode.OK
        self._processor.on_end(
            ReadableSpan(
                name=name,
                context=context,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                kind=trace.SpanKind.INTERNAL,
                status=trace.Status(status),
                start_time=start_ns,
                end_time=end_ns,
            )
        )


class _JsonLines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "severity": record.levelname,
            "service.name": self._service,
            "message": record.getMessage(),
        }
        request_id = current_request_id()
        if request_id:
            line["request_id"] = request_id
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _start_logging(service: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service))
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), handlers=[handler], force=True)
