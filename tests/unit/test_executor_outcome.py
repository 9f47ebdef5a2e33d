"""What a run is called: decided from outside, never success without a whole result."""

from __future__ import annotations

import struct

import pytest
from sandbox.executor.v1 import link_pb2 as pb

from executor import outcome
from executor.sandbox import End


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + struct.pack("!Q", len(payload)) + payload


def decide(
    frame: bytes, code: int = 0, language: str = "python", *, too_large: bool = False
) -> pb.Outcome:
    end = End(report={"code": code}, frame=frame, frame_too_large=too_large)
    return outcome.decide(end, language=language, stopped=None, timeout_seconds=1)


def test_a_value_and_a_script_without_one_succeed() -> None:
    assert decide(frame(b"V", b'{"a": 1}')).return_value_json == b'{"a": 1}'
    ended = decide(frame(b"N"))
    assert ended.status == pb.Outcome.STATUS_SUCCESS
    assert not ended.HasField("return_value_json")


@pytest.mark.parametrize(
    "forged",
    [
        b"",
        b"V",
        frame(b"V", b"1")[:-1],
        frame(b"V", b"1") + b"x",
        frame(b"V", b"1") * 2,
        frame(b"V", b"not json"),
        frame(b"V", b"NaN"),
        frame(b"V", b"\xff"),
        frame(b"V", b"[" * 100_000),
        frame(b"N", b"x"),
        frame(b"X", b"1"),
        frame(b"E", b"[]"),
        b"V" + struct.pack("!Q", 2**63) + b"1",
    ],
)
def test_what_is_not_one_whole_frame_is_no_result(forged: bytes) -> None:
    ended = decide(forged)
    assert ended.status == pb.Outcome.STATUS_FAILED
    assert ended.error.message == "the process ended without a result"
    assert not ended.HasField("return_value_json")


@pytest.mark.parametrize(("code", "exit_code"), [(1, 1), (-9, 137), (-11, 139)])
def test_a_frame_does_not_hide_how_the_process_ended(code: int, exit_code: int) -> None:
    ended = decide(frame(b"V", b"1"), code)
    assert (ended.status, ended.exit_code) == (pb.Outcome.STATUS_FAILED, exit_code)


def test_shell_goes_by_its_exit_code_alone() -> None:
    assert decide(frame(b"V", b"1"), language="shell").status == pb.Outcome.STATUS_SUCCESS
    assert not decide(frame(b"V", b"1"), language="shell").HasField("return_value_json")
    assert decide(b"", 2, "shell").error.message == "the process exited with code 2"


def test_a_lost_report_is_a_kill_and_what_we_stopped_is_what_we_stopped() -> None:
    end = End(report=None, frame=frame(b"V", b"1"), frame_too_large=False)
    lost = outcome.decide(end, language="python", stopped=None, timeout_seconds=1)
    assert (lost.status, lost.exit_code) == (pb.Outcome.STATUS_FAILED, 137)
    late = outcome.decide(end, language="python", stopped="timeout", timeout_seconds=2.5)
    assert late.status == pb.Outcome.STATUS_TIMEOUT
    assert late.error.message == "the code ran for longer than 2.5 s"
    gone = outcome.decide(end, language="python", stopped="cancelled", timeout_seconds=1)
    assert gone.status == pb.Outcome.STATUS_CANCELLED


def test_a_return_value_over_the_limit_is_named() -> None:
    ended = decide(b"V" + b"x" * 20, too_large=True)
    assert ended.error.message == "the return value is larger than 16 MiB"
