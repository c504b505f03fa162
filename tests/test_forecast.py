"""When a run will be over, and when it must begin."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.forecast import Forecast, Part, Work
from bulkcert.rules import NO_RULES, Rules
from bulkcert.rules.rollout import CANARY, REST, Rollout, Size, size
from bulkcert.rules.window import Window, opening

NIGHTS = Window([opening("Mon-Fri 22:00-05:00")], ZoneInfo("Europe/Berlin"))
HOUR = 3600.0


def at(text: str) -> float:
    """Unix time of a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def forecast(work: Work, start: str) -> Forecast:
    found = work.forecast(at(start))
    assert found is not None
    return found


def test_without_rules_there_is_only_sending() -> None:
    work = Work.of(NO_RULES, [("", 1000)], s_per_operation=0.01)
    found = forecast(work, "2026-11-26 12:00")
    assert (found.duration_s, found.sending_s, found.waiting_s, found.closed_s) == (10, 10, 0, 0)
    assert found.goes == 0
    assert work.latest_start(1010.5) == 1000


def test_waves_wait_for_each_other_and_the_window_closes_between_them() -> None:
    """Three hours of sending in two waves, an hour between them, begun an hour before it closes."""
    sizes = (Size(CANARY, targets=3600), size("50%"))
    rollout = Rollout(sizes=sizes, between_s=HOUR, confirm=frozenset([CANARY, "50%"]))
    waves = [(CANARY, 3600), ("50%", 0), (REST, 7200)]
    work = Work.of(Rules(rollout=rollout, window=NIGHTS), waves, s_per_operation=1)
    found = forecast(work, "2026-11-26 03:00")  # 04:00 in Berlin
    assert found.end_s == at("2026-11-26 23:00")
    assert (found.sending_s, found.waiting_s) == (3 * HOUR, HOUR)
    assert found.closed_s == 16 * HOUR
    assert found.costs_most == ("the closed window", 16 * HOUR)
    assert found.goes == 2
    assert found.slack_s(at("2026-11-26 22:00")) == -HOUR
    assert work.latest_start(at("2026-11-26 23:00")) == at("2026-11-26 03:00")
    assert work.latest_start(at("2026-11-26 22:59")) == at("2026-11-26 01:59")


def test_what_is_left_in_the_middle_of_a_run() -> None:
    rollout = Rollout(sizes=(size("50%"),), between_s=600, confirm=frozenset(["50%"]))
    rules = Rules(rollout=rollout)
    waves = [("50%", 0), (REST, 100)]
    work = Work.of(rules, waves, s_per_operation=1, over_for_s=400, gone=["50%"])
    assert work == Work(parts=(Part(200, 100),))
    late = Work.of(rules, waves, s_per_operation=1, over_for_s=4000)
    assert late == Work(parts=(Part(0, 100),), goes=1)


def test_a_window_that_is_not_open_for_long_enough_has_no_forecast() -> None:
    minute_a_week = Window([opening("Mon 00:00-00:01")], ZoneInfo("UTC"))
    work = Work.of(Rules(window=minute_a_week), [("", 10**6)], s_per_operation=1)
    assert work.forecast(at("2026-11-26")) is None
    assert work.latest_start(at("2026-11-26")) is None


WINDOWS = st.sampled_from(
    [
        None,
        NIGHTS,
        Window([opening("Sat-Sun 00:00-24:00")], ZoneInfo("America/St_Johns")),
        Window([opening("Mon-Sun 01:30-02:30")], ZoneInfo("Europe/Berlin")),
        Window([opening("Tue,Thu 23:00-01:00")], ZoneInfo("Australia/Lord_Howe")),
    ]
)
PARTS = st.builds(Part, st.integers(0, 100_000), st.integers(0, 100_000))


@given(
    st.lists(PARTS, max_size=4).map(tuple),
    WINDOWS,
    st.integers(int(at("2026-01-01")), int(at("2027-12-31"))),
)
def test_who_starts_at_the_latest_start_is_in_time_and_nobody_later(
    parts: tuple[Part, ...], window: Window | None, deadline_s: int
) -> None:
    work = Work(parts=parts, window=window)
    latest_s = work.latest_start(deadline_s)
    assert latest_s is not None
    in_time, late = work.forecast(latest_s), work.forecast(latest_s + 1)
    assert in_time is not None
    assert in_time.end_s <= deadline_s
    assert late is None or late.end_s > deadline_s
    assert in_time.duration_s == pytest.approx(
        in_time.sending_s + in_time.waiting_s + in_time.closed_s
    )
