"""What may be claimed, and when: the rules of a campaign on a store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from stores import Disk, MemoryStore

from bulkcert.control import Verb
from bulkcert.event_log import EventType
from bulkcert.model import Change, State, Target
from bulkcert.rules import NO_RULES, Check, Protect, Rollout, Rules
from bulkcert.rules.abort import AbortRules, Settled, limit
from bulkcert.rules.check import CheckResult, Verdict
from bulkcert.rules.gate import Gate, ReasonKind, Standing
from bulkcert.rules.rollout import Size, Wave
from bulkcert.store.claims import Claimed, Claims, Position

TARGETS = 4


class Campaign:
    """A campaign of four operations, and the process that works on it.

    Attributes:
        now_s: the time of day.
    """

    def __init__(self, rules: Rules = NO_RULES, waves: Sequence[Wave] = (), **options: Any) -> None:
        targets = (Target(line, {"name": line}) for line in range(1, TARGETS + 1))
        self.now_s = 1000.0
        self.rules = rules
        self.store = MemoryStore(Disk.planned(targets, waves), lambda: self.now_s)
        self.claims = Claims(rules, now=lambda: self.now_s, **options)

    def commit(self, *changes: Change) -> Gate:
        """Record changes; return the gate that follows."""
        with self.store.transaction():
            self.store.record(changes)
            self.claims.begin(self.store)
            self.claims.judge(self.store, changes)
        return self.claims.gate

    def claim(self) -> list[int]:
        """Claim what may be claimed; return its ids."""
        with self.store.transaction():
            self.claims.begin(self.store)
            self.claims.judge(self.store, ())
            return [each.id for each in self.claims.claim(self.store, TARGETS, ()).operations]

    def control(self, verb: Verb, value: str = "") -> None:
        """Ask something of the run."""
        with self.store.transaction():
            self.store.add_control(self.now_s, "ann@ops1", "deploy", verb, value)

    def settled(self, number: int, state: State = State.SUCCEEDED, code: int | None = 0) -> Change:
        """The change that settles a claimed operation now."""
        return Change(
            number, State.IN_FLIGHT, state, 1, code=code, finished_at=self.now_s, line=number
        )


def over_while_paused(**options: Any) -> Campaign:
    """The first of two waves is claimed, then settled while the run is paused."""
    rollout = Rollout(sizes=(Size("canary", targets=2),), confirm=frozenset({"canary"}))
    waves = [Wave("canary", 0, 2), Wave("rest", 2, 4)]
    campaign = Campaign(replace(NO_RULES, rollout=rollout), waves, **options)
    assert campaign.claim() == [1, 2]
    campaign.control(Verb.PAUSE)
    campaign.commit(campaign.settled(1))
    campaign.commit(campaign.settled(2))
    return campaign


def test_a_wave_is_over_also_while_the_run_is_paused() -> None:
    campaign = over_while_paused()
    reasons = list(map(str, campaign.claims.gate.reasons))
    assert reasons == ["paused (by ann@ops1: deploy)", "waiting (go canary)"]
    campaign.control(Verb.GO, "canary")
    campaign.commit()
    assert campaign.store.standing().wave == 0  # still paused
    campaign.control(Verb.RESUME)
    assert campaign.claim() == [3, 4]


def test_a_process_that_stops_after_a_wave_does_not_wait_for_the_end_of_a_pause() -> None:
    assert over_while_paused(until="canary").claims.gate.stop == "the wave canary is over"


def test_the_end_of_an_earlier_wave_stops_no_process() -> None:
    assert over_while_paused(until="rest").claims.gate.stop == ""


def test_a_process_that_is_to_stop_after_a_wave_that_was_over_long_ago_stops_at_once() -> None:
    campaign = waves_in_two_processes()
    campaign.claims = Claims(CANARY_FIRST, until="canary", now=lambda: campaign.now_s)
    assert campaign.commit().stop == "the wave canary is over"


def test_a_process_that_begins_knows_that_the_wave_is_over_although_it_is_paused() -> None:
    before = over_while_paused()
    with before.store.transaction():
        before.store.set_standing(Standing())  # as if it had been killed before it knew
    before.claims = Claims(before.rules, until="canary", now=lambda: before.now_s)
    assert before.commit().stop == "the wave canary is over"


def test_a_wave_does_not_wait_for_an_hour_because_the_clock_was_set_back_by_one() -> None:
    latest: list[CheckResult] = []
    check = Check(command=("true",), every_s=30.0, timeout_s=10.0, patience_s=1800.0)
    rules = replace(NO_RULES, rollout=Rollout(between_s=60.0), check=check)
    waves = [Wave("canary", 0, 2), Wave("rest", 2, 4)]
    campaign = Campaign(rules, waves, check=lambda store: latest[-1] if latest else None)

    def checked() -> None:
        latest.append(CheckResult(campaign.now_s, campaign.now_s, Verdict.GO, ""))

    campaign.now_s = 10_000.0
    checked()
    assert campaign.claim() == [1, 2]
    campaign.now_s = 10_010.0
    campaign.commit(campaign.settled(1), campaign.settled(2))
    assert campaign.claim() == []
    campaign.now_s -= 3600  # the last check seems to begin in an hour
    kinds = [reason.kind for reason in campaign.commit().reasons]
    assert kinds == [ReasonKind.HELD, ReasonKind.WAITING]
    campaign.now_s += 61
    checked()
    assert campaign.claim() == [3, 4]


def test_nor_does_it_wait_again_because_another_process_begins() -> None:
    rules = replace(NO_RULES, rollout=Rollout(between_s=60.0))
    campaign = Campaign(rules, [Wave("canary", 0, 2), Wave("rest", 2, 4)])
    campaign.now_s = 10_000.0
    assert campaign.claim() == [1, 2]
    campaign.commit(campaign.settled(1), campaign.settled(2))
    assert campaign.claim() == []
    campaign.now_s -= 3600
    campaign.commit()
    campaign.now_s += 50
    campaign.claims = Claims(rules, now=lambda: campaign.now_s)
    campaign.commit()
    campaign.now_s += 11
    assert campaign.claim() == [3, 4]


@pytest.mark.parametrize("step_s", [0.2, 3600.0, -3600.0])
def test_the_patience_with_a_check_is_not_used_up_by_a_clock_that_is_set(step_s: float) -> None:
    check = Check(command=("true",), every_s=30.0, timeout_s=10.0, patience_s=50.0)
    campaign = Campaign(
        replace(NO_RULES, check=check),
        check=lambda store: CheckResult(0.0, 0.0, Verdict.HOLD, "unwell"),
    )
    campaign.commit()
    campaign.now_s += 40
    campaign.commit()
    campaign.now_s += step_s
    assert not campaign.commit().abort
    campaign.now_s += 11
    assert campaign.commit().abort


@pytest.mark.parametrize(("stop_after", "stops"), [(None, False), (1, False), (0, True)])
def test_a_stop_reaches_a_process_that_was_there_but_had_not_begun(
    stop_after: int | None, stops: bool
) -> None:
    campaign = Campaign(stop_after=stop_after)
    campaign.control(Verb.STOP)
    assert bool(campaign.commit().stop) is stops


def test_a_pause_and_a_rate_are_in_force_after_an_abort_too() -> None:
    campaign = Campaign()
    campaign.commit()
    with campaign.store.transaction():
        campaign.claims.stop_run(campaign.store, "check", "unwell")
    assert campaign.commit().abort
    assert campaign.claims.gate.reasons == ()
    campaign.control(Verb.PAUSE)
    campaign.control(Verb.RATE, "5")
    gate = campaign.commit()
    assert gate.abort
    assert list(map(str, gate.reasons)) == ["paused (by ann@ops1: deploy)"]
    assert (gate.rate, gate.control_id) == (5.0, 2)


# ---- the log


CANARY_FIRST = replace(NO_RULES, rollout=Rollout(sizes=(Size("canary", targets=2),)))
WAVES = [Wave("canary", 0, 2), Wave("rest", 2, 4)]


def logged(campaign: Campaign, kind: EventType) -> list[tuple[float, dict[str, Any]]]:
    """The events of one type, with their times."""
    return [(each.at, dict(each.data)) for each in campaign.store.events() if each.type is kind]


def waves_in_two_processes() -> Campaign:
    """Two waves; another process goes on with the second one."""
    campaign = Campaign(CANARY_FIRST, WAVES)
    assert campaign.claim() == [1, 2]
    campaign.now_s = 1010.0
    campaign.commit(campaign.settled(1), campaign.settled(2, State.FAILED, 500))
    campaign.now_s = 1020.0
    assert campaign.claim() == [3, 4]
    campaign.store = MemoryStore(campaign.store.disk, lambda: campaign.now_s)
    campaign.claims = Claims(CANARY_FIRST, now=lambda: campaign.now_s)
    assert campaign.claim() == [3, 4]  # in doubt
    return campaign


def test_the_begin_and_the_end_of_each_wave_are_logged_once() -> None:
    campaign = waves_in_two_processes()
    assert campaign.claims.wave == "rest"
    campaign.now_s = 1030.0
    campaign.commit(campaign.settled(3), campaign.settled(4, State.UNKNOWN, None))
    campaign.now_s = 1040.0
    for _ in range(2):
        campaign.claims.finish(campaign.store)
    another = Claims(CANARY_FIRST, now=lambda: campaign.now_s)
    another.finish(campaign.store)
    canary = {"wave": "canary", "number": 0, "targets": 2}
    rest = {"wave": "rest", "number": 1, "targets": 2}
    assert logged(campaign, EventType.WAVE) == [
        (1000.0, {**canary, "change": "begun"}),
        (1010.0, {**canary, "change": "over", "outcomes": {"succeeded": 1, "failed": 1}}),
        (1020.0, {**rest, "change": "begun"}),
        (1030.0, {**rest, "change": "over", "outcomes": {"succeeded": 1, "unknown": 1}}),
    ]


def test_the_end_of_a_wave_is_logged_for_a_process_that_was_killed_before_it_could() -> None:
    campaign = waves_in_two_processes()
    with campaign.store.transaction():
        campaign.store.record([campaign.settled(3), campaign.settled(4)])
    Claims(CANARY_FIRST).finish(campaign.store)
    [*_, (at, data)] = logged(campaign, EventType.WAVE)
    assert (at, data["wave"], data["change"]) == (1020.0, "rest", "over")
    assert len(logged(campaign, EventType.WAVE)) == 4


def test_a_wave_in_which_something_is_left_is_not_over() -> None:
    campaign = waves_in_two_processes()
    campaign.commit(campaign.settled(3))
    campaign.claims.finish(campaign.store)
    assert logged(campaign, EventType.WAVE)[-1][1]["change"] == "begun"


def test_the_begin_of_a_wave_without_targets_is_logged_too() -> None:
    waves = [Wave("canary", 0, 2), Wave("none", 2, 2), Wave("rest", 2, 4)]
    campaign = Campaign(CANARY_FIRST, waves)
    assert campaign.claim() == [1, 2]
    campaign.commit(campaign.settled(1), campaign.settled(2))
    assert campaign.claim() == [3, 4]
    changes = [(data["wave"], data["change"]) for _, data in logged(campaign, EventType.WAVE)]
    assert changes == [
        *(("canary", "begun"), ("canary", "over")),
        *(("none", "begun"), ("none", "over")),
        ("rest", "begun"),
    ]


def test_without_waves_none_is_logged() -> None:
    campaign = Campaign()
    assert campaign.claim() == [1, 2, 3, 4]
    campaign.commit(*map(campaign.settled, (1, 2, 3, 4)))
    campaign.claims.finish(campaign.store)
    assert campaign.claims.wave is None
    assert campaign.store.events() == []


def test_why_nothing_leaves_is_logged_when_it_changes() -> None:
    campaign = Campaign()
    campaign.commit()
    campaign.control(Verb.PAUSE)
    for _ in range(2):
        campaign.now_s += 1
        campaign.commit()
    campaign.control(Verb.RESUME)
    campaign.now_s += 1
    campaign.commit()
    assert logged(campaign, EventType.STATE) == [
        (1001.0, {"state": "paused", "reasons": ["paused (by ann@ops1: deploy)"]}),
        (1003.0, {"state": "running", "reasons": []}),
    ]


def test_after_an_abort_or_a_stop_nothing_leaves_anyway() -> None:
    for stopped in (True, False):
        campaign = Campaign(stop_after=0)
        campaign.commit()
        campaign.control(Verb.PAUSE)
        if stopped:
            campaign.control(Verb.STOP)
        else:
            campaign.claims.stop_run(campaign.store, "check", "unwell")
        campaign.commit()
        assert logged(campaign, EventType.STATE) == []


def test_what_a_check_says_is_logged_when_it_changes() -> None:
    latest: list[CheckResult] = []
    check = Check(command=("true",), every_s=30.0, timeout_s=10.0, patience_s=1800.0)
    campaign = Campaign(replace(NO_RULES, check=check), check=lambda store: latest[-1])
    for ended_s, verdict, reason in [
        (1001.0, Verdict.HOLD, "unwell"),
        (1002.0, Verdict.HOLD, "unwell"),
        (1003.0, Verdict.HOLD, "worse"),
        (1004.0, Verdict.GO, "worse"),
    ]:
        latest.append(CheckResult(ended_s - 0.5, ended_s, verdict, reason))
        campaign.commit()
    assert logged(campaign, EventType.CHECK) == [
        (1001.0, {"verdict": "hold", "reason": "unwell"}),
        (1003.0, {"verdict": "hold", "reason": "worse"}),
        (1004.0, {"verdict": "go", "reason": "worse"}),
    ]
    states = [data["state"] for _, data in logged(campaign, EventType.STATE)]
    assert states == ["held", "running"]


def test_a_control_is_logged_when_it_is_in_force_and_a_rate_in_each_process() -> None:
    campaign = Campaign()
    campaign.control(Verb.PAUSE)
    campaign.control(Verb.RATE, "5")
    campaign.commit()
    campaign.control(Verb.RESUME)
    campaign.now_s = 1001.0
    campaign.commit()
    campaign.claims = Claims(NO_RULES, now=lambda: campaign.now_s)
    campaign.now_s = 1002.0
    assert campaign.commit().rate == 5.0
    found = [(at, data["verb"], data["change"]) for at, data in logged(campaign, EventType.CONTROL)]
    assert found == [
        (1000.0, "rate", "in_force"),
        (1001.0, "resume", "in_force"),
        (1002.0, "rate", "in_force"),
    ]


def test_the_first_rule_that_stops_the_run_is_logged_and_no_later_one() -> None:
    campaign = Campaign()
    campaign.commit()
    for rule in ("failed", "check"):
        campaign.claims.stop_run(campaign.store, rule, "2 of 4 failed")
    [abort] = campaign.store.aborts()
    assert abort == campaign.claims.pending
    assert (abort.at, abort.rule, abort.text) == (1000.0, "failed", "2 of 4 failed")
    data = {"abort": abort.id, "rule": "failed", "text": "2 of 4 failed"}
    assert logged(campaign, EventType.ABORT) == [(1000.0, data)]
    assert len(abort.id) == 6


def test_a_check_may_abort_the_run() -> None:
    check = Check(command=("true",))
    latest = CheckResult(1000.0, 1000.0, Verdict.ABORT, "too many calls")
    campaign = Campaign(replace(NO_RULES, check=check), check=lambda store: latest)
    abort = campaign.commit().abort
    campaign.commit()
    [(_, data)] = logged(campaign, EventType.ABORT)
    text = "the check says so: too many calls"
    assert data == {"abort": abort, "rule": "check", "text": text}


# ---- limits


@pytest.mark.parametrize(("gap_s", "aborts"), [(60.0, True), (60.5, False), (0.0, True)])
def test_the_patience_is_used_up_between_looks_that_are_at_most_a_minute_apart(
    gap_s: float, aborts: bool
) -> None:
    check = Check(command=("true",), patience_s=gap_s + 40.0)
    campaign = Campaign(
        replace(NO_RULES, check=check),
        check=lambda store: CheckResult(0.0, 0.0, Verdict.HOLD, "unwell"),
    )
    for passes_s in (0.0, gap_s, 40.0):
        campaign.now_s += passes_s
        assert not campaign.commit().abort
    campaign.now_s += 0.25
    assert bool(campaign.commit().abort) is aborts
    if aborts:
        [abort] = campaign.store.aborts()
        assert abort.rule == "check"
        assert abort.text.startswith("the check has held the run for ")
        assert abort.text.endswith(": check: unwell")


def test_a_clock_that_is_set_back_a_little_does_not_lengthen_the_patience() -> None:
    check = Check(command=("true",), patience_s=10.0)
    campaign = Campaign(replace(NO_RULES, check=check))
    for passes_s in (0.0, -0.5):
        campaign.now_s += passes_s
        campaign.commit()
    campaign.now_s += 10.25
    assert campaign.commit().abort


def test_the_patience_begins_again_when_something_else_holds_the_run_too() -> None:
    check = Check(command=("true",), patience_s=50.0)
    campaign = Campaign(
        replace(NO_RULES, check=check),
        check=lambda store: CheckResult(0.0, 0.0, Verdict.HOLD, "unwell"),
    )
    campaign.commit()
    campaign.now_s += 40
    campaign.control(Verb.PAUSE)
    campaign.commit()
    campaign.control(Verb.RESUME)
    campaign.commit()
    campaign.now_s += 40
    assert not campaign.commit().abort
    campaign.now_s += 11
    assert campaign.commit().abort


def failed_one_too_many() -> Campaign:
    """One failure is tolerated; two operations are claimed and have failed."""
    rules = replace(NO_RULES, abort={"failed": limit(1)})
    campaign = Campaign(rules)
    assert campaign.claim() == [1, 2, 3, 4]
    assert not campaign.commit(campaign.settled(1, State.FAILED, 500)).abort
    return campaign


def test_a_rule_trips_with_the_change_that_is_one_too_many() -> None:
    campaign = failed_one_too_many()
    second, third = (campaign.settled(number, State.FAILED, 500) for number in (2, 3))
    abort = campaign.commit(second).abort
    assert abort
    assert campaign.commit(third).abort == abort
    [(_, data)] = logged(campaign, EventType.ABORT)
    assert data["rule"] == "failed"
    assert len(list(campaign.store.settled(None))) == 3


def test_what_earlier_processes_have_settled_counts() -> None:
    campaign = failed_one_too_many()
    second = campaign.settled(2, State.FAILED, 500)
    campaign.claims = Claims(campaign.rules, now=lambda: campaign.now_s)
    campaign.commit()
    assert not campaign.claims.foresee(campaign.settled(3))
    assert campaign.claims.foresee(second)
    assert campaign.commit(second).abort


def test_of_two_rules_that_trip_together_the_first_has_stopped_the_run() -> None:
    rules = {"failed": limit(0), "500": limit("10% of 5")}
    campaign = Campaign(replace(NO_RULES, abort=rules))
    campaign.claim()
    first, second = AbortRules(rules).judge(Settled(State.FAILED, 500, 0))
    campaign.commit(campaign.settled(1, State.FAILED, 500))
    [abort] = campaign.store.aborts()
    assert (abort.rule, abort.text) == (first.rule, str(first)) != (second.rule, str(second))


def test_what_is_to_be_tried_again_does_not_count_yet() -> None:
    campaign = failed_one_too_many()
    campaign.commit(Change(2, State.IN_FLIGHT, State.PLANNED, 1))
    assert len(list(campaign.store.settled(None))) == 1


def test_what_was_not_attempted_does_not_count() -> None:
    campaign = failed_one_too_many()
    assert not campaign.claims.foresee(campaign.settled(1, State.FAILED, 500))
    second = campaign.settled(2, State.FAILED, 500)._replace(attempts=0)
    assert not campaign.claims.foresee(second)
    assert not campaign.commit(second).abort


def test_without_rules_about_failures_none_is_foreseen() -> None:
    campaign = Campaign()
    campaign.claim()
    assert campaign.claims.foresee(campaign.settled(1, State.FAILED, 500)) is False
    campaign.commit(campaign.settled(1, State.FAILED, 500))
    assert list(campaign.store.settled(None)) == []


def test_a_cap_is_reached_when_something_is_left_that_may_not_be_claimed() -> None:
    rules = replace(NO_RULES, protect=Protect(max_operations=3))
    campaign = Campaign(rules)
    assert campaign.claim() == [1, 2, 3]
    assert not campaign.claims.capped
    with campaign.store.transaction():
        campaign.claims.begin(campaign.store)
        campaign.claims.judge(campaign.store, ())
        assert campaign.claims.claim(campaign.store, 9, ()) == Claimed(more=False)
    assert campaign.claims.capped
    assert campaign.store.standing().begun == 3
    campaign.commit(campaign.settled(1))
    assert campaign.claims.capped


def test_a_cap_as_high_as_the_run_does_not_matter() -> None:
    campaign = Campaign(replace(NO_RULES, protect=Protect(max_operations=TARGETS)))
    assert campaign.claim() == [1, 2, 3, 4]
    assert campaign.claim() == []
    assert campaign.claims.capped  # for all that is known
    campaign.commit(*map(campaign.settled, (1, 2, 3, 4)))
    assert not campaign.claims.capped
    assert campaign.claim() == []
    assert not campaign.claims.capped


def test_where_the_campaign_stands() -> None:
    campaign = Campaign(CANARY_FIRST, WAVES)
    assert campaign.claims.position == ([], Standing(), {}.keys(), None, False)
    assert Position() == ((), Standing(), (), None, False)
    campaign.control(Verb.GO, "canary")
    campaign.control(Verb.RATE, "5")
    campaign.control(Verb.PAUSE)
    campaign.commit()
    position = campaign.claims.position
    assert [wave.name for wave in position.waves] == ["canary", "rest"]
    assert position.standing == campaign.store.standing()
    assert list(position.gone) == ["canary"]
    assert (position.rate, position.held) == (5.0, True)
    assert waves_in_two_processes().claims.position.standing == Standing(wave=1)


def test_operations_that_are_put_back_to_work_are_a_wave_of_their_own() -> None:
    campaign = waves_in_two_processes()
    campaign.commit(campaign.settled(3), campaign.settled(4))
    with campaign.store.transaction():
        assert campaign.store.retry_failed() == 1
        campaign.claims.begin(campaign.store)
        campaign.claims.judge(campaign.store, ())
    names = [wave.name for wave in campaign.claims.position.waves]
    assert names == ["canary", "rest", "retry-2"]


@pytest.mark.parametrize("aborted", [True, False])
def test_after_a_stop_or_an_abort_only_what_forbids_look_ups_still_matters(aborted: bool) -> None:
    check = Check(command=("true",))
    campaign = Campaign(replace(NO_RULES, check=check), stop_after=0)
    assert [reason.kind for reason in campaign.commit().reasons] == [ReasonKind.HELD]
    if aborted:
        campaign.claims.stop_run(campaign.store, "failed", "2 of 4 failed")
    else:
        campaign.control(Verb.STOP)
    gate = campaign.commit()
    assert (bool(gate.abort), bool(gate.stop)) == (aborted, not aborted)
    assert gate.reasons == ()


def test_a_stop_does_not_change_the_wave() -> None:
    campaign = waves_in_two_processes()
    campaign.claims.stop_run(campaign.store, "failed", "2 of 4 failed")
    assert campaign.commit().wave == 1


def test_a_stop_says_who_asked_and_why() -> None:
    campaign = Campaign(stop_after=0)
    campaign.control(Verb.STOP)
    assert campaign.commit().stop == "asked to by ann@ops1: deploy"
    campaign = Campaign(stop_after=0)
    with campaign.store.transaction():
        campaign.store.add_control(campaign.now_s, "ann@ops1", "", Verb.STOP)
    assert campaign.commit().stop == "asked to by ann@ops1"
