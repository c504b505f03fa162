"""The time axis of a page: everything is on it, in order, and no two labels overlap."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import UTC
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.report.page.timescale import (
    LENGTHS_S,
    MOST_BREAKS,
    MOST_BUCKETS,
    Stretch,
    TimeScale,
    time_scale,
)

NOON = 1_780_056_000
DAY_S = 86_400

TIMES = st.lists(
    st.one_of(
        st.floats(NOON, NOON + 3 * DAY_S),
        st.floats(NOON, NOON + 20 * 60),
        st.sampled_from([0.0, NOON + 10.0 * 365 * DAY_S]),  # of a clock that was wrong
    ),
    max_size=60,
)


def busy_at(times: Iterable[float]) -> Callable[[int], list[int]]:
    times = list(times)
    return lambda bucket_s: sorted({int(at_s // bucket_s) for at_s in times})


def scale_of(times: Iterable[float], begin_s: float = NOON, end_s: float = NOON) -> TimeScale:
    return time_scale(busy_at(times), begin_s, end_s)


@given(times=TIMES, length_s=st.floats(0, 3 * DAY_S))
def test_everything_is_on_the_axis_in_few_buckets(times: list[float], length_s: float) -> None:
    scale = scale_of(times, NOON, NOON + length_s)
    buckets = list(scale.buckets())
    assert buckets == sorted(set(buckets))
    assert len(buckets) <= MOST_BUCKETS
    assert set(busy_at([*times, NOON, NOON + length_s])(scale.bucket_s)) <= set(buckets)
    assert len(scale.breaks) <= MOST_BREAKS
    assert scale.bucket_s in LENGTHS_S


@given(times=TIMES)
def test_places_are_in_the_order_of_times_and_fill_the_axis(times: list[float]) -> None:
    scale = scale_of(times)
    edges = list(itertools.chain.from_iterable(zip(scale.lefts, scale.rights, strict=True)))
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (0.0, pytest.approx(100.0))
    widths = [right - left for left, right in zip(scale.lefts, scale.rights, strict=True)]
    assert widths == pytest.approx([widths[0]] * len(widths))  # all to the same scale
    middle = [(each.begin_s + each.end_s) / 2 for each in scale.breaks]
    assert all(
        e.left < scale.x(at_s) < e.right for e, at_s in zip(scale.breaks, middle, strict=True)
    )
    assert (scale.x(-1e12), scale.x(1e12)) == (0.0, pytest.approx(100.0))


@given(times=TIMES, zone=st.sampled_from([UTC, ZoneInfo("Asia/Kathmandu")]))
def test_labels_do_not_overlap_and_name_each_day_once(times: list[float], zone: ZoneInfo) -> None:
    ticks = scale_of(times).ticks(zone)
    assert ticks
    assert all(after.x - before.x >= 8 for before, after in itertools.pairwise(ticks))
    major = [tick.x for tick in ticks if not tick.minor]
    assert all(after - before >= 16 for before, after in itertools.pairwise(major))
    days = [tick.day for tick in ticks if tick.day]
    assert ticks[0].day
    assert all(before != after for before, after in itertools.pairwise(days))


def test_a_campaign_of_days_with_minutes_of_work_shows_the_minutes() -> None:
    work = [NOON + night * DAY_S + second for night in range(3) for second in range(400)]
    scale = scale_of(work, NOON, NOON + 2 * DAY_S + 400)
    assert scale.bucket_s == 10
    assert [each.end_s - each.begin_s for each in scale.breaks] == [DAY_S - 400, DAY_S - 400]
    assert sum(each.right - each.left for each in scale.breaks) == pytest.approx(6.0)
    assert [tick.day for tick in scale.ticks(UTC) if tick.day] == [
        *("Fri 29 May", "Sat 30 May", "Sun 31 May"),
    ]


def test_a_short_pause_is_to_scale_and_a_long_one_is_not() -> None:
    work = [*range(NOON, NOON + 600), *range(NOON + 660, NOON + 1200)]
    assert scale_of(work).breaks == []
    [gap] = scale_of([*work, NOON + 5000]).breaks
    assert (gap.begin_s, gap.end_s) == (NOON + 1200, NOON + 5000)


def test_a_clock_that_was_wrong_for_a_moment_does_not_hide_the_run() -> None:
    scale = scale_of([0.0, *range(NOON, NOON + 240), NOON + 300 * DAY_S])
    assert scale.bucket_s == 2
    assert len(scale.breaks) == 2


def test_a_run_of_one_moment_has_an_axis() -> None:
    scale = scale_of([NOON + 0.5])
    assert scale == TimeScale.of(1, [Stretch(NOON, NOON)])
    assert scale.x(NOON + 0.5) == 50.0
    assert [tick[:3] for tick in scale.ticks(UTC)] == [(0.0, "12:00:00", "Fri 29 May")]


def test_labels_are_at_round_times_of_the_zone() -> None:
    scale = scale_of(range(NOON + 100, NOON + 4 * 3600, 30))
    assert [tick.time for tick in scale.ticks(ZoneInfo("Asia/Kathmandu"))] == [
        *("18:00", "18:30", "19:00", "19:30", "20:00", "20:30", "21:00", "21:30"),
    ]


def test_of_very_many_breaks_the_longest_are_left_out_of_the_scale() -> None:
    work = [NOON + 3600 * n * n for n in range(100)]
    scale = scale_of(work, NOON, work[-1])
    assert len(scale.breaks) == MOST_BREAKS
    assert sum(each.right - each.left for each in scale.breaks) == pytest.approx(25.0)
