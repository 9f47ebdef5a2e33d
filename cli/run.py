"""`sandbox run`: one program in a sandbox, as if it ran here."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cli.client import Client, ClientError, Event, Json
from cli.errors import CommandError
from cli.layout import Layout
from cli.settings import ClientSettings, StackSettings
from cli.state import running

LANGUAGES = {".py": "python", ".js": "javascript", ".cjs": "javascript", ".sh": "shell"}
# As docker run: above it are signals, below it the program's own codes.
PLATFORM_FAILED = 125


@dataclass(frozen=True)
class Request:
    """What to run: the command's arguments, checked."""

    code: str
    language: str
    event: Json
    timeout: int | None
    template: str
    session: str | None


def read_request(
    file: str,
    *,
    event: str | None,
    language: str | None,
    timeout: int | None,
    template: str,
    session: str | None,
) -> Request:
    """Reads the program ("-": standard input). Raises CommandError for what is not usable."""
    language = language or LANGUAGES.get(Path(file).suffix)
    if language is None:
        known = ", ".join(LANGUAGES)
        raise CommandError(f"'{file}' has none of the suffixes {known}: add --language")
    try:
        code = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read '{file}': {error}") from error
    return Request(code, language, _parse_event(event), timeout, template, session)


def run(request: Request, stack: StackSettings, *, whole: bool) -> int:
    """Runs it and returns its exit code, PLATFORM_FAILED when the platform could not.

    Output goes to the same descriptors as it comes, then the return value to standard
    output as JSON; with `whole` the ExecutionResult instead of all this.
    """
    settings = ClientSettings()
    try:
        with Client(_url(settings, stack), _token(settings, stack)) as client:
            return _run(client, request, whole=whole)
    except ClientError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return PLATFORM_FAILED


def _run(client: Client, request: Request, *, whole: bool) -> int:
    session_id = request.session or _open_session(client, request.template)
    done = False
    try:
        limit: Json = {} if request.timeout is None else {"timeout": request.timeout}
        execution = client.execute(
            session_id, request.code, request.language, event=request.event, **limit
        )
        printer = _Printer(quiet=whole)
        result: Json = {}
        for event in client.events(execution["execution_id"]):
            printer.show(event)
            if event.kind == "result":
                result = event.data
        done = True
    finally:
        # An ephemeral session ends itself after its execution; on every other way out
        # (an error, Ctrl-C) it is ended here, and the program with it.
        if request.session is None and not done:
            with contextlib.suppress(ClientError):
                client.delete_session(session_id)
    if whole:
        print(_dump(result))
    else:
        printer.finish(result)
    return exit_code(result)


def exit_code(result: Json) -> int:
    """The program's own; never 0 for a result that is not a success."""
    code = int(result["exit_code"])
    return 1 if code == 0 and result["status"] != "success" else code


def _open_session(client: Client, template: str) -> str:
    session = client.create_session(template, mode="ephemeral")
    if session["status"] != "running":
        raise CommandError(
            f"the sandbox is '{session['status']}': {session.get('status_reason', 'no reason')}"
        )
    return str(session["session_id"])


class _Printer:
    """Writes output where the program would have written it."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._unended: dict[TextIO, bool] = {sys.stdout: False, sys.stderr: False}
        self._stderr = ""

    def show(self, event: Event) -> None:
        if self._quiet or event.kind not in ("stdout", "stderr"):
            return
        text = event.data["data"]
        self._write(sys.stdout if event.kind == "stdout" else sys.stderr, text)
        if event.kind == "stderr":
            self._stderr = (self._stderr + text)[-64 * 1024 :]

    def finish(self, result: Json) -> None:
        error = result["error"]
        if error is not None:
            self._explain(error["message"], error.get("traceback", "").strip())
        if result["return_value"] is not None:
            self._line(sys.stdout, _dump(result["return_value"]))

    def _explain(self, message: str, trace: str) -> None:
        """Nothing, where the program's own standard error has shown the traceback."""
        if not trace:
            self._line(sys.stderr, f"sandbox: {message}")
        elif trace not in self._stderr:
            self._line(sys.stderr, trace)

    def _line(self, stream: TextIO, text: str) -> None:
        start = "\n" if self._unended[stream] else ""
        self._write(stream, f"{start}{text}\n")

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()
        if text:
            self._unended[stream] = not text.endswith("\n")


def _url(settings: ClientSettings, stack: StackSettings) -> str:
    if settings.url is not None:
        return settings.url
    state = running(Layout(stack.data_dir))  # it may have been started with other flags
    return state.url if state else stack.url


def _token(settings: ClientSettings, stack: StackSettings) -> str:
    if settings.token is not None:
        return settings.token.get_secret_value()
    path = Layout(stack.data_dir).token
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CommandError(
            f"no token at {path}: start the stack with 'sandbox up', or set SANDBOX_TOKEN"
        ) from error


def _parse_event(text: str | None) -> Json:
    try:
        event: Any = json.loads(text or "{}")
        json.dumps(event, allow_nan=False)
    except ValueError as error:
        raise CommandError(f"--event is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise CommandError("--event must be a JSON object, e.g. '{\"n\": 1}'")
    return event


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
