"""The life cycle proven by exhaustion for each kind of action, and wrong rules caught by it."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

import pytest
from provider_model import Exploration, ViolationError

from bulkcert import lifecycle
from bulkcert.model import State, StepRules

READING = StepRules(changes=False)
LOOKUP = StepRules(changes=False, needs_lookup=True)
IDEMPOTENT = StepRules(changes=True, idempotent=True)
ONCE = StepRules(changes=True)
LOOKUP_FIRST = StepRules(changes=True, idempotent=True, needs_lookup=True)
ONCE_AFTER_LOOKUP = StepRules(changes=True, needs_lookup=True)

ACTIONS: dict[str, tuple[StepRules, ...]] = {
    "list, get": (READING,),
    "revoke, inactivate": (IDEMPOTENT,),
    "renew": (ONCE_AFTER_LOOKUP,),
    "rotate": (ONCE_AFTER_LOOKUP, LOOKUP_FIRST),
    "select and revoke": (LOOKUP, IDEMPOTENT),
    "select and renew": (LOOKUP, ONCE_AFTER_LOOKUP),
    "select and rotate": (LOOKUP, ONCE_AFTER_LOOKUP, LOOKUP_FIRST),
    "another provider's, not idempotent, sent at once": (ONCE,),
    "another provider's, after a look-up": (LOOKUP, ONCE),
}
STATES = {
    "list, get": 1220,
    "revoke, inactivate": 7295,
    "renew": 2034,
    "rotate": 8412,
    "select and revoke": 7896,
    "select and renew": 4152,
    "select and rotate": 10312,
    "another provider's, not idempotent, sent at once": 1973,
    "another provider's, after a look-up": 3178,
}
"""How many there are. A change of the rules that makes it smaller may have cut something off."""

FINAL = {State.SUCCEEDED, State.ALREADY_DONE, State.FAILED, State.FLAWED, State.UNKNOWN}


@pytest.mark.parametrize("action", ACTIONS)
def test_the_invariants_hold_in_every_state_that_can_be_reached(action: str) -> None:
    exploration = Exploration(ACTIONS[action])
    assert exploration.explore() == STATES[action]
    never = set() if action != "list, get" else {State.ALREADY_DONE, State.UNKNOWN, State.FLAWED}
    assert exploration.outcomes == FINAL - never


_RETRY = "\n            return _retry(operation, NOW)\n"

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
    "a look-up that comes early decides": (
        "if looked.negative_lookups == 1:",
        "if False:",
    ),
    "the second look-up does not wait until the attempt has settled": (
        "return Delay(self.settling_s, self.settling_s)",
        "return NOW",
    ),
    "what was left in flight is sent again": (
        "if operation.in_doubt and rules.changes:",
        "if False:",
    ),
    "an attempt that may still be executed is called failed": (
        "if operation.in_doubt and not harmless:",
        "if operation.in_doubt and not self.steps[operation.step].idempotent:",
    ),
    "a step that must look first sends unseen": (
        "return rules.idempotent and not rules.needs_lookup and self._may_repeat(operation)",
        "return self._may_repeat(operation)",
    ),
    "what the step builds on is awaited without end": (
        "if looked.negative_lookups < self.max_attempts:",
        "if True:",
    ),
    "what was executed is failed": (
        "return _settle(operation, State.FLAWED, result, at_s)",
        "return _settle(operation, State.FAILED, result, at_s)",
    ),
    "what was found executed is failed": (
        "return _settle(after, State.FLAWED, result, at_s)",
        "return _settle(after, State.FAILED, result, at_s)",
    ),
    "doubt is forgotten when an attempt is withdrawn": (
        "state = State.IN_FLIGHT if operation.in_doubt else State.PLANNED",
        "state = State.PLANNED",
    ),
    "doubt is not noted": (
        "in_doubt=rules.changes,",
        "",
    ),
    "what waits in doubt goes back to planned": (
        "if operation.in_doubt:\n        return Transition(operation, None, RetryLater(delay))",
        "if False:\n        return Transition(operation, None, RetryLater(delay))",
    ),
    "an unclear look-up leads to a retry of what is not idempotent": (
        f"if self._may_repeat_unseen(operation):{_RETRY}        repeats",
        f"if self._may_repeat(operation):{_RETRY}        repeats",
    ),
    "an unclear look-up of something in doubt is a failure": (
        "state = State.UNKNOWN if operation.in_doubt else State.FAILED\n",
        "state = State.FAILED\n",
    ),
    "look-ups that fail are a retry of what is not idempotent": (
        f"if self._may_repeat_unseen(operation):{_RETRY}        state",
        f"if self._may_repeat(operation):{_RETRY}        state",
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
        "intended = operation._replace(attempts=operation.attempts + 1, sent_at=None)",
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
        "may = rules.changes and not refused and tries < self.max_attempts",
        "may = rules.changes and tries <= self.max_attempts",
    ),
    "the next step is in doubt about the one before": (
        "step=operation.attempts,\n            in_doubt=False,",
        "step=operation.attempts,\n            in_doubt=operation.in_doubt,",
    ),
    "a step that is done settles the operation": (
        "if operation.step + 1 < len(self.steps):",
        "if False:",
    ),
    "a step is left out": (
        "step = operation.step + 1\n        begun",
        "step = operation.step + 2\n        begun",
    ),
    "the state is not changed in memory": (
        "return Transition(operation._replace(state=state), change, effect)",
        "return Transition(operation, change, effect)",
    ),
    "an operation is settled and goes on": (
        "return _record(operation, state, result, Finish(), finished_at=at_s)",
        "return _record(operation, state, result, Release(), finished_at=at_s)",
    ),
    "what is forbidden while it may have been executed has failed": (
        "ended = State.UNKNOWN\n",
        "ended = State.FAILED\n",
    ),
    "what is forbidden is tried again": (
        "return _settle(operation, ended, result, at_s)",
        "return _retry(operation, NOW)",
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
