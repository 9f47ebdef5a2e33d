"""What the kernel says about a path, in the words for clients."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox_rpc.errors import InvalidParameter, NotFound, ServiceUnavailable, StateConflict


@contextmanager
def in_words(what: str, path: str, *, reading: bool) -> Iterator[None]:
    """Translates OSError. `what` names the field; NotFound where `reading` finds nothing."""
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOTDIR if not reading:
                raise InvalidParameter(f"{what} passes a file as if it were a directory") from None
            case errno.ENOENT if not reading:
                raise StateConflict(f"'{path}' was moved away while it was written") from None
            case errno.ENOENT | errno.ENOTDIR:
                raise NotFound("File", path) from None
            case errno.ELOOP | errno.EXDEV:
                raise through_a_link(what) from None
            case errno.ENAMETOOLONG:
                raise InvalidParameter(f"{what} is longer than the file system allows") from None
            case errno.EISDIR | errno.ENXIO | errno.ENODEV | errno.ENOTEMPTY | errno.EEXIST:
                raise not_a_file(what) from None
            case errno.EACCES | errno.EPERM | errno.EROFS:
                raise StateConflict(f"the mode of '{path}' or its directory forbids it") from None
            case errno.EAGAIN | errno.EBUSY | errno.ETXTBSY:
                raise StateConflict(f"'{path}' is locked by a program of the session") from None
            case errno.ENOSPC | errno.EDQUOT:
                raise ServiceUnavailable("the platform's disk is full", retry_after=60) from None
            case errno.EMFILE | errno.ENFILE:
                raise ServiceUnavailable("too many files are open at once") from None
        raise


def not_a_file(what: str) -> InvalidParameter:
    return InvalidParameter(f"{what} names something that is not a regular file")


def through_a_link(what: str) -> InvalidParameter:
    return InvalidParameter(f"{what} must not pass a symbolic link")
