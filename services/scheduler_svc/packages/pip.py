"""pip in a process of its own: installs a set of requirements into a directory.

It runs outside every sandbox, so it takes wheels alone: to build anything else would be to
run the package's code here. A wheel is unpacked, and compiled to bytecode, and none of it
is executed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_rpc.errors import StateConflict

log = logging.getLogger(__name__)

SECONDS = 600.0
_LOOK_SECONDS = 1.0
_MEMORY_BYTES = 2 << 30
_LINES_KEPT = 40
_REASON_CHARACTERS = 500

# What pip reads of the service's environment: its own options, where it finds its
# configuration, the way to an index and whom to trust on it.
_PASSED = re.compile(
    r"PIP_\w+|HOME|PATH|LANG|LC_ALL|XDG_CONFIG_(HOME|DIRS)|NETRC"
    r"|(?i:https?_proxy|no_proxy|all_proxy)"
    r"|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
# Options that are sensible on a developer's machine, and have no meaning with --target.
_OWN = {"PIP_REQUIRE_VIRTUALENV": "0", "PIP_USER": "0"}
_COLLECTING = re.compile(r"\s*Collecting ([A-Za-z0-9._-]+)")
_UNPACKING = "Installing collected packages:"
# These name no cause; the cause stands before them.
_USELESS = ("ERROR: Exception:", "ERROR: ResolutionImpossible", "ERROR: Operation cancelled")


class InstallError(StateConflict):
    """The packages cannot be installed; the detail is pip's reason, or the limit."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the packages could not be installed (wheels only): {reason}")


@dataclass(frozen=True, slots=True)
class Pip:
    """What the operator says about where packages come from.

    With `index_url` pip asks that index alone and reads no configuration file; without,
    it does what the machine's configuration says. `offline`: no index at all. `find_links`
    is a directory of wheels, or a page that links to some. An installation may take
    `max_bytes` on disk and `seconds`.
    """

    index_url: str | None = field(repr=False, default=None)  # it may hold a password
    find_links: str | None = None
    offline: bool = False
    max_bytes: int = 5 << 30
    seconds: float = SECONDS

    def command(self, target: Path, requirements: Sequence[str]) -> list[str]:
        """pip under the interpreter that sandboxes have: its tags, its name in scripts."""
        options = ["--no-index"] if self.offline else []
        if self.find_links:
            options += ["--find-links", self.find_links]
        return [
            *(_interpreter(), "-I", str(_runner()), "install"),
            *("--target", str(target), "--only-binary", ":all:"),
            # A cache of pip's own would grow with what tenants think of.
            *("--no-input", "--no-cache-dir", "--disable-pip-version-check"),
            *("--progress-bar", "off", "--root-user-action", "ignore", "--no-color"),
            *options,
            "--",
            *requirements,
        ]

    def environment(self, environ: Mapping[str, str], temporary: Path) -> dict[str, str]:
        passed = {name: value for name, value in environ.items() if _PASSED.fullmatch(name)}
        passed |= _OWN | {"TMPDIR": str(temporary)}
        if self.index_url:
            passed.pop("PIP_EXTRA_INDEX_URL", None)
            passed |= {"PIP_INDEX_URL": self.index_url, "PIP_CONFIG_FILE": os.devnull}
        return passed

    async def install(
        self, requirements: Sequence[str], place: Path, report: Callable[[str], None]
    ) -> Path:
        """Installs into a directory below `place`, an empty one, and returns it.

        `report` is told how far it is. Raises InstallError. When this returns or raises,
        cancelled too, no process of it runs.
        """
        target, temporary = place / "packages", place / "tmp"
        temporary.mkdir()
        limits = (os.getpid(), int(self.seconds), _MEMORY_BYTES, self.max_bytes)
        process = await asyncio.create_subprocess_exec(
            *(_interpreter(), "-I", "-S", str(Path(__file__).with_name("confine.py"))),
            *map(str, limits),
            *self.command(target, requirements),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.environment(os.environ, temporary),
            cwd=temporary,
            umask=0o022,  # sandboxes are other users where we are root
            start_new_session=True,
        )
        assert process.stdout is not None
        output = asyncio.create_task(follow(process.stdout, report, _words(requirements)))
        try:
            await self._until_done(output, place)
            lines = await output
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output.cancel()
            exit_code = await process.wait()
        if exit_code != 0:
            log.warning("pip: exit code %d", exit_code, extra={"fields": {"pip": lines}})
            raise InstallError(reason(lines))
        return target

    async def _until_done(self, output: asyncio.Task[list[str]], place: Path) -> None:
        """Returns when pip has closed its output. Raises InstallError past a limit."""
        deadline = asyncio.get_running_loop().time() + self.seconds
        while not output.done():
            await asyncio.wait({output}, timeout=_LOOK_SECONDS)
            if asyncio.get_running_loop().time() > deadline:
                raise InstallError(f"it took longer than {self.seconds:g} s")
            if await asyncio.to_thread(bytes_below, place) > self.max_bytes:
                raise InstallError(f"they take more than {self.max_bytes >> 20} MiB")


def bytes_below(directory: Path) -> int:
    """What the tree takes on disk. What is going away while this looks does not count."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _interpreter() -> str:
    """The one that code in sandboxes runs under: not a virtual environment's name for it."""
    return os.path.realpath(sys.executable)


def _runner() -> Path:
    """pip's own way to be run by another interpreter than the one it is installed for."""
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise InstallError("pip is not installed beside scheduler_svc")
    return Path(found.origin).with_name("__pip-runner__.py")


def _words(requirements: Sequence[str]) -> str:
    return f"installing {len(requirements)} package{'s' * (len(requirements) != 1)}"


async def follow(
    stream: asyncio.StreamReader, report: Callable[[str], None], doing: str
) -> list[str]:
    """Reports what pip is at, to its end. Returns the last lines that it printed."""
    report(doing)
    kept: deque[str] = deque(maxlen=_LINES_KEPT)
    rest = b""
    while data := await stream.read(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[-(1 << 16) :]
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            kept.append(text)
            if collecting := _COLLECTING.match(text):
                report(f"{doing}: fetching {collecting[1]}")
            elif text.startswith(_UNPACKING):
                report(f"{doing}: unpacking {text.count(',') + 1}, with what they need")
    return [line for line in (*kept, rest.decode(errors="replace")) if line.strip()]


def reason(lines: Sequence[str]) -> str:
    """Of what pip printed, the last line that says why."""
    errors = [line for line in lines if line.startswith("ERROR:") and not line.startswith(_USELESS)]
    line = (errors or lines or ["pip said nothing"])[-1]
    return line.removeprefix("ERROR:").strip()[:_REASON_CHARACTERS]
