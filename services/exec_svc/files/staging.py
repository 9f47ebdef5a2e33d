"""An upload's bytes before they have their name."""

from __future__ import annotations

import errno
import os
import secrets

from exec_svc.files.paths import TEMPORARY_PREFIX

_WITHOUT_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}

Owner = tuple[int, int]


class Staged:
    """A new file in the directory `root` that has no name there until it is published.

    O_TMPFILE: nobody finds it meanwhile, and the kernel removes it with its last
    descriptor, a crash included. File systems without that (overlayfs before Linux 6.1,
    NFS) get a hidden name; one that a crash left behind `sweep` removes. Blocking; not for
    several threads at once.
    """

    def __init__(self, root: int) -> None:
        """Raises OSError."""
        self._root = root
        self._name: str | None = None
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            self._descriptor = os.open(".", flags | os.O_TMPFILE, 0o600, dir_fd=root)
        except OSError as error:
            if error.errno not in _WITHOUT_TMPFILE:
                raise
            name = _new_name()
            flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._descriptor = os.open(name, flags, 0o600, dir_fd=root)
            self._name = name

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def publish(self, directory: int, name: str, *, owner: Owner | None) -> None:
        """Gives it its name and, where there is one, its owner: a user and a group.

        It is on the disk when this returns. A file of that name is replaced in one step:
        whoever opens it gets the old one or the new one, whole.
        """
        os.fchmod(self._descriptor, 0o644)
        if owner is not None:
            os.fchown(self._descriptor, *owner)
        os.fsync(self._descriptor)
        if self._name is None:
            made = _new_name()
            # How a file without a name gets one (open(2), O_TMPFILE).
            nameless = f"/proc/self/fd/{self._descriptor}"
            os.link(nameless, made, dst_dir_fd=self._root, follow_symlinks=True)
            self._name = made
        os.rename(self._name, name, src_dir_fd=self._root, dst_dir_fd=directory)
        self._name = None
        os.fsync(directory)

    def close(self) -> None:
        """Nothing of it is left, unless it has been published."""
        os.close(self._descriptor)
        if self._name is not None:
            try:
                os.unlink(self._name, dir_fd=self._root)
            except FileNotFoundError:
                return  # a program of the session was faster


def sweep(root: int) -> None:
    """Removes what a crash left of uploads at the top of a workspace."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(TEMPORARY_PREFIX) and entry.is_file(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=root)


def _new_name() -> str:
    return TEMPORARY_PREFIX + secrets.token_hex(16)
