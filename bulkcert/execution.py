"""One process's work on a run, from opening the connection to the last commit.

In: the wired stages. Out: events, and why the work ended early, if it did. Whatever ends it, what
was sent is on record: the session's figures and every outcome are written before it returns.
Nothing leaves before the rules allow it, not even a request for a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from bulkcert.dispatch import Dispatcher
from bulkcert.errors import (
    BulkcertError,
    CommitsLostError,
    LeaseLostError,
    ProviderUnusableError,
    StoppedByRulesError,
)
from bulkcert.event_log import Happened, RunEvent
from bulkcert.events import Listener, Notice, Progress, Started
from bulkcert.horizon import Horizon
from bulkcert.hosts.life import Life
from bulkcert.model import Change, State
from bulkcert.process_log import ProcessLog, ended, in_words, outcomes
from bulkcert.progress import ProgressTracker
from bulkcert.providers.base import ActionHandler
from bulkcert.quantities import count
from bulkcert.ratelimit import Pacer
from bulkcert.report.summary import RESUMABLE, STOPPED_BY_RULES, exit_code
from bulkcert.rules import MAX_OPERATIONS
from bulkcert.rules.gate import NOT_CHECKED, Gate, ReasonKind
from bulkcert.store.base import OUTCOMES, Abort, Session, Store
from bulkcert.store.claims import Claims, Position
from bulkcert.store.writer import StoreWriter
from bulkcert.timings import Timings

_WAITS = frozenset({ReasonKind.PAUSED, ReasonKind.CLOSED, ReasonKind.WAITING})
"""What a process does not wait for if it is asked not to wait."""


ASKED_TO_STOP = "stopped by a signal, or by the program that runs it"

_ALIVE_S = 1.0
"""A process that sends nothing records its figures this often."""


async def _nothing() -> None:
    """What is to be done before the work begins, if nobody says otherwise."""


class RunningCheck(Protocol):
    """The outside check; see `bulkcert.check.Checker`."""

    def start(self) -> None: ...

    def request(self) -> None: ...

    def stop(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Execution:
    """Carries out what is left of a run.

    Attributes:
        handler: sends the requests.
        dispatcher: decides when, and what for.
        pacer: lets nothing leave while the rules hold the run.
        writer: the store, not started yet.
        claims: the rules.
        tracker: the figures of this process.
        on_event: called on the event loop with every event; must not block, nor raise.
        on_begin: called before the first operation is claimed, in a thread: it reads files and the
            store, and the event loop must see to the lease. What it raises ends the run.
        on_tick: called with how the run stands, again and again and at the end.
        check: the outside check, or None.
        horizon: looks ahead to the end of the run; None if no rule and no deadline concerns it.
        stopped_by: the error for an abort.
        process_log: logs the start of this process.
        left_out: rows of the target file that were left out; then the run is not all good.
        retry_failed: also retry operations that failed or are unknown.
        wait: wait for windows, waves and people; otherwise end the work.
        timings: how long to wait, and for what.
        now: returns Unix time in seconds, by the clock that all hosts go by.
        leave: called when nothing is sent any more.
        life: what makes it safe to work on the run beside other hosts.
        at_desk: has something done to the run as a whole; it is durable when this returns.
        abort: resets the connections to the provider: what has not left yet never does.
        retried: they have been put back to work.
        unrecorded: the end of this process, if that could not be recorded.
    """

    handler: ActionHandler
    dispatcher: Dispatcher
    pacer: Pacer
    writer: StoreWriter
    claims: Claims
    tracker: ProgressTracker
    on_event: Listener
    leave: Callable[[], object]
    life: Life
    at_desk: Callable[[Callable[[Store], object]], Awaitable[object]]
    stopped_by: Callable[[Abort], StoppedByRulesError]
    process_log: ProcessLog
    abort: Callable[[], object] = lambda: None
    left_out: int = 0
    on_begin: Callable[[], Awaitable[object]] = _nothing
    on_tick: Callable[[Progress, Session, Position], object] = lambda progress, session, at: None
    check: RunningCheck | None = None
    horizon: Horizon | None = None
    retry_failed: bool = False
    wait: bool = True
    timings: Timings = Timings()
    now: Callable[[], float] = time.time
    retried: bool = field(default=False, init=False)
    unrecorded: Happened | None = field(default=None, init=False)
    _opening: asyncio.Task[None] | None = None
    _stopping: bool = False
    _stopped_because: str = ""
    _gate: Gate | None = None  # None before the first commit
    _gate_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _decisive: Change | None = None  # stops the run as soon as it is durable
    _counts: Mapping[State, int] | None = None  # of all hosts, as they were seen last
    _under_way: int = 0  # open requests when the last control came into force

    async def carry_out(self) -> BulkcertError | None:
        """Work until every operation is settled, or until something ends the work early.

        Returns:
            Why the work ended early; None if it was finished or stopped by `stop`.

        Raises:
            BulkcertError: the credentials or the endpoint can't be used; no operation was begun.
        """
        self.writer.start()
        self.life.start()
        self.writer.write(self.process_log.start)
        self.tracker.start()
        looking = self._beside(self._look())
        try:
            return await self._dispatch() if await self._begin() else self._failure()
        except ProviderUnusableError as error:  # only opening raises it
            return self._failure() or error
        finally:
            looking.cancel()
            if self.check is not None:
                await self.check.close()
            await self.handler.close()
            self.life.end()
            self.leave()

    def stop(self, failure: BulkcertError | None = None, why: str = ASKED_TO_STOP) -> None:
        """Send nothing new; `carry_out` returns when the requests in flight have ended.

        Args:
            failure: why the work can't go on, which `carry_out` then returns; None if somebody
                wants it to end.
            why: why it was stopped, if not by a failure; for the event log.
        """
        self._stopping = True
        self._stopped_because = self._stopped_because or why
        self._gate_changed.set()
        if self.check is not None:
            self.check.stop()
        self._stop_opening()
        self.life.hurry()
        if isinstance(failure, (LeaseLostError, CommitsLostError)):
            # others may be looking up already what this host has sent
            self.life.end()
            self.abort()
        self.dispatcher.stop(failure)

    def _stop_opening(self) -> None:
        if self._opening is not None:
            self._opening.cancel()

    # ---- what the rules say

    def follow(self, gate: Gate) -> None:
        """Do what the rules say. Called on the event loop after each commit."""
        try:
            self._follow(gate)
        finally:
            self.life.obey(gate)

    def _follow(self, gate: Gate) -> None:
        before, self._gate = self._gate, gate
        self._gate_changed.set()
        self.tracker.held = gate.reasons
        if before is None or before.control_id != gate.control_id:
            self._under_way = self.dispatcher.open_requests
        self.pacer.limit(gate.rate)
        if gate.abort:
            self._abort(gate)
            return
        if gate.stop:
            if not self._stopping:
                self.on_event(Notice(f"Stopping: {gate.stop}.", warns=False))
                self.stop(why=gate.stop)
            return
        if before is None and self.check is not None:
            self.check.start()  # not earlier: it is given the wave
        if self._decisive is not None:
            return  # an earlier commit, which knows nothing of it
        if gate.reasons:
            self._hold(gate, before)
        elif gate.closes_at is not None and self.now() >= gate.closes_at:
            self._let_nothing_leave()
        else:
            self.pacer.let_go()
        self.dispatcher.follow(gate)
        if before is None or before.closes_at != gate.closes_at:
            self._watch_window(gate)

    def settled(self, change: Change) -> None:
        """Let nothing leave any more if this change, once durable, stops the run."""
        aborted = self._gate is not None and self._gate.abort
        if self._decisive is None and not aborted and self.claims.foresee(change):
            self._decisive = change
            self._let_nothing_leave()
            self.writer.look()

    def durable(self, changes: Sequence[Change]) -> None:
        """Count what has become durable."""
        if self._decisive is not None and self._decisive in changes:
            self._decisive = None  # the gate of that commit says what follows
        self.tracker.durable(changes)

    def _abort(self, gate: Gate) -> None:
        """Let only look-ups leave; or nothing, if people or the window forbid that too."""
        self._stop_opening()
        self.dispatcher.abort(self._abort_error())
        if gate.reasons:
            self.dispatcher.stop()
        else:
            self.pacer.let_go()

    def _hold(self, gate: Gate, before: Gate | None) -> None:
        self.pacer.hold()
        if self.check is not None and gate.needs_new_check:
            asked = before is not None and before.needs_new_check and before.wave == gate.wave
            if not asked:
                # after what has just become durable is counted: the check is given the figures
                asyncio.get_running_loop().call_soon(self.check.request)
        waits = any(reason.kind in _WAITS for reason in gate.reasons)
        if waits and not self.wait and not self._stopping:
            why = " · ".join(map(str, gate.reasons))
            self.on_event(Notice(f"Stopping instead of waiting: {why}.", warns=False))
            self.stop(why=f"not to wait: {why}")

    def _watch_window(self, gate: Gate) -> None:
        """Hold at the moment at which the window closes, even if nothing is written then."""
        if gate.closes_at is not None:
            left_s = max(0.0, gate.closes_at - self.now())
            asyncio.get_running_loop().call_later(left_s, self.writer.look)
            asyncio.get_running_loop().call_later(left_s, self._close_if_due)

    def _close_if_due(self) -> None:
        closes_at = self._gate.closes_at if self._gate else None
        if closes_at is not None and self.now() >= closes_at:
            self._let_nothing_leave()

    def _let_nothing_leave(self) -> None:
        self.pacer.hold()
        self.dispatcher.hold()

    def _abort_error(self) -> StoppedByRulesError:
        abort = self.claims.pending
        assert abort is not None
        return self.stopped_by(abort)

    def _failure(self) -> BulkcertError | None:
        """Why the work ended early, if nobody wanted it to."""
        if self._gate is not None and self._gate.abort:
            return self._abort_error()
        failure = self.dispatcher.failure
        return failure if isinstance(failure, BulkcertError) else None

    # ---- the work

    async def _begin(self) -> bool:
        """Wait until the rules allow it, then open the handler; False if the work was stopped."""
        begun = False
        error: BaseException | None = None
        try:
            begun = await self._wait_for_gate() and await self._open()
            if begun:
                await self.on_begin()
        except BaseException as raised:
            begun, error = False, raised
            raise
        finally:
            if not begun:
                failure = self._failure() or error
                if isinstance(failure, StoppedByRulesError):
                    code = STOPPED_BY_RULES
                else:  # such as credentials that are not accepted
                    code = error.exit_code if isinstance(error, BulkcertError) else RESUMABLE
                # an error here must not hide why the work ends
                with contextlib.suppress(BulkcertError):
                    await self._close_writer(code, failure)
        return begun

    async def _wait_for_gate(self) -> bool:
        """Wait until the gate is open; False if the work is over before that."""
        said = ""
        while not self._stopping:
            self._gate_changed.clear()
            self.writer.look()
            await self._gate_changed.wait()
            gate = self._gate
            if gate is None:
                continue
            if self._stopping or gate.abort:
                return False
            if gate.is_open:
                return True
            why = " · ".join(map(str, gate.reasons))
            if gate.reasons != (NOT_CHECKED,) and why != said:
                self.on_event(Notice(f"Nothing is sent yet: {why}.", warns=False))
                said = why
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timings.gate_every_s):
                    self._gate_changed.clear()
                    await self._gate_changed.wait()
        return False

    async def _open(self) -> bool:
        """Open the handler; False if the work was stopped before that was done."""
        try:
            self._opening = asyncio.create_task(self.handler.open())
            if self._stopping:
                self._opening.cancel()
            await self._wait_for(self._opening)
            if self._opening.cancelled():
                return False
            self._opening.result()
            return not self._stopping
        finally:
            if self._opening is not None and not self._opening.done():
                self._opening.cancel()
                await asyncio.wait([self._opening])

    async def _wait_for(self, opening: asyncio.Task[None]) -> None:
        """Wait until the handler is open; say once what delays it, such as a pause."""
        said = False
        while not opening.done():
            every_s = self.timings.progress_every_s
            await asyncio.wait([opening], timeout=None if said else every_s)
            if not said and not opening.done() and (delay := self.tracker.delay):
                self.on_event(Notice(f"Nothing is sent yet: {delay}."))
                said = True

    async def _dispatch(self) -> BulkcertError | None:
        """Carry out the operations; return why that ended early, unless `stop` was called."""
        self.tracker.start()
        ticking = self._beside(self._tick())
        failure: BulkcertError | None = None
        finished = False
        try:
            if self.retry_failed:
                await self.at_desk(lambda store: store.retry_failed())
                self.retried = True
                self.tracker.retry()
            self.on_event(Started(self.tracker.total, self.tracker.settled))
            finished = await self._to_the_end()
            if finished and self.claims.capped:
                await self.writer.write_now(self._stop_at_cap)
            if self.life.store.shared:
                self.tracker.recount(await self.writer.write_now(_counts))
        except BulkcertError as error:
            failure = error
        finally:
            ticking.cancel()
            failure = self._abort_before(failure)
            last = self.tracker.tick()
            code = exit_code(last.settled, self.left_out) if finished else RESUMABLE
            if isinstance(failure, StoppedByRulesError):
                code = failure.exit_code
            try:
                await self._close_writer(code, failure, last.rate, finished=finished)
            except BulkcertError as error:
                failure = failure or error
        self.on_event(last)
        return failure

    async def _to_the_end(self) -> bool:
        """Carry out the operations; return whether all are settled, and that is durable."""
        failure: BulkcertError | None = None
        finished = False
        try:
            finished = await self.dispatcher.run()
        except BulkcertError as error:
            failure = error
        await self.writer.flush()  # what was settled last may stop the run as well
        if failure is not None:
            raise failure
        return finished

    def _abort_before(self, failure: BulkcertError | None) -> BulkcertError | None:
        """The abort, if a rule has stopped the run; otherwise what else has ended the work.

        The abort comes first, because the same command does not go on after it.
        """
        if self._gate is None or not self._gate.abort:
            return failure
        if failure is not None and not isinstance(failure, StoppedByRulesError):
            self.on_event(Notice(failure.problem))
        return self._with_what_was_under_way(self._abort_error())

    def _with_what_was_under_way(self, error: StoppedByRulesError) -> StoppedByRulesError:
        under_way = len(self.dispatcher.under_way_at_abort)
        if not under_way:
            return error
        ended = self.dispatcher.ended_after_abort
        named = [
            f"{many:,} {OUTCOMES[state].replace('_', ' ')}" for state, many in ended.most_common()
        ]
        if left := under_way - ended.total():
            named.append(f"{left:,} not settled yet")
        more = count(under_way, "more attempt was", "more attempts were")
        return StoppedByRulesError(
            f"{error.problem} {more} under way: {', '.join(named)}.", error.next_step
        )

    async def _close_writer(
        self,
        code: int,
        failure: BaseException | None,
        rate: float = 0.0,
        *,
        finished: bool = False,
    ) -> None:
        session = self._session(rate, code)
        self.writer.note_session(session)
        self.writer.write(self.claims.finish)
        why = "" if finished else self._stopped_because
        if failure is not None:
            why = in_words(failure)
        lease = self.process_log.lease
        self.writer.write(
            lambda store: store.add_event(ended(store.now(), session, outcomes(store), why, lease))
        )
        self.writer.write(self.life.leave)
        self.on_tick(self.tracker.tick(), session, self.claims.position)
        try:
            await self.writer.close()
        except BulkcertError as error:
            session = replace(session, exit_code=max(code, RESUMABLE))
            self.unrecorded = ended(
                self.now(), session, self.tracker.outcomes, why or in_words(error), lease
            )
            raise

    # ---- the event log

    def log(self, happened: Happened) -> None:
        """Append to the event log, at this time by the clock of the store."""
        happened = happened._replace(at=self.now())
        self.writer.write(lambda store: store.add_event(happened))

    def logged(self, events: Sequence[RunEvent]) -> None:
        """Pass on events that are durable."""
        for event in events:
            self.on_event(event)

    def _stop_at_cap(self, store: Store) -> None:
        self.claims.stop_run(store, MAX_OPERATIONS, "no more operations may be begun")

    # ---- beside the work

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start what goes on beside the work. Without it the work might wait for ever, so a fault
        in it ends the work."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()):
                self.stop(BulkcertError(f"A fault in the program has ended the run: {error!r}"))

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        return task

    async def _look(self) -> None:
        """Look at the rules again and again, also while nothing is to be written."""
        loop, noted, noted_at = asyncio.get_running_loop(), None, 0.0
        while True:
            await asyncio.sleep(self.timings.gate_every_s)
            self._see_others()
            gate = self._gate or Gate()
            now = (gate.control_id, self.dispatcher.open_requests > 0, gate.reasons)
            # at once what somebody waits to read, and now and then that the process is alive
            if now != noted or (gate.reasons and loop.time() > noted_at + _ALIVE_S):
                noted, noted_at = now, loop.time()
                progress = self._note()
                if gate.reasons and self._opening is None:  # nobody ticks yet
                    self.on_event(progress)
            else:
                self.writer.look()

    def _see_others(self) -> None:
        """Take into account what other hosts do."""
        if not self.life.store.shared:
            return
        if (counts := self.life.counts) is not None and counts is not self._counts:
            self._counts = counts
            self.tracker.recount(counts)
        self.dispatcher.share(self.life.hosts)
        self.dispatcher.ask_again()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.timings.progress_every_s)
            self.on_event(self._note())

    def _note(self) -> Progress:
        """Store the figures, and return them."""
        progress = self.tracker.tick(self.dispatcher.waits)
        if self.horizon is not None:
            progress, late = self.horizon.see(progress, self.claims.position)
            if late:
                self.on_event(Notice(late))
        session = self._session(progress.rate, left_s=progress.left_s)
        self.writer.note_session(session)
        self.on_tick(progress, session, self.claims.position)
        return progress

    def _session(
        self, rate: float, code: int | None = None, left_s: float | None = None
    ) -> Session:
        figures = self.tracker.session(rate, code, left_s)
        figures.control = self._gate.control_id if self._gate else 0
        figures.under_way = self._under_way
        figures.open_requests = self.dispatcher.open_requests
        return figures


def _counts(store: Store) -> Mapping[State, int]:
    """Operations by state, of all hosts."""
    return store.counts_of_wave(None)
