"""What the store's clock shows, as known from readings that took a while."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulkcert.hosts import clockmap
from bulkcert.hosts.clockmap import ClockMap, Reading, Seen

OFFSET_S = 1.7e9


@dataclass
class Clocks:
    """This machine's clock, and the store's. `true_s` is what neither of them shows."""

    true_s: float = 5000.0
    offset_s: float = OFFSET_S
    slew: float = 0.0
    map: ClockMap = field(default_factory=ClockMap)

    def wait(self, seconds: float) -> None:
        self.true_s += seconds
        self.offset_s += self.slew * seconds

    @property
    def shown(self) -> float:
        return self.true_s + self.offset_s

    def read(self, out_s: float, back_s: float) -> Seen:
        """One reading: how long the question takes, and the answer."""
        asked = self.true_s
        self.wait(out_s)
        shown = self.shown
        self.wait(back_s)
        return self.map.add(Reading(asked, shown, self.true_s))

    def bounds(self) -> tuple[float, float]:
        assert self.map.bounds is not None
        return self.map.bounds.now(self.true_s)


delays = st.floats(0.0001, 0.05)
READINGS = st.lists(st.tuples(st.floats(0, 0.3), delays, delays), min_size=1, max_size=30)


@given(READINGS, st.floats(-0.0009, 0.0009), st.floats(0, 0.5))
@example([(0.0, 0.0001, 0.05), (0.0, 0.05, 0.0001)], 0.0, 0.0)
def test_the_clock_is_always_within_the_bounds(
    readings: list[tuple[float, float, float]], slew: float, then_s: float
) -> None:
    """However the latencies are distributed, and with a drift that is not noticed."""
    clocks = Clocks(slew=slew)
    for wait_s, out_s, back_s in readings:
        clocks.wait(wait_s)
        assert clocks.read(out_s, back_s) is not Seen.STEP
        low, high = clocks.bounds()
        assert low - 1e-6 <= clocks.shown <= high + 1e-6
    clocks.wait(then_s)
    low, high = clocks.bounds()
    assert low - 1e-6 <= clocks.shown <= high + 1e-6


@given(READINGS, delays, delays)
def test_each_reading_can_only_make_it_more_exact(
    readings: list[tuple[float, float, float]], out_s: float, back_s: float
) -> None:
    clocks = Clocks()
    for wait_s, *way in readings:
        clocks.wait(wait_s)
        clocks.read(*way)
    low, high = clocks.bounds()
    clocks.read(out_s, back_s)
    after = clocks.bounds()
    drift_s = 2 * clockmap.DRIFT * (out_s + back_s)
    assert after[1] - after[0] <= high - low + 2 * drift_s + 1e-6


@given(
    READINGS,
    st.sampled_from([3600.0, -3600.0, 0.3, -0.3, 0.03, -0.03]),
    st.floats(0, 0.3),
    delays,
    delays,
)
def test_a_step_is_noticed_unless_it_is_smaller_than_what_is_known(
    readings: list[tuple[float, float, float]],
    step_s: float,
    wait_s: float,
    out_s: float,
    back_s: float,
) -> None:
    clocks = Clocks()
    for waited_s, *way in readings:
        clocks.wait(waited_s)
        clocks.read(*way)
    clocks.offset_s += step_s
    clocks.wait(wait_s)
    low, high = clocks.bounds()
    known_s = high - low + (out_s + back_s) * (1 + 4 * clockmap.DRIFT)
    seen = clocks.read(out_s, back_s)
    if abs(step_s) > known_s + 1e-6:
        assert seen is Seen.STEP
    low, high = clocks.bounds()
    if seen is Seen.STEP:  # then only the reading after it counts
        assert low - 1e-6 <= clocks.shown <= high + 1e-6
        assert clocks.read(out_s, back_s) is Seen.SAME


@pytest.mark.parametrize("step_s", [0.03, -0.03])
def test_a_step_of_30_ms_is_noticed_at_once_on_a_usual_network(step_s: float) -> None:
    clocks = Clocks()
    for _ in range(5):
        assert clocks.read(0.0005, 0.002) is not Seen.STEP
        clocks.wait(0.1)
    clocks.offset_s += step_s
    assert clocks.read(0.0005, 0.002) is Seen.STEP


def test_what_is_long_ago_says_nothing() -> None:
    clocks = Clocks()
    assert clocks.read(0.001, 0.001) is Seen.FIRST
    clocks.wait(clockmap.FORGOTTEN_S + 0.1)
    clocks.offset_s += 3600
    assert clocks.read(0.001, 0.001) is Seen.FIRST


@pytest.mark.parametrize("slew", [0.1, -0.1, 0.01, -0.01])
def test_steps_of_one_sign_are_a_slew_and_then_no_steps(slew: float) -> None:
    clocks = Clocks(slew=slew)
    seen = []
    for _ in range(200):
        clocks.wait(0.03)
        seen.append(clocks.read(0.0005, 0.0005))
    assert clocks.map.slewing
    assert seen.count(Seen.STEP) == 2
    low, high = clocks.bounds()
    assert low <= clocks.shown <= high
    assert high - low < 0.01


def test_a_slew_is_over_some_time_after_its_last_step() -> None:
    clocks = Clocks(slew=0.1)
    for _ in range(100):
        clocks.wait(0.03)
        clocks.read(0.0005, 0.0005)
    clocks.slew = 0.0
    for _ in range(700):
        clocks.wait(0.1)
        assert clocks.read(0.0005, 0.0005) is Seen.SAME
    assert not clocks.map.slewing


@given(st.floats(0.01, 0.9))
def test_steps_of_both_signs_are_no_slew(wait_s: float) -> None:
    clocks = Clocks()
    for sign in (1, -1, 1, -1):
        clocks.read(0.001, 0.001)
        clocks.offset_s += sign * 0.5
        assert clocks.read(0.001, 0.001) is Seen.STEP
        clocks.wait(wait_s)
    assert not clocks.map.slewing
