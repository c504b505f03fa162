"""The rules of a campaign proven by exhaustion where they are applied, and wrong ones caught."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

import pytest
from campaign_model import CAMPAIGNS, Exploration, ViolationError

from bulkcert.rules import gate
from bulkcert.store import claims

STATES = {
    "between, go, check": 6108,
    "go, pause": 3124,
    "abort, go": 738,
    "abort, check": 4922,
    "cap": 200,
    "cap at the end of a wave": 174,
    "cap that is just enough": 282,
}
"""How many there are. A change of the rules that makes it smaller may have cut something off."""

LONG = {"between, go, check", "abort, check"}


@pytest.mark.parametrize(
    "campaign", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in CAMPAIGNS]
)
def test_the_rules_hold_in_every_state_that_can_be_reached(campaign: str) -> None:
    assert Exploration(**CAMPAIGNS[campaign]).explore() == STATES[campaign]


MUTATIONS = {
    "the gate is always open": (gate, "reasons=tuple(reasons),", "reasons=(),"),
    "what pauses is not looked at": (
        gate,
        "if entry := situation.control.paused:",
        "if (entry := situation.control.paused) and False:",
    ),
    "the time between two waves is not awaited": (
        gate,
        "if situation.now_s < (until_s := standing.over_at + rollout.between_s):",
        "if situation.now_s < (until_s := standing.over_at):",
    ),
    "the time between two waves begins too early": (
        gate,
        "if situation.now_s < (until_s := standing.over_at + rollout.between_s):",
        "if situation.now_s < (until_s := standing.over_at - 1 + rollout.between_s):",
    ),
    "nobody has to say go": (
        gate,
        "wave not in situation.control.goes",
        "not wave",
    ),
    "one go opens all gates": (
        gate,
        "wave not in situation.control.goes",
        "not situation.control.goes",
    ),
    "the check need not have run": (
        gate,
        "    if check is None:\n",
        "    if check is None:\n        return []\n    if check is None:\n",
    ),
    "a check that holds is ignored": (
        gate,
        "if check.verdict is not Verdict.GO:",
        "if check.verdict is Verdict.ABORT:",
    ),
    "the last check of a wave is enough for the next": (
        gate,
        "check.began_s < standing.over_at",
        "check.began_s < standing.over_at - 1",
    ),
    "a wave is skipped": (gate, "wave=standing.wave + 1,", "wave=len(waves) - 1,"),
    "a wave begins while the one before is under way": (
        claims,
        "end_s = store.end_of_wave(wave) if",
        "end_s = self._now() if",
    ),
    "the gate is not asked": (claims, "while self.gate.is_open:", "while True:"),
    "no failure is counted": (claims, "and change.attempts\n", "and not change.attempts\n"),
    "the abort never trips": (
        claims,
        "if tripped := failures.judge(each):",
        "if failures.judge(each) and (tripped := ()):",
    ),
    "the abort is not recorded": (claims, "store.add_abort(abort)", "pass"),
    "a new process does not know of the abort": (
        claims,
        "self.pending = pending_abort(store.aborts())",
        "self.pending = None",
    ),
    "what was settled before a restart is forgotten": (
        claims,
        "for settled in store.settled(self._failures.longest):",
        "for settled in ():",
    ),
    "what was settled is not recorded": (
        claims,
        "in store.add_settled(settled):",
        "in (each for _, each in settled):",
    ),
    "controls are read once": (
        claims,
        "control_after(asked, self._control)",
        "self._control or control_after(asked)",
    ),
    "a check that says abort only holds": (
        claims,
        "check is not None and check.verdict is Verdict.ABORT",
        "False",
    ),
    "there is no cap": (claims, "most_begun=self._most_begun", "most_begun=None"),
    "the cap is noticed where there was enough": (
        claims,
        "if self.capped and changes:",
        "if False:",
    ),
    "the cap is not noticed at the end of a wave": (
        claims,
        "self.capped = store.end_of_wave(None) is None",
        "self.capped = store.end_of_wave(self._standing.wave) is None",
    ),
    "a run with waves ends with the first": (
        claims,
        "more = by_others or not self.gate.last_wave",
        "more = by_others",
    ),
}
"""Rules that are wrong, by what they would mean: where, what to replace, and by what."""


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_rules_that_are_wrong_are_caught(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, original, changed = MUTATIONS[mutation]
    source = inspect.getsource(where)
    assert source.count(original) == 1, f"{original!r} is there {source.count(original)} times"
    mutated = executed(source.replace(original, changed), "mutated", monkeypatch)
    if where is gate:
        # all other names stay those of the program, so that both know the same classes
        mutated.__dict__.update({k: v for k, v in vars(gate).items() if k[:1].isupper()})
        judge = mutated.judge
        mutated = executed(inspect.getsource(claims), "claims_with_mutant", monkeypatch)
        vars(mutated)["judge"] = judge
    assert any(violates(campaign, mutated) for campaign in CAMPAIGNS.values())


def executed(source: str, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look it up there
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def violates(campaign: dict[str, Any], module: ModuleType) -> bool:
    try:
        Exploration(module=module, **campaign).explore()
    except ViolationError as error:
        return isinstance(error.__cause__, AssertionError | None)  # it did not just crash
    return False
