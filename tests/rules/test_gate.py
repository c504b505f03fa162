"""Why nothing may be claimed, and when the next wave begins. What follows from it for a run is
explored by `campaign_model`."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from bulkcert.control import Control, ControlEntry, Verb
from bulkcert.rules import Check, Rules
from bulkcert.rules.check import CheckResult, Verdict
from bulkcert.rules.gate import Situation, Standing, judge
from bulkcert.rules.rollout import Rollout, size
from bulkcert.rules.window import Window, opening

NOW_S = 1_800_000_000.0  # a Friday, 8 o'clock
WAVES = ("1", "3", "rest")
RULES = Rules(
    rollout=Rollout(sizes=(size(1), size(3)), between_s=60.0, confirm=frozenset({"1"})),
    check=Check(command=("true",)),
    window=Window([opening("Mon-Fri 08:00-09:00")], ZoneInfo("UTC")),
)
PAUSED = ControlEntry(1, NOW_S, "ann@ops1", "help desk is flooded", Verb.PAUSE)
GO = ControlEntry(2, NOW_S, "ann@ops1", "", Verb.GO, "1")


def checked(began_s: float, verdict: Verdict = Verdict.GO, reason: str = "") -> CheckResult:
    return CheckResult(began_s, began_s, verdict, reason)


def reasons(standing: Standing, situation: Situation, rules: Rules = RULES) -> list[str]:
    return [str(reason) for reason in judge(rules, WAVES, standing, situation)[1].reasons]


def test_every_reason_is_given() -> None:
    situation = Situation(
        NOW_S + 3600 + 30,
        Control(paused=PAUSED),
        pause_file="fire drill",
        check=checked(NOW_S, Verdict.HOLD, "12 sites are down"),
    )
    given = reasons(Standing(over_at=NOW_S + 3600), situation)
    assert given[:4] == [
        "paused (by ann@ops1: help desk is flooded)",
        "paused (by the file PAUSE: fire drill)",
        "closed (window until Mon 2027-01-18 08:00, UTC)",
        "held (check: 12 sites are down)",
    ]
    assert given[4].startswith("waiting (between waves until ")
    assert given[5:] == ["waiting (go 1)"]


@pytest.mark.parametrize(
    ("after_s", "check", "said", "open_"),
    [
        (60.0, checked(NOW_S), {"1": GO}, True),
        (59.9, checked(NOW_S), {"1": GO}, False),
        (60.0, checked(NOW_S - 0.1), {"1": GO}, False),
        (60.0, checked(NOW_S, Verdict.HOLD), {"1": GO}, False),
        (60.0, None, {"1": GO}, False),
        (60.0, checked(NOW_S), {"3": GO}, False),
        (60.0, checked(NOW_S), {}, False),
    ],
)
def test_a_wave_begins_when_all_that_comes_between_is_over(
    after_s: float, check: CheckResult | None, said: dict[str, ControlEntry], open_: bool
) -> None:
    situation = Situation(NOW_S + after_s, Control(goes=said), check=check)
    standing, gate = judge(RULES, WAVES, Standing(over_at=NOW_S), situation)
    assert gate.is_open is open_
    assert standing == (Standing(wave=1) if open_ else Standing(over_at=NOW_S))
    assert gate.wave == standing.wave


def test_a_check_from_before_the_end_of_a_wave_is_made_again() -> None:
    situation = Situation(NOW_S + 90, Control(goes={"1": GO}), check=checked(NOW_S - 1))
    assert judge(RULES, WAVES, Standing(over_at=NOW_S), situation)[1].needs_new_check
    assert not judge(RULES, WAVES, Standing(), situation)[1].needs_new_check


def test_a_clock_that_is_set_back_makes_nobody_wait_for_what_it_showed_before() -> None:
    """The waiting time begins again, and the check from before says nothing any more."""
    goes = Control(goes={"1": GO})
    back = Situation(NOW_S, goes, check=checked(NOW_S + 4000))
    standing, gate = judge(RULES, WAVES, Standing(over_at=NOW_S + 3000), back)
    assert standing == Standing(over_at=NOW_S)
    assert gate.needs_new_check
    later = Situation(NOW_S + 60, goes, check=checked(NOW_S + 1))
    assert judge(RULES, WAVES, standing, later)[0] == Standing(wave=1)


def test_the_last_wave_waits_for_nothing() -> None:
    situation = Situation(NOW_S, check=checked(NOW_S))
    assert reasons(Standing(wave=2, over_at=NOW_S), situation) == []
