"""Exports what an executor timed, under the trace that it was given and no other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opentelemetry import trace
from sandbox.executor.v1 import link_pb2 as pb
from sandbox_rpc.telemetry import ForeignSpans, span_context

# An executor sits beside untrusted code: it may name these spans, nothing else.
NAMES = frozenset({"executor.configure", "executor.run", "sandbox.run"})
MAX_SPANS = 8


class Spans:
    def __init__(self, exporter: ForeignSpans) -> None:
        self._exporter = exporter

    def export(
        self, traceparent: str, spans: Iterable[pb.Span], attributes: Mapping[str, str | int]
    ) -> None:
        """Exports the spans that hang below `traceparent`; drops every other one."""
        root = span_context(traceparent)
        if not root.is_valid:
            return
        accepted = [span for span in list(spans)[:MAX_SPANS] if span.name in NAMES]
        parents = {int.from_bytes(span.span_id) for span in accepted} | {root.span_id}
        for span in accepted:
            parent_id = int.from_bytes(span.parent_span_id)
            if parent_id not in parents or len(span.span_id) != 8:
                continue
            self._exporter.export(
                span.name,
                context=_within(root, int.from_bytes(span.span_id)),
                parent=_within(root, parent_id),
                start_ns=span.start_unix_nano,
                end_ns=span.end_unix_nano,
                error=span.error,
                attributes=attributes,
            )


def _within(root: trace.SpanContext, span_id: int) -> trace.SpanContext:
    return trace.SpanContext(root.trace_id, span_id, is_remote=True, trace_flags=root.trace_flags)
