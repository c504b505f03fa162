"""The three figures of a page: the rate, the outcomes and the latencies over time. Pure.

In: the course and the chronicle of a run, and the frame. Out: figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from bulkcert.model import Outcome
from bulkcert.quantities import count, number, rate
from bulkcert.report.page.chronicle import Chronicle, most_permitted
from bulkcert.report.page.course import Course, Percentiles, percentiles
from bulkcert.report.page.figure import Figure, Grid, Panel, Shape
from bulkcert.report.page.frame import Frame
from bulkcert.report.page.plot_tables import (
    SETTLED,
    latency,
    latency_table,
    outcomes_table,
    rate_table,
)
from bulkcert.report.page.shapes import band, bars, steps
from bulkcert.report.page.valuescale import ValueScale, linear, logarithmic

BAD = (Outcome.FAILED, Outcome.UNKNOWN)

_PLOT, _SMALL_PLOT, _BETWEEN = 190, 56, 26
"""Heights, in pixels."""


def rate_figure(frame: Frame, course: Course, chronicle: Chronicle) -> Figure:
    """Requests per second against the ceiling."""
    scale, buckets = course.scale, course.buckets
    ceilings = [most_permitted(chronicle.ceilings, b.begin_s, b.end_s) for b in buckets]
    fastest = max(bucket.busiest for bucket in buckets)
    values = linear(max(*ceilings, fastest) * 1.02)
    panel = _Canvas(frame.top, _PLOT, values)
    mean = bars(scale, [bucket.rate for bucket in buckets], panel.y)
    turned_away = [bucket.throttled / scale.bucket_s for bucket in buckets]
    throttled = bars(scale, turned_away, panel.y)
    shapes = [Shape("rate", mean), Shape("refused", throttled)]
    each = duration_of(scale.bucket_s)
    legend = [("rate", f"mean of each {each}")]
    if scale.bucket_s > 1:
        peaks = [bucket.busiest or None for bucket in buckets]
        shapes.append(Shape("peak", steps(scale, peaks, panel.y)))
        legend.append(("peak", "busiest second"))
    if throttled:
        legend.append(("refused", "throttled requests"))
    shapes.append(Shape("ceiling", steps(scale, ceilings, panel.y)))
    legend.append(("ceiling", "ceiling"))
    best = max(buckets, key=lambda bucket: bucket.rate)
    description = (
        f"Requests per second, as the mean of each {each}, with the ceiling above."
        f" The highest mean is {rate(best.rate)}, at {_clock(best.begin_s, frame.zone)}; the most"
        f" in one second of the clock are {fastest:,}. {_of_ceiling(ceilings)}"
    )
    return frame.figure(
        "rate",
        "Requests per second, and the ceiling",
        description,
        panels=[panel.panel("requests/s", shapes)],
        legend=legend,
        table=rate_table(frame, course, chronicle),
    )


def outcomes_figure(frame: Frame, course: Course, total: int) -> Figure:
    """Settled operations over time, and the bad ones by themselves."""
    scale, buckets = course.scale, course.buckets
    panel = _Canvas(frame.top, _PLOT, linear(total))
    sums = [0.0] * len(buckets)
    shapes, legend = [], []
    for outcome in SETTLED:
        running = itertools.accumulate(bucket.outcomes[outcome] for bucket in buckets)
        upper = [below + many for below, many in zip(sums, running, strict=True)]
        if path := band(scale, sums, upper, panel.y):
            shapes.append(Shape(outcome, path))
            legend.append((str(outcome), outcome.replace("_", " ")))
        sums = upper
    whole = f"M0 {panel.y(total):.1f}H1000"
    shapes.append(Shape("total", whole))
    legend.append(("total", f"all {total:,}"))
    panels = [panel.panel("operations", shapes)]
    bad = [sum(bucket.outcomes[outcome] for outcome in BAD) for bucket in buckets]
    each = duration_of(scale.bucket_s)
    if any(bad):
        small = _Canvas(panel.top + panel.height + _BETWEEN, _SMALL_PLOT, linear(max(bad)))
        failed = [float(bucket.outcomes[Outcome.FAILED]) for bucket in buckets]
        of_both = [Shape("unknown", bars(scale, [float(many) for many in bad], small.y))]
        of_both.append(Shape("failed", bars(scale, failed, small.y)))
        panels.append(small.panel(f"failed or unknown in each {each}", of_both))
    settled = int(sums[-1])
    worst = (
        f" {sum(bad):,} of them failed or are unknown." if any(bad) else " All of them are good."
    )
    return frame.figure(
        "outcomes",
        "Operations by outcome, added up",
        f"{settled:,} of {count(total, 'operation')} settled by the end.{worst if settled else ''}",
        panels=panels,
        legend=legend,
        table=outcomes_table(frame, course, total),
    )


def latency_figure(frame: Frame, course: Course) -> Figure | None:
    """Latencies over time; None if no request left."""
    scale, buckets = course.scale, course.buckets
    found = [percentiles(bucket.latencies) for bucket in buckets]
    there = [each for each in found if each]
    if not there:
        return None
    values = logarithmic(max(1.0, min(each.p50 for each in there)), max(each.p99 for each in there))
    panel = _Canvas(frame.top, _PLOT, values, latency)
    shapes = []
    for index, name in reversed(list(enumerate(Percentiles._fields))):
        heights = [max(each[index], values.low) if each else None for each in found]
        shapes.append(Shape(name, steps(scale, heights, panel.y)))
    each = duration_of(scale.bucket_s)
    overall = percentiles(course.of_attempts) or percentiles(course.of_lookups)
    assert overall is not None
    slowest = max(there, key=lambda each: each.p99)
    at_s = buckets[found.index(slowest)].begin_s
    return frame.figure(
        "latency",
        "Latency",
        f"Percentiles of the time to a response, for the requests of each {each}, on a logarithmic"
        f" axis. Over the whole run, half of the attempts took up to {latency(overall.p50)}, 95 %"
        f" up to {latency(overall.p95)} and 99 % up to {latency(overall.p99)}. The highest 99th"
        f" percentile is {latency(slowest.p99)}, at {_clock(at_s, frame.zone)}.",
        panels=[panel.panel("time to the response", shapes)],
        legend=[("p99", "99th percentile"), ("p95", "95th"), ("p50", "median")],
        table=latency_table(frame, course),
    )


def duration_of(bucket_s: int) -> str:
    """The length of a bucket in words, such as "second", "5 s" or "2 min"."""
    for unit_s, unit, one in ((86_400, "days", "day"), (3600, "h", "hour"), (60, "min", "minute")):
        if bucket_s % unit_s == 0:
            return one if bucket_s == unit_s else f"{bucket_s // unit_s} {unit}"
    return "second" if bucket_s == 1 else f"{bucket_s} s"


@dataclass(frozen=True, slots=True)
class _Canvas:
    """One plot: where it is, and its axis of numbers."""

    top: int
    height: int
    values: ValueScale
    written: Callable[[float], str] = number

    def y(self, value: float) -> float:
        """How far a value is from the top of the plot, in pixels."""
        return self.height * (1 - self.values.y(value) / 100)

    def panel(self, unit: str, shapes: Iterable[Shape]) -> Panel:
        return Panel(
            top=self.top,
            height=self.height,
            unit=unit,
            grid=[
                Grid(round(self.top + self.y(value), 1), self.written(value))
                for value in self.values.ticks
            ],
            shapes=[shape for shape in shapes if shape.path],
        )


def _of_ceiling(ceilings: Sequence[float]) -> str:
    low, high = min(ceilings), max(ceilings)
    if low == high:
        return f"The ceiling is {number(high)}/s throughout."
    return f"The ceiling is between {number(low)}/s and {number(high)}/s."


def _clock(at_s: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(at_s, zone):%H:%M:%S}"
