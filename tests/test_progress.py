"""The progress of a process: counts, rate, estimate, and what delays the run.

On a virtual clock, with a real pacer and a real circuit breaker.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
from virtual_time import run_virtually

from bulkcert.circuit_breaker import CircuitBreaker, Signal
from bulkcert.events import Detail, Event, Notice, Settled
from bulkcert.jitter import Jitter
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    LookupKind,
    LookupResult,
    Outcome,
    Slowdown,
    State,
)
from bulkcert.progress import RATE_SPAN_S, ProgressTracker, slowdown_left
from bulkcert.ratelimit import Pacer
from bulkcert.rules.gate import Reason, ReasonKind
from bulkcert.store.base import Change, Session
from bulkcert.taskqueue import Waits

NOTHING = {State.SUCCEEDED: 0, State.ALREADY_DONE: 0, State.FAILED: 0, State.UNKNOWN: 0}


IDLE = Waits(3, 24.4, 29.0, in_doubt=False, idle=True)


class TrackerUnderTest:
    """A tracker, what it looks at, and the events that it sent."""

    def __init__(self, counts: dict[State, int] | None = None) -> None:
        self.events: list[Event] = []
        self.pacer = Pacer(100)
        clock = asyncio.get_running_loop().time
        self.breaker = CircuitBreaker(0.95, 60.0, clock)
        self.tracker = ProgressTracker(
            counts or {State.PLANNED: 100}, self.pacer, self.breaker, self.events.append, clock
        )

    def settle(self, *states: State) -> None:
        """Make a final state durable for an operation each."""
        self.tracker.durable(
            [
                Change(
                    *(number, State.IN_FLIGHT, state, 1),
                    code=7,
                    message="said",
                    request_id="r",
                    result={"n": number},
                    finished_at=1.0,
                    line=number + 2,
                    fields={"assetId": f"A{number}"},
                )
                for number, state in enumerate(states)
            ]
        )

    def settled(self, number: int, outcome: Outcome) -> Settled:
        """The event that `settle` causes for its operation of this number."""
        at = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
        target = {"assetId": f"A{number}"}
        return Settled(number + 2, target, outcome, 7, "said", "r", 1, at, {"n": number})

    @property
    def note(self) -> str:
        return self.tracker.tick().note


# ---- counts and events


def test_final_states_of_earlier_processes_count() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest(
            {State.PLANNED: 5, State.IN_FLIGHT: 2, State.SUCCEEDED: 3, State.FAILED: 1}
        )
        progress = under_test.tracker.tick()
        assert (
            (under_test.tracker.total, under_test.tracker.settled) == (progress.total, 4) == (11, 4)
        )
        assert progress.settled == NOTHING | {State.SUCCEEDED: 3, State.FAILED: 1}
        assert under_test.events == []

    run_virtually(check())


def test_each_settled_operation_counts_and_is_an_event() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.settle(State.SUCCEEDED, State.UNKNOWN, State.FLAWED)
        assert under_test.tracker.tick().settled == NOTHING | {
            State.SUCCEEDED: 1,
            State.UNKNOWN: 1,
            State.FAILED: 1,
        }
        assert under_test.events == [
            under_test.settled(0, Outcome.SUCCEEDED),
            under_test.settled(1, Outcome.UNKNOWN),
            under_test.settled(2, Outcome.FAILED),
        ]
        under_test.tracker.durable([Change(9, State.IN_FLIGHT, State.PLANNED, 1)])  # a retry
        assert under_test.tracker.settled == 3

    run_virtually(check())


def test_a_fan_out_adds_all_but_the_first() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.tracker.durable(
            [Change(1, State.IN_FLIGHT, State.PLANNED, 0, fan_out=[{}, {}, {}])]
        )
        assert (under_test.tracker.total, under_test.tracker.settled) == (102, 0)

    run_virtually(check())


def test_a_next_page_adds_one() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        page = {"PageNo": 2}
        under_test.tracker.durable([Change(1, State.IN_FLIGHT, State.PLANNED, 0, next_page=page)])
        assert (under_test.tracker.total, under_test.tracker.settled) == (101, 0)

    run_virtually(check())


def test_what_is_sent_again_is_counted_by_code() -> None:
    async def check() -> None:
        tracker = TrackerUnderTest().tracker
        results: list[AttemptResult | LookupResult] = [
            *[AttemptResult(AttemptKind.IN_DOUBT, 99500)] * 3,
            AttemptResult(AttemptKind.IN_DOUBT, message="no response within 30 s"),
            AttemptResult(AttemptKind.NOT_SENT, message="no connection"),
            AttemptResult(AttemptKind.THROTTLED, "Throttling.User"),
            AttemptResult(AttemptKind.DONE, 0),
            AttemptResult(AttemptKind.DISPUTED, 99400),
            AttemptResult(AttemptKind.REFUSED, 11404),
            LookupResult(LookupKind.FAILED, 99500),
            LookupResult(LookupKind.NOT_SENT),
            LookupResult(LookupKind.ABSENT, 0),
            LookupResult(LookupKind.UNCLEAR, 99403),
        ]
        for result in results:
            tracker.observe(result)
        assert tracker.session(0.0).retried == {
            "99500": 4,
            "no_response": 1,
            "not_sent": 2,
            "Throttling.User": 1,
        }

    run_virtually(check())


def test_codes_that_never_repeat_are_counted_together() -> None:
    async def check() -> None:
        tracker = TrackerUnderTest().tracker
        for code in range(1000):
            tracker.observe(AttemptResult(AttemptKind.IN_DOUBT, code))
        retried = tracker.session(0.0).retried
        assert (len(retried), retried["other"], sum(retried.values())) == (101, 900, 1000)

    run_virtually(check())


def test_failed_and_unknown_operations_are_open_again_when_they_are_retried() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.settle(State.SUCCEEDED, State.FAILED, State.UNKNOWN)
        under_test.tracker.retry()
        assert under_test.tracker.settled == 1

    run_virtually(check())


def test_a_notice_is_kept_for_those_who_look_later() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.tracker.tick(IDLE)
        assert under_test.tracker.session(1.0).note == "3 to repeat, next in 24 s"
        under_test.tracker.notify("An address is gone.")
        assert under_test.events == [Notice("An address is gone.")]
        session = under_test.tracker.session(1.0)
        assert session.note == "An address is gone. 3 to repeat, next in 24 s"
        assert under_test.tracker.session(1.0, 0).note == "An address is gone."

    run_virtually(check())


# ---- rate and estimate


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        for _ in range(40):
            under_test.pacer.departures += 5
            await asyncio.sleep(0.5)
            rate = under_test.tracker.tick().rate
            assert rate == pytest.approx(10)
        for second in range(1, 11):
            await asyncio.sleep(1)
            rate = under_test.tracker.tick().rate
            assert rate == pytest.approx(10 - second, abs=0.6)
        assert under_test.tracker.tick().requests == 200

    run_virtually(check())


def test_the_rate_is_taken_since_the_oldest_tick_of_the_last_ten_seconds() -> None:
    async def check() -> None:
        under_test, seconds = TrackerUnderTest(), [0.0]
        tracker = ProgressTracker(
            {State.PLANNED: 9},
            under_test.pacer,
            under_test.breaker,
            lambda event: None,
            lambda: seconds[0],
        )
        rates = []
        for second, departures in [(1, 0), (9, 4), (10, 2), (19, 0), (20, 0), (21, 0)]:
            seconds[0] = second
            under_test.pacer.departures += departures
            rates.append(tracker.tick().rate)
        # since 0, 0, 0, 9, 10 and 19
        assert rates == [0, 4 / 9, 6 / 10, 2 / 10, 0, 0]
        for second in (100, 160):  # nobody looked for a while
            seconds[0] = second
            under_test.pacer.departures += 30
            rates.append(tracker.tick().rate)
        assert rates[-2:] == [30 / 79, 30 / 60]

    run_virtually(check())


def test_a_tick_at_the_very_start_has_no_rate() -> None:
    async def check() -> None:
        progress = TrackerUnderTest().tracker.tick()
        assert (progress.rate, progress.left_s, progress.requests) == (0.0, None, 0)

    run_virtually(check())


def test_the_time_before_the_start_does_not_count() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest({State.PLANNED: 90, State.SUCCEEDED: 10})
        await asyncio.sleep(100)
        under_test.tracker.start()
        await asyncio.sleep(4)
        under_test.pacer.departures += 20
        under_test.settle(*[State.SUCCEEDED] * 10)
        progress = under_test.tracker.tick()
        assert (progress.rate, progress.left_s) == (pytest.approx(5), pytest.approx(80 / 2.5))
        session = under_test.tracker.session(progress.rate)
        assert session.updated_at - session.started_at == pytest.approx(4, abs=0.01)

    run_virtually(check())


def test_the_estimate_follows_from_how_fast_operations_settle() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.pacer.departures += 1000  # retries and look-ups say nothing about it
        under_test.settle(*[State.SUCCEEDED] * 10)
        await asyncio.sleep(5)
        assert under_test.tracker.tick().left_s == pytest.approx(90 / 2)
        under_test.settle(*[State.FAILED] * 90)
        assert under_test.tracker.tick().left_s == 0.0

    run_virtually(check())


def test_there_is_an_estimate_however_slowly_operations_settle() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.settle(State.SUCCEEDED)
        await asyncio.sleep(8)
        assert under_test.tracker.tick().left_s is None
        await asyncio.sleep(4)
        assert under_test.tracker.tick().left_s == pytest.approx(99 * 12)

    run_virtually(check())


def test_there_is_no_estimate_while_nothing_settles() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest({State.PLANNED: 90, State.SUCCEEDED: 10})
        await asyncio.sleep(5)
        assert under_test.tracker.tick().left_s is None

    run_virtually(check())


# ---- what delays the run


def test_nothing_delays_a_healthy_run() -> None:
    async def check() -> None:
        assert TrackerUnderTest().note == ""

    run_virtually(check())


def test_a_pause_and_a_slowed_rate_are_noted() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.pacer.throttled(await under_test.pacer.depart(), 5.0)
        assert under_test.note.startswith("throttled (pausing for 5.")
        await asyncio.sleep(5.2)
        assert under_test.note == "throttled (slowed to 49/s)"
        await asyncio.sleep(10)
        await under_test.pacer.depart()
        assert under_test.note == ""

    run_virtually(check())


def test_a_pause_is_noted_until_its_last_moment() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.pacer.throttled(await under_test.pacer.depart(), 5.0)
        await asyncio.sleep(under_test.pacer.pause_left_s - 0.3)
        assert under_test.note == "throttled (pausing for 0.3 s)"

    run_virtually(check())


def test_the_share_of_the_ceiling_is_noted_with_the_session_and_logged_when_it_changes() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        tracker = under_test.tracker
        jitter = Jitter(500)
        pacer = tracker._pacer = Pacer(500, jitter=jitter)
        tracker.tick()
        assert (under_test.events, tracker.session(1.0).note) == ([], "")
        for number in range(20 * 490):
            await asyncio.sleep(1 / 490)
            pacer.accepted(asyncio.get_running_loop().time() - 0.3 - number % 50 / 10_000)
        reason = "99.1 % of the ceiling, because responses vary by 4.9 ms"
        assert tracker.tick().note == ""
        assert tracker.tick().note == ""
        assert tracker.session(1.0).note == reason
        assert tracker.session(1.0, 0).note == ""
        assert under_test.events == [Detail(f"pacing: {reason}")]
        pacer.throttled(asyncio.get_running_loop().time(), 0.0)
        await asyncio.sleep(RATE_SPAN_S)
        tracker.tick()
        again = "97.5 % of the ceiling, because the provider has throttled"
        assert under_test.events[-1] == Detail(f"pacing: {again}")

    run_virtually(check())


def test_every_reason_for_a_delay_is_noted() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        for _ in range(50):
            under_test.breaker.observe(Signal.TROUBLE)
        await asyncio.sleep(12)
        under_test.pacer.throttled(asyncio.get_running_loop().time(), 5.0)
        under_test.tracker.held = (Reason(ReasonKind.PAUSED, "by ann@ops1: why"),)
        progress = under_test.tracker.tick(IDLE)
        reasons = [
            "paused (by ann@ops1: why)",
            "half-open (provider failing for 12 s, one probe every 1 s)",
            f"throttled (pausing for {under_test.pacer.pause_left_s:.1f} s)",
        ]
        assert [str(reason) for reason in progress.reasons] == reasons
        assert progress.note == " · ".join([*reasons, "3 to repeat, next in 24 s"])
        session = under_test.tracker.session(0.0)
        assert (list(session.reasons), session.note) == (reasons, "3 to repeat, next in 24 s")

    run_virtually(check())


@pytest.mark.parametrize(
    ("waits", "note"),
    [
        (Waits(3, 24.4, 29.0, in_doubt=True, idle=True), "3 in doubt, look-up in 24 s"),
        (Waits(3, 24.4, 29.0, in_doubt=False, idle=True), "3 to repeat, next in 24 s"),
        (Waits(3, 0.4, 29.0, in_doubt=True, idle=True), ""),
        (Waits(3, 24.4, 29.0, in_doubt=True, idle=False), ""),
    ],
)
def test_waiting_is_noted_where_there_is_nothing_else_to_do(waits: Waits, note: str) -> None:
    async def check() -> None:
        assert TrackerUnderTest().tracker.tick(waits).note == note

    run_virtually(check())


def test_the_estimate_counts_a_pause_and_what_waits() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.settle(*[State.SUCCEEDED] * 50)
        await asyncio.sleep(5)
        under_test.tracker.tick()
        under_test.pacer.throttled(asyncio.get_running_loop().time(), 60.0)
        left_s = under_test.tracker.tick().left_s
        assert left_s == pytest.approx(60 + 5, abs=0.2)
        await asyncio.sleep(50)
        left_s = under_test.tracker.tick().left_s
        assert left_s == pytest.approx(10 + 5 * 35 / 5, abs=0.2)  # 30 s of the pause count
        assert under_test.tracker.tick(Waits(1, 90, 90)).left_s == 90

    run_virtually(check())


def test_a_hold_says_nothing_about_the_pace() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        under_test.settle(*[State.SUCCEEDED] * 50)
        await asyncio.sleep(5)
        before_s = under_test.tracker.tick().left_s
        assert before_s
        under_test.tracker.held = (Reason(ReasonKind.WAITING, "go canary"),)
        for _ in range(100):
            await asyncio.sleep(60)
            under_test.tracker.tick()
        assert under_test.tracker.tick().left_s == pytest.approx(before_s)

    run_virtually(check())


def test_the_limit_that_somebody_has_set_comes_with_the_progress() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        assert under_test.tracker.tick().rate_limit is None
        under_test.pacer.limit(5)
        assert under_test.tracker.tick().rate_limit == 5

    run_virtually(check())


# ---- what the store keeps


def test_the_session_has_the_figures_of_the_pacer() -> None:
    async def check() -> None:
        began_at = time.time()
        under_test = TrackerUnderTest()
        for _ in range(3):
            await under_test.pacer.depart()
        under_test.pacer.throttled(asyncio.get_running_loop().time(), 0.0)
        await asyncio.sleep(60)
        under_test.tracker.tick(IDLE)
        session = under_test.tracker.session(4.5, 3)
        assert session.started_at == pytest.approx(began_at, abs=30)
        assert session.updated_at - session.started_at == pytest.approx(60, abs=0.1)
        assert (session.requests, session.throttled, session.busiest_second) == (3, 1, 3)
        assert (session.rate, session.note, session.exit_code) == (4.5, "", 3)
        assert under_test.tracker.session(0.0).exit_code is None

    run_virtually(check())


# ---- what a later process must know


def test_a_pause_and_the_lower_rate_are_noted_with_the_session() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        assert under_test.tracker.session(0.0).slowdown is None
        under_test.pacer.throttled(await under_test.pacer.depart(), 30.0)
        await asyncio.sleep(10)
        slowdown = under_test.tracker.session(0.0).slowdown
        assert slowdown is not None
        assert slowdown.pause_s == pytest.approx(20, abs=0.2)
        assert slowdown.share == 0.5

    run_virtually(check())


@pytest.mark.parametrize(
    ("now_s", "left_s"),
    [
        (1000.0, 20.0),
        (1005.0, 15.0),
        (1600.0, -580.0),
        (0.0, 20.0),  # the clock was set back: no longer than what was left
    ],
)
def test_what_is_left_of_a_slowdown_after_a_restart(now_s: float, left_s: float) -> None:
    session = Session(900.0, 1000.0, slowdown=Slowdown(20.0, 0.25))
    assert slowdown_left(session, now_s) == Slowdown(left_s, 0.25)
    assert slowdown_left(Session(900.0, 1000.0), now_s) is None


def test_a_pause_too_short_to_read_of_is_not_mentioned() -> None:
    async def check() -> None:
        under_test = TrackerUnderTest()
        for _ in range(1000):
            under_test.pacer.accepted(0.0)
        under_test.pacer.throttled(await under_test.pacer.depart())
        assert 0 < under_test.pacer.pause_left_s < 0.1
        assert "pausing" not in under_test.note

    run_virtually(check())
