"""Runs the user's Python inside the job's process; the interpreter is up already.

Writes one frame to the result descriptor: b"V" and the JSON of what the handler
returned, b"N" for a script that ran to its end, or b"E" and a JSON object with
`message` and `traceback`. What the user's code does to this process (json patched,
frames walked, descriptors written) can only spoil its own result: the outcome is
decided outside, from the exit code and from a frame that must be whole and alone.
"""

import atexit
import json
import linecache
import os
import struct
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

FILENAME = "main.py"
PACKAGES = "/opt/packages"  # what the session has installed, where it has something

# Kept before any user code runs, so that patching them breaks nothing of ours by accident.
_dumps, _loads, _write, _exit, _pack = json.dumps, json.loads, os.write, os._exit, struct.pack


def run(code: str, event: str, result: int) -> NoReturn:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # streamed
    sys.set_int_max_str_digits(0)  # event and return value hold integers of any size
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=__builtins__, __file__=FILENAME)
    sys.modules["__main__"] = module
    sys.argv = [FILENAME]
    own = ("/run/guest", PACKAGES)  # the latter is there already in a fork of the zygote
    sys.path = ["/workspace", *(entry for entry in sys.path if not entry.startswith(own))]
    if os.path.isdir(PACKAGES):
        # Last: a package can add modules, and never take the place of a standard one.
        sys.path.append(PACKAGES)
    sys.modules.pop("python", None)
    linecache.cache[FILENAME] = (len(code), None, code.splitlines(True), FILENAME)
    status = 0
    has_handler = False
    try:
        exec(compile(code, FILENAME, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
        handler = module.__dict__.get("handler")
        has_handler = callable(handler)
        if has_handler:
            frame(result, b"V", encode(call(handler, _loads(event))))
        else:
            frame(result, b"N", b"")
    except SystemExit as end:
        status = exit_status(end)
        if status == 0 and not has_handler:
            frame(result, b"N", b"")
        else:
            where = "handler exited" if has_handler else "the script exited"
            fail(result, f"{where} with code {status} instead of returning", "")
    except BaseException as error:  # noqa: BLE001  # whatever the user's code raised
        status = 1
        text = trace(error)
        print(text, end="", file=sys.stderr)
        fail(result, summary(error), text)
    finish(status)


def call(handler: Any, event: Any) -> Any:
    value = handler(event)
    if isinstance(value, types.CoroutineType):
        import asyncio

        value = asyncio.run(value)
    return value


def encode(value: Any) -> bytes:
    try:
        text = _dumps(value, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise NotJson("the handler's return value is nested too deeply, or holds itself") from None
    except (TypeError, ValueError) as error:
        raise NotJson(f"the handler's return value is not JSON: {error}") from None
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON can say it, UTF-8 cannot
        return _dumps(value, allow_nan=False).encode()


class NotJson(TypeError):
    """The handler returned something that JSON cannot hold."""


def exit_status(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def trace(error: BaseException) -> str:
    """The traceback from the user's first frame on; nothing of ours in it."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename != FILENAME:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def summary(error: BaseException) -> str:
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    return text if len(text) <= 4096 else text[:4096] + "…"


def fail(result: int, message: str, text: str) -> None:
    frame(result, b"E", _dumps({"message": message, "traceback": text}).encode())


def frame(result: int, kind: bytes, payload: bytes) -> None:
    data = kind + _pack("!Q", len(payload)) + payload
    while data:
        data = data[_write(result, data) :]


def finish(status: int) -> NoReturn:
    """What an interpreter does at its end, without tearing modules down first."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:  # which a program may do to them
                stream.flush()
    except BaseException:  # noqa: BLE001  # nobody reads stdout, an atexit that raises
        status = status or 120  # what CPython answers when it cannot flush
    _exit(status)
