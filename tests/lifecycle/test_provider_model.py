"""The life cycle proven by exhaustion for each kind of action, and wrong rules caught by it."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

import pytest
from provider_model import Exploration, ViolationError

from bulkcert import lifecycle
from bulkcert.lifecycle import StepRules
from bulkcert.model import State

READING = StepRules(changes=False)
LOOKUP = StepRules(changes=False, needs_lookup=True)
IDEMPOTENT = StepRules(changes=True, idempotent=True)
ONCE = StepRules(changes=True)
BEGINS_WITH_LOOKUP = StepRules(changes=True, idempotent=True, needs_lookup=True)

ACTIONS: dict[str, tuple[StepRules, ...]] = {
    "list, get": (READING,),
    "revoke, inactivate": (IDEMPOTENT,),
    "renew": (ONCE,),
    "renew with a key and the old subject": (LOOKUP, ONCE),
    "rotate": (ONCE, BEGINS_WITH_LOOKUP),
    "rotate with a key and the old subject": (LOOKUP, ONCE, BEGINS_WITH_LOOKUP),
    "select and revoke": (LOOKUP, IDEMPOTENT),
    "select and renew": (LOOKUP, ONCE),
    "select and rotate with a key and the old subject": (LOOKUP, LOOKUP, ONCE, BEGINS_WITH_LOOKUP),
}
STATES = {
    "list, get": 868,
    "revoke, inactivate": 3829,
    "renew": 1037,
    "renew with a key and the old subject": 1904,
    "rotate": 9909,
    "rotate with a key and the old subject": 7724,
    "select and revoke": 4178,
    "select and renew": 1904,
    "select and rotate with a key and the old subject": 8078,
}
"""How many there are. A change of the rules that makes it smaller may have cut something off."""

FINAL = {State.SUCCEEDED, State.ALREADY_DONE, State.FAILED, State.UNKNOWN}


@pytest.mark.parametrize("action", ACTIONS)
def test_the_invariants_hold_in_every_state_that_can_be_reached(action: str) -> None:
    exploration = Exploration(ACTIONS[action])
    assert exploration.explore() == STATES[action]
    never = {State.ALREADY_DONE, State.UNKNOWN} if action == "list, get" else set()
    if action == "rotate":
        never = {State.ALREADY_DONE}  # the first step is its own work, whatever follows
    assert exploration.outcomes == FINAL - never


MUTATIONS = {
    "a refusal after doubt is final": (
        "final = result.kind is AttemptKind.REFUSED and not operation.in_doubt",
        "final = result.kind is AttemptKind.REFUSED",
    ),
    "a dispute is final": (
        "if final or not rules.changes:",
        "if final or not rules.changes or result.kind is AttemptKind.DISPUTED:",
    ),
    "what is not idempotent is retried in doubt": (
        "if rules.changes and not rules.idempotent:",
        "if False:",
    ),
    "the look-up does not wait until the attempt has settled": (
        "delay = Delay(settling_s, settling_s + delay.most_s)",
        "pass",
    ),
    "what was left in flight is not given time to settle": (
        "settling_s = 0.0 if rules.idempotent else self.timings.settling_s",
        "settling_s = 0.0",
    ),
    "what was left in flight is sent again": (
        "if not operation.in_doubt:\n            return Transition(operation, None, Send())",
        "if True:\n            return Transition(operation, None, Send())",
    ),
    "doubt is forgotten when a step begins with a look-up": (
        "in_doubt=operation.in_doubt and rules.changes,",
        "in_doubt=False,",
    ),
    "doubt is forgotten when an attempt is withdrawn": (
        "state = State.IN_FLIGHT if operation.in_doubt else State.PLANNED",
        "state = State.PLANNED",
    ),
    "doubt is not noted": (
        "not_sent_in_a_row=0, last_error=result, in_doubt=rules.changes",
        "not_sent_in_a_row=0, last_error=result",
    ),
    "what waits in doubt goes back to planned": (
        "if operation.in_doubt:\n        return Transition(operation, None, RetryLater(delay))",
        "if False:\n        return Transition(operation, None, RetryLater(delay))",
    ),
    "an unclear look-up leads to a retry of what is not idempotent": (
        "if self.steps[operation.step].idempotent and self._may_repeat(after):",
        "if self._may_repeat(after):",
    ),
    "an unclear look-up of something in doubt is a failure": (
        "state = State.UNKNOWN if after.in_doubt else State.FAILED\n"
        "                return _settle(after, state, _with_last_error",
        "state = State.FAILED\n                return _settle(after, state, _with_last_error",
    ),
    "look-ups that fail are a retry of what is not idempotent": (
        "if self.steps[operation.step].idempotent and self._may_repeat(operation):",
        "if self._may_repeat(operation):",
    ),
    "look-ups that fail make the operation fail": (
        "state = State.UNKNOWN if _touched(operation) else State.FAILED\n"
        "        return _settle(operation",
        "state = State.FAILED\n        return _settle(operation",
    ),
    "a look-up that is turned away makes the operation fail": (
        "state = State.UNKNOWN if _touched(after) else State.FAILED",
        "state = State.FAILED",
    ),
    "being turned away makes an operation in doubt fail": (
        "if after.in_doubt:\n                    return Transition(after, None, LookUp())",
        "if False:\n                    return Transition(after, None, LookUp())",
    ),
    "what we have done was done before": (
        "ours = operation.in_doubt or any(",
        "ours = False and any(",
    ),
    "what was done before is ours": (
        "state = State.SUCCEEDED if ours else State.ALREADY_DONE",
        "state = State.SUCCEEDED if not ours else State.ALREADY_DONE",
    ),
    "a retry is not counted": (
        "intended = operation._replace(attempts=operation.attempts + 1)",
        "intended = operation",
    ),
    "a retry is sent before its intent is recorded": (
        "return _record(intended, State.IN_FLIGHT, operation.last_error, Send())",
        "return Transition(intended, None, Send())",
    ),
    "a throttled attempt counts": (
        "after = operation._replace(attempts=operation.attempts - 1, not_sent_in_a_row=0)",
        "after = operation._replace(not_sent_in_a_row=0)",
    ),
    "attempts have no end": (
        "if tries < self.max_attempts:\n            return _retry(operation, delay)",
        "if True:\n            return _retry(operation, delay)",
    ),
    "a refused attempt is repeated after a look-up": (
        "return changes and not refused and tries < self.max_attempts",
        "return changes and tries <= self.max_attempts",
    ),
    "the next step is in doubt about the one before": (
        "            attempts_before_step=operation.attempts,\n            in_doubt=False,",
        "            attempts_before_step=operation.attempts,",
    ),
    "a step that is done settles the operation": (
        "if operation.step + 1 < len(self.steps):",
        "if False:",
    ),
    "a step is left out": (
        "step = operation.step + 1\n        begun",
        "step = operation.step + 2\n        begun",
    ),
    "attempts before the fan-out count": (
        "attempts=0,\n            attempts_before_step=0,",
        "attempts=0,",
    ),
    "the state is not changed in memory": (
        "return Transition(operation._replace(state=state), change, effect)",
        "return Transition(operation, change, effect)",
    ),
    "an operation is settled and goes on": (
        "return _record(operation, state, result, Finish(), finished_at=at_s)",
        "return _record(operation, state, result, Release(), finished_at=at_s)",
    ),
    "a look-up step sends": (
        "return LookUp() if self.steps[step].needs_lookup else RetryLater()",
        "return RetryLater()",
    ),
}
"""Rules that are wrong, by what they would mean: what to replace in the life cycle, and by what."""


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_rules_that_are_wrong_are_caught(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original, changed = MUTATIONS[mutation]
    source = inspect.getsource(lifecycle)
    assert source.count(original) == 1, f"{original!r} is there {source.count(original)} times"
    module = ModuleType("mutated_lifecycle")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look it up there
    exec(compile(source.replace(original, changed), "mutated", "exec"), module.__dict__)
    assert any(violates(steps, module) for steps in ACTIONS.values())


def violates(steps: tuple[StepRules, ...], module: ModuleType) -> bool:
    """Whether an invariant does not hold under the rules of this module."""
    try:
        Exploration(steps, module).explore()
    except ViolationError:
        return True
    return False
