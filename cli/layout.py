"""What lies where in the data directory."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cli import tokens

# sockaddr_un holds 108 bytes, one of them the closing NUL (unix(7)).
MAX_SOCKET_PATH_BYTES = 107
SERVICES = ("session_svc", "scheduler_svc", "exec_svc")
EDGE = "edge"
SUPERVISOR = "supervisor"
NAMES = (SUPERVISOR, EDGE, *SERVICES)
AUDIT = "audit"

# struct flock of fcntl(2) on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


@dataclass(frozen=True)
class Layout:
    """The paths of one data directory. Nothing is made before `claim`."""

    data: Path

    @property
    def token(self) -> Path:
        """The operator's bearer token, made at the first start."""
        return self.data / "token"

    @property
    def tokens(self) -> Path:
        """What the services know of every token: see sandbox_rpc.tokens."""
        return self.data / "tokens.json"

    @property
    def secret(self) -> Path:
        """The key that signs service and container tokens."""
        return self.data / "secret"

    @property
    def state(self) -> Path:
        """What the supervisor runs, as JSON; true only while it holds the lock."""
        return self.data / "state.json"

    @property
    def bootstrap(self) -> Path:
        return self.data / "envoy.yaml"

    @property
    def workspaces(self) -> Path:
        return self.data / "workspaces"

    @property
    def sandboxes(self) -> Path:
        return self.data / "sandboxes"

    @property
    def environments(self) -> Path:
        """Installed packages, see scheduler_svc."""
        return self.data / "environments"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def lock(self) -> Path:
        return self.data / "lock"

    @property
    def run(self) -> Path:
        """The directory of Unix sockets: a link where the path would be too long for one."""
        return self.data / "run"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def socket(self, name: str) -> Path:
        return self.run.resolve() / f"{name}.sock"

    def database(self, service: str, driver: str = "sqlite") -> str:
        return f"{driver}:///{self.data / service}.db"

    def claim(self) -> None:
        """Makes the directory and its place for logs: what is needed before the lock.

        Raises OSError, also for a directory that others may enter.
        """
        for directory in (self.data, self.logs):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Its mode is what keeps other users out of everything below.
        if self.data.stat().st_mode & 0o077:
            raise PermissionError(f"{self.data} is open to other users: chmod 700 {self.data}")

    def prepare(self) -> None:
        """Makes the rest, for the one who holds the lock. Raises OSError."""
        for directory in (self.workspaces, self.sandboxes, self.environments):
            directory.mkdir(mode=0o700, exist_ok=True)
        # Executors of a stack that root started are other users, and have to pass
        # through to exec_svc's socket; whether they may use one is its own mode's matter.
        self._prepare_run(0o711 if os.geteuid() == 0 else 0o700)
        for path in (self.token, self.secret):
            _write_once(path, secrets.token_urlsafe(48))
        tokens.register_operator(self.tokens, self.token.read_text().strip())

    def clear_run(self) -> None:
        """Removes the sockets, and the directory outside the data directory if there is one."""
        if self.run.is_symlink():
            shutil.rmtree(self.run.resolve().parent, ignore_errors=True)
            self.run.unlink()
        elif self.run.is_dir():
            for path in self.run.iterdir():
                path.unlink()

    def _prepare_run(self, mode: int) -> None:
        if self.run.is_symlink() and self.run.is_dir() and _is_private(self.run.resolve().parent):
            return
        if self.run.is_symlink():
            self.run.unlink()
        longest = max((self.run / f"{name}.sock" for name in (*SERVICES, "internal")), key=_size)
        if _size(longest) <= MAX_SOCKET_PATH_BYTES:
            self.run.mkdir(mode=mode, exist_ok=True)
            self.run.chmod(mode)
            return
        parent = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        # mkdtemp's own directory is private, like the data directory.
        short = Path(tempfile.mkdtemp(prefix="sandbox-", dir=parent), "run")
        short.mkdir()
        short.chmod(mode)
        self.run.symlink_to(short)


class Lock:
    """Held by the one supervisor of a data directory for as long as it lives.

    An fcntl lock: the kernel drops it with its process and names the process that
    holds it, so there is no pid file to go stale.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> bool:
        """Whether this process has it now. Closing the file anywhere in it gives it up."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def close(self) -> None:
        os.close(self._fd)


def holder(lock: Path) -> int | None:
    """The pid of the process that holds the lock; None when nobody does."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, question))
    finally:
        os.close(fd)
    return None if answer[0] == fcntl.F_UNLCK else answer[4]


def _write_once(path: Path, text: str) -> None:
    """Writes a file that only we may read, whole or not at all; keeps one that is there."""
    if path.exists():
        return
    made = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text + "\n")
    made.replace(path)


def _is_private(directory: Path) -> bool:
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and stat.S_IMODE(status.st_mode) == 0o700
    )


def _size(path: Path) -> int:
    return len(os.fsencode(path))
