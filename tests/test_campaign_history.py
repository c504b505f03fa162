"""The history checker of a campaign finds what is wrong: a good campaign, and mutations of it.

Each mutation is one that a bug in the engine could cause, and the checker must name it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from campaign_history import AbortLimits, Quiet, check, limit_of, seconds, waves_of
from sample_campaign import (
    BEGUN,
    BETWEEN_S,
    FAILED,
    IN_FLIGHT,
    TAKES_S,
    TARGETS,
    Campaign,
)


@pytest.fixture
def good() -> Campaign:
    return Campaign()


def test_a_campaign_that_kept_its_rules_has_no_violations(good: Campaign) -> None:
    assert good.violations() == []
    assert {o["wave"] for o in good.history.operations} == {0, 1, 2, 3}


def test_without_rules_there_is_nothing_to_violate(good: Campaign) -> None:
    for section in ("rollout", "abort", "protect"):
        del good.history.job[section]
    good.history.tables = {name: [] for name in good.history.tables}
    good.history.never = []
    assert check(good.history) == []


# ---- mutations

Mutation = Callable[[Campaign, random.Random], str]
MUTATIONS: dict[str, Mutation] = {}


def mutation(mutate: Mutation) -> Mutation:
    MUTATIONS[mutate.__name__] = mutate
    return mutate


@mutation
def a_wave_has_another_size(good: Campaign, rng: random.Random) -> str:
    good.history.tables["waves"][rng.randrange(4)]["targets"] += 1
    return "the waves are"


@mutation
def a_wave_is_missing(good: Campaign, rng: random.Random) -> str:
    del good.history.tables["waves"][rng.randrange(4)]
    return "the waves are"


@mutation
def an_operation_is_in_another_wave(good: Campaign, rng: random.Random) -> str:
    rng.choice(good.history.operations)["wave"] = 4
    return "the operations are in the waves"


@mutation
def a_later_wave_begins_before_an_operation_is_settled(good: Campaign, rng: random.Random) -> str:
    """Its first request leaves while the last one of the wave before is open."""
    wave = rng.choice([1, 2, 3])
    number = good.first_of(wave)["id"]
    good.move(number, good.operation(number - 1)["finished_at"] - TAKES_S / 2)
    return f"line {number + 1} left before wave {wave - 1} was settled"


@mutation
def a_look_up_of_a_later_wave_leaves_too_early(good: Campaign, rng: random.Random) -> str:
    number = rng.choice([25, 35])
    good.send(number, "look_up", rng.uniform(BEGUN, good.operation(20)["finished_at"] - 0.1))
    good.sort()
    return f"look_up 1 of line {number + 1} left before wave 2 was settled"


@mutation
def a_later_wave_begins_though_an_operation_is_still_in_doubt(
    good: Campaign, rng: random.Random
) -> str:
    operation = good.operation(rng.randrange(1, 21))
    operation |= {"state": "in_flight", "finished_at": None}
    return f"left before wave {operation['wave']} was settled"


@mutation
def the_ledger_has_a_later_wave_before_an_earlier_one(good: Campaign, rng: random.Random) -> str:
    """The store is wrong about when operations were settled, and the history knows nothing."""
    number = rng.randrange(1, 5)
    good.history.ledger.append(dict(good.history.ledger[number - 1]) | {"n": 1000})
    return f"arrived before revoke of assetId=A{number:04} (request 1000) of an earlier wave"


@mutation
def the_time_between_two_waves_is_too_short(good: Campaign, rng: random.Random) -> str:
    wave = rng.choice([1, 2, 3])
    first = good.first_of(wave)["id"]
    early_s = rng.uniform(0.1, BETWEEN_S - 0.1)
    before = max(o["finished_at"] for o in good.history.operations if o["wave"] < wave)
    good.move(first, before + BETWEEN_S - early_s)
    return f"s too early after wave {wave - 1}"


@mutation
def a_gate_opens_without_go(good: Campaign, rng: random.Random) -> str:
    go = good.goes.pop(rng.randrange(2))
    return f"after the wave {go.wave}, and nobody had said go"


@mutation
def a_gate_opens_before_go(good: Campaign, rng: random.Random) -> str:
    number, first = rng.choice([(0, 5), (1, 21)])
    go = good.goes[number]
    good.goes[number] = go._replace(at=go.at + 3.0)
    good.move(first, go.at + 2.5)
    return f"after the wave {go.wave}, and nobody had said go"


@mutation
def one_go_opens_two_gates(good: Campaign, rng: random.Random) -> str:
    good.history.job["rollout"]["confirm"] = ["all"]
    return "after the wave 25%, and nobody had said go"


@mutation
def something_leaves_during_a_pause(good: Campaign, rng: random.Random) -> str:
    pause = good.pause
    good.move(8, rng.uniform(pause.begin + 0.1, pause.end - 0.1))
    return "line 9 left"


@mutation
def something_arrives_during_a_pause(good: Campaign, rng: random.Random) -> str:
    """Also what the history does not know, such as a token call."""
    at = rng.uniform(good.pause.begin + 0.3, good.pause.end)
    token = {"action": "token.get", "device": "", "certSn": None, "at": at}
    good.history.ledger.append(good.history.ledger[0] | token)
    return "token.get  (request 1) arrived"


@mutation
def nothing_lifts_the_pause(good: Campaign, rng: random.Random) -> str:
    good.pause = good.pause._replace(end=math.inf)
    return "after the run was paused"


@mutation
def an_attempt_leaves_after_the_abort(good: Campaign, rng: random.Random) -> str:
    good.move(18, rng.uniform(good.abort["at"] + 1.1, good.abort["overridden_at"] - 0.1))
    return "attempt 1 of line 19: "


@mutation
def a_look_up_leaves_long_after_the_abort(good: Campaign, rng: random.Random) -> str:
    good.abort["overridden_at"] += 70
    good.send(17, "look_up", good.abort["at"] + 61.5)
    return "look_up 1 of line 18: "


@mutation
def the_run_goes_on_though_nobody_overrides(good: Campaign, rng: random.Random) -> str:
    good.abort["overridden_at"] = None
    return "after the abort k7pf"


@mutation
def a_second_abort_comes_though_nobody_overrode_the_first(
    good: Campaign, rng: random.Random
) -> str:
    good.history.tables["aborts"].append(good.abort | {"rule": "check"})
    good.abort["overridden_at"] = None
    return "the abort k7pf is pending, but the run went on"


@mutation
def a_rule_trips_and_the_run_goes_on(good: Campaign, rng: random.Random) -> str:
    good.history.tables["aborts"].clear()
    return "abort.failed tripped with line 18, but the run went on"


@mutation
def the_window_is_forgotten_on_restart(good: Campaign, rng: random.Random) -> str:
    """A failure from before the restart does not count any more, so a later one trips the rule."""
    number = rng.randrange(21, 40)
    good.operation(number).update(state="failed", code=99403)
    good.history.tables["settled"][number - 1].update(state="failed", code=99403)
    at = good.operation(number)["finished_at"] + 0.05
    good.abort.update(at=at, settled=number, overridden_at=at + 0.1)
    return "the abort k7pf came"


@mutation
def the_run_aborts_without_a_reason(good: Campaign, rng: random.Random) -> str:
    number = rng.choice(sorted(FAILED))
    good.operation(number).update(state="succeeded", code=0)
    good.history.tables["settled"][number - 1].update(state="succeeded", code=0)
    return "the run aborted by failed, which had not tripped"


@mutation
def the_abort_names_another_rule(good: Campaign, rng: random.Random) -> str:
    good.abort["rule"] = "99500"
    return "abort.failed tripped with line 18, but the abort k7pf names 99500"


@mutation
def too_many_are_under_way(good: Campaign, rng: random.Random) -> str:
    tripped_at = good.operation(17)["finished_at"]
    for number in range(18, 18 + IN_FLIGHT + 1):
        good.move(number, rng.uniform(tripped_at - TAKES_S + 0.01, good.abort["at"]))
    return f"{IN_FLIGHT + 1} attempts were under way or left after the abort k7pf"


@mutation
def an_outcome_is_not_judged(good: Campaign, rng: random.Random) -> str:
    number = rng.randrange(18, 40)
    del good.history.tables["settled"][number]
    return f"line {number + 2}: was settled, but not judged"


@mutation
def an_outcome_is_judged_twice(good: Campaign, rng: random.Random) -> str:
    row = rng.choice(good.history.tables["settled"])
    good.history.tables["settled"].append(row | {"id": 1000})
    return f"line {row['operation'] + 1}: was judged 2 times, but settled 1 times"


@mutation
def an_outcome_is_judged_as_another(good: Campaign, rng: random.Random) -> str:
    row = rng.choice(good.history.tables["settled"][17:])
    row |= {"state": "already_done"}
    return f"line {row['operation'] + 1}: was judged as already_done"


@mutation
def more_are_attempted_than_permitted(good: Campaign, rng: random.Random) -> str:
    good.history.job["protect"]["max_operations"] -= rng.randrange(1, TARGETS)
    return f"{TARGETS} operations were attempted"


@mutation
def more_are_claimed_than_permitted(good: Campaign, rng: random.Random) -> str:
    good.history.operations.append(good.operation(40) | {"id": 41, "state": "in_flight"})
    return "41 operations were claimed"


@mutation
def something_is_touched_that_must_not_be(good: Campaign, rng: random.Random) -> str:
    number = rng.randrange(1, TARGETS)
    good.history.never.append({"assetId": f"A*{number % 100:02}"})
    return f"of assetId=A{number:04} (request "


@mutation
def a_certificate_is_touched_that_must_not_be(good: Campaign, rng: random.Random) -> str:
    number = rng.randrange(1, TARGETS)
    good.history.never.append({"certSn": f"{number}"})
    return f"revoke of assetId=A{number:04} (request "


@mutation
def a_rate_is_exceeded(good: Campaign, rng: random.Random) -> str:
    at = good.rate.begin + rng.uniform(0.6, 2.0)
    for number in range(30, 33):
        good.move(number, at + rng.uniform(0, 0.1))
    return "requests left in the second"


@mutation
def a_rate_is_exceeded_by_what_no_history_has(good: Campaign, rng: random.Random) -> str:
    at = good.rate.begin + rng.uniform(0.6, 2.0)
    call = {"action": "token.get", "device": "", "certSn": None, "at": at}
    good.history.ledger += [good.history.ledger[0] | call for _ in range(9)]
    return "requests arrived in the second"


@mutation
def a_control_is_lost(good: Campaign, rng: random.Random) -> str:
    del good.history.tables["controls"][rng.choice([1, 4])]
    return "was confirmed, but is not on record"


@mutation
def controls_are_in_another_order(good: Campaign, rng: random.Random) -> str:
    good.history.tables["controls"].reverse()
    return "the control rate 8 was confirmed, but is not on record"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_found(name: str, seed: int, good: Campaign) -> None:
    expected = MUTATIONS[name](good, random.Random(seed))
    violations = good.violations()
    assert any(expected in violation for violation in violations), (expected, violations)


def test_where_a_confirmed_wave_was_dropped_the_one_before_waits(good: Campaign) -> None:
    rollout = good.history.job["rollout"]
    rollout |= {"waves": ["25%", 8, 20], "confirm": ["canary", "8", "20"]}
    assert good.violations() == ["the run went on after the wave 25%, and nobody had said go"]


# ---- what is not a violation


def test_look_ups_may_leave_for_a_minute_after_an_abort(good: Campaign) -> None:
    good.abort["overridden_at"] = good.abort["at"] + 70
    for operation in good.history.operations[17:]:
        good.move(operation["id"], operation["finished_at"] + 100)
    good.pause = Quiet("", 0, 0)
    good.goes[1] = good.goes[1]._replace(at=good.goes[1].at + 100)
    good.rate = Quiet("", 0, 0)
    good.send(17, "look_up", good.abort["at"] + 59)
    good.sort()
    assert good.violations() == []


def test_what_left_before_a_pause_may_arrive_shortly_after_it_began(good: Campaign) -> None:
    lost = good.history.ledger[6] | {"at": good.pause.begin + 0.2}
    good.history.ledger.insert(7, lost)
    assert good.violations() == []


def test_what_is_taken_up_again_is_one_more_wave(good: Campaign) -> None:
    """The requests of its first wave are those of its first wave still."""
    again = good.operation(13)
    at = good.at
    good.history.tables["waves"].append({"number": 4, "name": "retry", "targets": 1})
    again |= {"wave": 4, "finished_at": at + TAKES_S, "state": "succeeded", "code": 0}
    retried = {"operation": 13, "event": "retried", "ended_at": at - 0.1, "sent_at": None}
    good.history.events.append(retried)
    good.send(13, "attempt", at)
    settled = {"operation": 13, "state": "succeeded", "code": 0, "wave": 4}
    good.history.tables["settled"].append({"id": 41, **settled})
    assert good.violations() == []
    good.history.events.remove(retried)
    assert "left before wave 3 was settled" in " ".join(good.violations())


def test_an_override_lets_the_rules_count_from_zero(good: Campaign) -> None:
    for number in (18, 19):
        good.operation(number).update(state="failed", code=99403)
        good.history.tables["settled"][number - 1].update(state="failed", code=99403)
    assert good.violations() == []
    good.operation(20).update(state="failed", code=99403)
    good.history.tables["settled"][19].update(state="failed", code=99403)
    assert good.violations() == ["abort.failed tripped with line 21, but the run went on"]


def test_the_override_of_an_abort_by_the_check_lets_them_count_from_zero_as_well(
    good: Campaign,
) -> None:
    check_abort = good.abort | {"rule": "check", "settled": 14, "at": 0, "overridden_at": 1}
    good.history.tables["aborts"] = [check_abort]
    assert good.violations() == []


def test_what_was_settled_without_an_attempt_is_not_judged(good: Campaign) -> None:
    good.operation(30).update(state="already_done", attempts=0)
    good.history.tables["settled"] = [
        row for row in good.history.tables["settled"] if row["operation"] != 30
    ]
    assert good.violations() == []


# ---- what the job file says


@pytest.mark.parametrize(
    ("total", "rollout", "sizes"),
    [
        (100, {"canary": 5, "waves": ["1%", "10%"]}, [5, 5, 90]),
        (40, {"waves": ["0.1%", "50%", 30]}, [1, 19, 10, 10]),
        (3, {"canary": 20, "waves": ["10%"]}, [3]),
        (7, {}, [7]),
    ],
)
def test_waves_are_cumulative_and_rounded_down(
    total: int, rollout: dict[str, Any], sizes: list[int]
) -> None:
    assert [size for _, size in waves_of(total, rollout)] == sizes


def test_limits_count_the_last_ones_or_all() -> None:
    assert [limit_of(3), limit_of("2% of 500"), limit_of("0.5% of 999")] == [
        (3, 0),
        (10, 500),
        (4, 999),
    ]
    limits = AbortLimits({"failed": "50% of 4", "canary": 0, "99403": 1})
    said = [
        limits.judge(state, code, wave)
        for state, code, wave in [
            ("succeeded", 0, 0),
            ("failed", 99403, 1),
            ("unknown", 99500, 1),
            ("flawed", 0, 1),
            ("failed", 99403, 1),
            ("unknown", None, 0),
        ]
    ]
    assert said == [[], [], [], [], ["failed", "99403"], ["canary", "99403"]]


def test_durations_are_read() -> None:
    assert [seconds("90s"), seconds("10m"), seconds("1.5h"), seconds(3)] == [90, 600, 5400, 3]
