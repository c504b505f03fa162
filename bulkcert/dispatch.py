"""The worker pool: claim, wait, send, record.

Operations come from the store and go back to it. In between, three tasks move them:

    supply    claims operations (their intent is durable then) and queues what is due
    feed      takes the next one from the queue as soon as it may get ready to send
    work      a task for each open request, which carries out one operation after another

There are no rules here: `bulkcert.lifecycle` says what an event means for an operation,
`bulkcert.rules` whether anything may be claimed or leave, and this module carries that out.

A request needs three things, in this order: one of the few ready slots (so that few connections
wait), one of the `in_flight` places for open requests, and the pacer's permission, which the
transport asks for with the connection in hand. Nothing here knows the latency: a request leaves as
soon as the pacer permits it, however many are open, up to `in_flight`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, assert_never

from bulkcert.circuit_breaker import (
    AccountRefusals,
    BreakerState,
    CircuitBreaker,
    Signal,
    signal_of,
)
from bulkcert.errors import BulkcertError, ProviderUnusableError, ResultNotKeptError
from bulkcert.history import Departure, ended_entry, taken_over
from bulkcert.lifecycle import (
    AttemptEnded,
    AttemptWithdrawn,
    Claimed,
    Finish,
    Forbidden,
    Lifecycle,
    LookUp,
    LookupEnded,
    LookupWithdrawn,
    OperationEvent,
    Release,
    RetryDue,
    RetryLater,
    RetryWithdrawn,
    Send,
)
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    Change,
    LookupKind,
    LookupResult,
    Operation,
    State,
    code_and_text,
)
from bulkcert.providers.base import Step
from bulkcert.providers.call import OnDeparture
from bulkcert.ready_slots import READY_SHARE, Places, ReadySlots
from bulkcert.rules.gate import Gate
from bulkcert.store.writer import StoreWriter
from bulkcert.taskqueue import Task, TaskQueue, Waits

CLAIM_AHEAD_S = 0.25
"""Operations are claimed for so many seconds ahead: a commit may take 100 ms."""

QUICK_RESPONSE_S = 0.03
"""No more is claimed ahead than can leave in that time while each response takes this long: what is
claimed when the process dies has to be looked up."""

_Ended = AttemptEnded | LookupEnded


class Dispatcher:
    """Carries out all operations of a store.

    Args:
        steps: the steps of the action.
        writer: the store.
        lifecycle: the rules.
        breaker: notices when the provider fails.
        ceiling: requests per second that the pacer permits; only sizes buffers here.
        in_flight: most requests open at once.
        on_result: called with each result of an attempt or a look-up.
        on_ended: called with each result too, also with one that stops the run, and when its first
            request left, by the monotonic clock; None if nothing left.
        on_settled: called with the change that settles an operation, before it is durable.
        on_wait: called with each operation that is sent or looked up again later, whether it is
            looked up, and in how many seconds.
        on_stop: called when nothing new may leave.
        advise: what an operator can do about a code with its text, in a sentence or two.
        refuse: why nothing may be sent for an operation; None, as a function or as its result, if
            nothing forbids it.
        claim_ahead_s: operations are claimed for so many seconds ahead.
        ready_share: most requests that get ready at the same time, as a share of the rate.
        now: returns Unix time in seconds, as everybody who works on the run should see it.
        rng: source of jitter.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        writer: StoreWriter,
        lifecycle: Lifecycle,
        breaker: CircuitBreaker,
        *,
        ceiling: float,
        in_flight: int,
        on_result: Callable[[AttemptResult | LookupResult], object] = lambda result: None,
        on_ended: Callable[
            [AttemptResult | LookupResult, float | None], object
        ] = lambda result, departed_at_s: None,
        on_settled: Callable[[Change], object] = lambda change: None,
        on_wait: Callable[
            [Operation, bool, float], object
        ] = lambda operation, is_lookup, delay_s: None,
        on_stop: Callable[[], object] = lambda: None,
        advise: Callable[[int | str | None, str], str] = lambda code, message: "",
        refuse: Callable[[Operation], str | None] | None = None,
        now: Callable[[], float] = time.time,
        claim_ahead_s: float = CLAIM_AHEAD_S,
        ready_share: float = READY_SHARE,
        rng: random.Random | None = None,
    ) -> None:
        self._steps = steps
        self._writer = writer
        self._lifecycle = lifecycle
        self._breaker = breaker
        self._on_result = on_result
        self._on_ended = on_ended
        self._on_settled = on_settled
        self._on_wait = on_wait
        self._on_stop = on_stop
        self._advise = advise
        self._refuse = refuse
        self._now = now
        self._refusals: AccountRefusals[tuple[Task, _Ended]] = AccountRefusals(
            breaker.timings.agreeing_refusals
        )
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._ceiling, self._in_flight = ceiling, in_flight
        self._rate: float | None = None
        self._hosts = 1
        self._claim_ahead_s, self._claim_ahead = claim_ahead_s, 0
        self._ready, self._open = ReadySlots(ready_share), Places()
        self._size(ceiling)
        self._queue = TaskQueue()
        self._throttled: dict[int, int] = {}  # operations by how often in a row
        self._unsettled = 0  # operations in memory
        self._all_claimed = False
        self._exhausted = False  # nothing can be claimed until something changes
        self._held = self._aborted = False
        self._wave = 0
        self._additions = 0  # times that this process added operations to the store
        self._stopping = False
        self._supply_wanted = asyncio.Event()
        self._queue_changed = asyncio.Event()
        self._first_ended = asyncio.Event()  # the first request, or the wait for it
        self._workers: set[asyncio.Task[None]] = set()  # one for each open request
        self._not_departed: set[asyncio.Task[Any]] = set()
        self._departed: dict[int, Task] = {}  # by number
        self._given_back_in_doubt = 0
        self.failure: Exception | None = None
        self._looked_up: set[int] = set()  # instead of being sent again, after an abort
        self.under_way_at_abort: set[int] = set()  # ids of operations
        self.ended_after_abort: Counter[State] = Counter()

    @property
    def waits(self) -> Waits:
        """What waits for a retry or a look-up, and for how long."""
        idle = self._nothing_to_claim and self._queue.waiting == self._unsettled
        return self._queue.waits(asyncio.get_running_loop().time(), idle=idle)

    @property
    def open_requests(self) -> int:
        """Requests that have left and have not ended."""
        return len(self._departed)

    @property
    def in_doubt(self) -> int:
        """Operations that may have been executed, and of which that is not known yet."""
        return (
            sum(map(self._may_be_executed, self._departed.values()))
            + self._queue.in_doubt
            + self._given_back_in_doubt
        )

    def _may_be_executed(self, task: Task) -> bool:
        changes = self._steps[task.operation.step].rules.changes
        return task.operation.in_doubt or (changes and isinstance(task.effect, Send))

    async def run(self) -> bool:
        """Work until everything is settled or `stop` is called; return whether all is settled.

        Raises:
            BulkcertError: the provider or the store became unusable. The results up to then are
                recorded, as they are after any other exception, which is a fault of the program.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._supply())
                try:
                    await self._feed()
                    await self._until_all_ended()
                except asyncio.CancelledError:
                    self._stopping = True
                    for worker in self._workers:
                        worker.cancel()
                    await self._until_all_ended()
                    raise
        except asyncio.CancelledError:
            self._release_all()  # what has left stays in flight
            raise
        self._stopping = True  # an abort that comes later finds nothing to do
        self._release_all()
        if self.failure is not None:
            raise self.failure
        return self._all_claimed and self._unsettled == 0

    def stop(self, failure: Exception | None = None) -> None:
        """Send nothing new; `run` returns, or raises the failure, when open requests have ended."""
        if self.failure is None:
            self.failure = failure
        self._stopping = True
        self._on_stop()
        self._first_ended.set()
        for task in list(self._not_departed):
            task.cancel()
        self._supply_wanted.set()
        self._queue_changed.set()

    # ---- the gate

    def _size(self, rate: float) -> None:
        """Set how much is prepared. What waits too long for its turn loses its connection, so it
        is a few seconds' worth at most."""
        rate /= self._hosts
        in_flight = max(1, self._in_flight // self._hosts)
        most = in_flight * self._claim_ahead_s / QUICK_RESPONSE_S
        self._claim_ahead = max(16, int(min(rate * self._claim_ahead_s, most)))
        self._ready.fit(rate, in_flight)
        self._open.resize(in_flight)

    def _limit(self, rate: float | None) -> None:
        """Prepare as much as a rate needs that people have set; None for the ceiling."""
        if rate == self._rate:
            return
        before, self._rate = self._ready.most, rate
        self._size(min(rate or self._ceiling, self._ceiling))
        if self._ready.most < before:
            self._call_back()
        self._supply_wanted.set()

    def share(self, hosts: int) -> None:
        """Work as one of several hosts: together they have `in_flight` open requests at most.

        Args:
            hosts: how many work on the run, this one included.
        """
        if hosts != self._hosts:
            self._hosts = hosts
            self._size(min(self._rate or self._ceiling, self._ceiling))

    def ask_again(self) -> None:
        """Try to claim, although nothing was left the last time: other hosts may have added
        operations, or given some back."""
        if self._exhausted and not self._stopping:
            self._exhausted = False
            self._supply_wanted.set()

    def follow(self, gate: Gate) -> None:
        """Hold or go on, as the rules say. To be called after each commit."""
        self._limit(gate.rate)
        if gate.reasons:
            self.hold()
        elif gate.is_open and (self._held or gate.wave != self._wave):
            self._held = self._exhausted = False
            self._wave = gate.wave
            self._supply_wanted.set()
            self._queue_changed.set()

    def hold(self) -> None:
        """Let nothing leave until the gate is open.

        What is about to leave is given back, so that it is not in doubt should the process be
        killed meanwhile.
        """
        if not (self._held or self._aborted):
            self._held = True
            self._call_back()

    def abort(self, failure: Exception) -> None:
        """Send no attempt any more, but look up for a while what may have been executed.

        Then `run` raises the failure, and `ended_after_abort` says how the attempts ended that were
        under way.
        """
        if self._aborted:
            return
        self._aborted = self._all_claimed = True
        attempts = [t for t in self._departed.values() if isinstance(t.effect, Send)]
        self.under_way_at_abort = {task.operation.id for task in attempts}
        if self._stopping:
            return  # nothing leaves, not even a look-up
        self._held = False
        self.failure = failure
        self._call_back()
        for task in self._queue.take_all():
            self._put_back(task)
        asyncio.get_running_loop().call_later(
            self._lifecycle.timings.lookups_after_abort_s, self.stop
        )
        self._supply_wanted.set()
        self._queue_changed.set()

    def _call_back(self) -> None:
        """Take back everything that is about to leave."""
        for waiting in list(self._not_departed):
            waiting.cancel()
        for task in self._queue.take_ready():
            self._put_back(task)

    def _put_back(self, task: Task) -> None:
        """Keep a task that has not left for when the gate is open, or the look-ups have begun."""
        operation, effect = task.operation, task.effect
        if isinstance(effect, Send):
            operation, change, _ = self._lifecycle.advance(operation, AttemptWithdrawn())
            if change is not None:
                self._writer.record(change)
            effect = RetryLater()
        if self._aborted and isinstance(effect, RetryLater):
            self._withdraw_retry(operation)
        else:
            self._queue.add_later(task.due, operation, effect)
            self._supply_wanted.set()

    def _withdraw_retry(self, operation: Operation) -> None:
        """Look an operation up instead of sending it again, or leave it to a later process."""
        operation, _, effect = self._lifecycle.advance(operation, RetryWithdrawn())
        if isinstance(effect, LookUp) and operation.id not in self._looked_up:
            self._looked_up.add(operation.id)
            self._queue.add_later(0.0, operation, effect)
        else:
            self._given_back_in_doubt += operation.in_doubt
            self._unsettled -= 1
        self._supply_wanted.set()

    # ---- supply

    async def _supply(self) -> None:
        """Keep the queue filled: with what is due, and with fresh operations."""
        try:
            while not self._over():
                self._supply_wanted.clear()
                # Both in one commit: with many retries due, fresh ones would otherwise never come.
                due, fresh = self._take_due(), self._wants_fresh()
                if due or fresh:
                    claiming = [self._claim()] if fresh else []
                    await asyncio.gather(self._intend(due), *claiming)
                elif self._nothing_to_claim and 0 < self._unsettled == len(self._refusals):
                    self._settle(self._refusals.take_all())  # nothing will confirm them any more
                else:
                    await self._until_due()
        except BulkcertError as error:
            self.stop(error)
        finally:
            if self._stopping:
                # At once: should the process be killed while it waits for open requests, then only
                # those are in doubt.
                self._release_unsent()
            self._queue_changed.set()

    def _over(self) -> bool:
        return self._stopping or (self._all_claimed and self._unsettled == 0)

    @property
    def _nothing_to_claim(self) -> bool:
        """Whether there is nothing now that would go before what is due later."""
        return self._all_claimed or self._exhausted

    def _take_due(self) -> list[Task]:
        if self._held:
            return []
        now = asyncio.get_running_loop().time()
        return self._queue.take_due(now, all_claimed=self._nothing_to_claim)

    async def _intend(self, tasks: Sequence[Task]) -> None:
        """Make it durable which attempts are about to leave, and queue them.

        A look-up changes nothing, so nothing about it needs to be durable.
        """
        changes, ready = [], []
        for task in tasks:
            operation, effect = task.operation, task.effect
            if self._is_refused(operation, effect):
                continue
            if isinstance(effect, RetryLater):
                operation, change, send = self._lifecycle.advance(operation, RetryDue())
                assert change is not None
                assert isinstance(send, Send)
                changes.append(change)
                effect = send
            ready.append((operation, effect))
        if changes:
            await self._writer.record_now(changes)
        self._enqueue(ready)

    def _wants_fresh(self) -> bool:
        may_claim = not (self._nothing_to_claim or self._held)
        return may_claim and self._queue.ready < self._claim_ahead and not self._queue.full

    async def _claim(self) -> None:
        additions, idle = self._additions, self._unsettled == 0
        claimed, more = await self._writer.claim(self._claim_ahead, self._lifecycle.lookup_first)
        if not claimed and additions == self._additions and not self._aborted:
            self._all_claimed = not more
            # what was settled meanwhile may end the wave: then the store has to be asked again
            self._exhausted = more and (idle or self._unsettled > 0)
        self._unsettled += len(claimed)
        if in_doubt := [operation for operation in claimed if operation.in_doubt]:
            now_s = self._now()
            self._writer.add_history([taken_over(each, now_s) for each in in_doubt])
        ready = []
        for operation in claimed:
            operation, _, effect = self._lifecycle.advance(operation, _CLAIMED)
            assert isinstance(effect, (Send, LookUp))
            if self._is_refused(operation, effect):
                continue
            if isinstance(effect, LookUp) and effect.delay.least_s:
                self._wait(operation, effect)
            else:
                ready.append((operation, effect))
        self._enqueue(ready)

    def _is_refused(self, operation: Operation, effect: Send | LookUp | RetryLater) -> bool:
        """Settle an operation for which nothing may be sent; return whether it is one.

        What is in doubt is looked up in any case: that only settles what has happened.
        """
        if self._refuse is None or (operation.in_doubt and isinstance(effect, LookUp)):
            return False
        reason = self._refuse(operation)
        if reason is None:
            return False
        self._advance(operation, Forbidden(reason, self._now()))
        return True

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        next_due = self._queue.next_due(all_claimed=self._nothing_to_claim)
        if self._held:
            next_due = None
        alarm = None if next_due is None else loop.call_at(next_due, self._supply_wanted.set)
        await self._supply_wanted.wait()
        if alarm is not None:
            alarm.cancel()

    def _enqueue(self, ready: Sequence[tuple[Operation, Send | LookUp]]) -> None:
        for operation, effect in ready:
            task = self._queue.task(operation, effect)
            if self._must_not_leave(effect):  # in the meantime
                self._put_back(task)
            else:
                self._queue.add(task)
        self._queue_changed.set()

    def _must_not_leave(self, effect: Send | LookUp | RetryLater) -> bool:
        return self._held or (self._aborted and isinstance(effect, Send))

    # ---- feed

    async def _feed(self) -> None:
        """Start a request for each queued operation, as slots become free."""
        while await self._wait_for_work():
            if self._breaker.state is not BreakerState.CLOSED:
                await self._wait_for_provider()
            await self._open.acquire()
            await self._ready.acquire()
            if self._stopping or self._held or not self._queue.ready:
                self._ready.release()
                self._open.release()
                continue
            self._workers.add(asyncio.create_task(self._work(self._take())))
            if not self._first_ended.is_set():
                await self._let_first_go_alone()

    def _take(self) -> Task:
        task = self._queue.take()
        if self._queue.ready * 2 < self._claim_ahead:
            self._supply_wanted.set()
        return task

    async def _until_all_ended(self) -> None:
        while self._workers:
            await asyncio.wait(self._workers)
            self._workers = {worker for worker in self._workers if not worker.done()}

    async def _let_first_go_alone(self) -> None:
        """Wait a moment for the first response, which may say that everybody has to pause."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._lifecycle.timings.first_alone_s):
                await self._first_ended.wait()
        self._first_ended.set()

    async def _wait_for_work(self) -> bool:
        """Wait until something is queued; return False when there will be nothing more."""
        while (self._held or not self._queue.ready) and not self._over():
            self._queue_changed.clear()
            await self._queue_changed.wait()
        return not self._over()

    async def _wait_for_provider(self) -> None:
        """While the circuit breaker is half-open, let one probe through now and then; when it
        opens, stop."""
        match self._breaker.state:
            case BreakerState.OPEN:
                reason, code = self._breaker.commonest_reason, self._breaker.commonest_code
                problem = f"Nearly everything has failed for {self._breaker.failing_for_s:.0f} s"
                self.stop(
                    ProviderUnusableError(
                        problem + (f", mostly with: {reason}" if reason else "."),
                        "See results.jsonl for the provider's responses. When it works again,"
                        " run the same command: it continues from here.",
                        for_log=problem + (f", mostly with {code}" if code else ""),
                    )
                )
            case BreakerState.HALF_OPEN:
                await asyncio.sleep(self._breaker.timings.probe_every_s)

    # ---- work

    async def _work(self, task: Task | None) -> None:
        """Carry out a task, and then others, as long as the next one may begin at once."""
        this = asyncio.current_task()
        assert this is not None
        try:
            while task is not None:
                await self._perform(task, this)
                # what else has come is dealt with first; so requests leave close together, and
                # whoever receives them is woken less often
                await asyncio.sleep(0)
                task = self._next()
        finally:
            self._open.release()
            self._workers.discard(this)

    def _next(self) -> Task | None:
        """The next task, if it may begin in the place of the one that has ended."""
        if self._stopping or self._held or not self._queue.ready:
            return None
        if self._breaker.state is not BreakerState.CLOSED or not self._open.may_stay:
            return None
        return self._take() if self._ready.take_free() else None

    async def _perform(self, task: Task, this: asyncio.Task[Any]) -> None:
        """Send one request for one operation, and act on the result."""
        self._not_departed.add(this)
        departure = Departure()

        def ready_no_more() -> None:
            if this in self._not_departed:
                self._not_departed.remove(this)
                self._ready.release()
                self._ready.grow()

        def on_departure(source: str) -> None:
            if departure.at_s is None:  # a step may send several requests
                departure.at_s, departure.source = time.monotonic(), source
                self._departed[task.number] = task
            ready_no_more()

        try:
            if self._stopping or self._must_not_leave(task.effect):  # since this task was made
                raise asyncio.CancelledError
            event = await self._request(task, on_departure)
        except asyncio.CancelledError:
            if this not in self._not_departed:
                raise  # a fault elsewhere takes everything down; the operation stays in flight
            while this.uncancel():  # it goes on with another one, and may be called back twice
                pass
            if self._stopping:
                self._release(task)
            else:
                self._put_back(task)
        except BulkcertError as error:
            ended = _ended_by(error, task, self._now())
            self._on_ended(ended.result, departure.at_s)
            if departure.at_s is not None:
                self._writer.add_history((ended_entry(task.operation, ended, departure),))
            if ended.result.kind is AttemptKind.IN_DOUBT:
                self._advance(task.operation, ended)
            else:
                self._release(task)
            ready_no_more()
            self.stop(error)
        except Exception as error:
            # A fault of ours. The operation stays in flight, so the next process looks it up; the
            # other requests in flight are awaited.
            ready_no_more()
            self.stop(error)
        else:
            self._on_ended(event.result, departure.at_s)
            self._writer.add_history((ended_entry(task.operation, event, departure),))
            self._judge(task, event)
        finally:
            self._departed.pop(task.number, None)
            ready_no_more()
            self._first_ended.set()

    async def _request(self, task: Task, on_departure: OnDeparture) -> _Ended:
        step = self._steps[task.operation.step]
        if isinstance(task.effect, LookUp):
            return LookupEnded(await step.look_up(task.operation, on_departure), self._now())
        return AttemptEnded(await step.attempt(task.operation, on_departure), self._now())

    def _judge(self, task: Task, event: _Ended) -> None:
        """Act on a result: at once, or when it is known whether it concerns the whole account."""
        result, signal = event.result, signal_of(event.result)
        self._on_result(result)
        times = self._throttled.pop(task.operation.id, 0) if self._throttled else 0
        if result.kind in (AttemptKind.THROTTLED, LookupKind.THROTTLED):
            self._throttled[task.operation.id] = times + 1
        if signal is not None:
            reason = "" if signal is Signal.GOOD else code_and_text(result.code, result.message)
            self._breaker.observe(signal, reason, result.code)
        request = (task.operation.step, type(event))
        if result.account_wide and not self._breaker.disabled:
            if self._refusals.keep(request, (task, event)):
                self._stop_refused(result)
            self._supply_wanted.set()
            return
        if self._refusals and signal in (Signal.GOOD, Signal.REFUSED):
            self._settle(self._refusals.contradict(request))
            if isinstance(event, AttemptEnded):  # whoever may change may also read
                self._settle(self._refusals.contradict((task.operation.step, LookupEnded)))
        self._advance(task.operation, event)

    def _settle(self, ended: Sequence[tuple[Task, _Ended]]) -> None:
        for task, event in ended:
            self._advance(task.operation, event)

    def _stop_refused(self, result: AttemptResult | LookupResult) -> None:
        """Stop: the account is refused. What was refused is given back, and counts for nothing."""
        steps = (
            self._advise(result.code, result.message),
            "Then run the same command: it continues from here, and sends again what was refused.",
            "If it is right that so many targets are refused, set circuit_breaker.failing_share = 2"
            " first.",
        )
        problem = f"The provider has refused {len(self._refusals)} requests in a row:"
        self.stop(
            ProviderUnusableError(
                f"{problem} {code_and_text(result.code, result.message)}",
                " ".join(filter(None, steps)),
                for_log=f"{problem} {result.code}",
            )
        )

    def _advance(self, operation: Operation, event: OperationEvent) -> None:
        """Apply an event; record the change and carry out the effect."""
        operation, change, effect = self._lifecycle.advance(operation, event)
        if change is not None:
            self._writer.record(change)
            if change.finished_at is not None:
                self._on_settled(change)
                if operation.id in self.under_way_at_abort:
                    self.ended_after_abort[change.state] += 1
            if change.fan_out or change.next_page is not None:
                # The store has operations to hand out again, with the next commit.
                self._additions += 1
                self._all_claimed = self._aborted
                self._exhausted = False
                self._supply_wanted.set()
        match effect:
            case Finish():
                self._unsettled -= 1
                if self._stopping or self._unsettled == len(self._refusals):
                    self._exhausted = self._exhausted and self._unsettled > 0
                    self._supply_wanted.set()  # for the end, or what can't be confirmed any more
            case LookUp() | RetryLater():
                self._wait(operation, effect)
            case Release() | Send():
                pass  # only `Claimed` and `RetryDue` lead to a send, and those are handled above
            case _:
                assert_never(effect)

    def _wait(self, operation: Operation, effect: LookUp | RetryLater) -> None:
        if self._aborted and isinstance(effect, RetryLater):
            self._withdraw_retry(operation)
            return
        delay_s = self._rng.uniform(*effect.delay) + self._own_pause_s(operation)
        due = asyncio.get_running_loop().time() + delay_s
        self._queue.add_later(due, operation, effect)
        self._on_wait(operation, isinstance(effect, LookUp), delay_s)
        self._supply_wanted.set()

    def _own_pause_s(self, operation: Operation) -> float:
        """How much longer an operation waits that is throttled again and again.

        The pacer makes all requests wait. If only this one is throttled, it must not keep doing so.
        """
        again = self._throttled.get(operation.id, 0) - 1
        if again < 1:
            return 0.0
        timings = self._lifecycle.timings
        longest_s = timings.first_backoff_s * 2 ** min(again, 20)
        return self._rng.uniform(0, min(longest_s, timings.longest_backoff_s))

    # ---- after the end

    def _release_all(self) -> None:
        """Give back what is in memory, and what was refused together with all others."""
        self._release_unsent()
        for task, _ in self._refusals.take_all():
            self._release(task)

    def _release_unsent(self) -> None:
        """Give back what waits, without the attempts that were intended and never left."""
        for task in self._queue.take_all():
            self._release(task)

    def _release(self, task: Task) -> None:
        self._given_back_in_doubt += task.operation.in_doubt
        match task.effect:
            case Send():
                self._advance(task.operation, AttemptWithdrawn())
            case LookUp():
                self._advance(task.operation, LookupWithdrawn())
            case RetryLater():
                pass  # what waits for a retry is not intended yet
            case _:
                assert_never(task.effect)


_CLAIMED = Claimed()


def _ended_by(error: BulkcertError, task: Task, now_s: float) -> _Ended:
    """What a request was whose response stops the run."""
    kept = not isinstance(error, ResultNotKeptError)
    if isinstance(task.effect, LookUp):
        kind = LookupKind.NOT_SENT if kept else LookupKind.FAILED
        return LookupEnded(LookupResult(kind, message=error.problem), now_s)
    # if it is not kept, it was executed; otherwise it was turned away, as all others will be
    attempt = AttemptKind.NOT_SENT if kept else AttemptKind.IN_DOUBT
    return AttemptEnded(AttemptResult(attempt, message=error.problem), now_s)
