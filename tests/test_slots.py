"""Shared limits: several pacers, as if each were a process, reserve slots from one file.

All on a virtual clock. `Process` stands in for a process that sends; what all of them record
together is the oracle. A process can be stopped at any moment, as by SIGSTOP, and killed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from virtual_time import run_virtually

from bulkcert.ratelimit import Pacer
from bulkcert.slots import Other, SlotFile


def now() -> float:
    return asyncio.get_running_loop().time()


class Process:
    """Sends through a pacer of its own, as a process would, and records when.

    Args:
        folder: where the file of the shared limit is.
        ceiling: what this process takes the limit for.
        log: where all processes record what leaves.
        name: of its run.
    """

    def __init__(self, folder: Path, ceiling: float, log: list[float], name: str = "a") -> None:
        self.seen: list[frozenset[Other]] = []
        self.errors: list[OSError] = []
        self.file = SlotFile(
            folder, ["limit"], ceiling, name, now, self.seen.append, self.errors.append
        )
        self.pacer = Pacer(ceiling, random.Random(1), slots=[self.file])
        self.times: list[float] = []
        self.stopped_until = 0.0
        self._log = log
        self._tasks: list[asyncio.Task[None]] = []

    def send(self, count: int) -> None:
        """Make requests ready to leave."""
        self._tasks += [asyncio.create_task(self._run(self._send())) for _ in range(count)]

    def keep_sending(self) -> None:
        """Always have some requests ready."""
        for _ in range(10):
            self._tasks.append(asyncio.create_task(self._run(self._send_for_ever())))

    def stop(self, seconds: float) -> None:
        """Let nothing run for a while, as SIGSTOP does."""
        self.stopped_until = max(self.stopped_until, now() + seconds)

    def kill(self) -> None:
        """End at once, as SIGKILL does: the kernel closes the file, and nothing else is done."""
        for task in self._tasks:
            task.cancel()
        self.file._drop()

    async def finish(self) -> None:
        """End in order."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.file.leave()

    async def _send_for_ever(self) -> None:
        while True:
            await self._send()

    async def _send(self) -> None:
        departed_at = await self.pacer.depart()
        assert departed_at == now()
        self.times.append(departed_at)
        self._log.append(departed_at)

    def _run(self, work: Awaitable[None]) -> Any:
        return _Stoppable(self, work)._finish()


class _Stoppable:
    """Runs a coroutine, each step of which waits while its process is stopped."""

    def __init__(self, process: Process, work: Awaitable[None]) -> None:
        self._process, self._work = process, work

    async def _finish(self) -> None:
        await self

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._work.__await__()
        while True:
            while (left_s := self._process.stopped_until - now()) > 0:
                yield from asyncio.sleep(left_s).__await__()
            try:
                waited_for = next(steps)
            except StopIteration:
                return
            try:
                yield waited_for
            except asyncio.CancelledError:
                steps.close()
                raise


def busiest(times: list[float]) -> int:
    times = sorted(times)
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def sent(times: list[float], since: float, until: float) -> int:
    return sum(since <= time < until for time in times)


# ---- the ceiling of all together


@pytest.mark.parametrize("ceiling", [1, 2, 7.3, 10, 49, 100, 500])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_one_ceiling_equally(
    tmp_path: Path, ceiling: float, processes: int
) -> None:
    async def scene() -> None:
        log: list[float] = []
        all_ = [Process(tmp_path, ceiling, log) for _ in range(processes)]
        for process in all_:
            process.keep_sending()
        seconds = max(5.0, 40 / ceiling)
        await asyncio.sleep(seconds)
        assert busiest(log) <= int(ceiling)
        assert len(log) >= 0.955 * int(ceiling) * seconds - 2
        for process in all_:
            assert len(process.times) >= 0.9 * len(log) / processes - 3
            await process.finish()

    run_virtually(scene(), grain_s=0.001)


@pytest.mark.parametrize("others", [1, 2])
def test_a_process_that_sends_nothing_costs_nothing(tmp_path: Path, others: int) -> None:
    async def scene() -> None:
        log: list[float] = []
        idle = [Process(tmp_path, 500, log) for _ in range(others)]
        for process in idle:
            process.send(1)
        busy = Process(tmp_path, 500, log)
        busy.keep_sending()
        await asyncio.sleep(10)
        assert len(busy.times) >= 0.955 * 500 * 10
        assert busiest(log) <= 500
        for process in [*idle, busy]:
            await process.finish()

    run_virtually(scene(), grain_s=0.001)


def test_a_process_that_sends_rarely_need_not_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        log: list[float] = []
        busy, rare = (Process(tmp_path, 500, log) for _ in range(2))
        busy.keep_sending()
        for _ in range(20):
            await asyncio.sleep(0.33)
            asked_at = now()
            rare.send(1)
            await asyncio.sleep(0.2)
            assert rare.times[-1] - asked_at < 0.06
        assert len(rare.times) == 20
        assert len(log) >= 0.955 * 500 * 0.53 * 20
        await busy.finish()
        await rare.finish()

    run_virtually(scene(), grain_s=0.001)


def test_one_that_is_alone_sends_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        log: list[float] = []
        process = Process(tmp_path, 500, log)
        asked_at = now()
        process.send(1)
        await asyncio.sleep(1)
        assert log[0] - asked_at < 0.005
        await process.finish()

    run_virtually(scene())


# ---- whatever happens

Scene = list[tuple[str, int, float]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "kill", "finish", "stop", "send", "pause", "late"]),
        st.integers(0, 3),
        st.one_of(st.floats(0, 0.05), st.floats(0, 3), st.floats(0, 30)),
    ),
    max_size=15,
)


@given(ceilings=st.lists(st.sampled_from([1, 5, 40, 100]), min_size=1, max_size=2), scene=STEPS)
@example(ceilings=[100, 40], scene=[("join", 0, 1.0), ("join", 1, 1.0), ("stop", 1, 7.0)])
def test_whatever_happens_the_ceiling_holds_and_the_survivor_has_it_all(
    tmp_path_factory: pytest.TempPathFactory, ceilings: list[int], scene: Scene
) -> None:
    folder = tmp_path_factory.mktemp("slots")

    async def main() -> None:
        log: list[float] = []
        alive: list[Process] = []
        ended: list[Process] = []
        for what, which, amount in scene:
            process = alive[which % len(alive)] if alive else None
            if what == "join" and len(alive) < 4:
                alive.append(Process(folder, ceilings[which % len(ceilings)], log))
                alive[-1].keep_sending()
            elif process is None:
                continue
            elif what in ("kill", "finish"):
                alive.remove(process)
                ended.append(process)
                if what == "kill":
                    process.kill()
                else:
                    await process.finish()
            elif what == "stop":
                process.stop(amount)
            elif what == "send":
                process.send(int(amount * 10))
            elif what == "pause":
                process.pacer.throttled(now(), min(amount, 5.0))
                left_s = process.pacer.pause_left_s
                await asyncio.sleep(0.41)  # what was reserved before may leave
                before, left_s = len(log), left_s - 0.41
                if left_s > 0:
                    await asyncio.sleep(left_s * 0.999)
                    assert len(log) == before, "a request left during a pause"
            await asyncio.sleep(amount if what != "stop" else amount / 2)
        for process in alive:
            await process.finish()
        everybody = [*ended, *alive]
        assert busiest(log) <= max(ceilings)
        lowest = [p for p in everybody if p.pacer.ceiling == min(ceilings)]
        times = sorted(log)
        for at in (time for p in lowest for time in p.times):
            assert sent(times, at - 0.9999, at + 1e-9) <= min(ceilings)
            assert sent(times, at, at + 0.9999) <= min(ceilings)
        await asyncio.sleep(6)
        survivor = Process(folder, max(ceilings), log)
        survivor.keep_sending()
        await asyncio.sleep(12)
        assert sent(log, now() - 3, now()) >= 0.97 * max(ceilings) * 3 - 1
        assert busiest(log) <= max(ceilings)
        await survivor.finish()

    run_virtually(main())
