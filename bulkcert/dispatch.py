"""The worker pool: claim, wait, send, record, and settle or try again.

Operations come from the checkpoint and go back to it; in between, three tasks move them:

    supply    claims operations (their intent is durable then) and puts due repeats in line
    feed      takes the next one in line as soon as it may get ready to send
    perform   one task for each open request

A request occupies three places, one after another: among those that get ready (few, so that
connections in waiting stay few), among those that are open (`in_flight`), and in between the
pacer's turn, which the transport takes with the connection in hand. Nothing here knows the latency:
a request leaves as soon as the pacer lets it, however many are open already, up to `in_flight`.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bulkcert.circuit_breaker import BreakerState, CircuitBreaker, Signal
from bulkcert.errors import BulkcertError, ProviderUnusableError
from bulkcert.model import Answer, AnswerKind, FieldValue, Operation, State
from bulkcert.providers.base import ActionHandler
from bulkcert.retry import Again, NextStep, RetryPolicy, Settle, Split
from bulkcert.store.base import Change
from bulkcert.store.writer import StoreWriter

READY_SHARE = 1 / 8
"""Requests that may get ready at once, as a share of the ceiling: enough that new connections, each
taking up to 125 ms, keep up with it."""

FIRST_READY = 8

CLAIM_AHEAD = 1 / 4
"""Operations claimed ahead, as a share of the ceiling: a commit may take 100 ms."""

MOST_WAITING = 10_000
"""Operations that wait for a repeat, beyond which no fresh ones are begun: memory stays flat."""


@dataclass(slots=True, order=True)
class _Step:
    """What is to be done next for one operation."""

    due: float
    number: int
    operation: Operation = field(compare=False)
    look: bool = field(compare=False)


class _Places:
    """Places for requests that get ready: a few at first, more with each one that has left.

    A storm of new connections at the start would hold up the very first requests, and those would
    then arrive crowded.
    """

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(min(most, FIRST_READY))
        self._to_come = most - FIRST_READY

    async def take(self) -> None:
        await self._free.acquire()

    def give_back(self) -> None:
        self._free.release()

    def grow(self) -> None:
        if self._to_come > 0:
            self._to_come -= 1
            self._free.release()


class Dispatcher:
    """Carries out all operations of a checkpoint.

    Args:
        handler: sends and looks.
        writer: the checkpoint.
        policy: what to do after an answer.
        breaker: notices when the provider is gone.
        ceiling: requests per second that the pacer allows; only sizes buffers here.
        in_flight: most requests open at once.
    """

    def __init__(
        self,
        handler: ActionHandler,
        writer: StoreWriter,
        policy: RetryPolicy,
        breaker: CircuitBreaker,
        *,
        ceiling: float,
        in_flight: int,
    ) -> None:
        self._handler = handler
        self._writer = writer
        self._policy = policy
        self._breaker = breaker
        self._claim_ahead = max(16, min(int(ceiling * CLAIM_AHEAD), 2 * in_flight))
        self._places = _Places(max(4, min(int(ceiling * READY_SHARE), in_flight, 500)))
        self._open = asyncio.Semaphore(in_flight)
        self._in_line: deque[_Step] = deque()
        self._waiting: list[_Step] = []  # heap by due time
        self._numbers = itertools.count()
        self._unsettled = 0  # operations in memory
        self._all_claimed = False
        self._additions = 0  # times that operations were planned by this process
        self._stopping = False
        self._supply_wanted = asyncio.Event()
        self._line_moved = asyncio.Event()
        self._not_departed: set[asyncio.Task[Any]] = set()
        self.failure: BulkcertError | None = None

    @property
    def waiting(self) -> int:
        """Operations that wait for a repeat or a look-up."""
        return len(self._waiting)

    async def run(self) -> bool:
        """Work until all is settled or `stop` is called; return whether all is settled.

        Raises:
            BulkcertError: the provider or the checkpoint became unusable. What was answered by then
                is recorded.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._supply())
            await self._feed(tasks)
        self._release_unsent()
        if self.failure is not None:
            raise self.failure
        return self._all_claimed and self._unsettled == 0

    def stop(self, failure: BulkcertError | None = None) -> None:
        """Send nothing new; `run` returns, or raises the failure, when open requests have ended."""
        if self.failure is None:
            self.failure = failure
        self._stopping = True
        for task in list(self._not_departed):
            task.cancel()
        self._supply_wanted.set()
        self._line_moved.set()

    # ---- supply

    async def _supply(self) -> None:
        """Keep operations in line: due repeats and fresh ones."""
        try:
            while not self._over():
                self._supply_wanted.clear()
                # both in one commit: with many repeats due, fresh ones would never have their turn
                due, fresh = self._take_due(), self._wants_fresh()
                if due or fresh:
                    claiming = [self._claim()] if fresh else []
                    await asyncio.gather(self._intend(due), *claiming)
                else:
                    await self._until_due()
        except BulkcertError as error:
            self.stop(error)
        finally:
            self._line_moved.set()

    def _over(self) -> bool:
        return self._stopping or (self._all_claimed and self._unsettled == 0)

    def _take_due(self) -> list[_Step]:
        now = asyncio.get_running_loop().time()
        due = []
        while self._waiting and self._waiting[0].due <= now:
            due.append(heapq.heappop(self._waiting))
        return due

    async def _intend(self, steps: Sequence[_Step]) -> None:
        """Make durable which attempts are about to leave, and put them in line.

        A look-up changes nothing, so nothing of it needs to be durable.
        """
        changes = []
        for step in steps:
            if not step.look:
                operation = step.operation
                operation.attempts += 1
                changes.append(_change(operation, State.IN_FLIGHT, operation.last_error))
        if changes:
            await self._writer.record_now(changes)
        self._put_in_line(steps)

    def _wants_fresh(self) -> bool:
        return (
            not self._all_claimed
            and len(self._in_line) < self._claim_ahead
            and len(self._waiting) < MOST_WAITING
        )

    async def _claim(self) -> None:
        additions = self._additions
        claimed = await self._writer.claim(self._claim_ahead)
        self._all_claimed = not claimed and additions == self._additions
        self._unsettled += len(claimed)
        in_line = []
        for operation in claimed:
            operation.in_doubt &= self._policy.changes
            if self._handler.needs_lookup(operation):
                # the claim counted an attempt, but a look-up comes first, whatever happened before
                operation.attempts -= not operation.in_doubt
                operation.in_doubt = False
                operation.attempts_before_step = operation.attempts
            step = self._first_step(operation)
            if operation.in_doubt and (delay_s := self._policy.before_look(operation)):
                step.due = asyncio.get_running_loop().time() + delay_s
                self._wait(step)
            else:
                in_line.append(step)
        self._put_in_line(in_line)

    def _first_step(self, operation: Operation) -> _Step:
        # What an earlier process left in flight is in doubt, so it is looked up first: a repeat
        # would do no harm to some actions, but an operation that was answered is not sent again.
        look = operation.in_doubt or self._handler.needs_lookup(operation)
        return _Step(0.0, next(self._numbers), operation, look)

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        alarm = (
            loop.call_at(self._waiting[0].due, self._supply_wanted.set) if self._waiting else None
        )
        await self._supply_wanted.wait()
        if alarm is not None:
            alarm.cancel()

    def _put_in_line(self, steps: Sequence[_Step]) -> None:
        self._in_line.extend(steps)
        self._line_moved.set()

    # ---- feed

    async def _feed(self, tasks: asyncio.TaskGroup) -> None:
        """Start a task for each operation in line, as places allow."""
        while await self._someone_in_line():
            await self._guarded()
            await self._open.acquire()
            await self._places.take()
            if self._stopping or not self._in_line:
                self._places.give_back()
                self._open.release()
                continue
            step = self._in_line.popleft()
            if len(self._in_line) * 2 < self._claim_ahead:
                self._supply_wanted.set()
            tasks.create_task(self._perform(step))

    async def _someone_in_line(self) -> bool:
        while not self._in_line and not self._over():
            self._line_moved.clear()
            await self._line_moved.wait()
        return not self._over()

    async def _guarded(self) -> None:
        """Hold, with a probe now and then, while the provider fails; stop when it does for long."""
        match self._breaker.state:
            case BreakerState.OPEN:
                self.stop(
                    ProviderUnusableError(
                        f"Nearly everything has failed for {self._breaker.failing_for_s:.0f} s.",
                        "See results.jsonl for what the provider answers. When it works again,"
                        " run the same command: it goes on from here.",
                    )
                )
            case BreakerState.HALF_OPEN:
                await asyncio.sleep(self._breaker.timings.probe_every_s)

    # ---- perform

    async def _perform(self, step: _Step) -> None:
        """Send one request for one operation, and act on the answer."""
        task = asyncio.current_task()
        assert task is not None
        self._not_departed.add(task)

        def on_departure() -> None:
            # a request with a new token departs twice
            if task in self._not_departed:
                self._not_departed.remove(task)
                self._places.give_back()
                self._places.grow()

        send = self._handler.look if step.look else self._handler.attempt
        try:
            if self._stopping:  # since this task was made
                raise asyncio.CancelledError
            answer = await send(step.operation, on_departure)
        except asyncio.CancelledError:
            if task not in self._not_departed:
                raise  # a fault elsewhere takes everything down; the operation stays in flight
            self._in_line.append(step)  # to be released with the others that never left
        except BulkcertError as error:
            self._in_line.append(step)
            on_departure()
            self.stop(error)
        else:
            self._judge(step, answer)
        finally:
            on_departure()
            self._open.release()

    def _judge(self, step: _Step, answer: Answer) -> None:
        operation = step.operation
        if (signal := signal_of(answer.kind)) is not None:
            self._breaker.observe(signal)
        if answer.kind is AnswerKind.UNUSABLE:
            self._in_line.append(step)
            self.stop(
                ProviderUnusableError(
                    f"The provider can't be used any more: {answer.code or ''} {answer.message}",
                    "Settle that with the provider, then run again: the run goes on from here.",
                )
            )
            return
        after = self._policy.after_look if step.look else self._policy.after_attempt
        match after(operation, answer):
            case Settle(state, final):
                self._settle(operation, state, final)
            case Again(look, delay_s):
                self._try_again(operation, look=look, delay_s=delay_s)
            case NextStep(progress):
                self._go_on(operation, progress)
            case Split(selected):
                self._split(operation, selected)

    def _settle(self, operation: Operation, state: State, answer: Answer) -> None:
        change = _change(operation, state, answer, finished_at=time.time())
        if answer.then is not None:
            change = change._replace(split=[operation.fields, answer.then])
            self._plans_more()
        self._writer.record(change)
        self._unsettled -= 1
        if self._over():
            self._supply_wanted.set()

    def _go_on(self, operation: Operation, progress: Any) -> None:
        """Begin the next step of an operation: nothing of that one was sent yet."""
        operation.progress, operation.attempts_before_step = progress, operation.attempts
        operation.failed_lookups = operation.not_sent_in_a_row = 0
        operation.in_doubt, operation.last_error = False, None
        self._writer.record(_change(operation, State.PLANNED, None))
        self._wait(self._first_step(operation))

    def _split(self, operation: Operation, selected: list[dict[str, FieldValue]]) -> None:
        """Go on with the first certificate of the target; the checkpoint hands out the others."""
        operation.fields = selected[0]
        operation.attempts = operation.failed_lookups = operation.not_sent_in_a_row = 0
        change = _change(operation, State.PLANNED, None)
        self._writer.record(change._replace(split=selected))
        self._plans_more()
        self._wait(self._first_step(operation))

    def _plans_more(self) -> None:
        """The checkpoint has operations to hand out again, with the next commit."""
        self._additions += 1
        self._all_claimed = False
        self._supply_wanted.set()

    def _try_again(self, operation: Operation, *, look: bool, delay_s: float) -> None:
        if not look and not operation.in_doubt:
            self._writer.record(_change(operation, State.PLANNED, operation.last_error))
        due = asyncio.get_running_loop().time() + delay_s
        self._wait(_Step(due, next(self._numbers), operation, look))

    def _wait(self, step: _Step) -> None:
        heapq.heappush(self._waiting, step)
        self._supply_wanted.set()

    # ---- after the end

    def _release_unsent(self) -> None:
        """Give back what is in memory, without the attempts that were intended and never left."""
        for step in self._in_line:
            operation = step.operation
            if not step.look:
                operation.attempts -= 1
                back = State.IN_FLIGHT if operation.in_doubt else State.PLANNED
                self._writer.record(_change(operation, back, operation.last_error))
        for step in itertools.chain(self._in_line, self._waiting):
            operation = step.operation
            untouched = not operation.in_doubt and operation.last_error is None
            if step.look and untouched and operation.state is State.IN_FLIGHT:
                self._writer.record(_change(operation, State.PLANNED, None))


# no sets: the hash of an enumeration's member is computed in Python
_GOOD = (
    *(AnswerKind.DONE, AnswerKind.HOLDS, AnswerKind.ABSENT, AnswerKind.UNCLEAR),
    *(AnswerKind.STEP, AnswerKind.SELECTED),
)
_TROUBLE = (AnswerKind.IN_DOUBT, AnswerKind.NOT_SENT)


def signal_of(kind: AnswerKind) -> Signal | None:
    """What an answer says to the circuit breaker; None if it says nothing."""
    if kind in _GOOD:
        return Signal.GOOD
    if kind in _TROUBLE:
        return Signal.TROUBLE
    return None if kind is AnswerKind.THROTTLED else Signal.REFUSED


def _change(
    operation: Operation, state: State, answer: Answer | None, finished_at: float | None = None
) -> Change:
    """Bring an operation into another state, here and (with the change) in the checkpoint."""
    expected, operation.state = operation.state, state
    answer = answer or Answer(AnswerKind.NOT_SENT)
    return Change(
        operation_id=operation.id,
        expected=expected,
        state=state,
        attempts=operation.attempts,
        code=answer.code,
        message=answer.message,
        request_id=answer.request_id,
        result=answer.result if finished_at else None,
        finished_at=finished_at,
        progress=operation.progress,
    )
