"""What to do after an answer: settle the operation, repeat the attempt, or look.

In go an operation and an answer, out comes a decision; the operation's tallies are brought up to
date on the way. No clock, no input or output.

The rule behind the tables: nothing is called failed while it may have happened, and an action that
is not idempotent is not repeated while it may have happened. See docs/states.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from bulkcert.model import Answer, AnswerKind, FieldValue, Operation, State
from bulkcert.timings import Timings


@dataclass(frozen=True, slots=True)
class Settle:
    """The operation is over."""

    state: State
    answer: Answer


@dataclass(frozen=True, slots=True)
class Again:
    """The operation goes on after `delay_s` seconds, with a look-up or with another attempt."""

    look: bool
    delay_s: float


@dataclass(frozen=True, slots=True)
class NextStep:
    """One step of the operation is done; the next begins with `progress`."""

    progress: Any


@dataclass(frozen=True, slots=True)
class Split:
    """The target is to be acted on in these ways, one operation each."""

    selected: list[dict[str, FieldValue]]


Decision = Settle | Again | NextStep | Split


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How an action may be retried.

    Attributes:
        max_attempts: most requests that count as attempts of a step, and most failed look-ups in
            a row.
        changes: see `Action.changes`; where nothing is changed, nothing is ever in doubt.
        idempotent: see `ActionHandler.idempotent`.
        rng: source of jitter.
        timings: settling time and back-off.
    """

    max_attempts: int
    changes: bool
    idempotent: Callable[[Operation], bool]
    rng: random.Random = field(default_factory=random.Random)
    timings: Timings = Timings()

    def before_look(self, operation: Operation) -> float:
        """Seconds to wait before a look-up that settles what an earlier process left in doubt."""
        return 0.0 if self.idempotent(operation) else self.timings.settling_s

    def after_attempt(self, operation: Operation, answer: Answer) -> Decision:
        """Decide after an attempt, which the operation counted when it was about to leave."""
        _tally_attempt(operation, answer, self.changes)
        match answer.kind:
            case AnswerKind.DONE:
                return Settle(State.SUCCEEDED, answer)
            case AnswerKind.STEP:
                return NextStep(answer.result)
            case AnswerKind.THROTTLED:
                return Again(look=False, delay_s=0.0)  # the pacer holds everybody back
            case AnswerKind.NOT_SENT if self._is_turned_away(operation, answer):
                if operation.in_doubt:
                    return Again(look=True, delay_s=0.0)
                return Settle(State.FAILED, answer)
            case AnswerKind.NOT_SENT:
                return Again(look=False, delay_s=self._backoff_s(operation.not_sent_in_a_row))
            case AnswerKind.REFUSED if not operation.in_doubt:
                return Settle(State.FAILED, answer)
            case AnswerKind.FLAWED:
                return Settle(State.FAILED, answer)
            case AnswerKind.REFUSED | AnswerKind.DISPUTED:
                return Again(look=True, delay_s=0.0)
            case AnswerKind.IN_DOUBT:
                tries = operation.attempts - operation.attempts_before_step
                delay_s = self._backoff_s(tries)
                if not self.changes:
                    if tries < self.max_attempts:
                        return Again(look=False, delay_s=delay_s)
                    return Settle(State.FAILED, answer)
                if not self.idempotent(operation):
                    return Again(look=True, delay_s=self.timings.settling_s + delay_s)
                return Again(look=tries >= self.max_attempts, delay_s=delay_s)
        raise AssertionError(f"not an answer to an attempt: {answer}")

    def after_look(self, operation: Operation, answer: Answer) -> Decision:
        """Decide after a look-up, by what was seen and by the last last_error to an attempt."""
        _tally_look(operation, answer)
        match answer.kind:
            case AnswerKind.HOLDS:
                ours = operation.in_doubt or operation.progress is not None
                return Settle(State.SUCCEEDED if ours else State.ALREADY_DONE, answer)
            case AnswerKind.STEP:
                return NextStep(answer.result)
            case AnswerKind.SELECTED if answer.result:
                return Split(answer.result)
            case AnswerKind.SELECTED:
                return Settle(State.ALREADY_DONE, replace(answer, result=None))
            case AnswerKind.REFUSED | AnswerKind.FLAWED:
                return Settle(State.FAILED, answer)
            case AnswerKind.THROTTLED:
                return Again(look=True, delay_s=0.0)
            case AnswerKind.NOT_SENT if self._is_turned_away(operation, answer):
                touched = operation.in_doubt or operation.last_error is not None
                return Settle(State.UNKNOWN if touched else State.FAILED, answer)
            case AnswerKind.NOT_SENT:
                return Again(look=True, delay_s=self._backoff_s(operation.not_sent_in_a_row))
            case AnswerKind.ABSENT:
                if self._may_repeat(operation):
                    return Again(look=False, delay_s=0.0)
                return Settle(State.FAILED, _last_error(operation, answer))
            case AnswerKind.UNCLEAR:
                if self.idempotent(operation) and self._may_repeat(operation):
                    return Again(look=False, delay_s=0.0)
                open_end = State.UNKNOWN if operation.in_doubt else State.FAILED
                return Settle(open_end, _last_error(operation, answer))
            case AnswerKind.IN_DOUBT:
                return self._after_failed_look(operation, answer)
        raise AssertionError(f"not an answer to a look-up: {answer}")

    def _after_failed_look(self, operation: Operation, answer: Answer) -> Decision:
        if operation.failed_lookups < self.max_attempts:
            return Again(look=True, delay_s=self._backoff_s(operation.failed_lookups))
        if self.idempotent(operation) and self._may_repeat(operation):
            return Again(look=False, delay_s=0.0)
        touched = operation.in_doubt or operation.last_error is not None
        return Settle(State.UNKNOWN if touched else State.FAILED, _last_error(operation, answer))

    def _is_turned_away(self, operation: Operation, answer: Answer) -> bool:
        """The provider itself answers, and does not let this operation through again and again.

        A provider that can't be reached is for the circuit breaker, and may come back at any time.
        """
        return answer.code is not None and operation.not_sent_in_a_row >= self.max_attempts

    def _may_repeat(self, operation: Operation) -> bool:
        last_error = operation.last_error
        refused = last_error is not None and last_error.kind is not AnswerKind.IN_DOUBT
        return (
            not refused and operation.attempts - operation.attempts_before_step < self.max_attempts
        )

    def _backoff_s(self, tries: int) -> float:
        """Exponential back-off with full jitter, so that those who failed together part."""
        longest = self.timings.first_backoff_s * 2 ** min(tries - 1, 20)
        return self.rng.uniform(0.0, min(longest, self.timings.longest_backoff_s))


def _tally_attempt(operation: Operation, answer: Answer, changes: bool) -> None:
    if answer.kind is AnswerKind.NOT_SENT:
        operation.not_sent_in_a_row += 1
        operation.attempts -= 1
        return
    operation.not_sent_in_a_row = 0
    if answer.kind is AnswerKind.THROTTLED:
        operation.attempts -= 1
    elif answer.kind is not AnswerKind.DONE:
        operation.last_error = answer
        operation.in_doubt |= changes and answer.kind is AnswerKind.IN_DOUBT


def _tally_look(operation: Operation, answer: Answer) -> None:
    if answer.kind is AnswerKind.NOT_SENT:
        operation.not_sent_in_a_row += 1
        return
    operation.not_sent_in_a_row = 0
    if answer.kind is AnswerKind.IN_DOUBT:
        operation.failed_lookups += 1
    elif answer.kind is not AnswerKind.THROTTLED:
        operation.failed_lookups = 0


def _last_error(operation: Operation, look: Answer) -> Answer:
    """Report what the provider said to the attempt, and what the look-up added."""
    said = operation.last_error
    if said is None:
        return look
    return replace(said, message=f"{said.message}; looked up: {look.message}")
