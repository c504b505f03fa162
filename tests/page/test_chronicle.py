"""What kept a run from working: the spans, the waves and the ceiling over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert import event_log
from bulkcert.control import ControlEntry, Verb
from bulkcert.event_log import EventType, Happened, RunEvent
from bulkcert.report.page.chronicle import (
    Chronicle,
    WaveSpan,
    chronicle,
    most_permitted,
)
from bulkcert.report.page.spans import Span, SpanKind
from bulkcert.store.base import Session

PROCESS = {"host": "ops1", "pid": 7, "user": "ann", "version": "1.0"}


def chained(happened: Iterable[Happened]) -> list[RunEvent]:
    log: list[RunEvent] = []
    for each in happened:
        log.append(event_log.following(log[-1] if log else None, "job", "0" * 64, each))
    return log


def started(at_s: float, ceiling: float = 500.0) -> Happened:
    facts: dict[str, Any] = {"total": 9, "settled": 0, "rehearsal": False, "options": []}
    return event_log.started(at_s, process=PROCESS, ceiling=ceiling, **facts)


def state(at_s: float, name: str, *reasons: str) -> Happened:
    return Happened(at_s, EventType.STATE, {"state": name, "reasons": list(reasons)})


def read(
    happened: Iterable[Happened] = (),
    sessions: Sequence[Session] = (Session(0.0, 1000.0),),
    controls: Sequence[ControlEntry] = (),
) -> Chronicle:
    return chronicle(chained(happened), sessions, controls, 400.0)


def rated(number: int, at_s: float, value: str) -> ControlEntry:
    return ControlEntry(number, at_s, "ann@ops1", "", Verb.RATE, value)


def test_a_state_lasts_until_the_next_one() -> None:
    paused, closed = "paused (by ann@ops1)", "closed (window)"
    found = read(
        [
            started(0.0),
            state(10.0, "paused", paused),
            state(20.0, "paused", paused, closed),
            state(30.0, "closed", closed),
            state(40.0, "running"),
        ]
    )
    assert found.spans == [
        Span(SpanKind.PAUSED, 10.0, 20.0, paused),
        Span(SpanKind.PAUSED, 20.0, 30.0, f"{paused}; {closed}"),
        Span(SpanKind.CLOSED, 30.0, 40.0, closed),
    ]


def test_a_state_ends_with_its_process() -> None:
    end: dict[str, Any] = {"process": {}, "requests": 0, "throttled": 0, "busiest_second": 0}
    found = read(
        [
            state(10.0, "waiting"),
            event_log.ended(20.0, 3, "a signal", {}, **end),
            state(30.0, "held"),
            event_log.lost(900.0, {}, 40.0),  # noticed by the process after it
            state(950.0, "held"),
        ]
    )
    assert [span[:3] for span in found.spans] == [
        (SpanKind.HELD, 30.0, 40.0),
        (SpanKind.HELD, 950.0, 1000.0),  # when the last process was last seen
        (SpanKind.WAITING, 10.0, 20.0),
    ]


def test_throttling_and_a_failing_provider_are_spans_of_their_own() -> None:
    found = read(
        [
            event_log.throttled(10.0, "pausing for 2 s"),
            event_log.breaker(15.0, "closed", "half-open", "failing"),
            event_log.throttled(20.0, "", over=True),
            event_log.breaker(25.0, "half-open", "open", "failing for 1 min"),
            event_log.breaker(30.0, "open", "closed", ""),
        ]
    )
    assert [span[:3] for span in found.spans] == [
        (SpanKind.FAILING, 15.0, 25.0),
        (SpanKind.FAILING, 25.0, 30.0),
        (SpanKind.THROTTLED, 10.0, 20.0),
    ]
    assert len(found.troubles) == 5


def test_no_span_ends_before_it_begins_when_a_clock_was_set_back() -> None:
    sessions = [Session(0.0, 100.0, exit_code=3), Session(50.0, 60.0)]
    found = read([state(100.0, "paused"), state(50.0, "running")], sessions)
    assert found.spans == []


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (None, "the process was killed, or lost its store"),
        (3, "stopped early"),
        (4, "stopped by its own rules"),
        (9, "exit code 9"),
    ],
)
def test_between_two_processes_none_worked(exit_code: int | None, text: str) -> None:
    found = read((), [Session(0.0, 10.0, exit_code=exit_code), Session(25.0, 30.0)])
    assert found.spans == [Span(SpanKind.ABSENT, 10.0, 25.0, text)]


def test_a_session_has_the_process_that_began_at_about_the_same_time() -> None:
    figures: dict[str, Any] = {
        "process": PROCESS,
        "requests": 0,
        "throttled": 0,
        "busiest_second": 0,
    }
    sessions = [
        *(Session(0.5, 90.0, exit_code=3), Session(500.0, 600.0)),
        Session(1000.0, 1900.0, exit_code=4),
    ]
    found = read(
        [
            started(0.0),
            event_log.ended(100.0, 3, "stopped by a signal.", {}, **figures),
            started(1001.0),
            event_log.lost(2000.0, PROCESS, 1900.0),
        ],
        sessions,
    )
    first, second, third = found.processes
    assert first is not None
    assert third is not None
    assert (first.who, first.why) == ("ann@ops1, bulkcert 1.0", "stopped by a signal")
    assert second is None
    assert third.why == "the process was killed, or could not write its store any more"
    assert [span.text for span in found.spans] == [
        *("stopped by a signal", "the process was killed, or lost its store"),
    ]


def test_waves_have_a_begin_and_an_end() -> None:
    found = read(
        [
            event_log.wave_begun(10.0, "canary", 0, 20),
            event_log.wave_over(20.0, "canary", 0, 20, {}),
            event_log.wave_begun(30.0, "10%", 1, 20),
        ]
    )
    assert found.waves == [
        WaveSpan(0, "canary", 10.0, 20.0, over=True),
        WaveSpan(1, "10%", 30.0, 1000.0, over=False),
    ]


def test_the_ceiling_is_the_lower_one_of_the_process_and_the_control() -> None:
    controls = [rated(1, 10.0, "100"), rated(2, 20.0, "max"), rated(3, 50.0, "450")]
    in_force = event_log.control(12.0, controls[0], in_force=True)
    asked = event_log.control(10.0, controls[0], in_force=False)
    found = read([started(0.0), asked, in_force, started(40.0, 300.0)], controls=controls)
    assert found.ceilings == [
        *((float("-inf"), 400.0), (0.0, 500.0), (12.0, 100.0)),
        *((20.0, 500.0), (40.0, 300.0), (50.0, 300.0)),
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from(["10", "20.5", "90", "max"])),
        unique_by=lambda change: change[0],
    ),
    st.integers(0, 50),
    st.integers(1, 50),
)
def test_the_most_that_was_permitted_is_that_of_some_moment(
    changes: list[tuple[int, str]], begin_s: int, length_s: int
) -> None:
    changes = sorted(changes, key=lambda change: change[0])
    controls = [rated(n, float(at_s), value) for n, (at_s, value) in enumerate(changes, 1)]
    ceilings = read(controls=controls).ceilings

    def at(moment_s: float) -> float:
        return [value for at_s, value in ceilings if at_s <= moment_s][-1]

    moments = [begin_s + tenth / 10 for tenth in range(10 * length_s)]
    assert most_permitted(ceilings, begin_s, begin_s + length_s) == max(map(at, moments))


def test_the_end_of_the_log_is_known() -> None:
    log = chained([started(0.0), event_log.retried(5.0, 3)])
    found = chronicle(log, [Session(0.0, 9.0)], [], 400.0)
    assert (found.seq, found.digest) == (2, log[-1].hash)
    assert [event.seq for event in found.retries] == [2]
    assert (Chronicle().seq, Chronicle().digest) == (0, "")


# ---- several hosts


def of(lease: str, happened: Happened) -> Happened:
    return happened.by({"host": f"host {lease}", "pid": 7, "lease": lease})


def begun(lease: str, at_s: float) -> Happened:
    started_one = started(at_s)
    data = dict(started_one.data)
    data["process"] = PROCESS | {"host": f"host {lease}", "lease": lease}
    return started_one._replace(data=data)


def left(lease: str, at_s: float, why: str = "") -> Happened:
    process = {"host": f"host {lease}", "pid": 7, "lease": lease}
    return event_log.ended(
        at_s, 3, why, {}, process=process, requests=0, throttled=0, busiest_second=0
    )


def fenced(lease: str, at_s: float) -> Happened:
    process = {"host": f"host {lease}", "pid": 7, "lease": lease}
    return event_log.fenced(at_s, process, by="host a", silent_s=8.0, operations=1)


def read_shared(happened: Iterable[Happened], lives: dict[str, tuple[float, float]]) -> Chronicle:
    sessions = [Session(*span) for span in lives.values()]
    return chronicle(chained(happened), sessions, (), 400.0, list(lives))


def test_each_life_of_a_host_has_its_own_begin_and_end() -> None:
    found = read_shared(
        [
            *(begun("a", 0.0), begun("b", 1.0), fenced("b", 50.0), begun("c", 60.0)),
            *(left("c", 80.0, "stopped by a signal."), left("a", 100.0)),
        ],
        {"a": (0.0, 100.0), "b": (1.0, 42.0), "c": (60.0, 80.0), "d": (90.0, 95.0)},
    )
    a, b, c, d = found.processes
    assert (a and a.why, c and c.why, d) == ("", "stopped by a signal", None)
    assert b is not None
    assert b.who == "ann@host b, bulkcert 1.0"
    assert b.why == "fenced by host a: silent for 8.0 s; 1 operation was taken over"
    assert [event.type for event in found.troubles] == [EventType.FENCED]
    assert found.spans == []


def test_what_the_rules_say_is_the_same_for_all_hosts() -> None:
    paused = "paused (by ann@ops1)"
    found = read_shared(
        [
            *(begun("a", 0.0), begun("b", 1.0)),
            *(of("a", state(10.0, "paused", paused)), of("b", state(10.5, "paused", paused))),
            *(left("a", 15.0), begun("c", 16.0)),
            *(of("b", state(20.0, "running")), of("c", state(20.5, "running"))),
            *(of("b", state(30.0, "held", "held")), fenced("b", 40.0), left("c", 50.0)),
        ],
        {"a": (0.0, 15.0), "b": (1.0, 33.0), "c": (16.0, 50.0)},
    )
    assert found.spans == [
        Span(SpanKind.PAUSED, 10.0, 20.0, paused),
        Span(SpanKind.HELD, 30.0, 50.0, "held"),  # until the last host has ended
    ]


def test_a_host_that_is_slowed_down_says_so_until_it_ends_and_several_are_one_span() -> None:
    found = read_shared(
        [
            *(begun("a", 0.0), begun("b", 1.0)),
            *(of("a", event_log.throttled(10.0, "x")), of("b", event_log.throttled(12.0, "y"))),
            *(of("a", event_log.throttled(14.0, "", over=True)), fenced("b", 20.0)),
            of("a", event_log.throttled(30.0, "z")),
            left("a", 40.0),
        ],
        {"a": (0.0, 40.0), "b": (1.0, 12.0)},
    )
    assert found.spans == [
        Span(SpanKind.THROTTLED, 10.0, 20.0, "x"),
        Span(SpanKind.THROTTLED, 30.0, 40.0, "z"),
    ]


def test_nobody_worked_only_when_no_host_did() -> None:
    found = read_shared(
        [
            begun("a", 0.0),
            begun("b", 5.0),
            left("b", 20.0, "stopped by a signal."),
            begun("c", 90.0),
        ],
        {"a": (0.0, 100.0), "b": (5.0, 20.0), "c": (130.0, 140.0)},
    )
    assert found.spans == [
        Span(SpanKind.ABSENT, 100.0, 130.0, "the process was killed, or lost its store")
    ]
