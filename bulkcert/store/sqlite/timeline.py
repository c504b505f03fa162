"""The course of a run, in the checkpoint: counts by stretch of time. Reading only.

In: a function that runs a query, and the length of a bucket. Out: counts, by bucket. SQLite counts
and sorts, in files where there is much to sort, so the memory stays flat.
"""

from __future__ import annotations

from collections.abc import Iterator

from bulkcert.model import HistoryEvent, State
from bulkcert.store.sqlite.campaign import Query
from bulkcert.store.timeline import MOST_MS, SIGNIFICANT_BITS, Requests, SettledOperations

_BITS = MOST_MS.bit_length()

_FLOOR = " ".join(
    f"WHEN ms < {1 << SIGNIFICANT_BITS + shift} THEN ms >> {shift} << {shift}"
    for shift in range(_BITS - SIGNIFICANT_BITS + 1)
)
"""`latency_floor` in SQL, for an `ms` within bounds."""

_SENT = "history WHERE event IN ('attempt', 'look_up') AND sent_at IS NOT NULL"

# The time is never before 1970, so cutting off the fraction rounds down.
_BUSY = f"""
    SELECT CAST(sent_at / ? AS INTEGER) FROM {_SENT}
    UNION SELECT CAST(finished_at / ? AS INTEGER) FROM operations WHERE finished_at IS NOT NULL
    ORDER BY 1
"""  # noqa: S608 - constants

_REQUESTS = f"""
    SELECT bucket, event, throttled, CASE {_FLOOR} END AS latency, count(*)
    FROM (
        SELECT
            CAST(sent_at / ? AS INTEGER) AS bucket, event, result = 'throttled' AS throttled,
            min(max(CAST(round((ended_at - sent_at) * 1000) AS INTEGER), 0), {MOST_MS}) AS ms
        FROM {_SENT}
    )
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""  # noqa: S608 - constants

_BUSIEST = f"""
    SELECT CAST(second / ? AS INTEGER), max(requests)
    FROM (
        SELECT CAST(sent_at AS INTEGER) AS second, count(*) AS requests FROM {_SENT} GROUP BY 1
    )
    GROUP BY 1 ORDER BY 1
"""  # noqa: S608 - constants

_SETTLED = """
    SELECT CAST(finished_at / ? AS INTEGER), state, count(*)
    FROM operations WHERE finished_at IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2
"""


def read_busy(query: Query, bucket_s: int) -> Iterator[int]:
    """The buckets in which a request left or an operation was settled, in order."""
    for (bucket,) in query(_BUSY, (bucket_s, bucket_s)):
        yield bucket


def read_requests(query: Query, bucket_s: int) -> Iterator[Requests]:
    """The requests that left in each bucket."""
    for bucket, event, throttled, latency_ms, count in query(_REQUESTS, (bucket_s,)):
        yield Requests(bucket, HistoryEvent(event), bool(throttled), latency_ms, count)


def read_busiest_seconds(query: Query, bucket_s: int) -> Iterator[tuple[int, int]]:
    """The most requests that left in any second of the clock of each bucket."""
    yield from query(_BUSIEST, (bucket_s,))


def read_settled(query: Query, bucket_s: int) -> Iterator[SettledOperations]:
    """The operations that were settled in each bucket."""
    for bucket, state, count in query(_SETTLED, (bucket_s,)):
        yield SettledOperations(bucket, State(state), count)
