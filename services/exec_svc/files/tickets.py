"""Signed, expiring URLs of the file server."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

from sandbox_rpc.errors import Forbidden

PREFIX = "/api/v1/downloads/"
TICKET_SECONDS = 300


class Tickets:
    """Whoever has the URL may read that one file until it expires; a token is not needed."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock

    def url(self, session_id: str, path: str, inode: int) -> str:
        """`inode`: a file that has been replaced since is not the one that was meant."""
        expires = int(self._clock()) + TICKET_SECONDS
        mac = self._mac(session_id, path, inode, expires)
        where = f"{PREFIX}{session_id}/{quote(path)}"
        return f"{where}?file={inode}&expires={expires}&signature={mac}"

    def check(self, session_id: str, path: str, query: Mapping[str, str]) -> int:
        """The inode that the ticket is for. Raises Forbidden; why is not told."""
        inode, expires = _number(query.get("file")), _number(query.get("expires"))
        mac = self._mac(session_id, path, inode, expires)
        genuine = hmac.compare_digest(mac.encode(), query.get("signature", "").encode())
        if not genuine or expires < self._clock():
            raise Forbidden("the download URL is not valid, or has expired; ask for the file again")
        return inode

    def _mac(self, session_id: str, path: str, inode: int, expires: int) -> str:
        # No path holds a NUL, so no two claims make one message.
        claim = "\0".join((session_id, path, str(inode), str(expires)))
        return hmac.new(self._key, claim.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _number(text: str | None) -> int:
    """0, which nothing is signed for, where it is not a number as `url` writes it."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 21):
        return 0
    return int(text)
