"""What one principal's live sessions may use together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sandbox_rpc.errors import Forbidden, TooManyRequests
from sandbox_rpc.tokens import Quotas

from session_svc.models import SessionRow
from session_svc.validation import bytes_of


def check_quotas(
    quotas: Quotas, live: Sequence[SessionRow], wanted: SessionRow, now: datetime
) -> None:
    """Raises TooManyRequests while the principal's `live` sessions leave no room for `wanted`.

    And Forbidden where even without any there would be none, so that waiting is no use.
    `retry_after` is when the first of them ends if it is left alone and nobody deletes one.
    """
    _check_alone(quotas, wanted)
    full = _exceeded(quotas, [*live, wanted])
    if full is not None:
        earliest = min(row.expires_at for row in live)
        seconds = max(1, math.ceil((earliest - now).total_seconds()))
        raise TooManyRequests(
            f"the token's quota is used up: {full}; delete a session, or wait",
            retry_after=seconds,
        )


def _check_alone(quotas: Quotas, wanted: SessionRow) -> None:
    if (exceeded := _exceeded(quotas, [wanted])) is not None:
        raise Forbidden(f"the session asks for more than the token's quota: {exceeded}")


def _exceeded(quotas: Quotas, rows: Sequence[SessionRow]) -> str | None:
    """The first limit that these sessions together are over."""
    if quotas.live_sessions is not None and len(rows) > quotas.live_sessions:
        return f"at most {quotas.live_sessions} live sessions"
    if quotas.cpu is not None and sum(Decimal(row.cpu) for row in rows) > quotas.cpu:
        return f"at most {quotas.cpu} cores ('cpu') for all live sessions"
    if quotas.memory is not None and sum(bytes_of(row.memory) for row in rows) > bytes_of(
        quotas.memory
    ):
        return f"at most {quotas.memory} of 'memory' for all live sessions"
    return None
