"""Removing a tree that user code made: by descriptors, whatever is in it, however deep."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable

from exec_svc.files.walk import DIRECTORY

# Each level holds two descriptors. What lies deeper is moved to the top and removed from there.
_MAX_DEPTH = 32


class Stopped(Exception):
    """The removal was told to stop; some of the tree is left."""


def remove_tree(parent: int, name: str, stop: Callable[[], bool]) -> None:
    """Removes the directory `name`, no link followed. Raises OSError for what will not go,
    and Stopped soon after `stop` says so.

    It goes on for as long as something is added: the programs in there should have ended.
    """
    top = _open(parent, name)
    try:
        _empty(top, top, 1, stop)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(directory: int, top: int, depth: int, stop: Callable[[], bool]) -> None:
    found = True
    while found:
        found = False
        with os.scandir(directory) as entries:
            for entry in entries:
                found = True
                if stop():
                    raise Stopped
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.name, dir_fd=directory)
                elif depth < _MAX_DEPTH:
                    _remove_directory(directory, entry.name, top, depth, stop)
                else:
                    name = f".deep-{secrets.token_hex(16)}"
                    os.rename(entry.name, name, src_dir_fd=directory, dst_dir_fd=top)


def _remove_directory(
    parent: int, name: str, top: int, depth: int, stop: Callable[[], bool]
) -> None:
    directory = _open(parent, name)
    try:
        _empty(directory, top, depth + 1, stop)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def _open(parent: int, name: str) -> int:
    """Opens a directory and lets us in, whatever its mode."""
    if os.geteuid() == 0:
        return os.open(name, DIRECTORY, dir_fd=parent)
    pinned = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        # By the descriptor: the name may be a link by now, and chmod would follow it.
        itself = f"/proc/self/fd/{pinned}"
        os.chmod(itself, 0o700)
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(pinned)
