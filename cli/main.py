"""The `sandbox` command. What a command needs is imported when it is chosen."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cli.errors import CommandError

if TYPE_CHECKING:
    from cli.settings import StackSettings

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. 130 after Ctrl-C or SIGTERM."""
    parsed = _parser().parse_args(arguments)
    command: Command = parsed.command
    # SIGTERM is Ctrl-C: what a command has begun, it undoes.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return command(parsed)
    except CommandError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return int(parsed.failure)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has left. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _up(arguments: argparse.Namespace) -> int:
    from cli.up import up

    return up(_settings(arguments), foreground=arguments.foreground)


def _down(arguments: argparse.Namespace) -> int:
    from cli.up import down

    return down(_settings(arguments))


def _status(arguments: argparse.Namespace) -> int:
    from cli.status import status

    return status(_settings(arguments), as_json=arguments.json)


def _logs(arguments: argparse.Namespace) -> int:
    from cli.layout import Layout
    from cli.logs import logs

    places = Layout(_settings(arguments).data_dir)
    return logs(places, arguments.name, lines=arguments.lines, follow=arguments.follow)


def _run(arguments: argparse.Namespace) -> int:
    from cli.run import read_request, run

    request = read_request(
        arguments.file,
        event=arguments.event,
        language=arguments.language,
        timeout=arguments.timeout,
        template=arguments.template,
        session=arguments.session,
    )
    return run(request, _settings(arguments), whole=arguments.json)


def _doctor(arguments: argparse.Namespace) -> int:
    from cli.doctor import doctor

    return doctor(_settings(arguments), as_json=arguments.json, isolation=arguments.isolation)


def _token(arguments: argparse.Namespace) -> int:
    from cli import token_command

    return token_command.run(_settings(arguments).data_dir, arguments)


def _settings(arguments: argparse.Namespace) -> StackSettings:
    from cli.settings import InvalidSettings, load

    names = ("host", "port", "internal_port", "data_dir", "runtime")
    try:
        return load(**{name: getattr(arguments, name, None) for name in names})
    except InvalidSettings as error:
        raise CommandError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sandbox", description="Runs untrusted code in sandboxes, on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, failure: int = 1) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(command=command, failure=failure)
        made.add_argument("--data-dir", metavar="DIR", help="all state (default .sandbox)")
        return made

    up = add("up", _up, "Start the stack; answers when it is healthy.")
    up.add_argument("--foreground", action="store_true", help="stay here; Ctrl-C ends the stack")
    up.add_argument("--runtime", help="what runs the sandboxes (default process)")
    add("down", _down, "Stop the stack and everything it started.")
    status = add("status", _status, "What runs, since when, and whether it answers.")
    status.add_argument("--json", action="store_true", help="as JSON")
    logs = add("logs", _logs, "The logs of the supervisor, the edge and the services.")
    logs.add_argument("name", nargs="?", metavar="NAME", help="only this one, e.g. exec_svc")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    logs.add_argument("-n", "--lines", type=int, default=100, help="of each (default 100)")
    _add_token(add("token", _token, "Create, list and revoke the tokens of users."))
    _add_run(add("run", _run, "Run a program in a sandbox.", failure=125))
    doctor = add("doctor", _doctor, "Check what the stack needs, and say what to do.")
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.add_argument(
        "--isolation", action="store_true", help="also try to get out of sandboxes made here"
    )
    for each in (up, doctor):
        each.add_argument("--host", help="address of the public edge (default 127.0.0.1)")
        each.add_argument("--port", type=int, help="port of the public edge (default 8080)")
        each.add_argument("--internal-port", type=int, help="of the internal edge (default 8081)")
    return parser


def _add_token(token: argparse.ArgumentParser) -> None:
    actions = token.add_subparsers(required=True, dest="action", metavar="ACTION")
    create = actions.add_parser("create", help="make a token and print it, once")
    create.add_argument("name", metavar="NAME", help="whose it is or what for, e.g. ci")
    create.add_argument("--role", choices=("user", "admin"), default="user", help="default user")
    create.add_argument(
        *("--domain", "-d"),
        action="append",
        dest="domains",
        metavar="DOMAIN",
        help="that it may use, again for more; '*' for all (default: default; an admin: all)",
    )
    create.add_argument("--expires", metavar="TIME", help="from now on, e.g. 12h or 90d")
    create.add_argument("--live-sessions", type=int, metavar="N", help="at the same time")
    create.add_argument("--executions-per-minute", type=int, metavar="N")
    create.add_argument("--cpu", metavar="CORES", help="of all its live sessions, e.g. 4")
    create.add_argument("--memory", metavar="SIZE", help="of all its live sessions, e.g. 8Gi")
    listing = actions.add_parser("list", help="all tokens, valid or not")
    revoke = actions.add_parser("revoke", help="end a token; counts at once")
    revoke.add_argument("id", metavar="ID", help="tok_…, as list shows it")
    for action in (create, listing):
        action.add_argument("--json", action="store_true", help="as JSON")


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("file", metavar="FILE", help="the program; - reads it from standard input")
    run.add_argument("--event", metavar="JSON", help="the object that the handler is called with")
    run.add_argument("--language", choices=("python", "javascript", "shell"))
    run.add_argument("--session", metavar="ID", help="run in this session; default: a new one")
    run.add_argument("--template", default="python-basic", help="of a new session")
    run.add_argument("--timeout", type=int, metavar="S", help="seconds (default 30)")
    run.add_argument("--json", action="store_true", help="print the whole result, nothing else")


if __name__ == "__main__":
    sys.exit(main())
