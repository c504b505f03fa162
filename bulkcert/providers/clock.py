"""The provider's clock, as learned from its responses, and the times that its headers name.

Whether a certificate is older than one of our requests can only be judged by a single clock. The
clock of this machine may be wrong, or be set while a run is under way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC

_SECONDS = re.compile(r"\d+(\.\d*)?", re.ASCII)


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # Linux has it


def boot_time_s() -> float:
    """Seconds since this machine was started. Unlike those of `time.monotonic`, they go on while it
    is suspended."""
    return time.clock_gettime(_BOOT_CLOCK)


class ProviderClock:
    """Shows the provider's time; this machine's until a response has carried the provider's.

    Args:
        elapsed_s: returns seconds since some moment, never set and never standing still.
    """

    def __init__(self, elapsed_s: Callable[[], float] = boot_time_s) -> None:
        self.elapsed_s = elapsed_s
        self._at_zero_s: float | None = None  # the provider's time when `elapsed_s` was 0

    @property
    def known(self) -> bool:
        """Whether a response has carried the provider's time."""
        return self._at_zero_s is not None

    def now(self) -> float:
        """Unix time in seconds, at most a second or two late."""
        if self._at_zero_s is None:
            return time.time()
        return self._at_zero_s + self.elapsed_s()

    def learn(self, headers: Mapping[str, str]) -> None:
        """Set the clock by the `Date` of a response that has just arrived (RFC 9110, 6.6.1); keep
        it as it is if there is none."""
        date_s = unix_time(headers.get("Date", ""))
        if date_s is not None:
            self._at_zero_s = date_s - self.elapsed_s()


def unix_time(http_date: str) -> float | None:
    """Unix time in seconds of an HTTP date (RFC 9110, 5.6.7); None if it is not a date."""
    from email.utils import parsedate_to_datetime  # slow to import, and not needed to declare

    try:
        at = parsedate_to_datetime(http_date)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """The header Retry-After in seconds, given as seconds or as a date (RFC 9110, 10.2.3).

    Args:
        headers: those of the response.
        now_s: the provider's time, for a response without a `Date`.

    Returns:
        Seconds, 0 or more; None if there is no such header or it can't be read.
    """
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if _SECONDS.fullmatch(value):
        return min(float(value), 1e9)
    at_s = unix_time(value)
    if at_s is None:
        return None
    date_s = unix_time(headers.get("Date", ""))  # by the same clock that made the other date
    return max(0.0, at_s - (now_s if date_s is None else date_s))
