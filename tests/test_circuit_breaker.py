"""The circuit breaker: closes, half-opens and opens when it should, and never for a wrong reason.

The clock is set by the tests. The defaults of a job apply unless a test says otherwise.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.circuit_breaker import (
    ATTEMPT_SIGNALS,
    LOOKUP_SIGNALS,
    AccountRefusals,
    BreakerState,
    CircuitBreaker,
    Signal,
    signal_of,
)
from bulkcert.job import BreakerSettings
from bulkcert.model import AttemptKind, AttemptResult, LookupKind, LookupResult
from bulkcert.timings import BreakerTimings

GOOD, REFUSED, TROUBLE = Signal.GOOD, Signal.REFUSED, Signal.TROUBLE
CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN
BEGIN = 1000.0


class Watch:
    """A breaker, the clock that it reads, and the states that it was in over time."""

    def __init__(
        self,
        failing_share: float = BreakerSettings().failing_share,
        stop_after_s: float = BreakerSettings().stop_after_seconds,
        timings: BreakerTimings | None = None,
    ) -> None:
        self.now = BEGIN
        self.breaker = CircuitBreaker(
            failing_share, stop_after_s, lambda: self.now, timings or BreakerTimings()
        )
        self.seen: list[tuple[float, BreakerState]] = []  # each change of state

    def feed(self, signals: Iterable[Signal], rate: float, seconds: float) -> set[BreakerState]:
        """Observe results at a rate; return the states seen meanwhile."""
        states = set()
        for signal in itertools.islice(itertools.cycle(signals), round(rate * seconds)):
            self.now += 1 / rate
            self.breaker.observe(signal)
            states.add(self.state())
        return states

    def state(self) -> BreakerState:
        state = self.breaker.state
        if not self.seen or self.seen[-1][1] is not state:
            self.seen.append((self.now, state))
        return state

    def when(self, state: BreakerState) -> float:
        """When this state was first seen."""
        return next(at for at, seen in self.seen if seen is state)


def shuffled(seed: int, **shares: float) -> list[Signal]:
    """A thousand results in random order, by share of each signal."""
    signals = [Signal[name] for name, share in shares.items() for _ in range(int(share * 1000))]
    random.Random(seed).shuffle(signals)
    return signals


# ---- closed


@pytest.mark.parametrize("rate", [1, 500])
def test_it_stays_closed_while_the_provider_works(rate: float) -> None:
    assert Watch().feed([GOOD], rate, 200) == {CLOSED}


@pytest.mark.parametrize(
    "mixture",
    [
        shuffled(1, GOOD=0.5, TROUBLE=0.5),
        shuffled(3, GOOD=0.1, TROUBLE=0.9),
        shuffled(4, GOOD=0.1, REFUSED=0.9),
        shuffled(5, GOOD=0.2, REFUSED=0.4, TROUBLE=0.4),
        # a fleet that was revoked before: each operation is refused, then the look-up is good
        [REFUSED, GOOD],
        [REFUSED] * 500 + [GOOD] * 500,
        [REFUSED] * 2000 + [GOOD] * 2000,
        # a provider that responds to every attempt with an error although it executes it
        [TROUBLE, GOOD],
        [TROUBLE] * 500 + [GOOD] * 500,
    ],
)
def test_it_stays_closed_while_some_results_are_good(mixture: list[Signal]) -> None:
    assert Watch().feed(mixture, 500, 100) == {CLOSED}


@pytest.mark.parametrize("signal", [TROUBLE, REFUSED])
def test_a_few_bad_results_say_nothing_however_long_ago(signal: Signal) -> None:
    watch = Watch()
    assert watch.feed([signal], 100, 49 / 100) == {CLOSED}
    watch.now += 24 * 3600
    assert watch.state() is CLOSED
    assert watch.breaker.failing_for_s == 0.0


@pytest.mark.parametrize("signal", [TROUBLE, REFUSED])
def test_fifty_bad_results_make_it_fail_from_the_first_of_them(signal: Signal) -> None:
    watch = Watch()
    watch.feed([signal], 64, 49 / 64)
    assert watch.breaker.failing_for_s == 0.0
    watch.feed([signal], 64, 1 / 64)
    assert watch.breaker.failing_for_s == 49 / 64


def test_it_fails_for_five_seconds_at_most_when_the_fifty_took_longer() -> None:
    watch = Watch()
    watch.feed([TROUBLE], 1, 50)
    assert watch.breaker.failing_for_s == 5.0


def test_a_short_outage_changes_nothing() -> None:
    watch = Watch()
    watch.feed([GOOD], 500, 60)
    watch.feed([TROUBLE], 500, 4.5)
    assert watch.feed([GOOD], 500, 60) == {CLOSED}
    assert [state for _, state in watch.seen] == [CLOSED]


@pytest.mark.parametrize(("share", "disabled"), [(0.1, False), (1.0, False), (1.01, True)])
def test_it_is_disabled_by_a_share_above_1(share: float, disabled: bool) -> None:
    assert Watch(failing_share=share).breaker.disabled is disabled


@pytest.mark.parametrize("signal", [TROUBLE, REFUSED])
def test_a_share_above_1_switches_it_off(signal: Signal) -> None:
    assert Watch(failing_share=1.01).feed([signal], 500, 100) == {CLOSED}


@pytest.mark.parametrize(("good", "fails"), [(25, True), (26, False)])
def test_the_failing_share_itself_already_counts_as_failing(good: int, fails: bool) -> None:
    watch = Watch(failing_share=0.5)
    watch.feed([GOOD] * good + [REFUSED] * (50 - good), 64, 50 / 64)
    assert (watch.breaker.failing_for_s > 0) == fails


@pytest.mark.parametrize(("age_s", "fails"), [(5.0, False), (5.125, True)])
def test_results_count_for_five_seconds(age_s: float, fails: bool) -> None:
    watch = Watch(failing_share=0.7, timings=BreakerTimings(minimum_sample=2))
    watch.breaker.observe(GOOD)
    watch.now += age_s
    for _ in range(2):
        watch.breaker.observe(TROUBLE)
    watch.now += 1
    assert (watch.breaker.failing_for_s > 0) == fails


def test_trouble_that_is_over_does_not_make_refusals_look_like_trouble() -> None:
    watch = Watch()
    watch.feed([TROUBLE], 500, 4)
    assert watch.feed([REFUSED], 500, 50) == {CLOSED}
    assert watch.breaker.failing_for_s > 50


# ---- half-open


@pytest.mark.parametrize(
    "signals",
    [[TROUBLE], shuffled(6, TROUBLE=0.97, GOOD=0.03)],
    ids=["all", "nearly all"],
)
def test_it_half_opens_after_trouble_for_a_while(signals: list[Signal]) -> None:
    watch = Watch()
    watch.feed([GOOD], 500, 30)
    failing_since = watch.now
    watch.feed(signals, 500, 30)
    # some of the few good results that are allowed may be from before
    assert failing_since + 4.5 <= watch.when(HALF_OPEN) <= failing_since + 10


def test_a_provider_that_is_dead_from_the_start_half_opens_it_as_soon() -> None:
    watch = Watch()
    watch.feed([TROUBLE], 500, 30)
    assert watch.when(HALF_OPEN) == pytest.approx(BEGIN + 5, abs=0.01)


def test_it_half_opens_after_exactly_five_seconds_of_failing() -> None:
    watch = Watch()
    watch.feed([TROUBLE], 64, 5)
    assert (watch.breaker.failing_for_s, watch.state()) == (5 - 1 / 64, CLOSED)
    watch.now += 1 / 64
    assert watch.state() is HALF_OPEN


@pytest.mark.parametrize("rate", [0.2, 1, 5, 9, 20])
def test_a_low_rate_does_not_hide_a_dead_provider(rate: float) -> None:
    """It takes a number of results, however long they take to arrive."""
    watch = Watch()
    watch.feed([GOOD], rate, 100 / rate)
    failing_since = watch.now
    watch.feed([TROUBLE], rate, 50 / rate + 15)
    assert failing_since + 4.5 <= watch.when(HALF_OPEN) <= failing_since + 50 / rate + 10
    assert OPEN not in {state for _, state in watch.seen}


def test_one_good_probe_closes_it() -> None:
    watch = Watch()
    watch.feed([GOOD], 500, 30)
    watch.feed([TROUBLE], 500, 20)
    assert watch.feed([TROUBLE], 1, 10) == {HALF_OPEN}
    assert watch.feed([GOOD], 1, 1) == {CLOSED}
    # and earlier failures are not held against the provider
    assert watch.feed([GOOD], 500, 30) == {CLOSED}
    assert watch.breaker.failing_for_s == 0


def test_late_failures_of_earlier_requests_keep_it_half_open() -> None:
    """A thousand requests that time out late are not news."""
    watch = Watch()
    watch.feed([TROUBLE], 500, 10)
    assert watch.feed([TROUBLE], 100, 10) == {HALF_OPEN}


def test_with_a_lower_failing_share_it_takes_more_good_probes_to_close_it() -> None:
    watch = Watch(failing_share=0.5)
    watch.feed([TROUBLE], 500, 20)
    watch.feed([TROUBLE], 1, 10)
    assert watch.feed([GOOD], 1, 5) == {HALF_OPEN}
    assert watch.feed([GOOD], 1, 1) == {CLOSED}


def test_it_half_opens_again_when_the_provider_fails_again() -> None:
    watch = Watch()
    watch.feed([TROUBLE], 500, 10)
    watch.feed([TROUBLE], 1, 10)
    watch.feed([GOOD], 1, 1)
    closed_at = watch.now
    watch.seen.clear()
    watch.feed([TROUBLE], 500, 30)
    assert watch.seen[0][1] is CLOSED
    assert closed_at + 39 / 500 <= watch.when(HALF_OPEN) <= closed_at + 10
    # the time before the good result does not count
    assert OPEN not in {state for _, state in watch.seen}


@pytest.mark.parametrize("signals", [[REFUSED], [REFUSED, REFUSED, TROUBLE, TROUBLE]])
def test_refusals_do_not_half_open_it_but_open_it_in_time(signals: list[Signal]) -> None:
    """They are final for their operation and use up no attempts: probing would save nothing."""
    watch = Watch()
    assert watch.feed(signals, 500, 59) == {CLOSED}
    assert watch.feed(signals, 500, 2) == {CLOSED, OPEN}


@pytest.mark.parametrize(("refused", "state"), [(32, HALF_OPEN), (33, CLOSED)])
def test_trouble_at_the_failing_share_itself_half_opens_it(
    refused: int, state: BreakerState
) -> None:
    watch = Watch(failing_share=0.5)
    watch.feed([REFUSED] * refused + [TROUBLE] * (64 - refused), 16, 4)
    watch.now += 4
    assert watch.state() is state


# ---- open


@pytest.mark.parametrize("stop_after_s", [0.5, 5.0, 60.0, 3600.0])
def test_it_opens_after_failing_for_the_time_given(stop_after_s: float) -> None:
    watch = Watch(stop_after_s=stop_after_s)
    watch.feed([TROUBLE], 500, min(stop_after_s, 20))
    while watch.state() is not OPEN:  # at most an hour of probes
        watch.feed([TROUBLE], 1, 1)
    assert watch.now - BEGIN == pytest.approx(stop_after_s, abs=1.1)
    assert watch.breaker.failing_for_s >= stop_after_s
    assert (HALF_OPEN in {state for _, state in watch.seen}) == (stop_after_s > 5)


@pytest.mark.parametrize(("signal", "before"), [(TROUBLE, HALF_OPEN), (REFUSED, CLOSED)])
def test_it_opens_after_exactly_the_time_given(signal: Signal, before: BreakerState) -> None:
    watch = Watch()
    watch.feed([signal], 64, 60)
    assert (watch.breaker.failing_for_s, watch.state()) == (60 - 1 / 64, before)
    watch.now += 1 / 64
    assert watch.state() is OPEN


def test_it_opens_in_time_when_no_probe_comes_back_at_all() -> None:
    watch = Watch()
    watch.feed([TROUBLE], 500, 10)
    watch.now += 49
    assert watch.state() is HALF_OPEN
    watch.now += 1.1
    assert watch.state() is OPEN


def test_a_long_pause_is_not_mistaken_for_long_failing() -> None:
    """A single failure, then throttled for an hour, then failing: that began just now."""
    watch = Watch()
    watch.feed([TROUBLE], 1, 1)
    watch.now += 3600
    failing_since = watch.now
    watch.feed([TROUBLE], 500, 70)
    assert watch.when(OPEN) >= failing_since + 55


# ---- why


def test_it_knows_the_commonest_reason_of_the_latest_results() -> None:
    watch = Watch()
    assert watch.breaker.commonest_reason == ""
    watch.breaker.observe(GOOD, "0 OK")
    watch.breaker.observe(TROUBLE)
    assert watch.breaker.commonest_reason == ""
    for signal, reason in [(REFUSED, "a"), (TROUBLE, "b"), (TROUBLE, "b"), (GOOD, "c")]:
        watch.breaker.observe(signal, reason)
    assert watch.breaker.commonest_reason == "b"


def test_it_knows_the_commonest_code_of_the_latest_results() -> None:
    watch = Watch()
    watch.breaker.observe(TROUBLE)
    assert watch.breaker.commonest_code == ""
    watch.breaker.observe(GOOD, code=0)
    for device in ("pump-a", "pump-b"):
        watch.breaker.observe(TROUBLE, f"99500 {device} is busy", 99500)
    watch.breaker.observe(TROUBLE, "502", 502)
    assert watch.breaker.commonest_code == "99500"


def test_refusals_are_judged_by_kind_of_request() -> None:
    refusals: AccountRefusals[int] = AccountRefusals(enough=3)
    assert [refusals.keep("change", number) for number in (1, 2)] == [False, False]
    assert not refusals.keep("read", 3)
    assert len(refusals) == 3
    # that reading is permitted says nothing about changes
    assert refusals.contradict("read") == [3]
    assert refusals.contradict("read") == []
    assert refusals.keep("change", 4)
    assert refusals.contradict("change") == [1, 2, 4]
    assert not refusals.keep("change", 5)
    assert not refusals.keep("read", 6)
    assert sorted(refusals.take_all()) == [5, 6]
    assert len(refusals) == 0


# ---- whatever comes


@given(
    share=st.floats(0.01, 2),
    parts=st.lists(
        st.tuples(
            st.lists(st.sampled_from(Signal), min_size=1, max_size=4),
            st.sampled_from([0.5, 5.0, 100.0, 500.0]),
            st.floats(0, 10),
        ),
        max_size=5,
    ),
)
def test_the_state_follows_from_the_results(
    share: float, parts: list[tuple[list[Signal], float, float]]
) -> None:
    watch = Watch(failing_share=share)
    results = bad = 0
    for signals, rate, seconds in parts:
        for signal in itertools.islice(itertools.cycle(signals), round(rate * seconds)):
            watch.now += 1 / rate
            watch.breaker.observe(signal)
            results += 1
            bad += signal is not GOOD
            failing_for_s = watch.breaker.failing_for_s
            match watch.breaker.state:
                case BreakerState.HALF_OPEN:
                    assert 5 <= failing_for_s < 60
                case BreakerState.OPEN:
                    assert failing_for_s >= 60
            assert 0 <= failing_for_s <= watch.now - BEGIN
            if failing_for_s:
                assert share <= 1
                assert results >= 50
                assert bad > 0


def test_each_kind_of_result_says_what_it_should() -> None:
    signals = ATTEMPT_SIGNALS | LOOKUP_SIGNALS
    assert signals.keys() == {*AttemptKind, *LookupKind}
    assert {kind.name for kind, signal in signals.items() if signal is Signal.GOOD} == {
        *("DONE", "HOLDS", "ABSENT", "UNCLEAR", "NOT_YET", "SELECTED", "NOTHING_LEFT")
    }
    assert {kind.name for kind, signal in signals.items() if signal is Signal.TROUBLE} == {
        *("IN_DOUBT", "NOT_SENT", "FAILED")
    }
    assert {kind.name for kind, signal in signals.items() if signal is None} == {"THROTTLED"}
    assert signal_of(AttemptResult(AttemptKind.IN_DOUBT)) is Signal.TROUBLE
    assert signal_of(AttemptResult(AttemptKind.IN_DOUBT, 503, counts=False)) is None
    assert signal_of(LookupResult(LookupKind.UNCLEAR)) is Signal.GOOD
    assert signal_of(LookupResult(LookupKind.UNCLEAR, account_wide=True)) is Signal.REFUSED
