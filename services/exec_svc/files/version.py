"""What is known of a file at one moment."""

from __future__ import annotations

import mimetypes
import os
from dataclasses import dataclass
from typing import Self

# The table of the standard library alone: the machine's own would make answers differ.
_TYPES = mimetypes.MimeTypes()
_OTHER = "application/octet-stream"
_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "br": "application/x-brotli",
}


@dataclass(frozen=True, slots=True)
class Version:
    """`etag` is another one whenever the content may be another; `size` is in bytes."""

    path: str
    size: int
    mime_type: str
    modified_ns: int
    etag: str
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> Self:
        # By the change time: the modification time is a program's to set back.
        etag = f'"{status.st_ino:x}-{status.st_ctime_ns:x}-{status.st_size:x}"'
        return cls(
            path=path,
            size=status.st_size,
            mime_type=mime_type(path),
            modified_ns=status.st_mtime_ns,
            etag=etag,
            inode=status.st_ino,
        )


def mime_type(path: str) -> str:
    kind, compression = _TYPES.guess_type(f"/{path}")
    if compression is not None:
        return _COMPRESSED.get(compression, _OTHER)
    return kind or _OTHER
