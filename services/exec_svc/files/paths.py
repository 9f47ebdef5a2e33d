"""What a path in a request must look like. Where it leads is the kernel's to say (beneath.py)."""

from __future__ import annotations

from sandbox_rpc.errors import InvalidParameter

MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 255  # NAME_MAX of every Linux file system
MAX_DEPTH = 64

# Uploads bear such a name, at the top of the workspace, for a moment or after a crash.
TEMPORARY_PREFIX = ".upload-"


def checked(path: str, what: str) -> str:
    """`path`, relative and plain. Raises InvalidParameter; `what` is what it calls it."""
    if not path:
        raise InvalidParameter(f"{what} is required")
    if "\0" in path:
        raise InvalidParameter(f"{what} must not hold a NUL character")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidParameter(f"{what} must have at most {MAX_PATH_BYTES} bytes")
    if path.startswith("/"):
        raise InvalidParameter(f"{what} must be relative to the workspace")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise InvalidParameter(f"{what} must have at most {MAX_DEPTH} parts")
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidParameter(f"{what} must not have a part that is empty, '.' or '..'")
        if len(part.encode()) > MAX_NAME_BYTES:
            raise InvalidParameter(f"{what} must have at most {MAX_NAME_BYTES} bytes in each part")
    if path.startswith(TEMPORARY_PREFIX):
        raise InvalidParameter(f"{what} must not begin with '{TEMPORARY_PREFIX}'")
    return path


def checked_prefix(prefix: str) -> tuple[str, str]:
    """A prefix of paths: the directory that it names, and how names in there begin.

    Raises InvalidParameter.
    """
    directory, _, start = prefix.rpartition("/")
    what = "Parameter 'prefix'"
    if directory or prefix.startswith("/"):
        checked(directory or "/", what)
    if start not in ("", "."):  # a lone '.' is how hidden names begin
        checked(start, what)
    return directory, start
