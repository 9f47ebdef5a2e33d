"""What clients may ask of containers. Every refusal names the field and its limit."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from sandbox.scheduler.v1 import container_pb2 as pb
from sandbox.session.v1.session_pb2 import RuntimeType
from sandbox_rpc.errors import InvalidParameter

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
DEFAULT_TAIL = 100
MAX_TAIL = 10_000
# A container lives no longer: its own token expires then. Less than any Unix time of this
# century, so that one is refused, not taken for an age.
MAX_SINCE_SECONDS = 7 * 24 * 3600

_SECONDS = re.compile(r"\d{1,10}", re.ASCII)
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def page(request: pb.ListContainersRequest) -> tuple[int, int]:
    """(limit, offset) of a list request whose other fields are checked as well."""
    limit = request.limit if request.HasField("limit") else DEFAULT_LIMIT
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"Field 'limit' must be between 1 and {MAX_LIMIT}")
    if request.offset < 0:
        raise InvalidParameter("Field 'offset' must be at least 0")
    if request.status not in pb.ContainerStatus.Value.values():
        raise InvalidParameter("Field 'status' must be one of the words for a container's status")
    if request.runtime_type not in RuntimeType.Value.values():
        raise InvalidParameter("Field 'runtime_type' must be one of the words for a runtime")
    return limit, request.offset


def tail(request: pb.GetContainerLogsRequest) -> int:
    lines = request.tail if request.HasField("tail") else DEFAULT_TAIL
    if not 1 <= lines <= MAX_TAIL:
        raise InvalidParameter(f"Field 'tail' must be between 1 and {MAX_TAIL}")
    return lines


def since(request: pb.GetContainerLogsRequest, now: datetime) -> datetime | None:
    """The moment that is meant; None where the request has no `since`."""
    if not request.HasField("since"):
        return None
    text = request.since
    if _SECONDS.fullmatch(text) and 1 <= int(text) <= MAX_SINCE_SECONDS:
        return now - timedelta(seconds=int(text))
    if _RFC_3339.fullmatch(text):
        try:
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):  # the 30th of February, the year 0
            pass
    raise InvalidParameter(
        "Field 'since' must be a time such as 2026-01-31T12:00:00Z, or a number of seconds "
        f"between 1 and {MAX_SINCE_SECONDS}"
    )
