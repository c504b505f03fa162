"""What happened in each stretch of time: it adds up, however it is grouped."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import Disk, MemoryReader, Row

from bulkcert.model import HistoryEntry, HistoryEvent, Outcome, State
from bulkcert.report.page.course import Course, grouped, merged, percentiles, read_course
from bulkcert.report.page.timescale import time_scale
from bulkcert.store.timeline import latency_ceiling, latency_floor

BEGIN_S = 1_780_056_000
SETTLED = [state for state in State if state not in (State.PLANNED, State.IN_FLIGHT)]


@st.composite
def courses(draw: st.DrawFn) -> tuple[Disk, Course]:
    """A run of some minutes, perhaps over days."""
    moments = st.floats(BEGIN_S, BEGIN_S + draw(st.sampled_from([9, 900, 3 * 86_400])))
    disk = Disk()
    for number in range(draw(st.integers(0, 30))):
        state = draw(st.sampled_from(SETTLED))
        disk.rows[number] = Row(line=1, fields={}, state=state, finished_at=draw(moments))
    for _ in range(draw(st.integers(0, 30))):
        event = draw(st.sampled_from([HistoryEvent.ATTEMPT, HistoryEvent.LOOK_UP]))
        sent_at = draw(st.one_of(moments, st.none()))
        ended_at = (sent_at or BEGIN_S) + draw(st.floats(-1, 100))
        result = draw(st.sampled_from(["done", "throttled"]))
        disk.history.append(HistoryEntry(1, event, 1, sent_at, ended_at, "", result))
    reader = MemoryReader(disk)
    scale = time_scale(reader.busy_buckets, BEGIN_S, BEGIN_S)
    return disk, read_course(reader, scale)


@given(courses())
def test_everything_is_counted_once(found: tuple[Disk, Course]) -> None:
    disk, course = found
    total = merged(course.buckets)
    sent = [entry for entry in disk.history if entry.sent_at is not None]
    assert total.requests == len(sent) == total.latencies.total()
    assert total.lookups == sum(entry.event is HistoryEvent.LOOK_UP for entry in sent)
    assert total.throttled == sum(entry.result == "throttled" for entry in sent)
    assert total.outcomes.total() == len(disk.rows)
    failed = sum(row.state in (State.FAILED, State.FLAWED) for row in disk.rows.values())
    assert total.outcomes[Outcome.FAILED] == failed
    assert sum(course.of_attempts.values()) + sum(course.of_lookups.values()) == len(sent)


@given(courses(), st.integers(1, 50))
def test_the_rows_of_a_table_add_up_to_the_whole(found: tuple[Disk, Course], most: int) -> None:
    _, course = found
    rows = grouped(course, most)
    assert len(rows) <= most + len(course.scale.stretches)
    assert merged(rows) == merged(course.buckets)
    for gap in course.scale.breaks:
        assert not any(row.begin_s < gap.end_s and row.end_s > gap.begin_s for row in rows)


@given(st.lists(st.integers(0, 200_000), min_size=1))
def test_percentiles_are_as_accurate_as_they_say(latencies: list[int]) -> None:
    found = percentiles(Counter(map(latency_floor, latencies)))
    assert found is not None
    ordered = sorted(latencies)
    for share, shown in zip((0.5, 0.95, 0.99), found, strict=True):
        exact = ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]
        assert shown == pytest.approx(exact, rel=1 / 32, abs=0)
    assert list(found) == sorted(found)


@given(st.integers(0, 2**26 - 1))
def test_a_group_of_latencies_contains_what_was_put_into_it(latency_ms: int) -> None:
    floor_ms = latency_floor(latency_ms)
    assert floor_ms <= latency_ms <= latency_ceiling(floor_ms)
    assert latency_floor(latency_ceiling(floor_ms)) == floor_ms


def test_without_requests_there_are_no_percentiles() -> None:
    assert percentiles({}) is None
    assert percentiles({80: 1}) == (80.5, 80.5, 80.5)
