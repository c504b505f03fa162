"""What is written above the plots: labels where there is room, and reasons in the breaks."""

from __future__ import annotations

from datetime import UTC

import pytest

from bulkcert.report.page.chronicle import Chronicle, WaveSpan
from bulkcert.report.page.figure import Area
from bulkcert.report.page.frame import Frame, frame
from bulkcert.report.page.spans import Span, SpanKind
from bulkcert.report.page.timescale import Stretch, TimeScale
from bulkcert.store.base import Abort

SCALE = TimeScale.of(1, [Stretch(0, 99)])
WITH_BREAK = TimeScale.of(60, [Stretch(0, 9), Stretch(70, 79)])


def frame_of(*spans: Span, scale: TimeScale = SCALE, aborts: tuple[float, ...] = ()) -> Frame:
    found = [Abort(f"{n:06x}", at_s, "failed", "") for n, at_s in enumerate(aborts)]
    return frame(scale, Chronicle(spans=list(spans)), found, UTC)


def span(kind: SpanKind, begin_s: float, end_s: float) -> Span:
    return Span(kind, begin_s, end_s, "")


def test_spans_of_one_kind_that_touch_are_one_area() -> None:
    spans = [span(SpanKind.PAUSED, at_s, at_s + 9.95) for at_s in (10, 20, 30, 60)]
    ends = [(area.x, area.x + area.width) for area in frame_of(*spans).shades]
    assert ends == [pytest.approx((60, 69.95)), pytest.approx((10, 39.95))]


def test_what_is_short_is_still_visible() -> None:
    [area] = frame_of(span(SpanKind.HELD, 50, 50.001)).shades
    assert area.width == pytest.approx(0.2)


def test_a_label_has_room_and_is_not_covered() -> None:
    throttled = span(SpanKind.THROTTLED, 0, 100)
    paused = span(SpanKind.PAUSED, 45, 55)
    [lane] = frame_of(paused, throttled).lanes
    assert lane.areas == [
        Area("throttled", 0, 100, "", wide=False),
        Area("paused", 45, pytest.approx(10), "paused", wide=True),
    ]
    [lane] = frame_of(span(SpanKind.PAUSED, 45, 47), throttled).lanes
    assert [area.text for area in lane.areas] == ["", ""]
    [lane] = frame_of(span(SpanKind.PAUSED, 5, 7), throttled).lanes
    assert [area.text for area in lane.areas] == ["throttled", ""]


def test_waves_have_a_lane_of_their_own() -> None:
    waves = [
        WaveSpan(0, "canary", 0.0, 30.0, over=True),
        WaveSpan(1, "50%", 30.0, 100.0, over=False),
    ]
    [lane] = frame(SCALE, Chronicle(waves=waves), [], UTC).lanes
    assert [(area.kind, area.text) for area in lane.areas] == [
        ("wave-0", "canary"),
        ("wave-1", "50%"),
    ]


def test_a_break_says_how_long_it_is_and_why() -> None:
    absent, closed = span(SpanKind.ABSENT, 900, 4000), span(SpanKind.CLOSED, 600, 4200)
    assert frame_of(scale=WITH_BREAK).gaps[0].text == "1 h 00 min"
    assert frame_of(closed, scale=WITH_BREAK).gaps[0].text == "1 h 00 min, window closed"
    assert frame_of(closed, absent, scale=WITH_BREAK).gaps[0].text == "1 h 00 min, no process"
    short = span(SpanKind.PAUSED, 600, 1200)
    assert frame_of(short, scale=WITH_BREAK).gaps[0].text == "1 h 00 min"


def test_where_there_are_many_breaks_they_have_no_text() -> None:
    scale = TimeScale.of(1, [Stretch(100 * n, 100 * n + 1) for n in range(40)])
    assert [gap.text for gap in frame_of(scale=scale).gaps] == [""] * 39


def test_aborts_are_named_where_their_names_do_not_meet() -> None:
    marks = frame_of(aborts=(0.0, 1.0, 50.0, 99.9)).marks
    assert [(round(mark.x), mark.text, mark.anchor) for mark in marks] == [
        (0, "abort 000000", "start"),
        (1, "", "start"),
        (50, "abort 000002", "middle"),
        (100, "abort 000003", "end"),
    ]
