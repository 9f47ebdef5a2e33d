"""`python -m executor.proof`: tries to get out of sandboxes made here, and says how it went.

Makes a sandbox in each way that executors have, plants what a run must never see (files,
sockets, descriptors, an environment, a command line) and runs `escapes.py` inside. Prints
{way: {class of escape: [how it got out]}} as JSON; all lists are empty where all is closed.
Exits with 1 and the reason where no sandbox can be made. As root it becomes `nobody` first,
as every executor that is started as root becomes somebody.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from executor.bwrap import IsolationError, Tools, default_environment
from executor.privileges import drop_root

NOBODY = 65_534
PLANTED = r"planted-[0-9a-f]{32}"
PROBE = Path(__file__).with_name("escapes.py")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
WAYS = ("zygote", "bwrap")

Findings = dict[str, list[str]]


def main() -> None:
    if len(sys.argv) == 1:
        # Started again with a secret where a careless platform has its own.
        planted = f"planted-{secrets.token_hex(16)}"
        command = [sys.executable, "-P", "-m", "executor.proof", planted]
        environment = {"PATH": os.defpath, "PLANTED": planted}
        os.execve(sys.executable, command, environment)  # noqa: S606
    give_up_root()
    try:
        print(json.dumps(asyncio.run(prove(sys.argv[1]))))
    except IsolationError as error:
        sys.exit(str(error))


def give_up_root() -> None:
    """Becomes somebody who is nobody, unless it is already. Raises IsolationError, OSError."""
    if os.geteuid() == 0:
        drop_root(NOBODY, _needed())


def _needed() -> list[Path]:
    paths = [*Tools.find().needed_paths(), *map(Path, sys.path), Path(sys.prefix)]
    from sandbox.executor.v1 import link_pb2  # an installed package or a folder beside us

    paths.append(Path(link_pb2.__file__).parents[3])
    return [path for path in paths if path.exists()]


async def prove(planted: str) -> dict[str, Findings]:
    """What the probe found, by the way in which its sandbox was made."""
    with (
        tempfile.TemporaryDirectory(prefix="proof") as name,
        surroundings(Path(name), planted) as e,
    ):
        return {way: await attempt(way, Path(name, "workspace"), e) for way in WAYS}


@contextmanager
def surroundings(place: Path, planted: str) -> Iterator[dict[str, Any]]:
    """What must stay out of reach, and the event that tells the probe where it lies."""
    (place / "workspace").mkdir()
    (place / "secret").write_text(planted)
    with ExitStack() as stack:
        inet = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix, abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        unix.bind(str(place / "socket"))
        abstract.bind(f"\0{planted[-8:]}")
        for listening in (unix, abstract):
            listening.listen()
        # Inheritable, as in a program that is careless with its descriptors.
        directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, directory)
        for descriptor in (directory, inet.fileno()):
            os.set_inheritable(descriptor, True)
        yield event(
            secret=PLANTED,
            paths=[str(place), str(place / "secret"), str(place / "socket"), str(PROBE)],
            ports=[inet.getsockname()[1]],
            abstract=[planted[-8:]],
        )


def event(**known: Any) -> dict[str, Any]:
    """The probe's event: what is known of the outside."""
    from executor.seccomp import DENIED

    outside = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES}
    return {"namespaces": outside, "denied": DENIED[platform.machine()], **known}


async def attempt(way: str, workspace: Path, event: dict[str, Any]) -> Findings:
    """Runs the probe in a sandbox made in one way. Raises IsolationError."""
    ended = await run(way, workspace, PROBE.read_bytes(), event)
    if not isinstance(ended, dict):
        raise IsolationError(f"the probe did not run to its end: {ended}")
    return ended


async def run(
    way: str, workspace: Path, code: bytes, event: dict[str, Any], tools: Tools | None = None
) -> Any:
    """What a handler returns from a sandbox made in one way; else the end, as text."""
    from executor import cold
    from executor.sandbox import Job
    from executor.zygote import Zygote

    tools = tools or Tools.find()
    zygote = await Zygote.start(tools, workspace) if way == "zygote" else None
    sandbox = await (zygote.make() if zygote else cold.make(tools, workspace))
    said = []

    async def output(_: str, data: bytes) -> None:
        said.append(data)

    job = Job(
        language="python",
        code=code,
        event_json=json.dumps(event).encode(),
        stdin=None,
        env=default_environment(),
        memory_bytes=512 * 1024 * 1024,
        max_processes=64,
        timeout_seconds=60,
    )
    try:
        end = await sandbox.run(job, output)
    finally:
        await sandbox.close()
        if zygote is not None:
            await zygote.close()
    if end.frame[:1] != b"V":
        return f"{end.report} {b''.join(said).decode(errors='replace')}"
    return json.loads(end.frame[9:])


if __name__ == "__main__":
    main()
