"""One session's workspace: a directory that belongs to user code, and is treated so.

Everything here blocks and goes by descriptors beneath the workspace's own (beneath.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from sandbox_rpc.errors import NotFound, StateConflict

from exec_svc.files import removal, walk
from exec_svc.files.beneath import open_beneath
from exec_svc.files.faults import in_words, not_a_file, through_a_link
from exec_svc.files.staging import Owner, Staged, sweep
from exec_svc.files.version import Version

# Nothing that user code may have put in place of a file can make these wait: a FIFO has no
# writer, a file has a lease, a device is a terminal.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


class NoWorkspace(StateConflict):
    """There is none yet, or no longer: no files, and nowhere to put one."""


class Workspace:
    """An open workspace. Methods raise errors for clients; `what` names the field."""

    def __init__(self, directory: int) -> None:
        self.directory = directory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.directory)

    def open(self, path: str, what: str) -> tuple[int, Version]:
        """A descriptor of a regular file, for the caller to close, and which version it is."""
        with in_words(what, path, reading=True):
            descriptor = open_beneath(self.directory, path, _READ)
            try:
                status = os.fstat(descriptor)
                _require_file(status, what)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor, Version.of(path, status)

    def delete(self, path: str, what: str) -> None:
        with in_words(what, path, reading=True), self._parent(path) as (directory, name):
            _require_file(os.stat(name, dir_fd=directory, follow_symlinks=False), what)
            # By now it may be another thing, but only one of the session's own making;
            # unlink follows no link and removes no directory.
            os.unlink(name, dir_fd=directory)

    def page(
        self, prefix: str, start: str, *, offset: int, limit: int
    ) -> tuple[list[Version], int]:
        """Files in the directory `prefix` (empty: at the top) whose path goes on with `start`.

        The second value is how many there are in all.
        """
        try:
            with in_words("Parameter 'prefix'", prefix, reading=True):
                directory = self._directory(prefix)
        except NotFound:
            return [], 0
        try:
            path = f"{prefix}/" if prefix else ""
            paths, total = walk.page(directory, path, start, offset=offset, limit=limit)
        finally:
            os.close(directory)
        return [found for path in paths if (found := self._look_at(path))], total

    def bytes_used(self) -> int:
        """What everything in it takes on the disk. Raises StateConflict if that cannot be told."""
        with in_words("The workspace", "the workspace", reading=False):
            return walk.bytes_used(self.directory)

    def stage(self) -> Staged:
        with in_words("Field 'file'", "the workspace", reading=False):
            return Staged(self.directory)

    def check_target(self, path: str, what: str) -> None:
        """Raises for a path that `publish` would refuse as things are; makes nothing."""
        with in_words(what, path, reading=False):
            try:
                with self._parent(path) as (directory, name):
                    _require_file(os.stat(name, dir_fd=directory, follow_symlinks=False), what)
            except FileNotFoundError:
                return  # publish will make it

    def publish(self, staged: Staged, path: str, what: str) -> None:
        """Gives an upload its path; makes the directories that are missing."""
        with in_words(what, path, reading=False):
            parents, _, name = path.rpartition("/")
            directory = self._make_directories(parents)
            try:
                _require_replaceable(directory, name, what)
                staged.publish(directory, name, owner=self._owner())
            finally:
                os.close(directory)

    def sweep(self) -> None:
        sweep(self.directory)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        parents, _, name = path.rpartition("/")
        directory = self._directory(parents)
        try:
            yield directory, name
        finally:
            os.close(directory)

    def _look_at(self, path: str) -> Version | None:
        try:
            with self._parent(path) as (directory, name):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError:
            return None  # gone since it was listed
        return Version.of(path, status) if stat.S_ISREG(status.st_mode) else None

    def _directory(self, path: str) -> int:
        if not path:
            return os.open(".", walk.DIRECTORY, dir_fd=self.directory)
        return open_beneath(self.directory, path, walk.DIRECTORY)

    def _make_directories(self, path: str) -> int:
        """A descriptor of the directory `path`, made where it is missing."""
        try:
            return self._directory(path)
        except FileNotFoundError:
            current = self._directory("")
        for part in path.split("/"):
            try:
                below = self._make_directory(current, part)
            finally:
                os.close(current)
            current = below
        return current

    def _make_directory(self, parent: int, name: str) -> int:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            return open_beneath(parent, name, walk.DIRECTORY)
        made = open_beneath(parent, name, walk.DIRECTORY)
        try:
            os.fchmod(made, 0o755)
            if (owner := self._owner()) is not None:
                os.fchown(made, *owner)
        except BaseException:
            os.close(made)
            raise
        return made

    def _owner(self) -> Owner | None:
        """The session's own user and group, where this process may give files to others."""
        if os.geteuid() != 0:
            return None
        status = os.fstat(self.directory)
        return status.st_uid, status.st_gid


class Workspaces:
    """The directory in which each session has its workspace, by its id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, session_id: str) -> Workspace:
        """Raises NoWorkspace; StateConflict where a program has locked it."""
        try:
            with in_words("The session", session_id, reading=True):
                return Workspace(os.open(self._directory / session_id, walk.DIRECTORY))
        except NotFound:
            raise NoWorkspace(
                f"session '{session_id}' has no workspace; it is made before the session is "
                "running and kept for 24 h after its end"
            ) from None

    def names(self) -> list[str]:
        """The sessions whose workspaces are there."""
        with os.scandir(self._directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def remove(self, session_id: str, stop: Callable[[], bool]) -> None:
        """Removes a workspace and all that is in it. Raises like `removal.remove_tree`."""
        parent = os.open(self._directory, walk.DIRECTORY)
        try:
            removal.remove_tree(parent, session_id, stop)
        finally:
            os.close(parent)


def _require_file(status: os.stat_result, what: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise through_a_link(what)
    if not stat.S_ISREG(status.st_mode):
        raise not_a_file(what)


def _require_replaceable(directory: int, name: str, what: str) -> None:
    try:
        _require_file(os.stat(name, dir_fd=directory, follow_symlinks=False), what)
    except FileNotFoundError:
        return
