"""The guard of a run: goes on, holds, stops, and never for the wrong reason.

On a clock that the tests set. The default thresholds of a job are used where nothing else is said.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.circuit_breaker import BreakerState, CircuitBreaker
from bulkcert.job import BreakerSettings
from bulkcert.model import AnswerKind

DEFAULT = BreakerSettings()
MINIMUM_SAMPLE = 50
HALF_OPEN_AFTER_S = 5.0
PROBE_EVERY_S = 1.0
GOOD = [AnswerKind.DONE, AnswerKind.HOLDS, AnswerKind.ABSENT, AnswerKind.UNCLEAR]
TROUBLE = [AnswerKind.IN_DOUBT, AnswerKind.NOT_SENT]
REFUSAL = [AnswerKind.REFUSED, AnswerKind.DISPUTED]


class Watch:
    """A guard, the clock that it reads, and what it said over time."""

    def __init__(
        self,
        failing_share: float = DEFAULT.failing_share,
        stop_after_s: float = DEFAULT.stop_after_seconds,
    ) -> None:
        self.now = 1000.0
        self.breaker = CircuitBreaker(failing_share, stop_after_s, lambda: self.now)
        self.seen: list[tuple[float, BreakerState]] = []  # when it changed its mind

    def feed(self, kinds: Iterable[AnswerKind], rate: float, seconds: float) -> set[BreakerState]:
        """Have answers come in at a rate; return all states that were given meanwhile."""
        states = set()
        for kind in itertools.islice(itertools.cycle(kinds), round(rate * seconds)):
            self.now += 1 / rate
            self.breaker.observe(kind)
            states.add(self.state())
        return states

    def state(self) -> BreakerState:
        state = self.breaker.state()
        if not self.seen or self.seen[-1][1] is not state:
            self.seen.append((self.now, state))
        return state

    def when(self, state: BreakerState) -> float:
        """When this state was first given."""
        return next(at for at, seen in self.seen if seen is state)


def shuffled(seed: int, **shares: float) -> list[AnswerKind]:
    """A thousand answers in random order, by share of each kind."""
    kinds = [AnswerKind[name] for name, share in shares.items() for _ in range(int(share * 1000))]
    random.Random(seed).shuffle(kinds)
    return kinds


# ---- goes on


@pytest.mark.parametrize("kind", [*GOOD, AnswerKind.THROTTLED], ids=lambda kind: kind.name)
@pytest.mark.parametrize("rate", [1, 500])
def test_a_healthy_run_goes_on(kind: AnswerKind, rate: float) -> None:
    assert Watch().feed([kind], rate, 200) == {BreakerState.CLOSED}


@pytest.mark.parametrize(
    "mixture",
    [
        shuffled(1, DONE=0.5, IN_DOUBT=0.5),
        shuffled(2, DONE=0.5, NOT_SENT=0.5),
        shuffled(3, DONE=0.1, IN_DOUBT=0.9),
        shuffled(4, DONE=0.1, REFUSED=0.9),
        shuffled(5, HOLDS=0.2, REFUSED=0.4, IN_DOUBT=0.4),
        # a fleet that was revoked before: each operation is refused, then found as it should be
        [AnswerKind.DISPUTED, AnswerKind.HOLDS],
        [AnswerKind.DISPUTED] * 500 + [AnswerKind.HOLDS] * 500,
        [AnswerKind.DISPUTED] * 2000 + [AnswerKind.HOLDS] * 2000,
        # a provider that answers every attempt with an error, though it carries it out
        [AnswerKind.IN_DOUBT, AnswerKind.HOLDS],
        [AnswerKind.IN_DOUBT] * 500 + [AnswerKind.HOLDS] * 500,
    ],
)
def test_a_run_in_which_some_answers_are_good_goes_on(mixture: list[AnswerKind]) -> None:
    assert Watch().feed(mixture, 500, 100) == {BreakerState.CLOSED}


def test_throttled_answers_neither_hide_a_failing_provider_nor_make_one() -> None:
    watch = Watch()
    watch.feed([AnswerKind.IN_DOUBT] + [AnswerKind.THROTTLED] * 30, 3100, 10)
    assert watch.state() is BreakerState.HALF_OPEN
    watch = Watch()
    assert watch.feed([AnswerKind.DONE] + [AnswerKind.THROTTLED] * 30, 3100, 100) == {
        BreakerState.CLOSED
    }


@pytest.mark.parametrize("kind", TROUBLE + REFUSAL, ids=lambda kind: kind.name)
def test_a_few_bad_answers_say_nothing_however_long_ago(kind: AnswerKind) -> None:
    watch = Watch()
    assert watch.feed([kind], 100, (MINIMUM_SAMPLE - 1) / 100) == {BreakerState.CLOSED}
    watch.now += 24 * 3600
    assert watch.state() is BreakerState.CLOSED


def test_a_short_outage_only_holds() -> None:
    watch = Watch()
    watch.feed([AnswerKind.DONE], 500, 60)
    watch.feed([AnswerKind.IN_DOUBT], 500, HALF_OPEN_AFTER_S - 0.5)
    assert watch.feed([AnswerKind.DONE], 500, 60) == {BreakerState.CLOSED}
    assert [state for _, state in watch.seen] == [BreakerState.CLOSED]


@pytest.mark.parametrize("kind", TROUBLE + REFUSAL, ids=lambda kind: kind.name)
def test_a_share_above_1_switches_the_guard_off(kind: AnswerKind) -> None:
    assert Watch(failing_share=1.01).feed([kind], 500, 100) == {BreakerState.CLOSED}


# ---- holds


@pytest.mark.parametrize(
    "kinds",
    [*([kind] for kind in TROUBLE), TROUBLE, shuffled(6, IN_DOUBT=0.97, DONE=0.03)],
    ids=["in doubt", "not sent", "both", "nearly all"],
)
def test_after_failing_for_a_while_the_run_holds(kinds: list[AnswerKind]) -> None:
    watch = Watch()
    watch.feed([AnswerKind.DONE], 500, 30)
    failing_since = watch.now
    watch.feed(kinds, 500, 30)
    # the share of good answers that is let pass may be from before
    assert watch.when(BreakerState.HALF_OPEN) >= failing_since + 0.9 * HALF_OPEN_AFTER_S
    assert watch.when(BreakerState.HALF_OPEN) <= failing_since + 2 * HALF_OPEN_AFTER_S


def test_a_provider_that_is_dead_from_the_start_holds_as_soon() -> None:
    watch = Watch()
    watch.feed([AnswerKind.NOT_SENT], 500, 30)
    assert watch.when(BreakerState.HALF_OPEN) == pytest.approx(1000.0 + HALF_OPEN_AFTER_S, abs=0.01)


@pytest.mark.parametrize("rate", [0.2, 1, 5, 9, 20])
def test_a_low_rate_does_not_hide_a_dead_provider(rate: float) -> None:
    """What counts are answers, however long they take to come together."""
    watch = Watch()
    watch.feed([AnswerKind.DONE], rate, 100 / rate)
    failing_since = watch.now
    watch.feed([AnswerKind.IN_DOUBT], rate, MINIMUM_SAMPLE / rate + 3 * HALF_OPEN_AFTER_S)
    assert watch.when(BreakerState.HALF_OPEN) >= failing_since + 0.9 * HALF_OPEN_AFTER_S
    assert (
        watch.when(BreakerState.HALF_OPEN)
        <= failing_since + MINIMUM_SAMPLE / rate + 2 * HALF_OPEN_AFTER_S
    )
    assert BreakerState.OPEN not in {state for _, state in watch.seen}


@pytest.mark.parametrize("good", GOOD, ids=lambda kind: kind.name)
def test_one_good_answer_to_a_probe_lets_it_go_on(good: AnswerKind) -> None:
    watch = Watch()
    watch.feed([AnswerKind.DONE], 500, 30)
    watch.feed([AnswerKind.IN_DOUBT], 500, 20)
    assert watch.feed([AnswerKind.NOT_SENT], 1 / PROBE_EVERY_S, 10) == {BreakerState.HALF_OPEN}
    assert watch.feed([good], 1 / PROBE_EVERY_S, PROBE_EVERY_S) == {BreakerState.CLOSED}
    # and what failed before is not held against it
    assert watch.feed([AnswerKind.DONE], 500, 30) == {BreakerState.CLOSED}
    assert watch.breaker.failing_for_s == 0


def test_answers_that_were_open_when_it_began_to_hold_keep_it_holding() -> None:
    """A thousand requests that time out late are no news."""
    watch = Watch()
    watch.feed([AnswerKind.IN_DOUBT], 500, 10)
    assert watch.feed([AnswerKind.IN_DOUBT], 100, 10) == {BreakerState.HALF_OPEN}


def test_with_a_lower_failing_share_it_takes_more_good_answers_to_go_on() -> None:
    watch = Watch(failing_share=0.5)
    watch.feed([AnswerKind.IN_DOUBT], 500, 20)
    watch.feed([AnswerKind.IN_DOUBT], 1, 10)
    assert watch.feed([AnswerKind.DONE], 1, 5) == {BreakerState.HALF_OPEN}
    assert watch.feed([AnswerKind.DONE], 1, 1) == {BreakerState.CLOSED}


def test_when_all_fails_again_after_a_hold_it_holds_again() -> None:
    watch = Watch()
    watch.feed([AnswerKind.IN_DOUBT], 500, 10)
    watch.feed([AnswerKind.IN_DOUBT], 1, 10)
    watch.feed([AnswerKind.DONE], 1, 1)
    goes_on_at = watch.now
    watch.seen.clear()
    watch.feed([AnswerKind.IN_DOUBT], 500, 30)
    assert watch.seen[0][1] is BreakerState.CLOSED
    assert watch.when(BreakerState.HALF_OPEN) >= goes_on_at + (MINIMUM_SAMPLE - 11) / 500
    assert watch.when(BreakerState.HALF_OPEN) <= goes_on_at + 2 * HALF_OPEN_AFTER_S
    # the time before the good answer does not count
    assert BreakerState.OPEN not in {state for _, state in watch.seen}


@pytest.mark.parametrize("kinds", [*([kind] for kind in REFUSAL), REFUSAL + TROUBLE])
def test_refusals_do_not_hold_but_stop_in_time(kinds: list[AnswerKind]) -> None:
    """They are final for their operation and burn nothing, so a hold would save nothing."""
    watch = Watch()
    assert watch.feed(kinds, 500, 59) == {BreakerState.CLOSED}
    assert watch.feed(kinds, 500, 2) == {BreakerState.CLOSED, BreakerState.OPEN}


# ---- stops


@pytest.mark.parametrize("stop_after_s", [0.5, 5.0, 60.0, 3600.0])
def test_it_stops_after_failing_for_so_long(stop_after_s: float) -> None:
    watch = Watch(stop_after_s=stop_after_s)
    watch.feed([AnswerKind.NOT_SENT], 500, min(stop_after_s, 20))
    while watch.state() is not BreakerState.OPEN:  # at most an hour of probes
        watch.feed([AnswerKind.NOT_SENT], 1 / PROBE_EVERY_S, PROBE_EVERY_S)
    assert watch.now - 1000.0 == pytest.approx(stop_after_s, abs=1.1)
    assert watch.breaker.failing_for_s >= stop_after_s
    assert (BreakerState.HALF_OPEN in {state for _, state in watch.seen}) == (
        stop_after_s > HALF_OPEN_AFTER_S
    )


def test_it_stops_in_time_when_no_probe_is_answered_at_all() -> None:
    watch = Watch()
    watch.feed([AnswerKind.IN_DOUBT], 500, 10)
    watch.now += 49
    assert watch.state() is BreakerState.HALF_OPEN
    watch.now += 1.1
    assert watch.state() is BreakerState.OPEN


def test_a_long_pause_is_not_taken_for_long_failing() -> None:
    """Throttled for an hour after a single failure, then failing: that is news of this moment."""
    watch = Watch()
    watch.feed([AnswerKind.IN_DOUBT], 1, 1)
    watch.feed([AnswerKind.THROTTLED], 1, 3600)
    failing_since = watch.now
    watch.feed([AnswerKind.IN_DOUBT], 500, 70)
    assert watch.when(BreakerState.OPEN) >= failing_since + 60.0 - 5.0


# ---- whatever comes


@given(
    share=st.floats(0.01, 2),
    parts=st.lists(
        st.tuples(
            st.lists(st.sampled_from(AnswerKind), min_size=1, max_size=4),
            st.sampled_from([0.5, 5.0, 100.0, 500.0]),
            st.floats(0, 10),
        ),
        max_size=5,
    ),
)
def test_what_it_says_follows_from_what_came(
    share: float, parts: list[tuple[list[AnswerKind], float, float]]
) -> None:
    watch = Watch(failing_share=share)
    answers = bad = 0
    for kinds, rate, seconds in parts:
        for kind in itertools.islice(itertools.cycle(kinds), round(rate * seconds)):
            watch.now += 1 / rate
            watch.breaker.observe(kind)
            answers += kind is not AnswerKind.THROTTLED
            bad += kind not in GOOD and kind is not AnswerKind.THROTTLED
            failing_for_s = watch.breaker.failing_for_s
            match watch.breaker.state():
                case BreakerState.HALF_OPEN:
                    assert HALF_OPEN_AFTER_S <= failing_for_s < DEFAULT.stop_after_seconds
                case BreakerState.OPEN:
                    assert failing_for_s >= DEFAULT.stop_after_seconds
            assert 0 <= failing_for_s <= watch.now - 1000.0
            if failing_for_s:
                assert share <= 1
                assert answers >= MINIMUM_SAMPLE
                assert bad > 0
