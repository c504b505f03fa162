"""The provider's clock, as learned from its responses.

Whether a certificate is older than one of our requests can only be judged by a single clock. The
clock of this machine may be wrong, or be set while a run is under way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC


class ProviderClock:
    """Shows the provider's time; this machine's until a response has carried the provider's."""

    def __init__(self) -> None:
        self._at_zero_s: float | None = None  # the provider's time when the monotonic clock was 0

    def now(self) -> float:
        """Unix time in seconds, at most a second or two late."""
        if self._at_zero_s is None:
            return time.time()
        return self._at_zero_s + time.monotonic()

    def learn(self, headers: Mapping[str, str]) -> None:
        """Set the clock by the `Date` of a response that has just arrived (RFC 9110, 6.6.1); keep
        it as it is if there is none."""
        date_s = unix_time(headers.get("Date", ""))
        if date_s is not None:
            self._at_zero_s = date_s - time.monotonic()


def unix_time(http_date: str) -> float | None:
    """Unix time in seconds of an HTTP date (RFC 9110, 5.6.7); None if it is not a date."""
    from email.utils import parsedate_to_datetime  # slow to import, and not needed to declare

    try:
        at = parsedate_to_datetime(http_date)
    except (ValueError, TypeError, OverflowError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
