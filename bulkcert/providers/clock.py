"""The provider's clock, as its answers tell it.

Whether a certificate is older than a request of ours can only be told by one clock, and that of
this machine may be wrong, or be set while a run is under way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC


class ProviderClock:
    """Tells the provider's time; this machine's until an answer has told it."""

    def __init__(self) -> None:
        self._at_zero_s: float | None = None  # the provider's time when the monotonic clock was 0

    def now(self) -> float:
        """Unix time in seconds, at most a second or two late."""
        if self._at_zero_s is None:
            return time.time()
        return self._at_zero_s + time.monotonic()

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take the time from an answer that has just come (RFC 9110, 6.6.1), if it tells it."""
        date_s = unix_time(headers.get("Date", ""))
        if date_s is not None:
            self._at_zero_s = date_s - time.monotonic()


def unix_time(http_date: str) -> float | None:
    """Unix time in seconds of a date as HTTP has it (RFC 9110, 5.6.7); None if it is none."""
    from email.utils import parsedate_to_datetime  # no declaration of a provider needs it

    try:
        at = parsedate_to_datetime(http_date)
    except (ValueError, TypeError, OverflowError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
