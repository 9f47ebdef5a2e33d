"""What a run is called: decided from outside, never success without a whole result."""

from __future__ import annotations

import struct

import pytest
from sandbox.executor.v1 import link_pb2 as pb

from executor import outcome
from executor.cgroups import Used
from executor.sandbox import MIB, End, Job


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + struct.pack("!Q", len(payload)) + payload


def job(language: str = "python", timeout: float = 1) -> Job:
    return Job(language, b"", b"", None, {}, 64 * MIB, 32, timeout)


def decide(
    frame: bytes,
    code: int = 0,
    language: str = "python",
    *,
    too_large: bool = False,
    used: Used | None = None,
) -> pb.Outcome:
    end = End(report={"code": code}, frame=frame, frame_too_large=too_large)
    return outcome.decide(end, job(language), stopped=None, used=used)


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
    lost = outcome.decide(end, job(), stopped=None, used=None)
    assert (lost.status, lost.exit_code) == (pb.Outcome.STATUS_FAILED, 137)
    late = outcome.decide(end, job(timeout=2.5), stopped="timeout", used=None)
    assert late.status == pb.Outcome.STATUS_TIMEOUT
    assert late.error.message == "the code ran for longer than 2.5 s"
    gone = outcome.decide(end, job(), stopped="cancelled", used=None)
    assert gone.status == pb.Outcome.STATUS_CANCELLED
    assert gone.error.message == "the execution was cancelled"


def test_the_reason_is_the_true_one() -> None:
    memory = "the code used more than its 64 MiB of memory"
    used = Used(cpu_seconds=1.5, peak_bytes=64 * MIB, killed_for_memory=1, forks_refused=0)
    killed = decide(b"", -9, used=used)
    assert (killed.exit_code, killed.error.message) == (137, memory)
    assert (killed.cpu_time_ms, killed.peak_memory_mb) == (1500, 64)
    # One child was killed, and the program went on and returned: that is no failure.
    assert decide(frame(b"V", b"1"), used=used).status == pb.Outcome.STATUS_SUCCESS
    whole_group = End(report=None, frame=b"", frame_too_large=False)
    ended = outcome.decide(whole_group, job(), stopped=None, used=used)
    assert (ended.status, ended.error.message) == (pb.Outcome.STATUS_FAILED, memory)
    refused = Used(cpu_seconds=0, peak_bytes=0, killed_for_memory=0, forks_refused=3)
    assert "limit of 32 processes" in decide(b"", 1, used=refused).error.message
    assert "CPU time" in decide(b"", -24).error.message
    assert "a file grew beyond 1024 MiB" in decide(b"", -25).error.message


def test_a_return_value_over_the_limit_is_named() -> None:
    ended = decide(b"V" + b"x" * 20, too_large=True)
    assert ended.error.message == "the return value is larger than 16 MiB"


@pytest.mark.parametrize(
    "payload",
    [
        '{"a": 1}'.encode("utf-16"),
        '{"a": 1}'.encode("utf-32-le"),
        b'\xef\xbb\xbf{"a": 1}',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b"NaN",
        b"[1",
        b"1 2",
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_a_forged_value_that_is_not_json_in_utf_8_is_no_result(payload: bytes) -> None:
    ended = decide(frame(b"V", payload))
    assert ended.status == pb.Outcome.STATUS_FAILED
    assert not ended.HasField("return_value_json")
    assert ended.error.message == "the process ended without a result"


def test_what_an_error_says_is_text_whatever_it_holds() -> None:
    said = b'{"message": "bad \\ud800", "traceback": {"not": "a string"}}'
    ended = decide(frame(b"E", said), code=1)
    assert ended.error.message == "bad \\ud800"
    assert ended.error.traceback == "{'not': 'a string'}"


def test_a_run_that_we_failed_is_a_failure_that_does_not_claim_to_know() -> None:
    assert outcome.lost().status == pb.Outcome.STATUS_FAILED
    assert "not known" in outcome.lost().error.message
