"""The provider's clock, as its answers tell it.

Whether a certificate is older than a request of ours can only be told by one clock, and that of
this machine may be wrong, or be set while a run is under way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping


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
        from email.utils import parsedate_to_datetime

        try:
            date_s = parsedate_to_datetime(headers.get("Date", "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            return
        self._at_zero_s = date_s - time.monotonic()
