"""The course of a run, in a shared store: counts by stretch of time. Reading only.

In: a function that runs a query, the number of a run, and the length of a bucket. Out: counts, by
bucket. The server counts and sorts.
"""

from __future__ import annotations

from collections.abc import Iterator

from bulkcert.model import HistoryEvent, State
from bulkcert.store.postgresql.campaign import Query
from bulkcert.store.timeline import MOST_MS, SIGNIFICANT_BITS, Requests, SettledOperations

_BITS = MOST_MS.bit_length()

_FLOOR = " ".join(
    f"WHEN ms < {1 << SIGNIFICANT_BITS + shift} THEN ms >> {shift} << {shift}"
    for shift in range(_BITS - SIGNIFICANT_BITS + 1)
)
"""`latency_floor` in SQL, for an `ms` within bounds."""

_SENT = (
    "bulkcert.history WHERE run = %(run)s AND event IN ('attempt', 'look_up')"
    " AND sent_at IS NOT NULL"
)

_BUSY = f"""
    SELECT floor(sent_at / %(bucket_s)s)::bigint FROM {_SENT}
    UNION SELECT floor(finished_at / %(bucket_s)s)::bigint FROM bulkcert.operation
        WHERE run = %(run)s AND finished_at IS NOT NULL
    ORDER BY 1
"""  # noqa: S608 - constants

_REQUESTS = f"""
    SELECT bucket, event, throttled, CASE {_FLOOR} END AS latency, count(*)
    FROM (
        SELECT
            floor(sent_at / %(bucket_s)s)::bigint AS bucket, event,
            result = 'throttled' AS throttled,
            least(greatest(round((ended_at - sent_at) * 1000), 0), {MOST_MS})::bigint AS ms
        FROM {_SENT}
    ) AS sent
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""  # noqa: S608 - constants

_BUSIEST = f"""
    SELECT second / %(bucket_s)s, max(requests)
    FROM (
        SELECT floor(sent_at)::bigint AS second, count(*) AS requests FROM {_SENT} GROUP BY 1
    ) AS by_second
    GROUP BY 1 ORDER BY 1
"""  # noqa: S608 - constants

_BUSIEST_ROLLING = f"""
    SELECT coalesce(max(requests), 0) FROM (
        SELECT count(*) OVER (
            ORDER BY sent_at RANGE BETWEEN 1 PRECEDING AND CURRENT ROW
        ) AS requests FROM {_SENT}
    ) AS up_to_each
"""  # noqa: S608 - constants

_SETTLED = """
    SELECT floor(finished_at / %(bucket_s)s)::bigint, state, count(*)
    FROM bulkcert.operation WHERE run = %(run)s AND finished_at IS NOT NULL
    GROUP BY 1, 2 ORDER BY 1, 2
"""


def read_busy(query: Query, run: int, bucket_s: int) -> Iterator[int]:
    """The buckets in which a request left or an operation was settled, in order."""
    for (bucket,) in query(_BUSY, {"run": run, "bucket_s": bucket_s}):
        yield bucket


def read_requests(query: Query, run: int, bucket_s: int) -> Iterator[Requests]:
    """The requests that left in each bucket."""
    rows = query(_REQUESTS, {"run": run, "bucket_s": bucket_s})
    for bucket, event, throttled, latency_ms, count in rows:
        yield Requests(bucket, HistoryEvent(event), throttled, latency_ms, count)


def read_busiest_seconds(query: Query, run: int, bucket_s: int) -> Iterator[tuple[int, int]]:
    """The most requests that left in any second of the clock of each bucket."""
    yield from query(_BUSIEST, {"run": run, "bucket_s": bucket_s})


def read_busiest_second(query: Query, run: int) -> int:
    """The most requests that left in any rolling second, whoever has sent them."""
    ((most,),) = query(_BUSIEST_ROLLING, {"run": run})
    return int(most)


def read_settled(query: Query, run: int, bucket_s: int) -> Iterator[SettledOperations]:
    """The operations that were settled in each bucket."""
    for bucket, state, count in query(_SETTLED, {"run": run, "bucket_s": bucket_s}):
        yield SettledOperations(bucket, State(state), count)
