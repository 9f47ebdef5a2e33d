"""What an ended run is called, decided from what was seen from outside."""

from __future__ import annotations

import json
import signal
import struct

from sandbox.executor.v1 import link_pb2 as pb

from executor.sandbox import MAX_FRAME_BYTES, MIB, End

_HEAD = struct.Struct("!cQ")


def decide(end: End, *, language: str, stopped: str | None, timeout_seconds: float) -> pb.Outcome:
    """`stopped` is why the executor killed the run itself: timeout, cancelled or None.

    No result is never success: a handler's run succeeds only with exit code 0 and one
    whole frame on the result channel.
    """
    report = end.report or {}
    outcome = pb.Outcome(
        cpu_time_ms=report.get("cpu_seconds", 0.0) * 1000,
        peak_memory_mb=report.get("peak_bytes", 0) / MIB,
        io_read_bytes=report.get("io_read", 0),
        io_write_bytes=report.get("io_write", 0),
    )
    if stopped is not None:
        outcome.exit_code = 128 + signal.SIGKILL
        if stopped == "timeout":
            outcome.status = pb.Outcome.STATUS_TIMEOUT
            outcome.error.message = f"the code ran for longer than {timeout_seconds:g} s"
        else:
            outcome.status = pb.Outcome.STATUS_CANCELLED
            outcome.error.message = f"the execution was {stopped}"
        return outcome
    code = int(report.get("code", -signal.SIGKILL))
    outcome.exit_code = code if code >= 0 else 128 - code
    kind, payload = _frame(end)
    if code == 0 and (language == "shell" or kind in (b"V", b"N")):
        outcome.status = pb.Outcome.STATUS_SUCCESS
        if kind == b"V" and language != "shell":
            outcome.return_value_json = payload
        return outcome
    outcome.status = pb.Outcome.STATUS_FAILED
    if code < 0:
        outcome.error.message = f"the process was killed by {_signal_name(-code)}"
    elif end.frame_too_large:
        outcome.error.message = f"the return value is larger than {MAX_FRAME_BYTES // MIB} MiB"
    elif kind == b"E":
        _describe(outcome.error, payload)
    elif code != 0:
        outcome.error.message = f"the process exited with code {code}"
    else:
        outcome.error.message = "the process ended without a result"
    return outcome


def refused(reason: str) -> pb.Outcome:
    """The outcome of a run that could not be isolated, and therefore did not run."""
    return pb.Outcome(
        status=pb.Outcome.STATUS_FAILED,
        exit_code=126,  # what a shell answers for a command that cannot be run
        error=pb.RunError(message=f"the code was not run: {reason}"),
    )


def _frame(end: End) -> tuple[bytes, bytes]:
    """The one frame of the result channel; nothing if it is cut, repeated or forged."""
    if len(end.frame) < _HEAD.size:
        return b"", b""
    kind, size = _HEAD.unpack_from(end.frame)
    payload = end.frame[_HEAD.size :]
    if len(payload) != size or not _is_json(kind, payload):
        return b"", b""
    return kind, payload


def _is_json(kind: bytes, payload: bytes) -> bool:
    """The channel is open to the user's code, so what it holds is checked, not trusted."""
    if kind == b"N":
        return not payload
    try:
        value = json.loads(payload, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return kind == b"V" or (kind == b"E" and isinstance(value, dict))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _describe(error: pb.RunError, payload: bytes) -> None:
    said = json.loads(payload)
    error.message = str(said.get("message", ""))[:8192]
    error.traceback = str(said.get("traceback", ""))[: 1024 * 1024]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
