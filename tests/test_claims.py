"""What may be claimed, and when: the rules of a campaign on a store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from stores import Disk, MemoryStore

from bulkcert.control import Verb
from bulkcert.model import Change, State, Target
from bulkcert.rules import NO_RULES, Check, Rollout, Rules
from bulkcert.rules.check import CheckResult, Verdict
from bulkcert.rules.gate import Gate, ReasonKind, Standing
from bulkcert.rules.rollout import Size, Wave
from bulkcert.store.claims import Claims

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
            self.claims.judge(self.store, changes)
        return self.claims.gate

    def claim(self) -> list[int]:
        """Claim what may be claimed; return its ids."""
        with self.store.transaction():
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
    campaign = Campaign(rules, waves, check=lambda: latest[-1] if latest else None)

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


@pytest.mark.parametrize("step_s", [0.2, 3600.0, -3600.0])
def test_the_patience_with_a_check_is_not_used_up_by_a_clock_that_is_set(step_s: float) -> None:
    check = Check(command=("true",), every_s=30.0, timeout_s=10.0, patience_s=50.0)
    campaign = Campaign(
        replace(NO_RULES, check=check), check=lambda: CheckResult(0.0, 0.0, Verdict.HOLD, "unwell")
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
