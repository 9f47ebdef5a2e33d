"""What an ended run is called, decided from what was seen from outside."""

from __future__ import annotations

import json
import signal
import struct

from sandbox.executor.v1 import link_pb2 as pb

from executor.cgroups import Used
from executor.sandbox import FILE_BYTES, MAX_FRAME_BYTES, MIB, End, Job

_HEAD = struct.Struct("!cQ")


def decide(end: End, job: Job, *, stopped: str | None, used: Used | None) -> pb.Outcome:
    """`stopped` is why the executor killed the run itself: timeout, memory, cancelled, or None.

    No result is never success: a handler's run succeeds only with exit code 0 and one
    whole frame on the result channel.
    """
    report = end.report or {}
    outcome = pb.Outcome(
        # The control group counts every process; without one, those that were waited for.
        cpu_time_ms=(used.cpu_seconds if used else report.get("cpu_seconds", 0.0)) * 1000,
        peak_memory_mb=(used.peak_bytes if used else report.get("peak_bytes", 0)) / MIB,
        io_read_bytes=report.get("io_read", 0),
        io_write_bytes=report.get("io_write", 0),
    )
    if stopped is None and used is not None and used.killed_for_memory and not report:
        stopped = "memory"  # the kernel ended the whole group, init with it
    if stopped is not None:
        _stopped(outcome, stopped, job)
        return outcome
    code = int(report.get("code", -signal.SIGKILL))
    outcome.exit_code = code if code >= 0 else 128 - code
    kind, payload = _frame(end)
    if code == 0 and (job.language == "shell" or kind in (b"V", b"N")):
        outcome.status = pb.Outcome.STATUS_SUCCESS
        if kind == b"V" and job.language != "shell":
            outcome.return_value_json = payload
        return outcome
    outcome.status = pb.Outcome.STATUS_FAILED
    if used is not None and used.killed_for_memory:
        outcome.error.message = _out_of_memory(job)
    elif code in _SIGNALS:
        outcome.error.message = _SIGNALS[code]
    elif code < 0:
        outcome.error.message = f"the process was killed by {_signal_name(-code)}"
    elif end.frame_too_large:
        outcome.error.message = f"the return value is larger than {MAX_FRAME_BYTES // MIB} MiB"
    elif kind == b"E":
        _describe(outcome.error, payload)
    elif code != 0:
        outcome.error.message = f"the process exited with code {code}"
    else:
        outcome.error.message = "the process ended without a result"
    if used is not None and used.forks_refused:
        outcome.error.message += f" (it met the limit of {job.max_processes} processes)"
    return outcome


# What the limits of a process (Job.encode) and the system call filter kill with.
_SIGNALS = {
    -signal.SIGXCPU: "the process used up its CPU time",
    -signal.SIGXFSZ: f"a file grew beyond {FILE_BYTES // MIB} MiB",
    -signal.SIGSYS: "the process made a system call that is not allowed",
}


def _stopped(outcome: pb.Outcome, why: str, job: Job) -> None:
    outcome.exit_code = 128 + signal.SIGKILL
    outcome.status = pb.Outcome.STATUS_FAILED
    if why == "timeout":
        outcome.status = pb.Outcome.STATUS_TIMEOUT
        outcome.error.message = f"the code ran for longer than {job.timeout_seconds:g} s"
    elif why == "memory":
        outcome.error.message = _out_of_memory(job)
    else:
        outcome.status = pb.Outcome.STATUS_CANCELLED
        outcome.error.message = f"the execution was {why}"


def _out_of_memory(job: Job) -> str:
    return f"the code used more than its {job.memory_bytes // MIB} MiB of memory"


def refused(reason: str) -> pb.Outcome:
    """The outcome of a run that could not be isolated, and therefore did not run."""
    return pb.Outcome(
        status=pb.Outcome.STATUS_FAILED,
        exit_code=126,  # what a shell answers for a command that cannot be run
        error=pb.RunError(message=f"the code was not run: {reason}"),
    )


def lost() -> pb.Outcome:
    """The outcome of a run that we failed: it may have done anything."""
    return pb.Outcome(
        status=pb.Outcome.STATUS_FAILED,
        exit_code=128 + signal.SIGKILL,
        error=pb.RunError(message="the sandbox failed; what the code did is not known"),
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
        # Decoded first: of bytes, json would take UTF-16, a byte order mark and surrogates too.
        text = payload.decode()
        value = json.loads(text, parse_int=str, parse_float=str, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return kind == b"V" or (kind == b"E" and isinstance(value, dict))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _describe(error: pb.RunError, payload: bytes) -> None:
    said = json.loads(payload)
    error.message = _text(said.get("message", ""))[:8192]
    error.traceback = _text(said.get("traceback", ""))[: 1024 * 1024]


def _text(value: object) -> str:
    """JSON can say a lone surrogate, a message cannot: it is shown as its escape."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
