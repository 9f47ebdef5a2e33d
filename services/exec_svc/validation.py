"""What an execution request must be. Raises InvalidParameter naming the field and the limit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.execution.v1 import execution_pb2 as pb
from sandbox_rpc.errors import InvalidParameter

MAX_CODE_BYTES = 102_400
MAX_EVENT_BYTES = 1024 * 1024
MAX_STDIN_BYTES = 1024 * 1024
MAX_ENV_BYTES = 64 * 1024
DEFAULT_TIMEOUT_SECONDS = 30
MAX_TIMEOUT_SECONDS = 3600
DEFAULT_LIMIT = 50
MAX_LIMIT = 200

LANGUAGES = ("python", "javascript", "shell")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class NewExecution:
    """A checked request. `event_json` is the JSON of an object, as the client wrote it."""

    session_id: str
    code: str
    language: str
    timeout: int
    event_json: bytes
    env_vars: dict[str, str]
    stdin: bytes | None

    @property
    def digest(self) -> str:
        """What an Idempotency-Key stands for: equal for equal requests."""
        parts = (
            self.session_id,
            self.code,
            self.language,
            str(self.timeout),
            self.event_json.hex(),
            json.dumps(self.env_vars, sort_keys=True),
            "" if self.stdin is None else f"stdin {self.stdin.hex()}",
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def new_execution(
    *,
    session_id: str,
    code: str,
    language: str,
    timeout: int | None,
    event_json: bytes,
    env_vars: Mapping[str, str],
    stdin: bytes | None,
) -> NewExecution:
    size = len(code.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MAX_CODE_BYTES:
        raise InvalidParameter(f"Field 'code' must have 1 to {MAX_CODE_BYTES} bytes of UTF-8")
    if "\0" in code:
        raise InvalidParameter("Field 'code' must not hold a NUL character")
    try:
        code.encode()
    except UnicodeEncodeError:
        raise InvalidParameter("Field 'code' must be valid Unicode") from None
    if language not in LANGUAGES:
        raise InvalidParameter(f"Field 'language' must be one of {', '.join(LANGUAGES)}")
    timeout = DEFAULT_TIMEOUT_SECONDS if timeout is None else timeout
    if not 1 <= timeout <= MAX_TIMEOUT_SECONDS:
        raise InvalidParameter(f"Field 'timeout' must be between 1 and {MAX_TIMEOUT_SECONDS}")
    if len(event_json) > MAX_EVENT_BYTES:
        raise InvalidParameter(f"Field 'event' must have at most {MAX_EVENT_BYTES} bytes of JSON")
    if stdin is not None and len(stdin) > MAX_STDIN_BYTES:
        raise InvalidParameter(f"Field 'stdin' must have at most {MAX_STDIN_BYTES} bytes")
    check_env(env_vars)
    return NewExecution(
        session_id=session_id,
        code=code,
        language=language,
        timeout=timeout,
        event_json=event_json or b"{}",
        env_vars=dict(env_vars),
        stdin=stdin,
    )


def check_env(env_vars: Mapping[str, str]) -> None:
    total = 0
    for name, value in env_vars.items():
        if not _ENV_NAME.fullmatch(name):
            raise InvalidParameter(
                f"Field 'env_vars': the name {name[:64]!r} must match [A-Za-z_][A-Za-z0-9_]*"
            )
        if "\0" in value:
            raise InvalidParameter(f"Field 'env_vars': {name[:64]!r} must not hold a NUL character")
        total += len(name.encode()) + len(value.encode("utf-8", "surrogatepass"))
    if total > MAX_ENV_BYTES:
        raise InvalidParameter(f"Field 'env_vars' must have at most {MAX_ENV_BYTES} bytes in all")


def typed_execution(request: pb.ExecuteRequest) -> NewExecution:
    """The native gRPC form: event_json is checked to be the JSON of an object."""
    if request.event_json:
        try:
            event = json.loads(request.event_json)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            raise InvalidParameter("Field 'event_json' must be the JSON of an object")
    if request.language not in pb.Language.Value.values():
        raise InvalidParameter(f"Field 'language' must be one of {', '.join(LANGUAGES)}")
    return new_execution(
        session_id=request.session_id,
        code=request.code,
        language=pb.Language.Value.Name(request.language),
        timeout=request.timeout if request.HasField("timeout") else None,
        event_json=request.event_json,
        env_vars=request.env_vars,
        stdin=request.stdin if request.HasField("stdin") else None,
    )


def wait_seconds(wait: float) -> float:
    if not 1 <= wait <= MAX_TIMEOUT_SECONDS:
        raise InvalidParameter(f"Parameter 'wait' must be between 1 and {MAX_TIMEOUT_SECONDS}")
    return wait


def page(request: pb.ListExecutionsRequest) -> tuple[int, int]:
    """(limit, offset) of a list request."""
    if request.status not in pb.ExecutionStatus.Value.values():
        raise InvalidParameter("Parameter 'status' must be one of the words for a status")
    limit = request.limit if request.HasField("limit") else DEFAULT_LIMIT
    offset = request.offset if request.HasField("offset") else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"Parameter 'limit' must be between 1 and {MAX_LIMIT}")
    if offset < 0:
        raise InvalidParameter("Parameter 'offset' must be 0 or more")
    return limit, offset


def idempotency_key(key: str | None) -> str | None:
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidParameter("Header 'Idempotency-Key' must be 1 to 255 visible ASCII characters")
    return key
