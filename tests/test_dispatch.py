"""The dispatcher on a virtual clock: thousands of interleavings of claim, send, record and crash.

No sockets and no disk: a world that executes, answers and loses answers by a seed, and a store that
forgets what was not yet committed when the process dies. A failing seed is named by the assertion.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from virtual_time import run_virtually

from bulkcert.circuit_breaker import CircuitBreaker, Signal
from bulkcert.dispatch import Dispatcher, signal_of
from bulkcert.errors import BulkcertError, ProviderUnusableError
from bulkcert.model import Answer, AnswerKind, Operation, State
from bulkcert.retry import RetryPolicy
from bulkcert.store.base import Change

OPEN = (State.PLANNED, State.IN_FLIGHT)
SEEDS = 250


@dataclass
class Row:
    """An operation as it is on disk."""

    fields: dict[str, Any]
    state: State = State.PLANNED
    attempts: int = 0
    progress: Any = None
    message: str | None = None


class Store:
    """A checkpoint and its writer in one: what is recorded becomes durable a little later."""

    def __init__(self, rows: int, rng: random.Random) -> None:
        self.disk = {number: Row({"name": number}) for number in range(1, rows + 1)}
        self.begin(rng)

    def begin(self, rng: random.Random) -> None:
        """A new process: what was not durable is forgotten."""
        self._rng = rng
        self.commits_take_s = (0.001, 0.05)
        self._pending: list[Change] = []
        self._claimed_up_to = 0

    async def claim(self, most: int) -> list[Operation]:
        await self.flush()
        ready = [n for n, r in sorted(self.disk.items()) if n > self._claimed_up_to]
        ready = [n for n in ready if self.disk[n].state in OPEN][:most]
        claimed = []
        for number in ready:
            row = self.disk[number]
            in_doubt = row.state is State.IN_FLIGHT
            if not in_doubt:
                row.state, row.attempts = State.IN_FLIGHT, row.attempts + 1
            claimed.append(
                Operation(
                    id=number,
                    line=number,
                    fields=dict(row.fields),
                    attempts=row.attempts,
                    in_doubt=in_doubt,
                    progress=row.progress,
                )
            )
            self._claimed_up_to = number
        return claimed

    async def record_now(self, changes: Sequence[Change]) -> None:
        self._pending += changes
        await self.flush()

    def record(self, change: Change) -> None:
        self._pending.append(change)

    async def flush(self) -> None:
        """The commit takes a while; what comes meanwhile waits for the next one."""
        batch = len(self._pending)
        await asyncio.sleep(self._rng.uniform(*self.commits_take_s))
        for change in self._pending[:batch]:
            self._apply(change)
        del self._pending[:batch]

    def _apply(self, change: Change) -> None:
        row = self.disk[change.operation_id]
        assert row.state is change.expected, f"{change} found {row}"
        row.state, row.attempts = change.state, change.attempts
        row.progress, row.message = change.progress, change.message
        if change.split:
            row.fields = change.split[0]
            for fields in change.split[1:]:
                self.disk[max(self.disk) + 1] = Row(fields)


@dataclass
class World:
    """A provider that executes, answers and loses answers by its generator of random numbers."""

    store: Store
    rng: random.Random
    repeats: bool = True
    trouble: float = 0.4
    splits: bool = False
    executed: Counter[Any] = field(default_factory=Counter)
    sent: Counter[Any] = field(default_factory=Counter)
    open: int = 0
    most_open: int = 0
    late: set[asyncio.Task[None]] = field(default_factory=set)

    async def close(self) -> None:
        """Nothing to let go of."""

    def idempotent(self, operation: Operation) -> bool:
        return self.repeats and not self.needs_lookup(operation)

    def needs_lookup(self, operation: Operation) -> bool:
        return self.splits and "part" not in operation.fields

    async def attempt(self, operation: Operation, on_departure: Callable[[], None]) -> Answer:
        await asyncio.sleep(self.rng.uniform(0, 0.01))
        if self.rng.random() < 0.05:
            return Answer(AnswerKind.NOT_SENT, message="refused connection")
        row = self.store.disk[operation.id]
        assert row.state is State.IN_FLIGHT, "sent without a durable intent"
        assert row.attempts == operation.attempts, "sent without counting it durably"
        on_departure()
        key = self._key(operation)
        self.sent[key] += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._treat(key)
        finally:
            self.open -= 1

    async def _treat(self, key: Any) -> Answer:
        fate = self.rng.random() / self.trouble if self.trouble else 9.0
        if fate < 0.2:
            return Answer(AnswerKind.THROTTLED, 429)
        if fate < 0.5:  # lost before it was executed
            await asyncio.sleep(self.rng.uniform(0.01, 0.5))
            return Answer(AnswerKind.IN_DOUBT, 99500, "internal error")
        if self.executed[key]:
            return Answer(AnswerKind.DISPUTED, 99400, "not now")
        if fate < 0.7:  # given up by the client, executed a little later
            task = asyncio.create_task(self._execute_late(key))
            self.late.add(task)
            task.add_done_callback(self.late.discard)
            return Answer(AnswerKind.IN_DOUBT, None, "no answer")
        self.executed[key] += 1
        await asyncio.sleep(self.rng.uniform(0.001, 0.3))
        if fate < 1.0:
            return Answer(AnswerKind.IN_DOUBT, 502, "a page")
        return Answer(AnswerKind.DONE, 0, "OK")

    async def _execute_late(self, key: Any) -> None:
        await asyncio.sleep(self.rng.uniform(0, 1.8))
        self.executed[key] += 1

    async def look(self, operation: Operation, on_departure: Callable[[], None]) -> Answer:
        on_departure()
        await asyncio.sleep(self.rng.uniform(0.001, 0.2))
        if self.rng.random() < self.trouble / 2:
            return Answer(AnswerKind.IN_DOUBT, 99500, "list failed")
        if self.needs_lookup(operation):
            parts = operation.fields["name"] % 4
            return Answer(
                AnswerKind.SELECTED,
                0,
                "none matches",
                None,
                [operation.fields | {"part": part} for part in range(parts)],
            )
        held = self.executed[self._key(operation)]
        return Answer(AnswerKind.HOLDS if held else AnswerKind.ABSENT, 0, "looked")

    @staticmethod
    def _key(operation: Operation) -> Any:
        return operation.fields["name"], operation.fields.get("part")


class Steps(World):
    """A provider of an action of two steps, the first of which may not be repeated."""

    def idempotent(self, operation: Operation) -> bool:
        return operation.progress is not None

    async def attempt(self, operation: Operation, on_departure: Callable[[], None]) -> Answer:
        answer = await super().attempt(operation, on_departure)
        return self._stepped(operation, answer, AnswerKind.DONE)

    async def look(self, operation: Operation, on_departure: Callable[[], None]) -> Answer:
        answer = await super().look(operation, on_departure)
        return self._stepped(operation, answer, AnswerKind.HOLDS)

    def _stepped(self, operation: Operation, answer: Answer, good: AnswerKind) -> Answer:
        if answer.kind is good and operation.progress is None:
            return Answer(AnswerKind.STEP, 0, result={"first": "done"})
        return answer

    @staticmethod
    def _key(operation: Operation) -> Any:
        return operation.fields["name"], operation.progress is not None


def dispatcher(world: World, *, in_flight: int = 20, ceiling: float = 200) -> Dispatcher:
    breaker = CircuitBreaker(2.0, 60.0, asyncio.get_running_loop().time)
    policy = RetryPolicy(6, True, world.idempotent, world.rng)
    return Dispatcher(
        world,
        world.store,  # type: ignore[arg-type]
        policy,
        breaker,
        ceiling=ceiling,
        in_flight=in_flight,
    )


def stop_before_start(number: int, stop: Callable[[], object]) -> None:
    """Stop between the making of a task and its start, for the task of that number from now."""
    made = itertools.count(1)

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        if next(made) == number:
            loop.call_soon(stop)
        return asyncio.Task(coroutine, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(make)


async def live(world: World, rng: random.Random) -> None:
    """Run to the end through crashes and orderly stops."""
    store = world.store
    for _ in range(6):
        store.begin(rng)
        running = dispatcher(world, in_flight=rng.choice([1, 2, 20]))
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
        await store.flush()
    store.begin(rng)
    assert await dispatcher(world).run(), "the last process did not finish"
    await store.flush()
    await asyncio.gather(*world.late)


def check(world: World, seed: int, steps: int = 1) -> None:
    assert all(row.state not in OPEN for row in world.store.disk.values()), f"seed {seed}"
    for row in world.store.disk.values():
        key = row.fields["name"], row.fields.get("part")
        times = world.executed[key]
        if row.state is State.FAILED:
            assert not times, f"seed {seed}: {row} was executed"
        if steps == 1 and row.state is State.SUCCEEDED:
            assert times, f"seed {seed}: {row} was not executed"


@pytest.mark.parametrize("repeats", [True, False], ids=["idempotent", "unrepeatable"])
def test_nothing_is_lost_or_guessed_through_crashes_and_stops(repeats: bool) -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        world = World(Store(rng.randrange(1, 25), rng), rng, repeats)
        run_virtually(live(world, rng))
        check(world, seed)
        if not repeats:
            assert max(world.executed.values(), default=0) <= 1, f"seed {seed}: executed twice"


def test_targets_that_are_split_lose_no_part_and_repeat_none() -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        world = World(Store(rng.randrange(1, 12), rng), rng, repeats=False, splits=True)
        names = list(world.store.disk)
        run_virtually(live(world, rng))
        check(world, seed)
        parts = Counter(row.fields["name"] for row in world.store.disk.values())
        assert parts == {name: max(1, name % 4) for name in names}, f"seed {seed}"
        assert max(world.executed.values(), default=0) <= 1, f"seed {seed}: executed twice"


def test_the_first_of_two_steps_is_done_once_and_before_the_second() -> None:
    for seed in range(SEEDS):
        rng = random.Random(seed)
        world = Steps(Store(rng.randrange(1, 12), rng), rng, repeats=False)
        run_virtually(live(world, rng))
        check(world, seed, steps=2)
        for name, row in world.store.disk.items():
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
        world = World(Store(10, rng), rng, repeats=True)
        run_virtually(live(world, rng))
        twice += max(world.executed.values(), default=0) > 1
    assert twice


def test_no_more_than_in_flight_are_open() -> None:
    async def scene() -> None:
        rng = random.Random(1)
        world = World(Store(300, rng), rng, trouble=0.2)
        assert await dispatcher(world, in_flight=7).run()
        assert world.most_open == 7

    run_virtually(scene())


@pytest.mark.parametrize("latency_s", [0.005, 0.3, 1.5])
def test_as_many_are_open_as_rate_and_latency_need(latency_s: float) -> None:
    """Departures are paced at 100/s; nobody was told the latency."""

    departures: list[float] = []

    class Paced(World):
        next_at = 0.0

        async def attempt(self, operation: Operation, on_departure: Callable[[], None]) -> Answer:
            loop = asyncio.get_running_loop()
            self.next_at = max(self.next_at + 0.01, loop.time())
            await asyncio.sleep(self.next_at - loop.time())
            on_departure()
            departures.append(loop.time())
            await asyncio.sleep(latency_s)
            return Answer(AnswerKind.DONE, 0)

    async def scene() -> None:
        rng = random.Random(1)
        world = Paced(Store(1000, rng), rng)
        assert await dispatcher(world, in_flight=1000, ceiling=100).run()
        took = departures[-1] - departures[0]
        assert 1000 / took > 97

    run_virtually(scene())


def test_retries_that_wait_for_long_block_nobody() -> None:
    """One in five fails and waits; the others go on meanwhile, at their full number."""

    class Slow(World):
        async def _treat(self, key: Any) -> Answer:
            await asyncio.sleep(0.1)
            if key[0] % 5 == 0 and self.sent[key] == 1:
                return Answer(AnswerKind.IN_DOUBT, 99500, "internal error")
            self.executed[key] += 1
            return Answer(AnswerKind.DONE, 0)

    async def scene() -> float:
        rng = random.Random(1)
        world = Slow(Store(500, rng), rng)
        running = dispatcher(world, in_flight=10)
        begun_at = asyncio.get_running_loop().time()
        assert await running.run()
        return asyncio.get_running_loop().time() - begun_at

    # 600 requests of 0.1 s, ten at a time, take 6 s, and the last retries their own wait
    assert run_virtually(scene()) < 9


def test_many_repeats_do_not_keep_fresh_operations_waiting() -> None:
    """At a hundred a second, one in five to be repeated, something is due at every moment."""
    departures: list[float] = []

    class Paced(World):
        next_at = 0.0

        async def attempt(self, operation: Operation, on_departure: Callable[[], None]) -> Answer:
            loop = asyncio.get_running_loop()
            self.next_at = max(self.next_at + 0.002, loop.time())
            await asyncio.sleep(self.next_at - loop.time())
            on_departure()
            if operation.attempts == 1:
                departures.append(loop.time())
            await asyncio.sleep(0.3)
            failed = self.rng.random() < 0.2
            return Answer(AnswerKind.IN_DOUBT if failed else AnswerKind.DONE, 0)

    async def scene() -> None:
        rng = random.Random(1)
        world = Paced(Store(10_000, rng), rng)
        world.store.commits_take_s = (0.05, 0.05)
        assert await dispatcher(world, in_flight=1000, ceiling=500).run()
        took = departures[-1] - departures[0]
        # five attempts are sent for four operations
        assert 10_000 * 1.25 / took > 0.97 * 500

    run_virtually(scene())


@pytest.mark.parametrize("in_flight", [1, 10])
@pytest.mark.parametrize("when", ["amid", "before a start"])
def test_a_stop_sends_nothing_new_awaits_what_is_open_and_gives_the_rest_back(
    when: str, in_flight: int
) -> None:
    async def scene() -> None:
        rng = random.Random(3)
        world = World(Store(200, rng), rng, trouble=0.0)
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
        await world.store.flush()
        assert [world.sent.total()] == sent
        states = Counter(row.state for row in world.store.disk.values())
        assert states == Counter({State.SUCCEEDED: sent[0], State.PLANNED: 200 - sent[0]})
        attempts = sum(row.attempts for row in world.store.disk.values())
        assert attempts == sent[0]

    run_virtually(scene())


@pytest.mark.parametrize("kind", [AnswerKind.UNUSABLE, None], ids=["an answer", "an error"])
def test_an_unusable_provider_ends_the_run_and_what_was_answered_stays(
    kind: AnswerKind | None,
) -> None:
    class Gone(World):
        async def _treat(self, key: Any) -> Answer:
            if self.sent.total() < 20:
                return await super()._treat(key)
            if kind is None:
                raise ProviderUnusableError("no token")
            return Answer(kind, 403, "your address is not allowed")

    async def scene() -> None:
        rng = random.Random(4)
        world = Gone(Store(100, rng), rng, trouble=0.0)
        with pytest.raises(BulkcertError):
            await dispatcher(world).run()
        await world.store.flush()
        states = Counter(row.state for row in world.store.disk.values())
        assert states[State.SUCCEEDED] == 19
        assert states.keys() <= {State.SUCCEEDED, State.PLANNED}

    run_virtually(scene())


def test_each_kind_of_answer_says_to_the_circuit_breaker_what_it_should() -> None:
    kinds = {kind: signal_of(kind) for kind in AnswerKind}
    assert {kind.name for kind, signal in kinds.items() if signal is Signal.GOOD} == {
        *("DONE", "HOLDS", "ABSENT", "UNCLEAR", "STEP", "SELECTED")
    }
    assert {kind.name for kind, signal in kinds.items() if signal is Signal.TROUBLE} == {
        *("IN_DOUBT", "NOT_SENT")
    }
    assert [kind.name for kind, signal in kinds.items() if signal is None] == ["THROTTLED"]
