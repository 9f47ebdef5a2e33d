"""The limits of file transfers, in one place."""

from __future__ import annotations

MAX_FILE_BYTES = 100 * 1024 * 1024
# The least that a session can have; for sessions from before exec_svc was told.
DEFAULT_DISK_BYTES = 1024 * 1024 * 1024
# Files up to this size come with the answer; larger ones from the file server.
MAX_INLINE_BYTES = 1024 * 1024
# How much is read, and kept in memory, at a time.
CHUNK_BYTES = 256 * 1024

UPLOADS, UPLOADS_OF_A_SESSION = 64, 8
DOWNLOADS, DOWNLOADS_OF_A_SESSION = 256, 32

TRANSFER_THREADS = 8
WALK_THREADS = 4
