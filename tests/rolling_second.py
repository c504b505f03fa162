"""How many of some moments lie in one rolling second."""

from __future__ import annotations

from collections.abc import Iterable


def busiest(times: Iterable[float], window_s: float = 1.0) -> int:
    """Most of the times, in seconds, in any window [t, t + window_s)."""
    ordered = sorted(times)
    most = first = 0
    for last, time in enumerate(ordered):
        while ordered[first] <= time - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most
