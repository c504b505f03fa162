"""Many hosts and one store on a virtual clock, each call of the store with a latency.

In: what happens when. Out: when requests left, by a clock that never steps. Each host has two
tasks, as in a process: one that reserves slots, and one that uses them. Tasks are threads of which
one runs at a time, so that the code under test needs no change, and a seed always gives the same.
"""

from __future__ import annotations

import copy
import heapq
import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from bulkcert.errors import StoreError
from bulkcert.hosts.pace import StorePace, member
from bulkcert.slots import Cut
from bulkcert.timings import HostTimings
from hosts.simulated_pace import SimulatedStore

TIMINGS = HostTimings()
SHARED = ("account",)


class _Over(BaseException):
    """The simulation, or this task, is over."""


class Simulation:
    """A virtual clock, and tasks that sleep by it."""

    def __init__(self) -> None:
        self.now = 5000.0
        self._numbers = count()
        self._due: list[tuple[float, int, _Task]] = []
        self._main = threading.Semaphore(0)
        self._current: _Task | None = None
        self.failure: BaseException | None = None

    def clock(self) -> float:
        return self.now

    def start(self, work: Callable[[], object]) -> _Task:
        """Begin a task, now."""
        task = _Task(self, work)
        self._push(self.now, task)
        return task

    def sleep(self, seconds: float) -> None:
        """Let time pass for the task that calls this."""
        task = self._current
        assert task is not None
        self._push(self.now + max(seconds, 1e-6), task)
        self._main.release()
        task.turn.acquire()
        if task.over:
            raise _Over

    def run(self, seconds: float) -> None:
        """Let time pass for all tasks."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            at, _, task = heapq.heappop(self._due)
            if task.stopped_until > at and not task.over:
                self._push(task.stopped_until, task)
                continue
            self.now = max(self.now, at)
            self._current = task
            if not task.thread.ident:
                task.thread.start()
            else:
                task.turn.release()
            self._main.acquire()
            if self.failure:
                raise self.failure
        self.now = end

    def end(self) -> None:
        """End all tasks."""
        for _, _, task in self._due:
            task.over = True
        self.run(1e9)

    def _push(self, at: float, task: _Task) -> None:
        heapq.heappush(self._due, (at, next(self._numbers), task))


class _Task:
    def __init__(self, simulation: Simulation, work: Callable[[], object]) -> None:
        self.turn = threading.Semaphore(0)
        self.over = False
        self.stopped_until = 0.0
        self._simulation = simulation
        self._work = work
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            if not self.over:
                self._work()
        except _Over:
            pass
        except BaseException as error:  # the test raises it
            self._simulation.failure = error
        finally:
            self._simulation._main.release()


@dataclass
class World:
    """Hosts of one account, and what happens to them and to their store.

    Args:
        seed: of the latencies.
        ceiling: of the account.
        slow_s: a call of the store takes this long now and then.
    """

    seed: int = 0
    ceiling: int = 100
    slow_s: float = 0.03
    times: list[float] = field(default_factory=list)
    hosts: list[SimulatedHost] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.simulation = Simulation()
        self.rng = random.Random(self.seed)
        self._offset_s, self._slew, self._slewed_at = 1e6, 0.0, 0.0
        self.store = SimulatedStore(self.store_clock)
        self.past: list[tuple[float, Any]] = []
        self.connections = 0  # grows when all of them break
        self.down = False
        self.latency_s = 0.0005  # of each way
        self.slow_calls: dict[str, float] = {}
        self.failing_epochs = 0  # how many of them are not begun, because the store goes away
        self.simulation.start(self._remember)

    def store_clock(self) -> float:
        now = self.simulation.now
        return now + self._offset_s + self._slew * (now - self._slewed_at)

    def join(self, **more: Any) -> SimulatedHost:
        host = SimulatedHost(self, **more)
        self.hosts.append(host)
        return host

    def run(self, seconds: float) -> None:
        self.simulation.run(seconds)

    def step(self, seconds: float) -> None:
        """The store's clock is set."""
        self._offset_s += seconds

    def slew(self, rate: float) -> None:
        """The store's clock runs faster from now on; 0 for as usual."""
        self._offset_s = self.store_clock() - self.simulation.now
        self._slew, self._slewed_at = rate, self.simulation.now

    def lose_commits(self, seconds: float, *, same_server: bool = False) -> None:
        """The store forgets what was committed last, as after a failover."""
        at = self.simulation.now - seconds
        accounts, hosts = next(state for when, state in reversed(self.past) if when <= at)
        self.store.accounts, self.store.hosts = copy.deepcopy(accounts), copy.deepcopy(hosts)
        if not same_server:
            self.store.server += "'"
            self.connections += 1

    def forget(self) -> None:
        """Somebody removes all rows."""
        self.store.accounts, self.store.hosts = {}, {}

    @property
    def busiest(self) -> int:
        """Most departures in any rolling second."""
        most = first = 0
        for last, time in enumerate(self.times):
            while self.times[first] <= time - 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most

    def left_since(self, seconds: float) -> int:
        """How many have left in the last seconds."""
        return sum(time > self.simulation.now - seconds for time in self.times)

    def close(self) -> None:
        self.simulation.end()

    def _remember(self) -> None:
        while True:
            self.past.append(
                (self.simulation.now, copy.deepcopy((self.store.accounts, self.store.hosts)))
            )
            self.simulation.sleep(0.1)


class SimulatedHost:
    """A host that always has requests ready.

    Args:
        world: where it is.
        ready: how many.
        more: see `bulkcert.hosts.pace.member`.
    """

    def __init__(self, world: World, ready: int = 15, **more: Any) -> None:
        self.world = world
        self.times: list[float] = []
        self.notes: list[str] = []
        self.ready = ready
        self.share = 1.0
        self.busy_s = 0.0  # its event loop is late by up to this
        self.jumps_s = 0.0  # how much its own clock jumps each second, back and forth
        what = {"run": 1, "scopes": SHARED, "ceiling": world.ceiling, "timings": TIMINGS}
        self.member = member(id=uuid.UUID(int=world.rng.getrandbits(128)), **(what | more))
        self.pace = StorePace("", self.member, TIMINGS, print, self.clock)
        self.pace._notify_soon = self.notes.append  # type: ignore[method-assign]
        self.pace._reserver._notify = self.notes.append
        simulation = world.simulation
        self._tasks = [simulation.start(self._reserve), simulation.start(self._send)]

    def clock(self) -> float:
        now = self.world.simulation.now
        return now + (self.jumps_s if int(now) % 2 else 0.0)

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        for task in self._tasks:
            task.stopped_until = self.world.simulation.now + seconds

    def kill(self) -> None:
        for task in self._tasks:
            task.over = True

    def throttle(self, pause_s: float, share: float = 1.0) -> None:
        """The provider asks this host for a pause."""
        now = self.clock()
        self.pace.slow_down(Cut(now, now + pause_s, share))

    def _send(self) -> None:
        simulation = self.world.simulation
        while True:
            ready = self.ready
            wait_s = self.pace.take(ready, self.share, self.clock(), None) if ready else 0.01
            if wait_s == 0.0:
                self.world.times.append(simulation.now)
                self.times.append(simulation.now)
                # an event loop has other things to do as well
                simulation.sleep(self.world.rng.expovariate(5000))
            else:
                # timers have a grain, and other work comes first
                grain_s = self.world.rng.uniform(0, max(0.001, self.busy_s))
                simulation.sleep(wait_s + grain_s)

    def _reserve(self) -> None:
        simulation = self.world.simulation
        while True:
            table = Distant(self.world, self.member)
            try:
                self.pace._reserver.connected()
                while True:
                    rest = self.pace._step(table)
                    end = simulation.now + rest.seconds
                    while simulation.now < end and not (rest.may_end and self.pace._wake.is_set()):
                        simulation.sleep(min(0.005, end - simulation.now))
            except StoreError as error:
                self.pace._reserver.failed(error.problem, self.pace._demand())
                simulation.sleep(0.02)


class Distant:
    """A table behind a network: each call takes a while before and after it is carried out."""

    def __init__(self, world: World, who: Any) -> None:
        self._world = world
        self._connection = world.connections
        self._table = world.store.connect(who)

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self._wait()
            steps = name == "begin_epoch" and args[2] is not None
            if steps and self._world.failing_epochs:
                self._world.failing_epochs -= 1
                raise StoreError("the store is away")
            result = getattr(self._table, name)(*args, **options)
            self._world.simulation.sleep(self._world.slow_calls.get(name, 0.0))
            self._wait()
            return result

        return call

    def _wait(self) -> None:
        rng = self._world.rng
        slow = rng.random() < 0.03
        latency_s = self._world.latency_s
        latency_s = rng.uniform(latency_s, self._world.slow_s) if slow else latency_s
        self._world.simulation.sleep(latency_s)
        if self._world.down or self._connection != self._world.connections:
            raise StoreError("the store is away")
