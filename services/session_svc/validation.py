"""What a client may ask for. Every refusal names the field and its limit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

from sandbox.session.v1 import session_pb2 as pb
from sandbox.session.v1 import template_pb2
from sandbox_rpc.errors import InvalidParameter

from session_svc.requirements import check_requirements

MAX_PAGE = 200
DEFAULT_PAGE = 50
DEFAULT_TIMEOUT = 300

_SESSION_ID = re.compile(r"sess_[a-z0-9]{16}")
_TEMPLATE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
_CPU = re.compile(r"[0-9]{1,2}(\.[0-9]{1,3})?")
_QUANTITY = re.compile(r"([0-9]{1,6})(Mi|Gi)")
_UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}

_TIMEOUT = (60, 3600)
_CPUS = (Decimal("0.5"), Decimal(4))
_MEMORY = ("256Mi", "8Gi")
_DISK = ("1Gi", "50Gi")
MAX_PROCESSES = (32, 1024)

# A run's environment and arguments share one limit of the kernel, 128 KiB for each string
# and 2 MiB in all (execve(2)); these stay well inside and leave room for the run's own.
_ENV_COUNT = 128
_ENV_VALUE_BYTES = 32 * 1024
_ENV_BYTES = 256 * 1024
_METADATA_COUNT = 64
_METADATA_NAME_BYTES = 128
_METADATA_VALUE_BYTES = 4096


def check_spec(spec: pb.SessionSpec, offered: pb.RuntimeType.Value.ValueType) -> None:
    """Raises InvalidParameter. `offered` is the runtime that this platform has."""
    if not spec.template_id:
        raise InvalidParameter("Field 'template_id' is required")
    if spec.mode not in pb.SessionMode.Value.values():
        raise InvalidParameter("Field 'mode' must be ephemeral or persistent")
    if spec.HasField("timeout"):
        check_range("timeout", spec.timeout, *_TIMEOUT)
    if spec.runtime_type not in (pb.RuntimeType.unspecified, offered):
        name = pb.RuntimeType.Value.Name(offered)
        raise InvalidParameter(f"Field 'runtime_type' must be {name}, which this platform offers")
    check_resources("resources", spec.resources)
    check_env_vars(spec.env_vars)
    check_requirements("dependencies", spec.dependencies)
    _check_metadata(spec.metadata)


def check_page(request: pb.ListSessionsRequest) -> None:
    """Raises InvalidParameter."""
    if request.status not in pb.SessionStatus.Value.values():
        raise InvalidParameter("Field 'status' must be one of the words for a session's status")
    check_window(request)
    if request.HasField("template_id") and not is_template_id(request.template_id):
        raise InvalidParameter(
            "Field 'template_id' must be 1 to 63 letters, digits, '.', '_' or '-'"
        )


def check_window(request: pb.ListSessionsRequest | template_pb2.ListTemplatesRequest) -> None:
    """`limit` and `offset` of a list. Raises InvalidParameter."""
    if request.HasField("limit"):
        check_range("limit", request.limit, 1, MAX_PAGE)
    if request.offset < 0:
        raise InvalidParameter("Field 'offset' must be at least 0")


def check_idempotency_key(key: str) -> None:
    """Raises InvalidParameter."""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidParameter("Header 'Idempotency-Key' must be 1 to 255 visible ASCII characters")


def is_session_id(text: str) -> bool:
    return _SESSION_ID.fullmatch(text) is not None


def is_template_id(text: str) -> bool:
    return _TEMPLATE_ID.fullmatch(text) is not None


def bytes_of(quantity: str) -> int:
    """`512Mi` -> 536870912. ValueError for anything else than a number of Mi or Gi."""
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity such as 512Mi or 2Gi")
    return int(match[1]) * _UNITS[match[2]]


def check_resources(field: str, resources: pb.Resources) -> None:
    """Raises InvalidParameter. `field` is the name of the message."""
    if resources.HasField("cpu"):
        least, most = _CPUS
        cpu = resources.cpu
        if not (_CPU.fullmatch(cpu) and least <= Decimal(cpu) <= most):
            raise InvalidParameter(
                f"Field '{field}.cpu' must be a number of cores from {least} to {most}"
            )
    if resources.HasField("memory"):
        _check_quantity(f"{field}.memory", resources.memory, *_MEMORY)
    if resources.HasField("disk"):
        _check_quantity(f"{field}.disk", resources.disk, *_DISK)
    if resources.HasField("max_processes"):
        check_range(f"{field}.max_processes", resources.max_processes, *MAX_PROCESSES)


def _check_quantity(field: str, value: str, least: str, most: str) -> None:
    fits = _QUANTITY.fullmatch(value) and bytes_of(least) <= bytes_of(value) <= bytes_of(most)
    if not fits:
        raise InvalidParameter(
            f"Field '{field}' must be from {least} to {most}, a whole number of Mi or Gi"
        )


def check_env_vars(env_vars: Mapping[str, str]) -> None:
    """Raises InvalidParameter."""
    if len(env_vars) > _ENV_COUNT:
        raise InvalidParameter(f"Field 'env_vars' must have at most {_ENV_COUNT} entries")
    for name, value in env_vars.items():
        if not _ENV_NAME.fullmatch(name):
            raise InvalidParameter(
                "Field 'env_vars' must have names that match [A-Za-z_][A-Za-z0-9_]* "
                "and are at most 128 characters long"
            )
        check_text(f"env_vars.{name}", value, _ENV_VALUE_BYTES)
    size = sum(len(name.encode()) + len(value.encode()) for name, value in env_vars.items())
    if size > _ENV_BYTES:
        raise InvalidParameter(f"Field 'env_vars' must have at most {_ENV_BYTES} bytes in all")


def _check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > _METADATA_COUNT:
        raise InvalidParameter(f"Field 'metadata' must have at most {_METADATA_COUNT} entries")
    for name, value in metadata.items():
        if not name:
            raise InvalidParameter("Field 'metadata' must not have an empty name")
        check_text("metadata (a name)", name, _METADATA_NAME_BYTES)
        check_text(f"metadata.{name}", value, _METADATA_VALUE_BYTES)


def check_text(field: str, value: str, most: int) -> None:
    """At most so many bytes, and no NUL. Raises InvalidParameter."""
    if len(value.encode()) > most:
        raise InvalidParameter(f"Field '{field}' must have at most {most} bytes")
    if "\0" in value:
        raise InvalidParameter(f"Field '{field}' must not hold a NUL character")


def check_range(field: str, value: int, least: int, most: int) -> None:
    """Raises InvalidParameter."""
    if not least <= value <= most:
        raise InvalidParameter(f"Field '{field}' must be between {least} and {most}")
