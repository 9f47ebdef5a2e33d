"""Spans that the executor times and sends along; exec_svc exports them (see link.proto)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox.executor.v1 import link_pb2 as pb

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-([0-9a-f]{16})-[0-9a-f]{2}")


class Trace:
    """The spans below one `traceparent`; collects nothing when that is empty."""

    def __init__(self, traceparent: str) -> None:
        match = _TRACEPARENT.fullmatch(traceparent)
        self._parent = bytes.fromhex(match.group(1)) if match else b""
        self.spans: list[pb.Span] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Times a block; a span opened inside it becomes its child."""
        if not self._parent:
            yield
            return
        span = pb.Span(name=name, span_id=os.urandom(8), parent_span_id=self._parent)
        outer, self._parent = self._parent, span.span_id
        span.start_unix_nano = time.time_ns()
        try:
            yield
        except BaseException:
            span.error = True
            raise
        finally:
            span.end_unix_nano = time.time_ns()
            self._parent = outer
            self.spans.append(span)
