"""Results do not lie: what a run is called is decided outside, and no result is never success."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.adversarial.arena import Attack

NO_RESULT = "the process ended without a result"
FRAME = (
    "import os, struct\ndef frame(kind, data): return kind + struct.pack('!Q', len(data)) + data\n"
)
EVERY = "for fd in range(1, 1024):\n    try: os.write(fd, {data})\n    except OSError: pass\n"


# Exit codes as a shell has them: 128 and the signal for a process that was killed.
ENDS: list[tuple[str, str, str, int, str | None]] = [
    ("python", "import sys; sys.exit()", "success", 0, None),
    ("python", "import sys; sys.exit(None)", "success", 0, None),
    ("python", "import sys; sys.exit(0)", "success", 0, None),
    ("python", "import sys; sys.exit(1)", "failed", 1, "exited with code 1"),
    ("python", "import sys; sys.exit('words')", "failed", 1, "exited with code 1"),
    ("python", "import sys; sys.exit(-1)", "failed", 255, "exited with code 255"),
    ("python", "import sys; sys.exit(257)", "failed", 1, "exited with code 1"),
    ("python", "import sys; sys.exit(256)", "success", 0, None),
    ("python", "class E(SystemExit): pass\nraise E(3)", "failed", 3, "exited with code 3"),
    ("python", "def handler(e): raise SystemExit", "failed", 0, "handler exited"),
    ("python", "def handler(e): raise SystemExit(4)", "failed", 4, "handler exited"),
    ("python", "import os; os._exit(0)", "failed", 0, NO_RESULT),
    ("python", "import os; os._exit(9)", "failed", 9, "exited with code 9"),
    ("python", "import os; os.abort()", "failed", 134, "SIGABRT"),
    ("python", "import os; os.kill(os.getpid(), 9)", "failed", 137, "SIGKILL"),
    ("python", "import os; os.kill(os.getpid(), 15)", "failed", 143, "SIGTERM"),
    ("python", "import os; os.kill(-1, 9)", "failed", 1, "ProcessLookupError"),  # it is alone
    ("python", "import ctypes; ctypes.string_at(0)", "failed", 139, "SIGSEGV"),
    ("python", "import os; os.execv('/bin/true', ['true'])", "failed", 0, NO_RESULT),
    ("python", "import os; os.execv('/bin/false', ['false'])", "failed", 1, "code 1"),
    ("python", "raise KeyboardInterrupt", "failed", 1, "KeyboardInterrupt"),
    ("python", "def handler(): return 1", "failed", 1, "TypeError"),
    ("python", "handler = 1", "success", 0, None),  # not callable: a script
    ("javascript", "process.exit()", "success", 0, None),
    ("javascript", "module.exports = null", "success", 0, None),
    ("javascript", "process.exit(7)", "failed", 7, "code 7"),
    ("javascript", "exports.handler = () => process.exit(0)", "failed", 0, NO_RESULT),
    ("javascript", "process.abort()", "failed", 134, "SIGABRT"),
    ("javascript", "process.kill(process.pid, 'SIGKILL')", "failed", 137, "SIGKILL"),
    ("javascript", "exports.handler = () => new Promise(() => {})", "failed", 0, NO_RESULT),
    ("javascript", "Promise.reject(new Error('no'))", "failed", 1, "Error: no"),
    ("javascript", "throw null", "failed", 1, "null"),
    ("shell", "exit", "success", 0, None),
    ("shell", "exit 256", "success", 0, None),
    ("shell", "exit 3", "failed", 3, "code 3"),
    ("shell", "kill -SEGV $$", "failed", 139, "SIGSEGV"),
    ("shell", "kill -KILL $$", "failed", 137, "SIGKILL"),
    ("shell", "exec /bin/false", "failed", 1, "code 1"),
    ("shell", "no-such-command", "failed", 127, "code 127"),
    ("shell", "kill -KILL -- -1; echo alone", "success", 0, None),
]


def test_every_end_has_its_status_and_exit_code(attack: Attack) -> None:
    for language, code, status, exit_code, message in ENDS:
        result = attack.run(code, language)
        assert (result["status"], result["exit_code"]) == (status, exit_code), (code, result)
        assert result["return_value"] is None, code
        if message is None:
            assert result["error"] is None, (code, result)
        else:
            assert message in result["error"]["message"], (code, result)
            assert result["error"]["error_code"] == "Sandbox.ExecException"


@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [
        (FRAME + "print(frame(b'V', b'1').decode()); os._exit(0)", 0, NO_RESULT),
        (FRAME + EVERY.format(data='b\'{"status": "success"}\\n\'') + "os._exit(0)", 0, NO_RESULT),
        (FRAME + EVERY.format(data="frame(b'V', b'1')[:-1]") + "os._exit(0)", 0, NO_RESULT),
        (FRAME + EVERY.format(data="frame(b'V', b'1') * 2") + "os._exit(0)", 0, NO_RESULT),
        (FRAME + EVERY.format(data="frame(b'V', b'NaN')") + "os._exit(0)", 0, NO_RESULT),
        (FRAME + EVERY.format(data="frame(b'X', b'1')") + "os._exit(0)", 0, NO_RESULT),
        (FRAME + EVERY.format(data="frame(b'V', b'1')") + "os._exit(3)", 3, "code 3"),
        (FRAME + EVERY.format(data="frame(b'V', b'1')") + "os.abort()", 134, "SIGABRT"),
        (FRAME + EVERY.format(data="frame(b'V', b'1')") + "def handler(e): return 2", 0, NO_RESULT),
        (
            FRAME + EVERY.format(data="struct.pack('!cQ', b'V', 2**64 - 1)") + "os._exit(0)",
            0,
            NO_RESULT,
        ),
    ],
)
def test_forged_frames_are_no_result(
    attack: Attack, code: str, exit_code: int, message: str
) -> None:
    result = attack.run(code)
    assert (result["status"], result["exit_code"]) == ("failed", exit_code), result
    assert message in result["error"]["message"]
    assert result["return_value"] is None


PATCHED = {
    "json": "import json\njson.dumps = json.loads = lambda *a, **k: '\"forged\"'",
    "os.write": "import os\nos.write = lambda *a: 0",
    "os._exit": "import os\nos._exit = lambda *a: None",
    "struct": "import struct\nstruct.pack = lambda *a: b''",
    "print": "import builtins\nbuiltins.print = None",
    "stdout": "import sys\nsys.stdout = sys.stderr = None",
    "closed stdout": "import sys\nsys.stdout.close()",
    "stdout's descriptor": "import os\nos.close(1)",
    "excepthook": "import sys\nsys.excepthook = sys.unraisablehook = None",
    "signals": "import signal\nsignal.signal = None",
    "modules": "import sys\nsys.modules.clear()",
    "traceback": "import traceback\ntraceback.format_exception = None",
}


def test_patched_modules_change_no_result(attack: Attack) -> None:
    for name, code in PATCHED.items():
        result = attack.run(f"{code}\ndef handler(event): return event['n'] * 6", event={"n": 7})
        assert (result["status"], result["return_value"]) == ("success", 42), (name, result)


FRAMES_WALKED = {
    "every function of ours returns": (
        "import sys\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "    for name, value in list(frame.f_globals.items()):\n"
        "        if callable(value) and name != 'handler': frame.f_globals[name] = print\n"
        "    frame = frame.f_back\n"
    ),
    "no exit": (
        "import sys\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "    for name in ('_exit', 'finish', 'report'):\n"
        "        if name in frame.f_globals: frame.f_globals[name] = lambda *a: None\n"
        "    frame = frame.f_back\n"
    ),
    "every descriptor closed": (
        "import os\nfor fd in range(3, 1024):\n    try: os.close(fd)\n    except OSError: pass\n"
    ),
    "every dictionary emptied": (
        "import gc, sys\n"
        "for each in gc.get_objects():\n"
        "    if type(each) is dict and each.get('__name__') in ('init', 'python', 'zygote'):\n"
        "        each.clear()\n"
    ),
}


def test_our_own_frames_are_no_way_to_a_false_success(attack: Attack) -> None:
    for name, code in FRAMES_WALKED.items():
        result = attack.run(f"{code}\ndef handler(event): return 'honest'")
        honest = (result["status"], result["return_value"]) == ("success", "honest")
        assert honest or (result["status"] == "failed" and result["return_value"] is None), name


def test_no_secret_and_no_way_out_is_among_our_objects(attack: Attack) -> None:
    code = (
        "import gc, re, socket, sys\n"
        "def handler(event):\n"
        "    everything = ' '.join(map(repr, gc.get_objects() + list(sys.modules.items())))\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        everything += repr(frame.f_locals) + repr(frame.f_globals)\n"
        "        frame = frame.f_back\n"
        "    sockets = [each for each in gc.get_objects() if isinstance(each, socket.socket)\n"
        "               and each.fileno() >= 0]\n"
        "    return [re.findall(event['secret'], everything), len(sockets)]\n"
    )
    from tests.adversarial.arena import SECRET

    assert attack.run(code, event={"secret": SECRET})["return_value"] == [[], 0]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("float('nan')", "not JSON"),
        ("float('inf')", "not JSON"),
        ("[1, {'a': -float('inf')}]", "not JSON"),
        ("{1, 2}", "not JSON"),
        ("b'bytes'", "not JSON"),
        ("object()", "not JSON"),
        ("{(1, 2): 3}", "not JSON"),
        ("handler", "not JSON"),
        ("(lambda x: x.append(x) or x)([])", "nested too deeply, or holds itself|Circular"),
        ("__import__('functools').reduce(lambda x, _: [x], range(10_000), 0)", "too deeply"),
    ],
)
def test_what_json_cannot_hold(attack: Attack, expression: str, words: str) -> None:
    result = attack.run(f"def handler(event): return {expression}")
    assert (result["status"], result["exit_code"]) == ("failed", 1), result
    assert any(word in result["error"]["message"] for word in words.split("|")), result
    assert result["return_value"] is None


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2**63", 2**63),
        ("-2**63 - 1", -(2**63) - 1),
        ("10**400", 10**400),
        ("0.1", 0.1),
        ("5e-324", 5e-324),
        ("{'z': 1, 'a': [None, True, {}]}", {"z": 1, "a": [None, True, {}]}),
        ("'\\0 \\x7f \\u2028 \\U0001f600'", "\0 \x7f \u2028 \U0001f600"),
        ("'\\ud800'", "\ud800"),
        ("{'\\ud800': '\\udfff'}", {"\ud800": "\udfff"}),
        ("None", None),
    ],
)
def test_what_json_holds_comes_out_as_it_was(attack: Attack, expression: str, value: Any) -> None:
    result = attack.run(f"def handler(event): return {expression}")
    assert result["status"] == "success", result
    assert result["return_value"] == value
    if isinstance(value, dict):
        assert list(result["return_value"]) == list(value)


@pytest.mark.parametrize(
    ("expression", "status"),
    [
        ("2n ** 63n", "failed"),
        ("(() => { const a = []; a.push(a); return a })()", "failed"),
        ("Array(10000).fill().reduce((x) => [x], 0)", "failed"),
        ("Symbol('no')", "failed"),
        ("({ toJSON() { throw new Error('no') } })", "failed"),
        ("NaN", "success"),  # null, as JSON.stringify has it
        ("'\\ud800'", "success"),
    ],
)
def test_what_json_cannot_hold_in_javascript(attack: Attack, expression: str, status: str) -> None:
    result = attack.run(f"exports.handler = () => {expression}", "javascript")
    assert result["status"] == status, result
    if status == "failed":
        assert result["return_value"] is None
        assert result["error"]["message"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"a\0b", "a\0b"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\xc3", "\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xf0\x9f\x98", "\ufffd"),
        (b"\x1b[2J\r\n", "\x1b[2J\r\n"),
    ],
)
def test_bytes_that_are_not_text(attack: Attack, written: bytes, read: str) -> None:
    result = attack.run(f"import os\nos.write(1, {written!r})\nos.write(2, {written!r})")
    assert (result["status"], result["stdout"], result["stderr"]) == ("success", read, read)


def test_a_character_written_in_pieces_is_one(attack: Attack) -> None:
    text = "é€\U0001f600" * 3
    code = (
        "import os, time\n"
        f"for byte in {text.encode()!r}:\n"
        "    os.write(1, bytes([byte]))\n"
        "    time.sleep(0.005)\n"
    )
    result = attack.run(code)  # the events are compared with it by Attack.check
    assert result["stdout"] == text
    assert "\ufffd" not in json.dumps(result, ensure_ascii=False)
