"""The course of a run: how much happened in each bucket of time.

In: the reader of a store, and the time axis. Out: a row for each bucket, and sums over some of
them. What is counted here adds up to what the summary counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bulkcert.model import HistoryEvent, Outcome
from bulkcert.report.page.timescale import TimeScale
from bulkcert.store.base import OUTCOMES, StoreReader
from bulkcert.store.timeline import latency_ceiling

SHARES = (0.5, 0.95, 0.99)
"""The percentiles that are shown."""


@dataclass(slots=True)
class Bucket:
    """What happened in a stretch of time.

    Attributes:
        begin_s, end_s: when, as Unix time in seconds; `end_s` is not part of it.
        attempts, lookups: requests that left.
        throttled: those of them that the provider turned away for now.
        busiest: most requests in any second of the clock.
        outcomes: operations that were settled, by outcome.
        latencies: number of requests by the floor of their latency in milliseconds.
    """

    begin_s: int
    end_s: int
    attempts: int = 0
    lookups: int = 0
    throttled: int = 0
    busiest: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        """Requests that left."""
        return self.attempts + self.lookups

    @property
    def rate(self) -> float:
        """The mean rate, in requests per second."""
        return self.requests / (self.end_s - self.begin_s)


class Percentiles(NamedTuple):
    """Latencies in milliseconds that half, 95 % and 99 % of the requests did not exceed."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Course:
    """The course of a run.

    Attributes:
        scale: the time axis.
        buckets: one for each bucket of the axis, in order.
        of_attempts, of_lookups: number of requests by the floor of their latency.
    """

    scale: TimeScale
    buckets: Sequence[Bucket]
    of_attempts: Mapping[int, int]
    of_lookups: Mapping[int, int]


def read_course(reader: StoreReader, scale: TimeScale) -> Course:
    """Count what happened in each bucket of a time axis.

    Args:
        reader: the store, in the snapshot from which the axis was made.
        scale: the axis.
    """
    length_s = scale.bucket_s
    buckets = {n: Bucket(n * length_s, (n + 1) * length_s) for n in scale.buckets()}
    of_attempts: Counter[int] = Counter()
    of_lookups: Counter[int] = Counter()
    for number, event, throttled, latency_ms, many in reader.requests_by_time(length_s):
        bucket = buckets[number]
        bucket.latencies[latency_ms] += many
        bucket.throttled += many * throttled
        if event is HistoryEvent.ATTEMPT:
            bucket.attempts += many
            of_attempts[latency_ms] += many
        else:
            bucket.lookups += many
            of_lookups[latency_ms] += many
    for number, most in reader.busiest_seconds(length_s):
        buckets[number].busiest = most
    for number, state, many in reader.settled_by_time(length_s):
        buckets[number].outcomes[OUTCOMES[state]] += many
    return Course(scale, list(buckets.values()), of_attempts, of_lookups)


def merged(buckets: Iterable[Bucket]) -> Bucket:
    """Return one bucket for several that follow each other, at least one."""
    first, *others = buckets
    total = Bucket(first.begin_s, first.end_s)
    for each in (first, *others):
        total.end_s = each.end_s
        total.attempts += each.attempts
        total.lookups += each.lookups
        total.throttled += each.throttled
        total.busiest = max(total.busiest, each.busiest)
        total.outcomes.update(each.outcomes)
        total.latencies.update(each.latencies)
    return total


def grouped(course: Course, most: int) -> list[Bucket]:
    """Merge buckets into about `most` rows of a table; no row extends over a break."""
    each = -(-len(course.buckets) // most)
    rows: list[Bucket] = []
    at = 0
    for first, last in course.scale.stretches:
        end = at + last + 1 - first
        rows += (merged(course.buckets[n : min(n + each, end)]) for n in range(at, end, each))
        at = end
    return rows


def percentiles(latencies: Mapping[int, int]) -> Percentiles | None:
    """The percentiles of latencies that are counted by their floor; None if there are none.

    Each is the middle of its group, so it is off by at most one part in 64.
    """
    total = sum(latencies.values())
    if not total:
        return None
    wanted = [share * total for share in SHARES]
    found: list[float] = []
    passed = 0
    for floor_ms, many in sorted(latencies.items()):
        passed += many
        while len(found) < len(wanted) and passed >= wanted[len(found)] - 1e-9:
            found.append((floor_ms + latency_ceiling(floor_ms)) / 2)
    return Percentiles(*found)
