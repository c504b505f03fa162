"""A campaign on a virtual clock: everything of a run but its network and its disk.

`Execution`, `Dispatcher`, `Claims`, `StoreWriter`, `Pacer` are the real ones. The store is in
memory, the commits take as long as on a slow disk, and the provider is made up. Each request that
leaves is checked at that very moment against what the rules allow, by what the store has and by
what was reported to be in force, see `Campaign.leaves`. So no tolerance is needed anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from campaign_history import AbortLimits
from stores import Disk, MemoryStore

from bulkcert.circuit_breaker import CircuitBreaker
from bulkcert.control import Verb
from bulkcert.dispatch import Dispatcher
from bulkcert.errors import BulkcertError, StoppedByRulesError
from bulkcert.event_log import EventType, chain_fault
from bulkcert.execution import Execution
from bulkcert.hosts.life import LifeAlone
from bulkcert.lifecycle import Lifecycle
from bulkcert.model import (
    AttemptKind,
    AttemptResult,
    Change,
    LookupKind,
    LookupResult,
    Operation,
    State,
    Target,
)
from bulkcert.process_log import ProcessLog
from bulkcert.progress import ProgressTracker
from bulkcert.providers.base import Step, change, lookup
from bulkcert.providers.call import OnDeparture
from bulkcert.ratelimit import Pacer, StoppedError
from bulkcert.rules import Rules
from bulkcert.rules.check import CheckResult, Verdict
from bulkcert.rules.gate import Gate
from bulkcert.rules.rollout import ALL, waves
from bulkcert.store.base import Session
from bulkcert.store.claims import Claims
from bulkcert.store.writer import Batch, StoreWriter
from bulkcert.timings import Timings

OPEN = (State.PLANNED, State.IN_FLIGHT)
EPOCH_S = 1_800_000_000.0 - 1_000_000.0
"""What the virtual clock shows when it begins at 1,000,000 s is a round number."""

SETTLING_S = 2.0
COMMIT_EVERY_S = 0.03


def use_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time of day be that of the virtual clock."""
    monkeypatch.setattr(time, "time", now_s)
    monkeypatch.setattr(time, "monotonic", lambda: asyncio.get_running_loop().time())


def now_s() -> float:
    return EPOCH_S + asyncio.get_running_loop().time()


class _Loop:
    """The event loop as the writer sees it: what it tells the loop arrives a little later."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.create_future, self.call_soon = loop.create_future, loop.call_soon
        self.told: list[Callable[[], object]] = []

    def call_soon_threadsafe(self, callback: Callable[..., object], *details: Any) -> None:
        self.told.append(functools.partial(callback, *details))


class KilledError(BaseException):
    """The process ends here, in the middle of a transaction."""


class MortalStore(MemoryStore):
    """A store whose process may be killed between any two statements.

    Args:
        disk: what is durable.
        point: called before each statement; raises `KilledError` to kill the process.
    """

    STATEMENTS = frozenset(
        {
            *("claim", "waves", "end_of_wave", "standing", "set_standing", "add_settled"),
            *("settled", "aborts", "add_abort", "controls", "record", "add_history"),
            *("note_session", "retry_failed"),
        }
    )

    def __init__(self, disk: Disk, point: Callable[[str], object]) -> None:
        super().__init__(disk, now_s)
        self._point = point

    def __getattribute__(self, name: str) -> Any:
        if name in MortalStore.STATEMENTS:
            self._point(name)
        return super().__getattribute__(name)


class VirtualWriter(StoreWriter):
    """The writer with a task in place of its thread."""

    def __init__(
        self,
        store: MemoryStore,
        rng: random.Random,
        point: Callable[[str], object],
        **options: Any,
    ) -> None:
        super().__init__(store, commit_every_s=COMMIT_EVERY_S, **options)
        self._rng = rng
        self._point = point
        self.killed = False

    def start(self) -> None:
        self._loop = self._told = _Loop(asyncio.get_running_loop())  # type: ignore[assignment]
        self._task = asyncio.create_task(self._commits())

    async def close(self) -> None:
        self._orders.put(None)
        await self._task

    async def _commits(self) -> None:
        with contextlib.suppress(KilledError):
            await self._commit_until_closed()

    async def _commit_until_closed(self) -> None:
        """What a transaction decides is known to the others when it is on disk."""
        last = False
        while not last and not self.killed:
            await asyncio.sleep(self._commit_every_s)
            batch, last = self._arrived()
            if batch is not None and not self.killed:
                self._commit(batch)
                self._point("committed")
                await asyncio.sleep(self._rng.uniform(0.001, 0.1))
            for tell in self._told.told if not self.killed else ():
                tell()
                self._point("told")
            self._told.told.clear()

    def _arrived(self) -> tuple[Batch | None, bool]:
        batch = None
        while not self._orders.empty():
            order = self._orders.get_nowait()
            if order is None:
                return batch, True
            batch = batch or Batch()
            batch.add(order)
        return batch, False


@dataclass
class Truth:
    """What was reported to be in force, by what the run itself stored."""

    quiet: str = ""
    rate: float = math.inf
    rate_since: float = 0.0
    departures: list[float] = field(default_factory=list)
    attempts: list[list[float]] = field(default_factory=list)


class FakeCheck:
    """The outside check: says at once what it is to say."""

    def __init__(self, campaign: Campaign, on_result: Callable[[], object]) -> None:
        self._campaign, self._on_result = campaign, on_result
        self.latest: CheckResult | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def request(self) -> None:
        self._look()

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        self.stop()

    async def _run(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(1.0)

    def _look(self) -> None:
        at_s = now_s()
        self.latest = CheckResult(at_s, at_s, *self._campaign.check_says)
        self._on_result()


class Campaign:
    """A campaign, and everybody who has to do with it.

    Args:
        rules: its rules.
        rows: number of targets.
        rng: decides what happens.
        selects: each target is looked up first, and has none to three parts.
        trouble: how often requests are lost, from 0 to 1.
        refused: how often the provider refuses for good.
        latency_s: bounds of how long a response takes.
        ceiling, in_flight: the limits.
    """

    def __init__(
        self,
        rules: Rules,
        rows: int,
        rng: random.Random,
        *,
        selects: bool = False,
        trouble: float = 0.1,
        refused: float = 0.0,
        latency_s: tuple[float, float] = (0.01, 0.3),
        ceiling: float = 200.0,
        in_flight: int = 20,
    ) -> None:
        self.rules, self.rng, self.selects = rules, rng, selects
        self.trouble, self.refused, self.latency_s = trouble, refused, latency_s
        self.ceiling, self.in_flight = ceiling, in_flight
        targets = [Target(line, {"name": line}) for line in range(1, rows + 1)]
        sizes = rules.rollout.sizes if rules.rollout else ()
        divided = waves(rows, sizes)[0] if rules.rollout else ()
        self.disk = Disk.planned(targets, divided)
        self.truth = Truth()
        self.executed: Counter[Any] = Counter()
        self.pause_file: str | None = None
        self.check_says: tuple[Verdict, str] = (Verdict.GO, "")
        self.tripped = False
        self.aborts = 0
        self.execution: Execution | None = None
        self.points = 0
        self.kill_at: int | None = None
        self.killed = asyncio.Event()

    # ---- processes

    def point(self, where: str) -> None:
        """A point at which the process may be killed."""
        if self._writer.killed:
            raise KilledError
        self.points += 1
        if self.points == self.kill_at:
            self._writer.killed = True
            self.killed.set()
            raise KilledError(where)

    def process(self, **options: Any) -> Execution:
        """A process that works on the run."""
        loop = asyncio.get_running_loop()
        store = MortalStore(self.disk, self.point)
        pacer = self._pacer = Pacer(self.ceiling, self.rng)
        breaker = CircuitBreaker(2.0, 60.0, loop.time)
        steps = self._steps()
        counts = Counter(row.state for row in self.disk.rows.values())
        tracker = ProgressTracker(dict(counts), pacer, breaker, lambda event: None, loop.time)
        check = FakeCheck(self, lambda: writer.look()) if self.rules.check else None
        claims = Claims(
            self.rules,
            pause_file=lambda: self.pause_file,
            check=lambda store: check.latest if check else None,
            now=now_s,
        )
        writer = self._writer = VirtualWriter(
            store,
            self.rng,
            self.point,
            claims=claims,
            on_gate=self._follow,
            on_durable=lambda changes: execution.durable(changes),
            on_error=lambda error: dispatcher.stop(error),
        )
        dispatcher = Dispatcher(
            steps,
            writer,
            Lifecycle([step.rules for step in steps], 6, SETTLING_S),
            breaker,
            ceiling=self.ceiling,
            in_flight=self.in_flight,
            on_result=tracker.observe,
            on_settled=self._settled,
            on_stop=pacer.stop,
            now=now_s,
            rng=self.rng,
        )
        execution = self.execution = Execution(
            handler=self,  # type: ignore[arg-type]
            dispatcher=dispatcher,
            pacer=pacer,
            writer=writer,
            claims=claims,
            tracker=tracker,
            on_event=lambda event: None,
            check=check,
            stopped_by=lambda abort: StoppedByRulesError(abort.text, abort.id),
            process_log=ProcessLog(
                total=tracker.total, settled=tracker.settled, ceiling=1.0, rehearsal=False
            ),
            timings=Timings(),
            leave=lambda: None,
            life=LifeAlone(writer._store),
            at_desk=writer.write_now,
            now=now_s,
            **options,
        )
        self._limits = self._counted()
        return execution

    def _follow(self, gate: Gate) -> None:
        assert self.execution is not None
        self.execution.follow(gate)

    def _settled(self, change: Change) -> None:
        """An operation is settled, and will be durable soon."""
        assert self.execution is not None
        self.execution.settled(change)
        wave = self.disk.rows[change.operation_id].wave
        if change.attempts and self._limits.judge(str(change.state), change.code, wave):
            self.tripped = True

    def _counted(self) -> AbortLimits:
        """The limits after everything that counts, by what is durable."""
        limits = AbortLimits({name: limit.written for name, limit in self.rules.abort.items()})
        counted = self.disk.settled[self.disk.first_settled :]
        tripped = [rule for each in counted for rule in limits.judge(*each)]
        self.tripped = bool(tripped)
        return limits

    async def kill(self, running: asyncio.Task[Any]) -> None:
        """End a process at once."""
        self._writer.killed = True
        self._pacer.stop()
        running.cancel()
        await asyncio.wait([running])
        self.execution = None
        self.killed.clear()

    async def run(self, **options: Any) -> BulkcertError | None:
        """Let a process work until it ends by itself; return why, if it was early."""
        try:
            return await self.process(**options).carry_out()
        finally:
            self.execution = None
            self.check_abort()
            self.check_log()

    # ---- the provider

    @property
    def steps(self) -> Sequence[Step]:
        return self._steps()

    def _steps(self) -> list[Step]:
        last = change(self.attempt, self.look_up, idempotent=True)
        return [lookup(self.select), last] if self.selects else [last]

    async def open(self) -> None:
        await self._depart(None, False)
        await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Nothing to close."""

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        times = [await self._depart(operation, True), math.inf]
        on_departure("")
        self.truth.attempts.append(times)
        await asyncio.sleep(self.rng.uniform(*self.latency_s))
        times[1] = now_s()
        key = self._key(operation)
        if self.rng.random() < self.refused:
            return AttemptResult(AttemptKind.REFUSED, 99403, "no permission")
        fate = self.rng.random() / self.trouble if self.trouble else 9.0
        if fate < 0.2:
            return AttemptResult(AttemptKind.THROTTLED, 429)
        if fate < 0.5:
            return AttemptResult(AttemptKind.IN_DOUBT, 99500, "internal error")
        self.executed[key] += 1
        if fate < 1.0:
            return AttemptResult(AttemptKind.IN_DOUBT, 502, "an HTML page")
        return AttemptResult(AttemptKind.DONE, 0, "OK")

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        await self._depart(operation, False)
        on_departure("")
        await asyncio.sleep(self.rng.uniform(*self.latency_s))
        if self.rng.random() < self.trouble / 2:
            return LookupResult(LookupKind.FAILED, 99500, "list failed")
        holds = self.executed[self._key(operation)]
        return LookupResult(LookupKind.HOLDS if holds else LookupKind.ABSENT, 0, "seen")

    async def select(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        await self._depart(operation, False)
        on_departure("")
        await asyncio.sleep(self.rng.uniform(*self.latency_s))
        if self.rng.random() < self.trouble / 2:
            return LookupResult(LookupKind.FAILED, 99500, "list failed")
        fields = operation.fields
        selected = [fields | {"part": part} for part in range(int(fields["name"]) % 4)]
        kind = LookupKind.SELECTED if selected else LookupKind.NOTHING_LEFT
        return LookupResult(kind, 0, "none matches", selected=selected)

    def _key(self, operation: Operation) -> Any:
        return operation.fields["name"], operation.fields.get("part")

    async def _depart(self, operation: Operation | None, is_attempt: bool) -> float:
        try:
            await self._pacer.depart()
            self.point("departure")
        except (StoppedError, KilledError):
            raise asyncio.CancelledError from None
        self.leaves(operation, is_attempt)
        return now_s()

    # ---- what must hold whenever a request leaves

    def leaves(self, operation: Operation | None, is_attempt: bool) -> None:
        """A request leaves now: may it?"""
        at_s, truth = now_s(), self.truth
        if operation is not None:
            row, rows = self.disk.rows[operation.id], self.disk.rows.values()
            open_before = [r.line for r in rows if r.wave < row.wave and r.state in OPEN]
            assert not open_before, f"line {row.line} left before line {open_before[0]} was settled"
            self._check_gate(row.wave, at_s)
            if is_attempt:
                assert row.state is State.IN_FLIGHT, "left without a durable intent"
        assert not truth.quiet, f"left while {truth.quiet}"
        window = self.rules.window
        assert window is None or window.is_open(at_s), "left outside the window"
        assert not (is_attempt and self.tripped), "an attempt left after the abort"
        truth.departures.append(at_s)
        since = max(at_s - 1.0, truth.rate_since)
        recent = sum(at > since + 1e-6 for at in truth.departures[-400:])
        assert recent <= max(1.0, truth.rate), f"{recent} left in a second; rate {truth.rate}"

    def _check_gate(self, wave: int, at_s: float) -> None:
        """Whether the wave before is over, as the job understands that."""
        rollout = self.rules.rollout
        if rollout is None or not wave:
            return
        before = self.disk.waves[wave - 1].name
        ended = max(r.finished_at or 0.0 for r in self.disk.rows.values() if r.wave < wave)
        assert at_s >= ended + rollout.between_s, f"left too early after the wave {before}"
        said = [entry.value for entry in self.disk.controls if entry.verb is Verb.GO]
        assert not rollout.confirm & {before, ALL} or before in said, f"nobody said go {before}"

    def check_abort(self) -> None:
        """The run has aborted if a rule has tripped since the last override, and only then."""
        pending = [a for a in self.disk.aborts.values() if a.overridden_at is None]
        self._counted()
        if not pending or pending[-1].rule in self.rules.abort:
            assert bool(pending) == self.tripped, f"tripped: {self.tripped}, aborts: {pending}"

    def check_log(self) -> None:
        """The event log says what happened: each process, wave and abort, in order, once."""
        log = self.disk.events
        assert chain_fault(event.line for event in log) == ""
        kinds = [event.type for event in log if event.type in (EventType.STARTED, EventType.ENDED)]
        assert kinds == [EventType.STARTED, EventType.ENDED] * (len(kinds) // 2)
        aborts = [event.data["abort"] for event in log if event.type is EventType.ABORT]
        assert aborts == list(self.disk.aborts)
        waves = [
            (event.data["number"], event.data["change"])
            for event in log
            if event.type is EventType.WAVE
        ]
        both = [(n, change) for n in range(len(self.disk.waves)) for change in ("begun", "over")]
        assert waves == both[: len(waves)]
        for wave, events in itertools.groupby(waves, key=lambda wave: wave[0]):
            is_over = len(list(events)) == 2
            settled = all(r.state not in OPEN for r in self.disk.rows.values() if r.wave == wave)
            assert settled or not is_over
        if self.over:
            assert len(waves) == len(both), waves

    # ---- people

    def control(self, verb: Verb, value: str = "") -> int:
        """Another process writes what somebody asks for into the store."""
        return self.disk_store.add_control(now_s(), "ann", "", verb, value)

    @property
    def disk_store(self) -> MemoryStore:
        return MemoryStore(self.disk, now_s)

    @property
    def session(self) -> Session | None:
        """The figures of the last process, as somebody else can read them."""
        return self.disk.sessions[max(self.disk.sessions)] if self.disk.sessions else None

    async def in_force(self, control: int) -> None:
        """Wait until a control is in force, as `bulkcert control` does."""
        while self.execution is not None:
            session = self.session
            if session is not None and session.control >= control:
                return
            await asyncio.sleep(0.02)

    async def reported(self, text: str) -> None:
        """Wait until the run reports a reason."""
        while self.execution is not None:
            session = self.session
            if session is not None and any(text in str(reason) for reason in session.reasons):
                return
            await asyncio.sleep(0.02)

    def override(self) -> None:
        """Go on after an abort, as `run --override` does."""
        for abort in list(self.disk.aborts.values()):
            if abort.overridden_at is None:
                self.disk_store.override_abort(abort.id, now_s(), "ann", "")
                self.aborts += 1

    def say_go(self) -> None:
        """Say go, if that is what the run waits for."""
        session = self.session
        for reason in session.reasons if session is not None else ():
            _, found, wave = str(reason).partition("(go ")
            if found:
                self.control(Verb.GO, wave.rstrip(")"))

    @property
    def over(self) -> bool:
        return all(row.state not in OPEN for row in self.disk.rows.values())
