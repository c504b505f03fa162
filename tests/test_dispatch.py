"""The dispatcher on a virtual clock: thousands of interleavings of claim, send, record and crash.

No sockets and no disk: a provider that executes requests and loses responses by a seed, and a store
that forgets what was not yet committed when the process dies. A failing seed is named by the
assertion.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from stores import Disk, MemoryStore
from virtual_time import run_virtually

from bulkcert.circuit_breaker import CircuitBreaker
from bulkcert.dispatch import Dispatcher
from bulkcert.errors import (
    BulkcertError,
    ProviderUnusableError,
    ResultNotKeptError,
    StoppedByRulesError,
    StoreError,
)
from bulkcert.lifecycle import Lifecycle
from bulkcert.model import (
    PROTECTED,
    AttemptKind,
    AttemptResult,
    Change,
    HistoryEntry,
    HistoryEvent,
    LookupKind,
    LookupResult,
    Operation,
    State,
    Target,
)
from bulkcert.providers.base import Step, change, lookup
from bulkcert.providers.call import OnDeparture
from bulkcert.rules import NO_RULES, Rules
from bulkcert.rules.gate import Gate
from bulkcert.rules.rollout import Wave
from bulkcert.store.claims import NOTHING_CLAIMED, Claimed, Claims
from bulkcert.taskqueue import Waits

OPEN = (State.PLANNED, State.IN_FLIGHT)
SEEDS = 250
SETTLING_S = 2.0


class Writer:
    """Stands for the writer's thread: what is recorded becomes durable a little later.

    Args:
        rows: number of operations.
        rng: decides how long commits take.
        rules: the rules of the campaign.
        waves: the waves of the run.
        now: returns the time of day.

    Attributes:
        on_gate: called after each commit.
        options: keyword arguments for `Claims`.
    """

    def __init__(
        self,
        rows: int,
        rng: random.Random,
        rules: Rules = NO_RULES,
        waves: Sequence[Wave] = (),
        now: Callable[[], float] = lambda: 1.0,
    ) -> None:
        targets = (Target(line, {"name": line}) for line in range(1, rows + 1))
        self.disk = Disk.planned(targets, waves)
        self.rules, self.now = rules, now
        self.on_gate: Callable[[Gate], object] = lambda gate: None
        self.options: dict[str, Any] = {}
        self.begin(rng)

    def begin(self, rng: random.Random) -> None:
        """Start a new process: what was not durable is forgotten."""
        self._rng = rng
        self.commits_take_s = (0.001, 0.05)
        self._pending: list[Change] = []
        self._history: list[HistoryEntry] = []
        self._store = MemoryStore(self.disk, self.now)
        self.claims = Claims(self.rules, now=self.now, **self.options)

    async def claim(self, most: int, lookup_first: Collection[int]) -> Claimed:
        await self.flush()
        return self._commit(0, 0, lambda: self.claims.claim(self._store, most, lookup_first))

    async def record_now(self, changes: Sequence[Change]) -> None:
        self._pending += changes
        await self.flush()

    def record(self, change: Change) -> None:
        self._pending.append(change)

    def add_history(self, entries: Sequence[HistoryEntry]) -> None:
        self._history += entries

    async def flush(self) -> None:
        """The commit takes a while; what arrives meanwhile waits for the next one."""
        batch, entries = len(self._pending), len(self._history)
        await asyncio.sleep(self._rng.uniform(*self.commits_take_s))
        self._commit(batch, entries)

    def _commit(
        self, batch: int, entries: int, claim: Callable[[], Claimed] = lambda: NOTHING_CLAIMED
    ) -> Claimed:
        changes = self._pending[:batch]
        with self._store.transaction():
            self._store.record(changes)
            self._store.add_history(self._history[:entries])
            self.claims.begin(self._store)
            self.claims.judge(self._store, changes)
            claimed = claim()
        del self._pending[:batch], self._history[:entries]
        self.on_gate(self.claims.gate)
        return claimed


@dataclass
class World:
    """A provider that executes requests and loses responses by its random number generator."""

    writer: Writer
    rng: random.Random
    idempotent: bool = True
    trouble: float = 0.4
    executed: Counter[Any] = field(default_factory=Counter)
    sent: Counter[Any] = field(default_factory=Counter)
    open: int = 0
    most_open: int = 0
    late: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def steps(self) -> list[Step]:
        return [change(self.attempt, self.look_up, idempotent=self.idempotent)]

    async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
        await asyncio.sleep(self.rng.uniform(0, 0.01))
        if self.rng.random() < 0.05:
            return AttemptResult(AttemptKind.NOT_SENT, message="connection refused")
        row = self.writer.disk.rows[operation.id]
        assert row.state is State.IN_FLIGHT, "sent without a durable intent"
        assert row.attempts == operation.attempts, "sent without counting it durably"
        on_departure("")
        key = self._key(operation)
        self.sent[key] += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._treat(key)
        finally:
            self.open -= 1

    async def _treat(self, key: Any) -> AttemptResult:
        fate = self.rng.random() / self.trouble if self.trouble else 9.0
        if fate < 0.2:
            return AttemptResult(AttemptKind.THROTTLED, 429)
        if fate < 0.5:  # lost before it was executed
            await asyncio.sleep(self.rng.uniform(0.01, 0.5))
            return AttemptResult(AttemptKind.IN_DOUBT, 99500, "internal error")
        if self.executed[key]:
            return AttemptResult(AttemptKind.DISPUTED, 99400, "not now")
        if fate < 0.7:  # given up by the client, executed a little later
            task = asyncio.create_task(self._execute_late(key))
            self.late.add(task)
            task.add_done_callback(self.late.discard)
            return AttemptResult(AttemptKind.IN_DOUBT, None, "no response")
        self.executed[key] += 1
        await asyncio.sleep(self.rng.uniform(0.001, 0.3))
        if fate < 1.0:
            return AttemptResult(AttemptKind.IN_DOUBT, 502, "an HTML page")
        return AttemptResult(AttemptKind.DONE, 0, "OK")

    async def _execute_late(self, key: Any) -> None:
        await asyncio.sleep(self.rng.uniform(0, SETTLING_S * 0.9))
        self.executed[key] += 1

    async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        if failure := await self._failed_lookup(on_departure):
            return failure
        holds = self.executed[self._key(operation)]
        return LookupResult(LookupKind.HOLDS if holds else LookupKind.ABSENT, 0, "seen")

    async def _failed_lookup(self, on_departure: OnDeparture) -> LookupResult | None:
        on_departure("")
        await asyncio.sleep(self.rng.uniform(0.001, 0.2))
        if self.rng.random() < self.trouble / 2:
            return LookupResult(LookupKind.FAILED, 99500, "list failed")
        return None

    def _key(self, operation: Operation) -> Any:
        return operation.fields["name"], operation.fields.get("part")


class Selecting(World):
    """A provider that first selects the parts of a target."""

    @property
    def steps(self) -> list[Step]:
        return [lookup(self.select), *super().steps]

    async def select(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
        if failure := await self._failed_lookup(on_departure):
            return failure
        selected = [
            operation.fields | {"part": part} for part in range(int(operation.fields["name"]) % 4)
        ]
        kind = LookupKind.SELECTED if selected else LookupKind.NOTHING_LEFT
        return LookupResult(kind, 0, "none matches", selected=selected)


class TwoSteps(World):
    """A provider of an action of two steps, of which the first is not idempotent."""

    @property
    def steps(self) -> list[Step]:
        return [
            change(self.attempt, self.look_up, idempotent=False),
            change(self.attempt, self.look_up, idempotent=True),
        ]

    def _key(self, operation: Operation) -> Any:
        return operation.fields["name"], operation.step == 1


def dispatcher(
    world: World,
    *,
    in_flight: int = 20,
    ceiling: float = 200,
    failing_share: float = 2.0,
    **more: Any,
) -> Dispatcher:
    breaker = CircuitBreaker(failing_share, 60.0, asyncio.get_running_loop().time)
    steps = world.steps
    return Dispatcher(
        steps,
        world.writer,  # type: ignore[arg-type]
        Lifecycle([step.rules for step in steps], 6, SETTLING_S),
        breaker,
        ceiling=ceiling,
        in_flight=in_flight,
        rng=world.rng,
        **more,
    )


def stop_before_start(number: int, stop: Callable[[], object]) -> None:
    """Stop between the making of a task and its start, for the task of that number from now."""
    made = itertools.count(1)

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        if next(made) == number:
            loop.call_soon(stop)
        return asyncio.Task(coroutine, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(make)


Refuse = Callable[[Operation], str | None]


async def live(
    world: World,
    rng: random.Random,
    refuse: Refuse | None = None,
    refuse_at_last: Refuse | None = None,
    interrupted: int = 6,
) -> None:
    """Run to the end through crashes and orderly stops.

    Args:
        world: the provider and the store.
        rng: decides what happens.
        refuse: what no process may send anything for.
        refuse_at_last: what the last process may not send anything for.
        interrupted: how many processes come before the last.
    """
    writer = world.writer
    for _ in range(interrupted):
        writer.begin(rng)
        running = dispatcher(world, in_flight=rng.choice([1, 2, 20]), refuse=refuse)
        task = asyncio.create_task(running.run())
        ends = rng.choice(["crash", "stop", "stop before start", "never"])
        if ends == "stop before start":
            stop_before_start(rng.randrange(1, 60), running.stop)
        elif ends != "never":
            await asyncio.wait([task], timeout=rng.uniform(0.01, 3.0))
        if ends == "crash" and not task.done():
            task.cancel()
            await asyncio.wait([task])
            world.open = 0
            continue
        if ends == "stop":
            running.stop()
        await task
        await writer.flush()
    writer.begin(rng)
    last = dispatcher(world, refuse=refuse_at_last or refuse)
    assert await last.run(), "the last process did not finish"
    await writer.flush()
    await asyncio.gather(*world.late)


def check(world: World, seed: int, steps: int = 1) -> None:
    assert all(row.state not in OPEN for row in world.writer.disk.rows.values()), f"seed {seed}"
    for row in world.writer.disk.rows.values():
        key = row.fields["name"], row.fields.get("part")
        times = world.executed[key]
        if row.state is State.FAILED:
            assert not times, f"seed {seed}: {row} was executed"
        if steps == 1 and row.state is State.SUCCEEDED:
            assert times, f"seed {seed}: {row} was not executed"


@pytest.mark.parametrize("idempotent", [True, False], ids=["idempotent", "unrepeatable"])
def test_nothing_is_lost_or_guessed_through_crashes_and_stops(idempotent: bool) -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        world = World(Writer(rng.randrange(1, 25), rng), rng, idempotent)
        run_virtually(live(world, rng))
        check(world, seed)
        if not idempotent:
            assert max(world.executed.values(), default=0) <= 1, f"seed {seed}: executed twice"


def test_targets_that_fan_out_lose_no_part_and_repeat_none() -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        world = Selecting(Writer(rng.randrange(1, 12), rng), rng, idempotent=False)
        names = list(world.writer.disk.rows)
        run_virtually(live(world, rng))
        check(world, seed)
        parts = Counter(row.fields["name"] for row in world.writer.disk.rows.values())
        assert parts == {name: max(1, name % 4) for name in names}, f"seed {seed}"
        assert max(world.executed.values(), default=0) <= 1, f"seed {seed}: executed twice"


def test_nothing_is_sent_for_what_is_refused_also_if_a_selection_found_it() -> None:
    def refuse(operation: Operation) -> str | None:
        return "protected" if operation.fields.get("part") in (0, 1) else None

    refused = 0
    for seed in range(SEEDS // 2):
        rng = random.Random(seed)
        world = Selecting(Writer(rng.randrange(1, 12), rng), rng, idempotent=False)
        run_virtually(live(world, rng, refuse))
        check(world, seed)
        assert {part for _, part in world.sent} <= {2}, f"seed {seed}"
        for row in world.writer.disk.rows.values():
            if row.fields.get("part") in (0, 1):
                assert (row.state, row.code) == (State.FAILED, PROTECTED), f"seed {seed}: {row}"
                assert row.attempts == 0, f"seed {seed}: {row}"
                refused += 1
    assert refused


@pytest.mark.parametrize("idempotent", [True, False], ids=["idempotent", "unrepeatable"])
def test_what_is_refused_from_now_on_is_only_looked_up_if_it_is_in_doubt(idempotent: bool) -> None:
    """The list of what must not be touched has grown before the last process began."""
    ended: Counter[State] = Counter()
    for seed in range(SEEDS // 2):
        rng = random.Random(seed)
        world = World(Writer(rng.randrange(1, 25), rng), rng, idempotent)
        sent_before: list[int] = []

        def refuse(operation: Operation) -> str:
            sent_before.append(world.sent.total())  # noqa: B023 - called within this iteration
            return "protected"

        run_virtually(live(world, rng, refuse_at_last=refuse, interrupted=1))
        check(world, seed)
        assert all(before == world.sent.total() for before in sent_before), f"seed {seed}"
        rows = world.writer.disk.rows.values()
        ended.update(row.state for row in rows if row.code == PROTECTED)
    assert set(ended) == {State.FAILED, State.UNKNOWN}


def test_the_first_of_two_steps_is_done_once_and_before_the_second() -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        world = TwoSteps(Writer(rng.randrange(1, 12), rng), rng)
        run_virtually(live(world, rng))
        check(world, seed, steps=2)
        for name, row in world.writer.disk.rows.items():
            assert world.executed[name, False] <= 1, f"seed {seed}: the first step twice"
            if world.executed[name, True]:
                assert world.executed[name, False], (
                    f"seed {seed}: the second step without the first"
                )
            if row.state is State.SUCCEEDED:
                assert world.executed[name, True], f"seed {seed}"


def test_the_checker_sees_an_action_that_is_repeated_blindly() -> None:
    """Declared idempotent, an action that is not is executed twice: the tests above can fail."""
    twice = 0
    for seed in range(60):
        rng = random.Random(seed)
        world = World(Writer(10, rng), rng, idempotent=True)
        run_virtually(live(world, rng))
        twice += max(world.executed.values(), default=0) > 1
    assert twice


def test_the_history_has_every_attempt_that_left_and_every_takeover() -> None:
    async def scene() -> None:
        rng = random.Random(1)
        world = World(Writer(400, rng), rng)
        crashed = asyncio.create_task(dispatcher(world).run())
        await asyncio.sleep(0.3)
        crashed.cancel()
        await asyncio.wait([crashed])
        disk, in_flight = world.writer.disk, State.IN_FLIGHT
        in_doubt = [number for number, row in disk.rows.items() if row.state is in_flight]
        before = disk.history.copy()
        world.sent.clear()
        world.writer.begin(rng)
        assert await dispatcher(world).run()
        await world.writer.flush()
        after = disk.history[len(before) :]
        events = Counter(entry.event for entry in after)
        assert set(events) == {HistoryEvent.ATTEMPT, HistoryEvent.LOOK_UP, HistoryEvent.TAKEN_OVER}
        taken_over = [e.operation_id for e in after if e.event is HistoryEvent.TAKEN_OVER]
        assert sorted(taken_over) == sorted(in_doubt) != []
        left = [e for e in after if e.event is HistoryEvent.ATTEMPT and e.sent_at is not None]
        assert Counter((disk.rows[e.operation_id].fields["name"], None) for e in left) == world.sent
        assert all(e.sent_at <= e.ended_at for e in left if e.sent_at is not None)
        assert {e.result for e in left} >= {"done", "in_doubt"}

    run_virtually(scene())


def test_a_cancelled_dispatcher_gives_back_what_never_left() -> None:
    class Slow(World):
        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            on_departure("")
            self.sent[operation.id] += 1
            await asyncio.sleep(1000)
            return AttemptResult(AttemptKind.DONE)

    async def scene() -> None:
        rng = random.Random(1)
        world = Slow(Writer(100, rng), rng)
        task = asyncio.create_task(dispatcher(world, in_flight=5).run())
        await asyncio.sleep(10)
        task.cancel()
        await asyncio.wait([task])
        await world.writer.flush()
        rows = world.writer.disk.rows
        in_flight = {number for number, row in rows.items() if row.state is State.IN_FLIGHT}
        assert in_flight == set(world.sent)
        assert len(in_flight) == 5
        assert sum(row.attempts for row in rows.values()) == 5

    run_virtually(scene())


def test_a_cancelled_dispatcher_begins_nothing_more() -> None:
    """Those that are about to leave are given back, and nothing takes their place."""

    class Waiting(World):
        begun = 0

        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            self.begun += 1
            await asyncio.sleep(1000)
            raise AssertionError("cancelled before that")

    async def scene() -> None:
        rng = random.Random(1)
        world = Waiting(Writer(100, rng), rng)
        task = asyncio.create_task(dispatcher(world, in_flight=5).run())
        await asyncio.sleep(10)
        before = world.begun
        assert before > 0
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert world.begun == before
        await world.writer.flush()
        assert all(row.state is State.PLANNED for row in world.writer.disk.rows.values())

    run_virtually(scene())


def test_a_worker_that_was_called_back_twice_goes_on_as_if_never_cancelled() -> None:
    """A request that takes too long is cancelled, which only works where nothing else cancels."""

    class Waiting(World):
        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            await asyncio.sleep(1000)
            raise AssertionError("called back before that")

    async def scene() -> None:
        rng = random.Random(1)
        world = Waiting(Writer(100, rng), rng)
        running = dispatcher(world)
        left = []

        def next_task() -> None:
            this = asyncio.current_task()
            assert this is not None
            left.append(this.cancelling())

        running._next = next_task  # type: ignore[method-assign]
        task = asyncio.create_task(running.run())
        await asyncio.sleep(5)
        for rate in (100.0, 10.0):  # each calls back what is about to leave
            running.follow(Gate(rate=rate))
        await asyncio.sleep(0.001)
        assert left
        assert set(left) == {0}
        running.stop()
        await task

    run_virtually(scene())


def test_one_worker_carries_out_operation_after_operation() -> None:
    workers = set()

    class Watched(World):
        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            workers.add(asyncio.current_task())
            on_departure("")
            await asyncio.sleep(0.001)
            return AttemptResult(AttemptKind.DONE)

    async def scene() -> None:
        rng = random.Random(1)
        world = Watched(Writer(300, rng), rng)
        assert await dispatcher(world, in_flight=3).run()
        assert len(workers) < 100

    run_virtually(scene())


def test_no_more_than_in_flight_are_open() -> None:
    async def scene() -> None:
        rng = random.Random(1)
        world = World(Writer(300, rng), rng, trouble=0.2)
        assert await dispatcher(world, in_flight=7).run()
        assert world.most_open == 7

    run_virtually(scene())


@pytest.mark.parametrize("latency_s", [0.005, 0.3, 1.5])
def test_as_many_are_open_as_rate_and_latency_need(latency_s: float) -> None:
    """Departures are paced at 100/s; nobody was told the latency."""

    departures: list[float] = []

    class Paced(World):
        next_at = 0.0

        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            loop = asyncio.get_running_loop()
            self.next_at = max(self.next_at + 0.01, loop.time())
            await asyncio.sleep(self.next_at - loop.time())
            on_departure("")
            departures.append(loop.time())
            await asyncio.sleep(latency_s)
            return AttemptResult(AttemptKind.DONE, 0)

    async def scene() -> None:
        rng = random.Random(1)
        world = Paced(Writer(1000, rng), rng)
        assert await dispatcher(world, in_flight=1000, ceiling=100).run()
        took = departures[-1] - departures[1]  # the first one goes alone
        assert 999 / took > 97

    run_virtually(scene())


@pytest.mark.parametrize(("latency_s", "alone_s"), [(0.3, 0.3), (30.0, 1.0)])
def test_the_first_request_goes_alone_until_its_response_but_not_for_long(
    latency_s: float, alone_s: float
) -> None:
    """A provider that makes everybody pause at once meets no crowd. A lost response delays nobody
    for more than a moment."""
    departures: list[float] = []

    class Slow(World):
        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            on_departure("")
            departures.append(asyncio.get_running_loop().time())
            await asyncio.sleep(latency_s)
            return AttemptResult(AttemptKind.DONE, 0)

    async def scene() -> None:
        rng = random.Random(1)
        assert await dispatcher(Slow(Writer(20, rng), rng), in_flight=20).run()
        assert departures[1] - departures[0] == pytest.approx(alone_s, abs=0.001)
        assert departures[-1] - departures[1] < 0.001

    run_virtually(scene())


def test_a_stop_does_not_wait_for_the_first_response_to_send_nothing() -> None:
    class Lost(World):
        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            on_departure("")
            self.sent[1] += 1
            await asyncio.sleep(0.6)
            return AttemptResult(AttemptKind.IN_DOUBT, message="no response")

    async def scene() -> None:
        rng = random.Random(1)
        world = Lost(Writer(20, rng), rng)
        running = dispatcher(world)
        asyncio.get_running_loop().call_later(0.2, running.stop)
        assert not await running.run()
        assert world.sent.total() == 1

    run_virtually(scene())


def test_retries_that_wait_for_long_block_nobody() -> None:
    """One in five fails and waits; the others go on meanwhile, at their full number."""

    class Slow(World):
        async def _treat(self, key: Any) -> AttemptResult:
            await asyncio.sleep(0.1)
            if key[0] % 5 == 0 and self.sent[key] == 1:
                return AttemptResult(AttemptKind.IN_DOUBT, 99500, "internal error")
            self.executed[key] += 1
            return AttemptResult(AttemptKind.DONE, 0)

    async def scene() -> float:
        rng = random.Random(1)
        world = Slow(Writer(500, rng), rng)
        running = dispatcher(world, in_flight=10)
        begun_at = asyncio.get_running_loop().time()
        assert await running.run()
        return asyncio.get_running_loop().time() - begun_at

    # 600 requests of 0.1 s, ten at a time, take 6 s, and the last retries their own wait
    assert run_virtually(scene()) < 9


def test_what_would_be_repeated_lets_all_others_go_first() -> None:
    """The first five of many are in doubt; they are sent again when all have been sent once."""
    sent: list[Any] = []

    class FirstOnesLost(World):
        async def _treat(self, key: Any) -> AttemptResult:
            sent.append(key[0])
            await asyncio.sleep(0.1)
            if key[0] <= 5 and self.sent[key] == 1:
                return AttemptResult(AttemptKind.IN_DOUBT, 504, "an HTML page")
            self.executed[key] += 1
            return AttemptResult(AttemptKind.DONE, 0)

    async def scene() -> None:
        rng = random.Random(1)
        world = FirstOnesLost(Writer(1000, rng), rng, idempotent=False, trouble=0.0)
        assert await dispatcher(world, in_flight=1).run()

    run_virtually(scene())
    assert sorted(sent[:-5]) == [*range(1, 1001)]
    assert sorted(sent[-5:]) == [1, 2, 3, 4, 5]


def test_many_repeats_do_not_keep_fresh_operations_waiting() -> None:
    """At a hundred a second, one in five to be repeated, something is due at every moment."""
    departures: list[float] = []

    class Paced(World):
        next_at = 0.0

        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            loop = asyncio.get_running_loop()
            self.next_at = max(self.next_at + 0.002, loop.time())
            await asyncio.sleep(self.next_at - loop.time())
            on_departure("")
            if operation.attempts == 1:
                departures.append(loop.time())
            await asyncio.sleep(0.3)
            failed = self.rng.random() < 0.2
            return AttemptResult(AttemptKind.IN_DOUBT if failed else AttemptKind.DONE, 0)

    async def scene() -> None:
        rng = random.Random(1)
        world = Paced(Writer(10_000, rng), rng)
        world.writer.commits_take_s = (0.05, 0.05)
        assert await dispatcher(world, in_flight=1000, ceiling=500).run()
        took = departures[-1] - departures[0]
        # five attempts are sent for four operations
        assert 10_000 * 1.25 / took > 0.97 * 500

    run_virtually(scene())


def test_few_get_ready_at_once_however_many_have_left() -> None:
    """New connections must not crowd: at most an eighth of the ceiling gets ready."""

    class Stuck(World):
        ready, most_ready, most_at_first = 0, 0, 0

        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            self.ready += 1
            self.most_ready = max(self.most_ready, self.ready)
            if self.sent.total() == 1:  # the first one has gone alone
                self.most_at_first = self.most_ready
            await asyncio.sleep(0.01 if self.sent.total() < 100 else 1000)
            on_departure("")
            self.ready -= 1
            self.sent[self._key(operation)] += 1
            return AttemptResult(AttemptKind.DONE, 0)

    async def scene() -> None:
        rng = random.Random(1)
        world = Stuck(Writer(500, rng), rng)
        running = dispatcher(world, in_flight=200, ceiling=200)
        asyncio.get_running_loop().call_later(10, running.stop)
        assert not await running.run()
        # eight, and one more since the first has left
        assert (world.most_at_first, world.most_ready) == (9, 25)

    run_virtually(scene())


@pytest.mark.parametrize(("rate", "most"), [(0.1, 1), (0.5, 2), (2, 4), (80, 10), (None, 25)])
def test_at_a_lower_rate_fewer_get_ready_and_the_others_are_called_back(
    rate: float | None, most: int
) -> None:
    """Otherwise their connections, which they hold until it is their turn, would be closed."""

    class Slow(World):
        ready = 0

        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            self.ready += 1
            try:
                await asyncio.sleep(0.01 if self.sent.total() < 100 else 1000)
            finally:
                self.ready -= 1
            on_departure("")
            self.sent[self._key(operation)] += 1
            return AttemptResult(AttemptKind.DONE, 0)

    async def scene() -> None:
        rng = random.Random(1)
        world = Slow(Writer(500, rng), rng)
        running = dispatcher(world, in_flight=200, ceiling=200)
        task = asyncio.create_task(running.run())
        await asyncio.sleep(20)
        assert world.ready == 25
        world.writer.on_gate = lambda gate: running.follow(gate._replace(rate=rate))
        running.follow(Gate(rate=rate))
        await asyncio.sleep(5)
        assert world.ready == most
        world.writer.on_gate = running.follow
        running.follow(Gate())
        await asyncio.sleep(5)
        assert world.ready == 25
        running.stop()
        assert not await task

    run_virtually(scene())


def test_a_page_that_leads_to_another_is_followed_to_the_end() -> None:
    class Pages(World):
        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            on_departure("")
            key = part, page = operation.fields["name"], operation.fields.get("part", 1)
            self.executed[key] += 1
            following = {"name": part, "part": int(page) + 1} if int(page) < 4 else None
            return AttemptResult(AttemptKind.DONE, 0, next_page=following)

    async def scene() -> None:
        rng = random.Random(1)
        world = Pages(Writer(3, rng), rng)
        assert await dispatcher(world).run()
        await world.writer.flush()
        assert states(world) == {State.SUCCEEDED: 3 * 4}
        assert world.executed == {(name, page): 1 for name in (1, 2, 3) for page in (1, 2, 3, 4)}

    run_virtually(scene())


def test_a_store_that_cannot_be_read_ends_the_run() -> None:
    class Broken(Writer):
        async def claim(self, most: int, lookup_first: Collection[int]) -> Claimed:
            if self._pending:
                raise StoreError("The checkpoint can't be written: disk full")
            return await super().claim(most, lookup_first)

    async def scene() -> None:
        rng = random.Random(1)
        world = World(Broken(500, rng), rng, trouble=0.0)
        with pytest.raises(StoreError, match="disk full"):
            await dispatcher(world).run()
        assert world.open == 0

    run_virtually(scene())


@pytest.mark.parametrize("in_flight", [1, 10])
@pytest.mark.parametrize("when", ["amid", "before a start"])
def test_a_stop_sends_nothing_new_awaits_what_is_open_and_gives_the_rest_back(
    when: str, in_flight: int
) -> None:
    async def scene() -> None:
        rng = random.Random(3)
        world = World(Writer(200, rng), rng, trouble=0.0)
        running = dispatcher(world, in_flight=in_flight)
        sent: list[int] = []

        def stop() -> None:
            sent.append(world.sent.total())
            running.stop()

        task = asyncio.create_task(running.run())
        if when == "amid":
            asyncio.get_running_loop().call_later(0.5, stop)
        else:
            stop_before_start(10, stop)
        assert not await task
        await world.writer.flush()
        assert [world.sent.total()] == sent
        states = Counter(row.state for row in world.writer.disk.rows.values())
        assert states == Counter({State.SUCCEEDED: sent[0], State.PLANNED: 200 - sent[0]})
        attempts = sum(row.attempts for row in world.writer.disk.rows.values())
        assert attempts == sent[0]

    run_virtually(scene())


@pytest.mark.parametrize("when", ["amid", "before a start"])
def test_after_an_abort_no_attempt_leaves_not_even_one_that_is_about_to_start(when: str) -> None:
    async def scene() -> None:
        rng = random.Random(3)
        world = World(Writer(200, rng), rng, trouble=0.0)
        running = dispatcher(world, in_flight=10)
        sent: list[int] = []

        def abort() -> None:
            sent.append(world.sent.total())
            running.abort(StoppedByRulesError("too many", "look"))

        task = asyncio.create_task(running.run())
        if when == "amid":
            asyncio.get_running_loop().call_later(0.5, abort)
        else:
            stop_before_start(10, abort)
        with pytest.raises(StoppedByRulesError):
            await task
        await world.writer.flush()
        assert [world.sent.total()] == sent
        states = Counter(row.state for row in world.writer.disk.rows.values())
        assert states == Counter({State.SUCCEEDED: sent[0], State.PLANNED: 200 - sent[0]})

    run_virtually(scene())


@pytest.mark.parametrize("answered", [True, False])
def test_what_a_killed_process_leaves_in_doubt_is_known_as_soon_as_it_stops(answered: bool) -> None:
    """What never left is given back at once, while open requests are awaited."""

    class Slow(World):
        async def _treat(self, key: Any) -> AttemptResult:
            await asyncio.sleep(30)
            self.executed[key] += answered
            lost = AttemptResult(AttemptKind.IN_DOUBT, message="no response")
            return AttemptResult(AttemptKind.DONE, 0) if answered else lost

    async def scene() -> None:
        rng = random.Random(3)
        world = Slow(Writer(200, rng), rng, trouble=0.0, idempotent=False)
        running = dispatcher(world, in_flight=10)
        task = asyncio.create_task(running.run())
        await asyncio.sleep(20)
        assert running.open_requests == world.open == 10
        running.stop()
        await asyncio.sleep(1)
        await world.writer.flush()
        states = Counter(row.state for row in world.writer.disk.rows.values())
        assert states == Counter({State.IN_FLIGHT: 10, State.PLANNED: 190})
        assert running.in_doubt == running.open_requests == 10
        assert not await task
        assert (running.open_requests, running.in_doubt) == (0, 0 if answered else 10)
        await world.writer.flush()
        states = Counter(row.state for row in world.writer.disk.rows.values())
        assert states[State.IN_FLIGHT] == running.in_doubt

    run_virtually(scene())


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_waits_in_doubt_is_still_counted_once_it_is_given_back(idempotent: bool) -> None:
    """An idempotent action waits to be repeated, any other for a look-up."""

    class Lost(World):
        async def _treat(self, key: Any) -> AttemptResult:
            return AttemptResult(AttemptKind.IN_DOUBT, message="no response")

    async def scene() -> None:
        rng = random.Random(3)
        world = Lost(Writer(20, rng), rng, trouble=0.0, idempotent=idempotent)
        running = dispatcher(world)
        task = asyncio.create_task(running.run())
        await asyncio.sleep(0.05)
        assert running.waits.in_doubt
        running.stop()
        assert not await task
        await world.writer.flush()
        states = Counter(row.state for row in world.writer.disk.rows.values())
        assert states[State.IN_FLIGHT] == running.in_doubt > 0

    run_virtually(scene())


def test_what_waits_for_a_look_up_and_for_how_long() -> None:
    class Lost(World):
        async def _treat(self, key: Any) -> AttemptResult:
            return AttemptResult(AttemptKind.IN_DOUBT, message="no response")

    async def scene() -> None:
        rng = random.Random(3)
        world = Lost(Writer(3, rng), rng, trouble=0.0, idempotent=False)
        running = dispatcher(world)
        assert running.waits == Waits()
        task = asyncio.create_task(running.run())
        await asyncio.sleep(1.5)
        waits = running.waits
        assert (waits.operations, waits.in_doubt, waits.idle, running.in_doubt) == (
            3,
            True,
            True,
            3,
        )
        assert 0 < waits.next_s <= waits.last_s < SETTLING_S
        running.stop()
        await task

    run_virtually(scene())


@pytest.mark.parametrize("departed", [True, False])
def test_an_unusable_provider_ends_the_run_and_what_was_answered_stays(departed: bool) -> None:
    class Gone(World):
        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            if not departed and self.sent.total() == 19:
                raise ProviderUnusableError("no token")
            return await super().attempt(operation, on_departure)

        async def _treat(self, key: Any) -> AttemptResult:
            if self.sent.total() < 20:
                return await super()._treat(key)
            raise ProviderUnusableError("403 your address is not allowed")

    async def scene() -> None:
        rng = random.Random(4)
        world = Gone(Writer(100, rng), rng, trouble=0.0)
        with pytest.raises(BulkcertError):
            await dispatcher(world).run()
        await world.writer.flush()
        states = Counter(row.state for row in world.writer.disk.rows.values())
        assert states[State.SUCCEEDED] == 19
        assert states.keys() <= {State.SUCCEEDED, State.PLANNED}

    run_virtually(scene())


def test_a_provider_that_fails_for_too_long_ends_the_run_and_burns_few_attempts() -> None:
    class Down(World):
        async def _treat(self, key: Any) -> AttemptResult:
            await asyncio.sleep(0.5)
            return AttemptResult(AttemptKind.IN_DOUBT, 502, "an HTML page")

    async def scene() -> None:
        rng = random.Random(4)
        world = Down(Writer(2000, rng), rng)
        running = dispatcher(world, failing_share=0.95)
        begun_at = asyncio.get_running_loop().time()
        with pytest.raises(ProviderUnusableError) as caught:
            await running.run()
        assert caught.value.problem.startswith("Nearly everything has failed for 6")
        assert caught.value.problem.endswith(" s, mostly with: 502 an HTML page")
        assert 60 <= asyncio.get_running_loop().time() - begun_at < 75
        # 40/s until the breaker half-opens, then a probe a second
        assert world.sent.total() < 10 * 40 + 60

    run_virtually(scene())


@pytest.mark.parametrize(
    ("error", "result"),
    [(ProviderUnusableError("wrong secret"), "not_sent"), (ResultNotKeptError("full"), "failed")],
)
def test_the_history_has_the_requests_whose_response_stopped_the_run(
    error: BulkcertError, result: str
) -> None:
    class Stopping(Selecting):
        async def select(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
            if operation.id > 1:  # this one never leaves
                raise error
            on_departure("127.0.0.1")
            raise error

    async def scene() -> None:
        rng = random.Random(4)
        world = Stopping(Writer(2, rng), rng)
        with pytest.raises(type(error)):
            await dispatcher(world).run()
        await world.writer.flush()
        [entry] = world.writer.disk.history
        assert (entry.operation_id, entry.event) == (1, HistoryEvent.LOOK_UP)
        assert (entry.source, entry.result, entry.message) == ("127.0.0.1", result, error.problem)
        assert world.writer.disk.rows[1].state in OPEN

    run_virtually(scene())


def test_an_attempt_that_is_turned_away_for_good_is_in_the_history_and_counts_for_nothing() -> None:
    class Stopping(World):
        async def _treat(self, key: Any) -> AttemptResult:
            raise ProviderUnusableError("wrong secret")

    async def scene() -> None:
        rng = random.Random(4)
        world = Stopping(Writer(1, rng), rng)
        with pytest.raises(ProviderUnusableError):
            await dispatcher(world).run()
        await world.writer.flush()
        [entry] = world.writer.disk.history
        assert (entry.event, entry.result) == (HistoryEvent.ATTEMPT, "not_sent")
        [row] = world.writer.disk.rows.values()
        assert (row.state, row.attempts) == (State.PLANNED, 0)

    run_virtually(scene())


def test_an_attempt_whose_result_can_not_be_kept_stays_in_doubt() -> None:
    """It was executed: the next process must look before it sends again."""

    class Full(World):
        async def _treat(self, key: Any) -> AttemptResult:
            raise ResultNotKeptError("no space left")

    async def scene() -> None:
        rng = random.Random(4)
        world = Full(Writer(1, rng), rng, idempotent=False)
        with pytest.raises(ResultNotKeptError):
            await dispatcher(world).run()
        await world.writer.flush()
        [row] = world.writer.disk.rows.values()
        assert (row.state, row.attempts) == (State.IN_FLIGHT, 1)

    run_virtually(scene())


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_fault_of_the_program_leaves_its_operation_in_doubt_and_awaits_the_others(
    idempotent: bool,
) -> None:
    class Faulty(World):
        async def _treat(self, key: Any) -> AttemptResult:
            if self.sent.total() == 20:
                raise ZeroDivisionError
            return await super()._treat(key)

    async def scene() -> None:
        rng = random.Random(4)
        world = Faulty(Writer(100, rng), rng, idempotent=idempotent, trouble=0.0)
        with pytest.raises(ZeroDivisionError):
            await dispatcher(world).run()
        await world.writer.flush()
        states = Counter(row.state for row in world.writer.disk.rows.values())
        assert world.most_open > 1
        assert states == {State.SUCCEEDED: 19, State.IN_FLIGHT: 1, State.PLANNED: 80}

    run_virtually(scene())


# ---- refusals that may concern the whole account


class Refusing(World):
    """A provider that refuses some attempts, for a reason that may concern the whole account."""

    refused: Callable[[int], bool] = staticmethod(lambda name: True)

    async def _treat(self, key: Any) -> AttemptResult:
        await asyncio.sleep(0.1)
        if self.refused(key[0]):
            return AttemptResult(AttemptKind.REFUSED, 99403, "Denied resource", account_wide=True)
        self.executed[key] += 1
        return AttemptResult(AttemptKind.DONE, 0, "OK")


class RefusingSelected(Refusing, Selecting):
    """Likewise, once the certificates were found: reading is permitted."""


def refusing(
    rows: int, refused: Callable[[int], bool], kind: type[Refusing] = Refusing
) -> Refusing:
    rng = random.Random(1)
    world = kind(Writer(rows, rng), rng, trouble=0.0)
    world.refused = refused  # type: ignore[method-assign]
    return world


def states(world: World) -> dict[State, int]:
    return dict(Counter(row.state for row in world.writer.disk.rows.values()))


@pytest.mark.parametrize("kind", [Refusing, RefusingSelected])
def test_when_everything_is_refused_the_run_stops_early_and_nothing_counts_as_failed(
    kind: type[Refusing],
) -> None:
    async def scene() -> None:
        world = refusing(2000, lambda name: True, kind)
        advice = {(99403, "Denied resource"): "Grant the permission."}
        running = dispatcher(
            world,
            in_flight=50,
            failing_share=0.95,
            advise=lambda code, message: advice[code, message],
        )
        with pytest.raises(ProviderUnusableError, match="99403 Denied resource") as caught:
            await running.run()
        assert caught.value.next_step.startswith("Grant the permission. Then run the same command")
        await world.writer.flush()
        assert 30 <= world.sent.total() < 30 + 50
        assert states(world).keys() <= {State.PLANNED, State.ALREADY_DONE}
        assert all(row.attempts == 0 for row in world.writer.disk.rows.values())

        # the permission is granted, and the same command continues
        world.refused = lambda name: False  # type: ignore[method-assign]
        world.writer.begin(world.rng)
        assert await dispatcher(world, failing_share=0.95).run()
        await world.writer.flush()
        assert states(world).keys() <= {State.SUCCEEDED, State.ALREADY_DONE}
        assert set(world.executed.values()) == {1}

    run_virtually(scene())


@pytest.mark.parametrize(
    "refused",
    [
        lambda name: name == 1,
        lambda name: name == 40,
        lambda name: name == 100,
        lambda name: name % 3 == 0,
        lambda name: 20 <= name < 40,
    ],
    ids=["the first", "one amid", "the last", "every third", "twenty in a row"],
)
def test_what_concerns_a_target_alone_fails_alone(refused: Callable[[int], bool]) -> None:
    async def scene() -> None:
        world = refusing(100, refused)
        assert await dispatcher(world, in_flight=5, failing_share=0.95).run()
        await world.writer.flush()
        for name, row in world.writer.disk.rows.items():
            assert row.state is (State.FAILED if refused(name) else State.SUCCEEDED)
            assert row.attempts == 1
            assert row.code == (99403 if refused(name) else 0)

    run_virtually(scene())


def test_too_few_refusals_to_tell_are_failures() -> None:
    async def scene() -> None:
        world = refusing(29, lambda name: True)
        assert await dispatcher(world, failing_share=0.95).run()
        await world.writer.flush()
        assert states(world) == {State.FAILED: 29}

    run_virtually(scene())


def test_with_the_circuit_breaker_disabled_every_refusal_is_a_failure() -> None:
    async def scene() -> None:
        world = refusing(200, lambda name: True)
        assert await dispatcher(world, failing_share=2.0).run()
        await world.writer.flush()
        assert states(world) == {State.FAILED: 200}

    run_virtually(scene())


def test_look_ups_that_are_refused_stop_the_run_and_leave_the_doubt() -> None:
    class Blind(World):
        async def _treat(self, key: Any) -> AttemptResult:
            return AttemptResult(AttemptKind.IN_DOUBT, 502, "an HTML page")

        async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
            on_departure("")
            return LookupResult(LookupKind.UNCLEAR, 99403, "list was refused", account_wide=True)

    async def scene() -> None:
        rng = random.Random(1)
        world = Blind(Writer(200, rng), rng, idempotent=False)
        with pytest.raises(ProviderUnusableError, match="99403 list was refused"):
            await dispatcher(world, in_flight=50, failing_share=0.99).run()
        await world.writer.flush()
        assert states(world).keys() <= {State.PLANNED, State.IN_FLIGHT}
        assert max(world.sent.values()) == 1

    run_virtually(scene())


def test_a_refusal_that_nothing_can_confirm_any_more_is_settled_at_the_end() -> None:
    """A firewall dislikes one target, its look-up included; other look-ups there are none."""

    class Disliked(World):
        async def _treat(self, key: Any) -> AttemptResult:
            if key[0] == 1:
                return AttemptResult(AttemptKind.DISPUTED, 403, "a page", account_wide=True)
            await asyncio.sleep(1.0 + key[0])  # all others are settled later
            return AttemptResult(AttemptKind.DONE, 0, "OK")

        async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
            on_departure("")
            return LookupResult(LookupKind.UNCLEAR, 403, "a page", account_wide=True)

    async def scene() -> None:
        rng = random.Random(1)
        world = Disliked(Writer(5, rng), rng, trouble=0.0)
        assert await dispatcher(world, failing_share=0.95).run()
        await world.writer.flush()
        assert states(world) == {State.FAILED: 1, State.SUCCEEDED: 4}
        assert world.writer.disk.rows[1].attempts == 6

    run_virtually(scene())


def test_odd_targets_scattered_over_a_fleet_stop_nothing() -> None:
    """A firewall dislikes one target in twenty, its look-ups included; otherwise none is needed."""

    class Scattered(World):
        async def _treat(self, key: Any) -> AttemptResult:
            await asyncio.sleep(0.1)
            if key[0] % 20 == 0:
                return AttemptResult(AttemptKind.DISPUTED, 403, "a page", account_wide=True)
            return AttemptResult(AttemptKind.DONE, 0, "OK")

        async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
            on_departure("")
            await asyncio.sleep(0.1)
            return LookupResult(LookupKind.UNCLEAR, 403, "a page", account_wide=True)

    async def scene() -> None:
        rng = random.Random(1)
        world = Scattered(Writer(2000, rng), rng, trouble=0.0)
        assert await dispatcher(world, failing_share=0.95).run()
        await world.writer.flush()
        assert states(world) == {State.FAILED: 100, State.SUCCEEDED: 1900}

    run_virtually(scene())


def test_a_stop_gives_back_what_was_refused() -> None:
    async def scene() -> None:
        world = refusing(20, lambda name: True)
        running = dispatcher(world, in_flight=2, failing_share=0.95)
        asyncio.get_running_loop().call_later(0.5, running.stop)
        assert not await running.run()
        await world.writer.flush()
        assert states(world) == {State.PLANNED: 20}
        assert 2 <= world.sent.total() < 20

    run_virtually(scene())


# ---- a provider that asks to wait


def test_a_result_that_asks_to_wait_uses_up_no_attempt_and_is_no_failure() -> None:
    """Longer than the circuit breaker would wait, and more often than there are attempts."""

    class Maintained(World):
        async def attempt(self, operation: Operation, on_departure: OnDeparture) -> AttemptResult:
            on_departure("")
            self.sent[self._key(operation)] += 1
            return await self._treat(self._key(operation))

        async def _treat(self, key: Any) -> AttemptResult:
            await asyncio.sleep(1.0)
            if asyncio.get_running_loop().time() < self.open_at:
                return AttemptResult(AttemptKind.IN_DOUBT, 503, "maintenance", counts=False)
            self.executed[key] += 1
            return AttemptResult(AttemptKind.DONE, 0, "OK")

        open_at = 0.0

    async def scene(*, idempotent: bool) -> None:
        rng = random.Random(1)
        world = Maintained(Writer(60, rng), rng, idempotent=idempotent, trouble=0.0)
        world.open_at = asyncio.get_running_loop().time() + 120
        assert await dispatcher(world, failing_share=0.95).run()
        await world.writer.flush()
        assert states(world) == {State.SUCCEEDED: 60}
        assert max(world.sent.values()) > 6
        assert set(world.executed.values()) == {1}

    run_virtually(scene(idempotent=True))
    run_virtually(scene(idempotent=False))


@pytest.mark.parametrize("kind", ["attempt", "look-up"])
def test_what_is_throttled_again_and_again_waits_longer_and_longer(kind: str) -> None:
    """Each 429 makes everybody pause; a single operation must not cause one after another."""

    class Throttling(World):
        async def _treat(self, key: Any) -> AttemptResult:
            if kind == "look-up":
                return AttemptResult(AttemptKind.DISPUTED, 99400, "not now")
            return AttemptResult(AttemptKind.THROTTLED, 429)

        async def look_up(self, operation: Operation, on_departure: OnDeparture) -> LookupResult:
            on_departure("")
            self.sent["look-up"] += 1
            return LookupResult(LookupKind.THROTTLED, 429)

    async def scene() -> None:
        rng = random.Random(1)
        world = Throttling(Writer(1, rng), rng, trouble=0.0)
        running = dispatcher(world)
        asyncio.get_running_loop().call_later(300, running.stop)
        assert not await running.run()
        # 0.3 s, 0.6 s, … 30 s at most, half of it on average
        assert 15 <= max(world.sent.values()) <= 40

    run_virtually(scene())


def test_stopping_is_announced_once_nothing_new_may_leave() -> None:
    async def scene() -> None:
        rng = random.Random(3)
        world = World(Writer(200, rng), rng, trouble=0.0)
        sent: list[int] = []
        running = dispatcher(world, on_stop=lambda: sent.append(world.sent.total()))
        asyncio.get_running_loop().call_later(0.5, running.stop)
        await running.run()
        assert sent == [world.sent.total()]

    run_virtually(scene())
