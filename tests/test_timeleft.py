"""The estimate of the time left: pauses that come back count, one long pause hardly does."""

from __future__ import annotations

import pytest

from bulkcert.timeleft import LONGEST_COUNTED_S, TimeLeft

TOTAL = 20_000


class Watched:
    """A run, and somebody who looks at it twice a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.settled = 0
        self.estimate = TimeLeft(0.0, 0)

    def work(self, seconds: float, rate: float = 100.0) -> None:
        """Settle operations for a while."""
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self.settled += round(rate / 2)
            self.estimate.observe(self.now, self.settled, paused=False)

    def pause(self, seconds: float) -> None:
        """Settle nothing for a while, because all requests have to pause."""
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            self.estimate.observe(self.now, self.settled, paused=True)

    def left(self, pause_left_s: float = 0.0, wait_left_s: float = 0.0) -> float | None:
        return self.estimate.seconds(TOTAL - self.settled, pause_left_s, wait_left_s)


def test_a_steady_run_takes_what_is_left_at_its_rate() -> None:
    run = Watched()
    run.work(20)
    assert run.left() == pytest.approx(180)
    run.work(60)
    assert run.left() == pytest.approx(120)


def test_there_is_no_estimate_before_anything_is_settled() -> None:
    run = Watched()
    assert run.left() is None
    run.work(5, rate=0)
    assert run.left() is None


def test_there_is_no_estimate_from_the_first_responses() -> None:
    run = Watched()
    run.work(2.5)
    assert run.left() is None
    run.work(0.5)
    assert run.left() == pytest.approx(197)


def test_nothing_left_takes_no_time() -> None:
    assert TimeLeft(0.0, 0).seconds(0) == 0.0


def test_what_is_left_of_a_pause_counts() -> None:
    run = Watched()
    run.work(20)
    assert run.left(pause_left_s=40) == pytest.approx(40 + 180)


def test_a_long_pause_does_not_make_the_estimate_long_or_unknown() -> None:
    run = Watched()
    run.work(60)
    run.pause(1800)
    at_pace = (TOTAL - run.settled) / 100
    left = run.left(pause_left_s=1800)
    assert left is not None
    assert 1800 + at_pace < left <= 1800 + at_pace * 2.1
    run.pause(1800)
    run.work(60)
    assert run.left() == pytest.approx((TOTAL - run.settled) / 100)


def test_pauses_that_come_back_make_the_estimate_longer() -> None:
    run = Watched()
    for _ in range(8):
        run.work(5)
        run.pause(15)
    left = run.left()
    assert left is not None
    assert left == pytest.approx(4 * (TOTAL - run.settled) / 100, rel=0.1)


def test_a_machine_that_was_suspended_counts_like_a_pause() -> None:
    run = Watched()
    run.work(30)
    before = run.left()
    assert before is not None
    run.now += 3600
    run.estimate.observe(run.now, run.settled, paused=False)
    left = run.left()
    assert left is not None
    assert left == pytest.approx(before * (30 + LONGEST_COUNTED_S) / 30)


def test_a_pause_that_nobody_watched_counts_like_one_that_was_watched() -> None:
    watched, unwatched = Watched(), Watched()
    for run in (watched, unwatched):
        run.work(60)
    watched.pause(600)
    unwatched.now += 600
    unwatched.estimate.observe(unwatched.now, unwatched.settled, paused=True)
    assert watched.left() == pytest.approx(unwatched.left())


def test_an_old_rate_is_forgotten_after_a_minute() -> None:
    run = Watched()
    run.work(60, rate=10)
    run.work(61)
    assert run.left() == pytest.approx((TOTAL - run.settled) / 100)


def test_operations_that_wait_take_their_time_at_the_end() -> None:
    run = Watched()
    run.work(199)
    assert run.left(wait_left_s=24) == 24
    assert run.left(wait_left_s=0.2) == pytest.approx(1)


def test_time_in_which_the_rules_hold_a_run_does_not_count() -> None:
    run = Watched()
    run.work(2)
    for _ in range(1200):
        run.now += 0.5
        run.estimate.observe(run.now, run.settled, paused=False, held=True)
    assert run.left() is None
    run.work(2)
    assert run.left() == pytest.approx((TOTAL - run.settled) / 100)
