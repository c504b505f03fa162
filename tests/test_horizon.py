"""How long a run will still take, with what its rules add; and whether that is in time."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from bulkcert.events import Progress
from bulkcert.horizon import SURE_AFTER_S, Horizon
from bulkcert.model import State
from bulkcert.rules import NO_RULES, Rules
from bulkcert.rules.gate import Standing
from bulkcert.rules.rollout import CANARY, REST, Rollout, Size
from bulkcert.rules.window import Window, opening
from bulkcert.store.base import WaveOfRun
from bulkcert.store.claims import Position

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
"""A Thursday."""

NIGHTS = Rules(window=Window([opening("Mon-Fri 22:00-05:00")], ZoneInfo("UTC")))
ROLLOUT = Rules(rollout=Rollout(sizes=(Size(CANARY, targets=100),), between_s=600))
WAVES = [WaveOfRun(0, CANARY, 100), WaveOfRun(1, REST, 900)]


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now_s = NOON

    def __call__(self) -> float:
        return self.now_s


def horizon(
    rules: Rules = NO_RULES, deadline_s: float | None = None, now: Clock | None = None
) -> Horizon:
    return Horizon(rules, deadline_s, requests_per_operation=1, ceiling=10, now=now or Clock())


def progress(settled: int, left_s: float | None, total: int = 1000) -> Progress:
    return Progress(total, {State.SUCCEEDED: settled}, settled, 10.0, "", left_s)


def left_s(seen: tuple[Progress, str]) -> float | None:
    return seen[0].left_s


def test_without_rules_the_measured_time_is_right() -> None:
    assert left_s(horizon().see(progress(0, 500), Position())) == 500
    assert left_s(horizon().see(progress(0, None), Position())) is None
    assert left_s(horizon().see(progress(1000, 0), Position())) == 0


def test_waits_between_waves_that_are_still_to_come_belong_to_it() -> None:
    during = Position(WAVES, Standing(wave=0))
    assert left_s(horizon(ROLLOUT).see(progress(50, 950), during)) == 950 + 600
    over = Position(WAVES, Standing(wave=0, over_at=NOON - 200), held=True)
    assert left_s(horizon(ROLLOUT).see(progress(100, None), over)) == 90 + 400
    last = Position(WAVES, Standing(wave=1))
    assert left_s(horizon(ROLLOUT).see(progress(100, 900), last)) == 900


def test_the_closed_window_belongs_to_it() -> None:
    closed = Position(held=True)
    assert left_s(horizon(NIGHTS).see(progress(0, None), closed)) == 10 * 3600 + 100
    assert left_s(horizon(NIGHTS).see(progress(0, 1000), closed)) == 10 * 3600 + 1000


def test_a_rate_that_people_have_set_counts() -> None:
    slow = Position(rate=1, held=True)
    assert left_s(horizon(NIGHTS).see(progress(0, None), slow)) == 10 * 3600 + 1000


def test_that_the_deadline_will_be_missed_is_said_once() -> None:
    late = horizon(deadline_s=NOON + 99)
    _, said = late.see(progress(0, None), Position())
    assert said.startswith("The deadline, Thu 2026-11-26 ")
    assert said.endswith(", will be missed by about 1.0 s. The run goes on as before.")
    assert late.see(progress(0, None), Position())[1] == ""
    _, passed = horizon(deadline_s=NOON).see(progress(0, 3600), Position())
    assert "has passed, and about 1 h 00 min are left" in passed


def test_a_measured_rate_must_say_so_for_a_while() -> None:
    clock = Clock()
    late = horizon(deadline_s=NOON + 1000, now=clock)
    assert late.see(progress(0, 2000), Position())[1] == ""
    clock.now_s += SURE_AFTER_S - 1
    assert late.see(progress(0, 900), Position())[1] == ""  # in time again
    assert late.see(progress(0, 2000), Position())[1] == ""
    clock.now_s += SURE_AFTER_S
    assert "missed by about" in late.see(progress(0, 2000), Position())[1]


@pytest.mark.parametrize("deadline_s", [None, NOON + 100])
def test_nothing_is_said_if_there_is_time(deadline_s: float | None) -> None:
    assert horizon(deadline_s=deadline_s).see(progress(0, 100), Position())[1] == ""


def test_a_window_that_is_never_open_for_long_enough() -> None:
    never = Rules(window=Window([opening("Mon 00:00-00:01")], ZoneInfo("UTC")))
    seen, said = horizon(never, NOON + 10**6).see(
        progress(0, None, total=10**6), Position(held=True)
    )
    assert seen.left_s is None
    assert "will be missed: the window is not open for long enough" in said


@pytest.mark.parametrize(("after_s", "slack_s"), [(1500, 1000), (100, -400)])
def test_the_slack_to_the_deadline_comes_with_the_progress(after_s: float, slack_s: float) -> None:
    seen, _ = horizon(deadline_s=NOON + after_s).see(progress(0, 500), Position())
    assert seen.slack_s == slack_s
    assert horizon().see(progress(0, 500), Position())[0].slack_s is None
