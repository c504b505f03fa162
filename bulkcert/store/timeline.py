"""What a store says about the course of a run: counts by stretch of time. Data, and how latencies
are grouped.

A stretch is a bucket: its number is Unix time divided by its length, rounded down. Buckets in which
nothing happened are left out, so a run that lasted for days and worked for minutes has few of them.
"""

from __future__ import annotations

from typing import NamedTuple

from bulkcert.model import HistoryEvent, State

SIGNIFICANT_BITS = 6
"""Of a latency, the first bits are kept: equal ones differ by at most one part in 32."""

MOST_MS = 2**26 - 1
"""The longest latency that is told from longer ones: 18 hours."""


class Requests(NamedTuple):
    """Requests of one kind that left in the same bucket, and took about as long.

    Attributes:
        bucket: the number of the bucket.
        event: attempts, or look-ups.
        throttled: the provider turned them away for now.
        latency_ms: how long they took, in milliseconds; see `latency_floor`.
        many: how many.
    """

    bucket: int
    event: HistoryEvent
    throttled: bool
    latency_ms: int
    many: int


class SettledOperations(NamedTuple):
    """Operations that were settled in the same bucket, in the state that they are in now.

    Attributes:
        bucket: the number of the bucket.
        state: their state.
        many: how many.
    """

    bucket: int
    state: State
    many: int


def latency_floor(latency_ms: int) -> int:
    """Round a latency down to one of few values, at most one part in 32 below it."""
    kept = min(max(latency_ms, 0), MOST_MS)
    shift = max(0, kept.bit_length() - SIGNIFICANT_BITS)
    return kept >> shift << shift


def latency_ceiling(floor_ms: int) -> int:
    """The longest latency, in whole milliseconds, that `latency_floor` rounds down to this one."""
    return floor_ms + (1 << max(0, floor_ms.bit_length() - SIGNIFICANT_BITS)) - 1
