"""Workspaces, and the unprivileged users that own them where we run as root."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from sandbox_rpc.errors import TooManyRequests

# Above the ids that login users get (60000 is the usual UID_MAX of login.defs(5)), below
# nobody (65534) and so inside the 65536 ids that a container with a user namespace has.
UIDS = range(61_000, 65_000)


def workspace_owner(workspaces: Path, workspace: Path) -> int:
    """The uid that owns `workspace`, or the smallest that nobody has yet.

    A session keeps its uid for as long as its workspace is there, and no two workspaces
    share one: what a session left behind, another can neither read nor change.

    Raises TooManyRequests when all are taken.
    """
    if workspace.exists() and (owner := workspace.stat().st_uid) in UIDS:
        return owner
    taken = {entry.stat(follow_symlinks=False).st_uid for entry in os.scandir(workspaces)}
    for uid in UIDS:
        if uid not in taken and not _is_account(uid):
            return uid
    raise TooManyRequests(
        f"all {len(UIDS)} user ids for workspaces ({UIDS.start} to {UIDS.stop - 1}) are in use",
        retry_after=60,
    )


def make_private(directory: Path, owner: int | None) -> None:
    """Makes `directory` if it is missing: mode 0700, owned by `owner` where one is given."""
    directory.mkdir(mode=0o700, exist_ok=True)
    if owner is not None and directory.stat().st_uid != owner:
        os.chown(directory, owner, owner)


def _is_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
