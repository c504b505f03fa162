"""The figures of a page in numbers: a table for each of them. Pure.

In: the course of a run. Out: tables with some thirty rows, in which buckets are added up.
"""

from __future__ import annotations

from bulkcert.model import Outcome
from bulkcert.quantities import duration, number, rate
from bulkcert.report.page.chronicle import Chronicle, most_permitted
from bulkcert.report.page.course import Course, grouped, percentiles
from bulkcert.report.page.figure import Column, Table
from bulkcert.report.page.frame import Frame

SETTLED = tuple(outcome for outcome in Outcome if outcome is not Outcome.PENDING)

_ROWS = 30


def rate_table(frame: Frame, course: Course, chronicle: Chronicle) -> Table:
    """Requests, and the ceiling."""
    rows = [
        [
            frame.times(each),
            f"{each.attempts:,}",
            f"{each.lookups:,}",
            f"{each.throttled:,}",
            rate(each.rate) if each.requests else "0/s",
            f"{each.busiest:,}",
            f"{number(most_permitted(chronicle.ceilings, each.begin_s, each.end_s))}/s",
        ]
        for each in grouped(course, _ROWS)
    ]
    return Table(
        caption="Requests over time",
        columns=[
            Column("when", "short"),
            *(
                Column(name, "num")
                for name in ("attempts", "look-ups", "throttled", "mean", "busiest second")
            ),
            Column("ceiling", "num"),
        ],
        rows=rows,
        note="Of a look-up of several pages, the first request is counted here, and requests for"
        " tokens are not. The totals at the top count them all.",
    )


def outcomes_table(frame: Frame, course: Course, total: int) -> Table:
    """Settled operations."""
    rows = []
    settled = 0
    for each in grouped(course, _ROWS):
        settled += each.outcomes.total()
        rows.append(
            [
                frame.times(each),
                *(f"{each.outcomes[outcome]:,}" for outcome in SETTLED),
                f"{settled:,}",
                f"{total - settled:,}",
            ]
        )
    names = [outcome.replace("_", " ") for outcome in SETTLED]
    return Table(
        caption="Operations over time, by the outcome that they have now",
        columns=[
            Column("when", "short"),
            *(Column(name, "num") for name in (*names, "settled so far", "left")),
        ],
        rows=rows,
    )


def latency_table(frame: Frame, course: Course) -> Table:
    """Percentiles, over time and for the whole run."""
    rows = []
    for each in grouped(course, _ROWS):
        found = percentiles(each.latencies)
        shown = map(latency, found) if found else ("", "", "")
        rows.append([frame.times(each), f"{each.requests:,}", *shown])
    for name, latencies in (
        ("all attempts", course.of_attempts),
        ("all look-ups", course.of_lookups),
    ):
        if found := percentiles(latencies):
            rows.append([name, f"{sum(latencies.values()):,}", *map(latency, found)])
    return Table(
        caption="Latency over time",
        columns=[
            Column("when", "short"),
            Column("requests", "num"),
            *(Column(name, "num") for name in ("median", "95th percentile", "99th percentile")),
        ],
        rows=rows,
        note="From sending to the response; of a look-up of several pages, all of them. A request"
        " without a response counts with the time after which it was given up. Each figure is"
        " accurate to 2 %.",
    )


def latency(latency_ms: float) -> str:
    """Format a latency, such as "85 ms" or "4.2 s"."""
    return f"{latency_ms:.0f} ms" if latency_ms < 999.5 else duration(latency_ms / 1000)
