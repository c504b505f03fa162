"""A small model of a provider and of the processes of a run, explored in every state.

One operation lives in a world in which everything that may go wrong does so at every moment: an
attempt is executed or not, now or later, with or without a response; a look-up fails; the process
dies or is stopped, with or without its last changes on disk, and another one continues; a rule
forbids what would be sent next; what failed is taken up again. `explore` visits every reachable
state, however long the sequence of events that leads to it, and checks the invariants in each.

What the model assumes of the provider, and no more:

* A request that was given up is executed within the settling time, or never.
* A look-up that gets a clear response tells the truth of that moment.
* A refusal means that this attempt was not executed.
* A look-up says that there is nothing to act on, or nothing left to do, only if nothing was
  executed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, NamedTuple

from bulkcert import lifecycle as real_lifecycle
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    Change,
    LookupKind,
    LookupResult,
    Operation,
    State,
    StepRules,
)

MAX_ATTEMPTS = 2
SETTLING_S = 2.0
AT_S = 1000.0
OPEN = (State.PLANNED, State.IN_FLIGHT)
RETRIED = {
    State.FAILED: State.PLANNED,
    State.FLAWED: State.IN_FLIGHT,
    State.UNKNOWN: State.IN_FLIGHT,
}
MOST_UNWRITTEN = 2  # changes that may wait for a commit at the same time
TURNED_AWAY = 401  # the code of a request that was not let through


class Row(NamedTuple):
    """The operation as it is on disk."""

    state: State = State.PLANNED
    attempts: int = 0
    step: int = 0
    step_data: Any = None


@dataclass(frozen=True)
class World:
    """One moment. The tuples have one entry for each step of the action.

    Attributes:
        row: the operation on disk.
        operation: the operation in the memory of the process, or None while no process has it.
        effect: what is to be done next with it.
        unwritten: changes that were recorded, but are not on disk yet.
        executed: how often the step was executed, at most 2.
        late: a request of the step was given up, and may be executed later.
        held: somebody else brought about the wanted state before the run.
        flawed: what was executed is not what was asked for.
        was_in_doubt: an attempt of the step left, and what became of it was not known.
        resumed: this process found the operation in flight, in the current step.
        looked: a look-up of this process has shown that the step is still to be done.
    """

    row: Row
    operation: Operation | None
    effect: Any
    unwritten: tuple[Change, ...]
    executed: tuple[int, ...]
    late: tuple[bool, ...]
    held: tuple[bool, ...]
    flawed: tuple[bool, ...]
    was_in_doubt: bool = False
    resumed: bool = False
    looked: bool = False

    def holds(self, step: int) -> bool:
        """Whether the wanted state of a step holds now."""
        return bool(self.executed[step]) or self.held[step]


def key(world: World) -> Any:
    """What tells two worlds apart. Attempts count from the beginning of the step."""
    operation, row = world.operation, world.row
    memory = None
    if operation is not None:
        memory = (
            operation.state,
            operation.step,
            operation.attempts - operation.attempts_before_step,
            operation.in_doubt,
            operation.done is not None,
            min(operation.failed_lookups, MAX_ATTEMPTS),  # beyond, it makes no difference
            operation.negative_lookups,
            operation.not_sent_in_a_row,
            operation.last_error and operation.last_error.kind,
            row.attempts - operation.attempts,
            tuple((c.state, c.attempts - operation.attempts, c.step) for c in world.unwritten),
        )
    attempts = 0 if memory else row.attempts
    return (
        *(memory, repr(world.effect), row.state, row.step, attempts, world.executed, world.late),
        *(world.held, world.flawed, world.was_in_doubt, world.resumed, world.looked),
    )


class ViolationError(AssertionError):
    """An invariant does not hold; the message says which, and what led there."""


class Exploration:
    """All that can happen to one operation of an action.

    Args:
        steps: the rules of the action's steps.
        module: the life cycle to explore; a mutated one must be caught.
        most_attempts_on_disk: the counter starts anew beyond that, to keep the world finite.
    """

    def __init__(
        self,
        steps: Sequence[StepRules],
        module: ModuleType = real_lifecycle,
        most_attempts_on_disk: int = 6,
    ) -> None:
        self.steps = steps
        self._module = module
        self._most_attempts_on_disk = most_attempts_on_disk
        self._rules = module.Lifecycle(steps, MAX_ATTEMPTS, SETTLING_S)
        self.transitions = 0
        self.outcomes: set[State] = set()

    def explore(self) -> int:
        """Visit every reachable state; return how many there are.

        Raises:
            ViolationError: an invariant is violated somewhere.
        """
        seen: dict[Any, tuple[Any, str]] = {}
        leads_to: dict[Any, set[Any]] = {}
        queue: deque[World] = deque()
        for world in self._beginnings():
            seen.setdefault(key(world), (None, "begin"))
            queue.append(world)
        final: set[Any] = set()
        while queue:
            world = queue.popleft()
            here = key(world)
            try:
                self._check(world)
                successors = list(self._successors(world))
            except Exception as error:
                raise ViolationError(f"{error}\n{_path(seen, here)}") from error
            if world.row.state not in OPEN and not world.unwritten:
                final.add(here)
                self.outcomes.add(world.row.state)
            for what, successor in successors:
                self.transitions += 1
                there = key(successor)
                leads_to.setdefault(there, set()).add(here)
                if there not in seen:
                    seen[there] = here, what
                    queue.append(successor)
        self._check_that_all_can_end(seen, leads_to, final)
        return len(seen)

    def _check_that_all_can_end(
        self, seen: dict[Any, Any], leads_to: dict[Any, set[Any]], final: set[Any]
    ) -> None:
        """From every state, some sequence of events settles the operation."""
        can_end, queue = set(final), deque(final)
        while queue:
            for before in leads_to.get(queue.popleft(), ()):
                if before not in can_end:
                    can_end.add(before)
                    queue.append(before)
        for stuck in seen.keys() - can_end:
            raise ViolationError(f"can never be settled\n{_path(seen, stuck)}")

    def _beginnings(self) -> Iterator[World]:
        no = (False,) * len(self.steps)
        for held in (False, True):
            yield World(*(Row(), None, None, ()), (0,) * len(self.steps), no, (held, *no[1:]), no)

    # ---- what can happen

    def _successors(self, world: World) -> Iterator[tuple[str, World]]:
        if world.unwritten:
            yield "commit", self._commit(world)
            if len(world.unwritten) == MOST_UNWRITTEN:
                return
        for step, late in enumerate(world.late):
            if late:
                yield "late execution", self._executed(_set_late(world, step, False), step)
                yield "late request lost", _set_late(world, step, False)
        operation, module = world.operation, self._module
        if operation is None:
            if world.row.state in OPEN:
                claimed = self._claim(world)
                yield "claim", claimed
                if self._may_be_forbidden(claimed):
                    yield "claim, forbidden", self._forbidden(claimed)
            elif world.row.state in RETRIED:
                row = world.row._replace(state=RETRIED[world.row.state], attempts=0)
                yield "--retry-failed", replace(world, row=row)
            return
        yield "crash", replace(world, operation=None, effect=None, unwritten=())
        match world.effect:
            case module.Finish() | module.Release():
                return
            case module.RetryLater():
                # the dispatcher makes the intent durable before it sends
                due = self._advance(world, module.RetryDue(), may_send=True)
                yield "retry due", self._commit(due)
                yield "forbidden", self._forbidden(world)
                aborted = self._commit(self._advance(world, module.RetryWithdrawn()))
                if isinstance(aborted.effect, module.Release):
                    aborted = replace(aborted, operation=None, effect=None)
                yield "abort", aborted
                yield "stop", replace(self._commit(world), operation=None, effect=None)
            case module.Send():
                yield from self._attempt(world, operation)
                yield "stop before the attempt", self._stopped(world, module.AttemptWithdrawn())
            case module.LookUp():
                yield from self._look_up(world, operation)
                if self._may_be_forbidden(world):
                    yield "look-up forbidden", self._forbidden(world)
                yield "stop before the look-up", self._stopped(world, module.LookupWithdrawn())

    def _claim(self, world: World) -> World:
        row = world.row
        in_doubt = row.state is State.IN_FLIGHT
        intended = not in_doubt and row.step not in self._rules.lookup_first
        attempts = row.attempts + intended
        if attempts > self._most_attempts_on_disk:
            attempts = self._most_attempts_on_disk  # more make no difference to a new process
        operation = Operation(
            id=1,
            line=1,
            fields={},
            state=State.IN_FLIGHT if in_doubt or intended else State.PLANNED,
            step=row.step,
            step_data=row.step_data,
            attempts=attempts,
            in_doubt=in_doubt,
        )
        claimed = replace(
            world,
            row=row._replace(state=operation.state, attempts=attempts),
            operation=operation,
            resumed=in_doubt,
            looked=False,
        )
        return self._advance(claimed, self._module.Claimed(), may_send=True)

    def _attempt(self, world: World, operation: Operation) -> Iterator[tuple[str, World]]:
        """Every fate of a request, with every response that can come of it."""
        step = operation.step
        rules = self.steps[step]
        if (world.row.state, world.row.attempts) != (State.IN_FLIGHT, operation.attempts):
            raise AssertionError("an attempt leaves without a durable intent")
        if rules.needs_lookup and not (rules.changes and world.looked):
            raise AssertionError("a step that must look first sends unseen")
        if rules.changes and step and not self._earlier_steps_hold(world, step):
            raise AssertionError("a step is sent before the one before it is done")
        done = self._executed(world, step)
        yield "done", self._attempted(done, AttemptKind.DONE)
        if rules.changes:
            flawed = replace(done, flawed=_with(done.flawed, step, True))
            yield "done, but flawed", self._attempted(flawed, AttemptKind.FLAWED)
        in_doubt = replace(world, was_in_doubt=True)
        executed = self._executed(in_doubt, step)
        late = _set_late(in_doubt, step, True) if rules.changes else in_doubt
        for fate, after in (("executed", executed), ("not executed", in_doubt), ("late", late)):
            yield f"no response, {fate}", self._attempted(after, AttemptKind.IN_DOUBT)
            yield (
                f"crash during the attempt, {fate}",
                replace(after, operation=None, effect=None, unwritten=()),
            )
        yield "refused", self._attempted(world, AttemptKind.REFUSED)
        yield "disputed", self._attempted(world, AttemptKind.DISPUTED)
        yield "throttled", self._attempted(world, AttemptKind.THROTTLED)
        if operation.not_sent_in_a_row <= MAX_ATTEMPTS:  # beyond, it makes no difference
            yield "out of reach", self._attempted(world, AttemptKind.NOT_SENT)
            yield "turned away", self._attempted(world, AttemptKind.NOT_SENT, TURNED_AWAY)

    def _look_up(self, world: World, operation: Operation) -> Iterator[tuple[str, World]]:
        """Every response of a look-up that is true now, and every way in which one can fail."""
        step = operation.step
        rules = self.steps[step]
        if world.late[step] and world.effect.delay.least_s >= SETTLING_S:
            return  # by then it is executed or lost, which are events of their own
        if not rules.changes and not rules.needs_lookup:
            raise AssertionError("a step that only reads is looked up")
        yield "look-up failed", self._looked(world, LookupKind.FAILED)
        yield "look-up throttled", self._looked(world, LookupKind.THROTTLED)
        if operation.not_sent_in_a_row <= MAX_ATTEMPTS:
            yield "look-up out of reach", self._looked(world, LookupKind.NOT_SENT)
            yield "look-up turned away", self._looked(world, LookupKind.NOT_SENT, TURNED_AWAY)
        if not rules.changes:
            yield "nothing to act on", self._looked(world, LookupKind.REFUSED)
            yield "found", self._looked(self._executed(world, step), LookupKind.HOLDS)
            selected = self._executed(world, step)
            yield "selected", self._looked(selected, LookupKind.SELECTED, selected=[{"part": 1}])
            yield "nothing left", self._looked(world, LookupKind.NOTHING_LEFT)
            return
        yield "look-up unclear", self._looked(world, LookupKind.UNCLEAR)
        if world.flawed[step]:
            yield "flawed", self._looked(world, LookupKind.FLAWED)
        elif world.holds(step):
            yield "holds", self._looked(world, LookupKind.HOLDS)
        else:
            looked = replace(world, looked=rules.needs_lookup)
            yield "absent", self._looked(looked, LookupKind.ABSENT)
            if not world.was_in_doubt:
                yield "nothing to act on", self._looked(world, LookupKind.REFUSED)
        if rules.needs_lookup:
            if operation.negative_lookups <= MAX_ATTEMPTS + 1:
                yield "not yet", self._looked(world, LookupKind.NOT_YET)
            if not world.was_in_doubt and not self._has_changed_something(world):
                yield "nothing left", self._looked(world, LookupKind.NOTHING_LEFT)

    def _attempted(self, world: World, kind: AttemptKind, code: int | None = None) -> World:
        result = AttemptResult(kind, code, "message", result={"of": "attempt"})
        return self._advance(world, self._module.AttemptEnded(result, AT_S))

    def _looked(
        self,
        world: World,
        kind: LookupKind,
        code: int | None = None,
        selected: Sequence[dict[str, Any]] = (),
    ) -> World:
        result = LookupResult(kind, code, "message", result={"of": "look-up"}, selected=selected)
        looked = self._advance(world, self._module.LookupEnded(result, AT_S))
        last_error = world.operation and world.operation.last_error
        refused = last_error is not None and last_error.kind is not AttemptKind.IN_DOUBT
        same_step = looked.operation and looked.operation.step == world.row.step
        if refused and same_step and isinstance(looked.effect, self._module.RetryLater):
            raise AssertionError("what was refused is sent again")
        return looked

    def _may_be_forbidden(self, world: World) -> bool:
        """What is in doubt is looked up, whatever has been forbidden since."""
        assert world.operation is not None
        return not (world.operation.in_doubt and isinstance(world.effect, self._module.LookUp))

    def _forbidden(self, world: World) -> World:
        after = self._advance(world, self._module.Forbidden("protected", AT_S))
        if not isinstance(after.effect, self._module.Finish):
            raise AssertionError("what is forbidden goes on")
        return after

    def _stopped(self, world: World, event: Any) -> World:
        """An orderly stop: what is recorded reaches the disk."""
        return replace(self._commit(self._advance(world, event)), operation=None, effect=None)

    # ---- what it does to the world

    def _advance(self, world: World, event: Any, *, may_send: bool = False) -> World:
        assert world.operation is not None
        before = world.operation
        operation, change, effect = self._rules.advance(before, event)
        if isinstance(effect, self._module.Send) and not may_send:
            raise AssertionError("an attempt is to be sent, and nobody waits for its intent")
        unwritten = world.unwritten
        if change is not None:
            expected = unwritten[-1].state if unwritten else world.row.state
            if change.expected is not expected:
                raise AssertionError(f"{change} would find the operation {expected}")
            if change.state is not operation.state:
                raise AssertionError(f"the operation is {operation.state}, recorded {change.state}")
            unwritten = (*unwritten, change)
        elif operation.state is not before.state:
            raise AssertionError("a change of state is not recorded")
        same_step = operation.step == before.step
        after = replace(
            world,
            operation=operation,
            effect=effect,
            unwritten=unwritten,
            was_in_doubt=world.was_in_doubt and same_step,
            resumed=world.resumed and same_step,
            looked=world.looked and same_step,
        )
        if change is not None and change.finished_at is not None:
            self._check_settled(after, change)
        return after

    def _commit(self, world: World) -> World:
        row = world.row
        for change in world.unwritten:
            row = Row(change.state, change.attempts, change.step, change.step_data)
        return replace(world, row=row, unwritten=())

    def _executed(self, world: World, step: int) -> World:
        times = min(2, world.executed[step] + 1)
        if self.steps[step].idempotent or not self.steps[step].changes:
            times = 1
        return replace(world, executed=_with(world.executed, step, times))

    # ---- the invariants

    def _check(self, world: World) -> None:
        for rules, times in zip(self.steps, world.executed, strict=True):
            if rules.changes and not rules.idempotent and times > 1:
                raise AssertionError("what is not idempotent was executed twice")
        operation = world.operation
        if operation is not None:
            tries = operation.attempts - operation.attempts_before_step
            if not 0 <= tries <= MAX_ATTEMPTS:
                raise AssertionError(f"{tries} attempts")
            if operation.negative_lookups > MAX_ATTEMPTS + 1:
                raise AssertionError(f"{operation.negative_lookups} look-ups without a result")
            ended = isinstance(world.effect, self._module.Finish)
            if ended is (operation.state in OPEN):
                raise AssertionError(f"{operation.state} with the effect {world.effect}")

    def _has_changed_something(self, world: World) -> bool:
        times_and_rules = zip(world.executed, self.steps, strict=True)
        return any(times and rules.changes for times, rules in times_and_rules)

    def _earlier_steps_hold(self, world: World, step: int) -> bool:
        return all(world.holds(earlier) for earlier in range(step))

    def _check_settled(self, world: World, change: Change) -> None:
        """An outcome is true at the moment when it is decided."""
        operation = world.operation
        assert operation is not None
        step, last = operation.step, operation.step + 1 == len(self.steps)
        executed = world.executed[step] and self.steps[step].changes
        touched = executed or world.was_in_doubt or world.late[step]
        match change.state:
            case State.SUCCEEDED:
                if not last or not all(world.holds(s) for s in range(len(self.steps))):
                    raise AssertionError("called succeeded, and is not done")
            case State.ALREADY_DONE:
                if self._has_changed_something(world):
                    raise AssertionError("called already done, and we have done it")
            case State.FLAWED:
                if not world.flawed[step]:
                    raise AssertionError("called flawed, and was not executed so")
            case State.FAILED:
                if executed:
                    raise AssertionError("called failed, and was executed")
                if world.late[step]:
                    raise AssertionError("called failed, and may still be executed")
            case State.UNKNOWN:
                if not touched and operation.last_error is None and not world.resumed:
                    raise AssertionError("called unknown, though nothing was sent")
            case _:
                raise AssertionError(f"settled as {change.state}")


def _with(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _set_late(world: World, step: int, late: bool) -> World:
    return replace(world, late=_with(world.late, step, late))


def _path(seen: dict[Any, tuple[Any, str]], here: Any) -> str:
    """The events that lead to a state."""
    events: list[str] = []
    while here is not None:
        here, what = seen[here]
        events.append(what)
    return " -> ".join(reversed(events))
