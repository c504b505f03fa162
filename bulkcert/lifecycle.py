"""The life of an operation: what each event does to it. The table of docs/states.md, as code.

In go an operation and an event; out come the operation as it is now, the change to record, and the
effect to carry out. Pure: no clock, no randomness, no input or output. Nothing else changes an
operation.

Two rules stand behind all others. Nothing is called failed while it may have been executed. And a
step that is not idempotent is never repeated while it may have been executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

from bulkcert.model import (
    PROTECTED,
    AttemptKind,
    AttemptResult,
    Change,
    FieldValue,
    LookupKind,
    LookupResult,
    MaterialKind,
    Operation,
    State,
    StepRules,
)
from bulkcert.timings import Timings

# ---- events


@dataclass(frozen=True, slots=True)
class Claimed:
    """The store handed the operation out: its first attempt is durably intended, or the step begins
    with a look-up, or an earlier process left it in flight (then it is in doubt)."""


@dataclass(frozen=True, slots=True)
class RetryDue:
    """The delay before another attempt is over."""


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt ended at `at_s` (Unix time in seconds)."""

    result: AttemptResult
    at_s: float


@dataclass(frozen=True, slots=True)
class LookupEnded:
    """A look-up ended at `at_s` (Unix time in seconds)."""

    result: LookupResult
    at_s: float


@dataclass(frozen=True, slots=True)
class AttemptWithdrawn:
    """An intended attempt will not be made by this process: it never left, or was refused together
    with all others."""


@dataclass(frozen=True, slots=True)
class LookupWithdrawn:
    """A look-up will not be made by this process."""


@dataclass(frozen=True, slots=True)
class RetryWithdrawn:
    """A retry will not be made by this process, because the run has stopped itself. Look-ups are
    still made."""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A rule of the job forbids what would be sent next, at `at_s` (Unix time in seconds). Asked
    before anything is sent, except look-ups of what is in doubt: those only settle the past."""

    reason: str
    at_s: float


OperationEvent = (
    Claimed
    | RetryDue
    | AttemptEnded
    | LookupEnded
    | AttemptWithdrawn
    | LookupWithdrawn
    | RetryWithdrawn
    | Forbidden
)


# ---- effects


class Delay(NamedTuple):
    """How long to wait: a random time between these two, in seconds."""

    least_s: float
    most_s: float


NOW = Delay(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Send:
    """Send an attempt, once the change that comes with this effect is durable."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """Look the operation up after the delay; `at_end`: not before all others had their turn."""

    delay: Delay = NOW
    at_end: bool = False


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Raise `RetryDue` after the delay."""

    delay: Delay = NOW


@dataclass(frozen=True, slots=True)
class Finish:
    """The operation is settled."""


@dataclass(frozen=True, slots=True)
class Release:
    """This process is done with the operation; a later one goes on with it."""


Effect = Send | LookUp | RetryLater | Finish | Release


class Transition(NamedTuple):
    """What an event did: the operation now, the change to record if any, and what to do next."""

    operation: Operation
    change: Change | None
    effect: Effect


# ---- the rules


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The rules for the operations of one action.

    Attributes:
        steps: the action's steps, in order.
        max_attempts: most attempts of a step by one process, and most failed look-ups in a row.
        settling_s: a request that was given up may still be executed for this long.
        timings: the first look-up and back-off.
        takeover_wait_s: what another process has left in doubt is looked up after this time at the
            earliest: then what that one has sent has been executed, or never will be. For runs on
            which several hosts work.
    """

    steps: Sequence[StepRules]
    max_attempts: int
    settling_s: float
    timings: Timings = field(default_factory=Timings)
    takeover_wait_s: float = 0.0

    def __post_init__(self) -> None:
        last = self.steps[-1]
        if last.needs_lookup and not last.changes:
            raise ValueError("a step that only looks something up must lead to another one")

    @property
    def lookup_first(self) -> frozenset[int]:
        """The steps that begin with a look-up, so that their claim intends no attempt."""
        return frozenset(step for step, rules in enumerate(self.steps) if rules.needs_lookup)

    def advance(self, operation: Operation, event: OperationEvent) -> Transition:
        """Apply an event to an operation."""
        match event:
            case AttemptEnded(result, at_s):
                return self._attempt_ended(operation, result, at_s)
            case Claimed():
                return self._claimed(operation)
            case LookupEnded(result, at_s):
                return self._lookup_ended(operation, result, at_s)
            case RetryDue():
                intended = operation._replace(attempts=operation.attempts + 1, sent_at=None)
                return _record(intended, State.IN_FLIGHT, operation.last_error, Send())
            case AttemptWithdrawn():
                withdrawn = operation._replace(attempts=operation.attempts - 1)
                state = State.IN_FLIGHT if operation.in_doubt else State.PLANNED
                return _record(withdrawn, state, operation.last_error, Release())
            case LookupWithdrawn():
                return Transition(operation, None, Release())
            case RetryWithdrawn():
                return Transition(operation, None, LookUp() if operation.in_doubt else Release())
            case Forbidden(reason, at_s):
                return self._forbidden(operation, reason, at_s)
            case _:
                assert_never(event)

    # ---- the beginning of a step

    def _claimed(self, operation: Operation) -> Transition:
        rules = self.steps[operation.step]
        if operation.in_doubt and rules.changes:
            # Whether the interrupted attempt left is not known, so this process may still make all
            # of its own.
            begun = operation._replace(attempts_before_step=operation.attempts)
            first_look_s = max(self._first_look(rules).most_s, self.takeover_wait_s)
            return Transition(begun, None, LookUp(Delay(first_look_s, first_look_s)))
        begun = operation._replace(in_doubt=False) if operation.in_doubt else operation
        if rules.needs_lookup:
            begun = begun._replace(attempts_before_step=begun.attempts)
            return Transition(begun, None, LookUp())
        return Transition(begun, None, Send())

    def _forbidden(self, operation: Operation, reason: str, at_s: float) -> Transition:
        """Settle it without sending anything more."""
        if operation.in_doubt:
            ended = State.UNKNOWN
        else:
            ended = State.FAILED
            if operation.state is State.IN_FLIGHT:  # the claim has counted an attempt
                operation = operation._replace(attempts=operation.attempts - 1)
        result = AttemptResult(AttemptKind.REFUSED, PROTECTED, reason)
        return _settle(operation, ended, result, at_s)

    def _next_step(self, operation: Operation, result: AttemptResult | LookupResult) -> Transition:
        step = operation.step + 1
        begun = operation._replace(
            step=step,
            step_data=result.result,
            attempts_before_step=operation.attempts,
            in_doubt=False,
            done=None,
            failed_lookups=0,
            negative_lookups=0,
            not_sent_in_a_row=0,
            last_error=None,
            late=False,
            csr=None,
            material=result.material,
        )
        return _record(begun, State.PLANNED, None, self._first_effect(step))

    def _fan_out(
        self, operation: Operation, selected: Sequence[dict[str, FieldValue]]
    ) -> Transition:
        """Go on with the first certificate; the store hands out the others."""
        step = operation.step + 1
        first = operation._replace(fields=selected[0], step=step)
        effect = self._first_effect(step)
        return _record(first, State.PLANNED, None, effect, fan_out=selected)

    def _first_effect(self, step: int) -> Effect:
        return LookUp() if self.steps[step].needs_lookup else RetryLater()

    # ---- after an attempt

    def _attempt_ended(
        self, operation: Operation, result: AttemptResult, at_s: float
    ) -> Transition:
        rules = self.steps[operation.step]
        match result.kind:
            case AttemptKind.DONE if operation.in_doubt and not rules.idempotent:
                # An earlier attempt may have been executed as well.
                after = operation._replace(done=result, failed_lookups=0, negative_lookups=0)
                return Transition(after, None, LookUp(self._settling))
            case AttemptKind.DONE:
                return self._step_done(operation, State.SUCCEEDED, result, at_s)
            case AttemptKind.FLAWED:
                return _settle(operation, State.FLAWED, result, at_s)
            case AttemptKind.THROTTLED:
                # The pacer holds everybody back, so no delay of its own is needed.
                after = operation._replace(attempts=operation.attempts - 1, not_sent_in_a_row=0)
                return _retry(after, NOW)
            case AttemptKind.NOT_SENT:
                after = operation._replace(
                    attempts=operation.attempts - 1,
                    not_sent_in_a_row=operation.not_sent_in_a_row + 1,
                )
                if not self._turned_away(after, result):
                    return _retry(after, self._backoff(after.not_sent_in_a_row))
                if after.in_doubt:
                    return Transition(after, None, LookUp())
                return _settle(after, State.FAILED, result, at_s)
            case AttemptKind.REFUSED | AttemptKind.DISPUTED:
                after = operation._replace(not_sent_in_a_row=0, last_error=result)
                final = result.kind is AttemptKind.REFUSED and not operation.in_doubt
                if final or not rules.changes:
                    return _settle(after, State.FAILED, result, at_s)
                return Transition(after, None, LookUp())
            case AttemptKind.IN_DOUBT:
                after = operation._replace(
                    not_sent_in_a_row=0,
                    negative_lookups=0,
                    last_error=result,
                    in_doubt=rules.changes,
                )
                return self._attempt_in_doubt(after, rules, result, at_s)
            case _:
                assert_never(result.kind)

    def _attempt_in_doubt(
        self, operation: Operation, rules: StepRules, result: AttemptResult, at_s: float
    ) -> Transition:
        if not result.counts:
            before = operation.attempts_before_step + 1
            operation = operation._replace(attempts_before_step=before)
        tries = operation.attempts - operation.attempts_before_step
        delay = self._backoff(tries)
        if rules.changes and not rules.idempotent:
            return Transition(operation, None, LookUp(self._first_look(rules)))
        if tries < self.max_attempts:
            return _retry(operation, delay)
        if rules.changes:
            return Transition(operation, None, LookUp(delay))
        return _settle(operation, State.FAILED, result, at_s)

    # ---- after a look-up

    def _lookup_ended(self, operation: Operation, result: LookupResult, at_s: float) -> Transition:
        transition = self._looked_up(operation, result, at_s)
        if operation.done is None or isinstance(transition.effect, LookUp):
            return transition
        # The last attempt is known to be done; this look-up was about an earlier one.
        conclusion: AttemptResult | LookupResult = result
        if result.kind is not LookupKind.HOLDS:
            problem = f"whether an earlier attempt was executed too is unknown: {result.message}"
            message = f"{operation.done.message}; {problem}"
            conclusion = operation.done._replace(message=message)
        conclusion = conclusion._replace(material=operation.done.material)
        return self._step_done(operation, State.SUCCEEDED, conclusion, at_s)

    def _looked_up(self, operation: Operation, result: LookupResult, at_s: float) -> Transition:
        match result.kind:
            case LookupKind.NOT_SENT:
                after = operation._replace(not_sent_in_a_row=operation.not_sent_in_a_row + 1)
                if not self._turned_away(after, result):
                    delay = self._backoff(after.not_sent_in_a_row)
                    return Transition(after, None, LookUp(delay))
                state = State.UNKNOWN if _touched(after) else State.FAILED
                return _settle(after, state, result, at_s)
            case LookupKind.THROTTLED:
                return Transition(operation._replace(not_sent_in_a_row=0), None, LookUp())
            case LookupKind.FAILED:
                after = operation._replace(
                    not_sent_in_a_row=0, failed_lookups=operation.failed_lookups + 1
                )
                return self._lookup_failed(after, result, at_s)
        after = operation._replace(not_sent_in_a_row=0, failed_lookups=0)
        match result.kind:
            case LookupKind.HOLDS:
                ours = operation.in_doubt or any(
                    rules.changes for rules in self.steps[: operation.step]
                )
                state = State.SUCCEEDED if ours else State.ALREADY_DONE
                return self._step_done(after, state, result, at_s)
            case LookupKind.SELECTED:
                return self._fan_out(after, result.selected)
            case LookupKind.NOTHING_LEFT:
                return _settle(after, State.ALREADY_DONE, result, at_s)
            case LookupKind.REFUSED:
                return _settle(after, State.FAILED, result, at_s)
            case LookupKind.FLAWED:
                return _settle(after, State.FLAWED, result, at_s)
            case LookupKind.ABSENT:
                return self._absent(after, result, at_s)
            case LookupKind.UNCLEAR:
                return self._unclear(after, result, at_s)
            case LookupKind.NOT_YET:
                looked = after._replace(negative_lookups=after.negative_lookups + 1)
                if looked.negative_lookups < self.max_attempts:
                    return Transition(looked, None, LookUp(self._settling, at_end=True))
                state = State.UNKNOWN if looked.in_doubt else State.FAILED
                return _settle(looked, state, _with_last_error(looked, result), at_s)
            case _:
                assert_never(result.kind)

    def _absent(self, operation: Operation, result: LookupResult, at_s: float) -> Transition:
        """Send an attempt, or give up.

        Unless a repetition does no harm, both wait until the earlier attempt has settled, and a
        repetition until all other operations had their turn.
        """
        if result.result is not None:
            operation = operation._replace(step_data=result.result)
        if result.material:
            [csr] = (m.content for m in result.material if m.kind is MaterialKind.CSR)
            operation = operation._replace(csr=csr.decode(), material=result.material)
        may_repeat = self._may_repeat(operation)
        harmless = may_repeat and self.steps[operation.step].idempotent
        if operation.in_doubt and not harmless:
            looked = operation._replace(negative_lookups=operation.negative_lookups + 1)
            if looked.negative_lookups == 1:
                return Transition(looked, None, LookUp(self._settling))
            if looked.negative_lookups == 2 and may_repeat:
                return Transition(looked, None, LookUp(at_end=True))
        if may_repeat:
            return _retry(operation, NOW)
        state = State.UNKNOWN if self._may_arrive(operation) else State.FAILED
        return _settle(operation, state, _with_last_error(operation, result), at_s)

    def _unclear(self, operation: Operation, result: LookupResult, at_s: float) -> Transition:
        if self._may_repeat_unseen(operation):
            return _retry(operation, NOW)
        repeats = operation.in_doubt and not self.steps[operation.step].idempotent
        if repeats and not operation.negative_lookups:
            looked = operation._replace(negative_lookups=1)
            return Transition(looked, None, LookUp(self._settling))
        state = State.UNKNOWN if operation.in_doubt else State.FAILED
        return _settle(operation, state, _with_last_error(operation, result), at_s)

    def _lookup_failed(self, operation: Operation, result: LookupResult, at_s: float) -> Transition:
        if operation.failed_lookups < self.max_attempts:
            delay = self._backoff(operation.failed_lookups)
            return Transition(operation, None, LookUp(delay))
        if self._may_repeat_unseen(operation):
            return _retry(operation, NOW)
        state = State.UNKNOWN if _touched(operation) else State.FAILED
        return _settle(operation, state, _with_last_error(operation, result), at_s)

    # ---- what the rules have in common

    def _step_done(
        self, operation: Operation, state: State, result: AttemptResult | LookupResult, at_s: float
    ) -> Transition:
        if operation.step + 1 < len(self.steps):
            return self._next_step(operation, result)
        return _settle(operation, state, result, at_s)

    def _turned_away(self, operation: Operation, result: AttemptResult | LookupResult) -> bool:
        """Whether the provider answers, but has turned this operation away again and again.

        A provider that can't be reached may come back at any time: the circuit breaker's concern.
        """
        # once may only mean that the access token has just expired
        most = max(2, self.max_attempts)
        return result.code is not None and operation.not_sent_in_a_row >= most

    def _may_repeat(self, operation: Operation) -> bool:
        rules, last_error = self.steps[operation.step], operation.last_error
        refused = last_error is not None and last_error.kind is not AttemptKind.IN_DOUBT
        if refused and rules.idempotent and _by_something_in_front(last_error):
            refused = False
        tries = operation.attempts - operation.attempts_before_step
        may = rules.changes and not refused and tries < self.max_attempts
        return may and not self._may_arrive(operation)

    def _may_arrive(self, operation: Operation) -> bool:
        """Whether an attempt that must not be executed twice may still arrive, at any time."""
        return operation.late and operation.in_doubt and not self.steps[operation.step].idempotent

    def _may_repeat_unseen(self, operation: Operation) -> bool:
        """Whether an attempt may be sent although no look-up has shown the state."""
        rules = self.steps[operation.step]
        return rules.idempotent and not rules.needs_lookup and self._may_repeat(operation)

    def _first_look(self, rules: StepRules) -> Delay:
        """When to look up what is in doubt. A look-up that finds the wanted state settles it at any
        time; one that does not must be repeated after the settling time."""
        first_look_s = 0.0 if rules.idempotent else self.timings.first_look_s
        return Delay(first_look_s, first_look_s)

    @property
    def _settling(self) -> Delay:
        return Delay(self.settling_s, self.settling_s)

    def _backoff(self, tries: int) -> Delay:
        """Exponential back-off with full jitter, so that what failed together does not return
        together."""
        longest_s = self.timings.first_backoff_s * 2 ** min(tries - 1, 20)
        return Delay(0.0, min(longest_s, self.timings.longest_backoff_s))


def _by_something_in_front(error: AttemptResult | None) -> bool:
    """Whether something in front of the provider has refused an attempt: a firewall, or a gateway
    in the middle of a change. It may let the next one pass."""
    return error is not None and error.kind is AttemptKind.DISPUTED and error.account_wide


def _touched(operation: Operation) -> bool:
    """Whether an attempt of the current step may have reached the provider."""
    return operation.in_doubt or operation.last_error is not None


def _retry(operation: Operation, delay: Delay) -> Transition:
    if operation.in_doubt:
        return Transition(operation, None, RetryLater(delay))  # it stays in flight
    return _record(operation, State.PLANNED, operation.last_error, RetryLater(delay))


def _settle(
    operation: Operation, state: State, result: AttemptResult | LookupResult, at_s: float
) -> Transition:
    if result.material or operation.material:
        operation = operation._replace(material=result.material)
    return _record(operation, state, result, Finish(), finished_at=at_s)


def _record(
    operation: Operation,
    state: State,
    result: AttemptResult | LookupResult | None,
    effect: Effect,
    *,
    finished_at: float | None = None,
    fan_out: Sequence[dict[str, FieldValue]] = (),
) -> Transition:
    """Move the operation to a state: here and, by the change, in the store."""
    code = message = request_id = value = next_page = None
    if result is not None:
        code, message, request_id = result.code, result.message, result.request_id
        if finished_at is not None:
            value = result.result
            next_page = result.next_page if isinstance(result, AttemptResult) else None
    change = Change(
        operation.id,
        operation.state,
        state,
        operation.attempts,
        operation.step,
        operation.step_data,
        code,
        message,
        request_id,
        value,
        finished_at,
        fan_out,
        next_page,
        operation.line,
        operation.fields,
        operation.material,
    )
    if operation.material:
        operation = operation._replace(material=())
    return Transition(operation._replace(state=state), change, effect)


def _with_last_error(operation: Operation, lookup: LookupResult) -> AttemptResult | LookupResult:
    """Report what the provider said to the attempt, and what the look-up added."""
    error = operation.last_error
    if error is None:
        return lookup
    said = f"{error.message}; " if error.message else ""
    return error._replace(message=f"{said}looked up: {lookup.message}")
