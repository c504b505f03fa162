"""Shared limits: several pacers, as if each were a process, reserve slots from one file.

All on a virtual clock. `Process` stands in for a process that sends; what all of them record
together is the oracle. A process can be stopped at any moment, as by SIGSTOP, and killed.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from virtual_time import run_virtually

from bulkcert import slots
from bulkcert.ratelimit import UTILIZATION, Pacer, StoppedError
from bulkcert.sharing import SharedLimits
from bulkcert.slots import FileSlots, Other, Reserved, SlotFile, reserve


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
        self.slots = FileSlots([self.file], UTILIZATION)
        self.pacer = Pacer(ceiling, random.Random(1), slots=self.slots)
        self.times: list[float] = []
        self.stopped_until = 0.0
        self._log = log
        self._tasks: list[asyncio.Task[None]] = []

    def send(self, count: int) -> None:
        """Make requests ready to leave."""
        self._tasks += [asyncio.create_task(self._run(self._send)) for _ in range(count)]

    def keep_sending(self) -> None:
        """Always have some requests ready."""
        for _ in range(10):
            self._tasks.append(asyncio.create_task(self._run(self._send_for_ever)))

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

    def _run(self, work: Callable[[], Awaitable[None]]) -> Any:
        return _Stoppable(self, work)._finish()


class _Stoppable:
    """Runs a coroutine, each step of which waits while its process is stopped."""

    def __init__(self, process: Process, work: Callable[[], Awaitable[None]]) -> None:
        self._process, self._work = process, work

    async def _finish(self) -> None:
        await self

    def __await__(self) -> Generator[Any, Any, None]:
        yield from self._wait()
        steps = self._work().__await__()
        try:
            while True:
                try:
                    waits_for = next(steps)
                except StopIteration:
                    return
                yield waits_for
                yield from self._wait()
        finally:
            steps.close()

    def _wait(self) -> Generator[Any, Any, None]:
        while (left_s := self._process.stopped_until - now()) > 0:
            yield from asyncio.sleep(left_s).__await__()


async def two_that_share(folder: Path, ceiling: float, log: list[float]) -> tuple[Process, Process]:
    """Return two processes that have been sending under one ceiling for two seconds."""
    a, b = Process(folder, ceiling, log), Process(folder, ceiling, log)
    a.keep_sending()
    b.keep_sending()
    await asyncio.sleep(2)
    return a, b


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


def test_no_more_slots_are_reserved_than_there_are_requests(tmp_path: Path) -> None:
    """With one more for each of these, a sixteenth of the ceiling would be lost."""

    async def scene() -> None:
        log: list[float] = []
        busy, rare = (Process(tmp_path, 500, log) for _ in range(2))
        busy.keep_sending()
        rare.send(1)
        await asyncio.sleep(2)
        since = now()
        for _ in range(160):
            rare.send(1)
            await asyncio.sleep(1 / 32)
        assert sent(log, since, now()) >= 0.955 * 500 * 5
        await busy.finish()
        await rare.finish()

    run_virtually(scene())


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


@pytest.mark.parametrize("leaves", [False, True], ids=["joins", "leaves"])
@pytest.mark.parametrize("after_s", [0.93, 0.96, 0.99])
def test_one_that_uses_nearly_all_shares_the_ceiling_with_one_that_joins_or_leaves(
    tmp_path: Path, after_s: float, leaves: bool
) -> None:
    """What is sent late counts nearly a second later, together with what the other sends."""

    async def scene() -> None:
        log: list[float] = []

        def process(name: str) -> Process:
            process = Process(tmp_path, 500, log, name)
            process.slots.use(0.995)
            process.pacer._recent.allowed = 498
            return process

        a = process("a")
        for _ in range(20):
            b = process("b")
            first, second = (b, a) if leaves else (a, b)
            first.keep_sending()
            await asyncio.sleep(1.2)
            first.stop(0.0175)
            await asyncio.sleep(0.0175 + after_s)
            if leaves:
                await first.finish()
            second.keep_sending()
            await asyncio.sleep(0.2)
            for each in (a, b):
                await each.finish()
            await asyncio.sleep(1.5)
            a = process("a")
        assert busiest(log) <= 500

    run_virtually(scene(), grain_s=0.001)


@pytest.mark.parametrize("seed", range(3))
def test_slots_that_a_stopped_process_had_reserved_are_not_used_later(
    tmp_path: Path, seed: int
) -> None:
    async def scene() -> None:
        log: list[float] = []
        processes = [Process(tmp_path, 500, log) for _ in range(3)]
        rng = random.Random(seed)
        for process in processes:
            process.keep_sending()
        for _ in range(40):
            rng.choice(processes).stop(rng.choice([0.01, 0.03, 0.1, 1.0]))
            await asyncio.sleep(rng.uniform(0, 0.5))
        assert busiest(log) <= 490
        for process in processes:
            await process.finish()

    run_virtually(scene())


@pytest.mark.parametrize("stopped_after_s", [1.011, 1.023, 1.042])
def test_nor_those_of_one_that_was_alone(tmp_path: Path, stopped_after_s: float) -> None:
    """It reserves more at a time than others do."""

    async def scene() -> None:
        log: list[float] = []
        a, b = (Process(tmp_path, 500, log) for _ in range(2))
        a.keep_sending()
        await asyncio.sleep(stopped_after_s)
        a.stop(1.2)
        b.keep_sending()
        await asyncio.sleep(3)
        assert busiest(log) <= 500
        assert a.times[-1] > now() - 0.1
        await a.finish()
        await b.finish()

    run_virtually(scene())


def test_the_lowest_ceiling_is_in_force_in_every_second_in_which_its_process_sends(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        log: list[float] = []
        high, low = Process(tmp_path, 500, log), Process(tmp_path, 100, log)
        high.keep_sending()
        await asyncio.sleep(2)
        low.keep_sending()
        await asyncio.sleep(5)
        await low.finish()
        await asyncio.sleep(10)
        assert len(low.times) >= 3.5 * 0.9 * 100 / 2
        for at in low.times:
            assert sent(log, at - 0.9999, at + 1e-9) <= 100
            assert sent(log, at, at + 0.9999) <= 100
        assert high.file.ceiling == 500
        assert sent(log, now() - 2, now()) >= 0.97 * 500 * 2
        await high.finish()

    run_virtually(scene())


def test_nothing_is_reserved_far_ahead(tmp_path: Path) -> None:
    async def scene() -> None:
        high, low = (Process(tmp_path, ceiling, []).file for ceiling in (500, 100))
        assert isinstance(reserve([(high, 0.975)], None, now()), Reserved)
        # the lower ceiling makes everybody wait for a second, before slots of 10 ms begin
        wait_s = reserve([(low, 0.975)], None, now())
        assert wait_s == pytest.approx(1 + slots.SLOT_S - slots.HORIZON_S, abs=0.01)
        assert reserve([(high, 0.975)], None, now()) == wait_s
        await asyncio.sleep(wait_s + 0.001)
        reserved = reserve([(high, 0.975)], None, now())
        assert isinstance(reserved, Reserved)
        assert reserved.next_s == pytest.approx(now() + slots.HORIZON_S, abs=0.002)
        assert reserved.length_s == pytest.approx(1 / 96)
        high.leave()
        low.leave()

    run_virtually(scene())


def test_several_slots_are_reserved_at_once(tmp_path: Path) -> None:
    """Because each time costs some microseconds."""

    async def scene() -> None:
        log: list[float] = []
        times = {"a": 0, "b": 0}

        def counted(process: Process, name: str) -> Process:
            opened = process.file.open

            def open_(at: float) -> bool:
                times[name] += 1
                return opened(at)

            process.file.open = open_  # type: ignore[method-assign]
            return process

        a, b = (counted(Process(tmp_path, 500, log), name) for name in "ab")
        a.keep_sending()
        await asyncio.sleep(5)
        assert times["a"] <= 5 / slots.ALONE_S + 2
        b.keep_sending()
        await asyncio.sleep(2)
        times["b"] = 0
        await asyncio.sleep(5)
        assert times["b"] <= 5 * 240 / 4 * 1.2
        await a.finish()
        await b.finish()

    run_virtually(scene())


@pytest.mark.parametrize(("stop_s", "share"), [(0.012, 0.97), (0.03, 0.97 - 0.012 / 0.2 - 0.01)])
def test_after_a_short_stop_the_slots_that_are_left_are_used(
    tmp_path: Path, stop_s: float, share: float
) -> None:
    async def scene() -> None:
        log: list[float] = []
        process = Process(tmp_path, 500, log)
        process.keep_sending()
        began_at, rng = now(), random.Random(1)
        for _ in range(25):
            process.stop(stop_s)
            await asyncio.sleep(rng.uniform(0.15, 0.25))
        assert len(log) >= share * 500 * (now() - began_at)
        assert busiest(log) <= 490
        await process.finish()

    run_virtually(scene())


# ---- whatever happens

Scene = list[tuple[str, int, float]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "kill", "finish", "stop", "send", "pause"]),
        st.integers(0, 3),
        st.one_of(st.floats(0, 0.05), st.floats(0, 3), st.floats(0, 30)),
    ),
    max_size=15,
)


@pytest.mark.slow
@settings(max_examples=50)
@given(ceilings=st.lists(st.sampled_from([1, 5, 40, 100]), min_size=1, max_size=2), scene=STEPS)
@example(ceilings=[100, 40], scene=[("join", 0, 1.0), ("join", 1, 1.0), ("stop", 1, 7.0)])
@example(  # one with a low ceiling, slowed down twice, counts until its last slot has passed
    ceilings=[5, 1],
    scene=[*[("join", 0, 0.0)] * 3, ("pause", 0, 0.0), ("join", 1, 0.0), ("pause", 0, 0.0)],
)
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
        await asyncio.sleep(20)
        assert sent(log, now() - 3, now()) >= 0.97 * max(ceilings) * 3 - 1
        assert busiest(log) <= max(ceilings)
        await survivor.finish()

    run_virtually(main())


# ---- pauses, late requests, addresses


def test_a_pause_that_one_is_asked_for_holds_for_all(tmp_path: Path) -> None:
    async def scene() -> None:
        log: list[float] = []
        a, b = await two_that_share(tmp_path, 500, log)
        pause_s = a.pacer.throttled(a.times[-1], 5.0)
        resumes_at = now() + pause_s
        await asyncio.sleep(slots.HORIZON_S)
        before = len(log)
        await asyncio.sleep(resumes_at - now() - 0.001)
        assert len(log) == before
        assert b.pacer.pause_left_s == pytest.approx(0.001, abs=1e-6)  # it knows, and can say so
        await asyncio.sleep(0.1)
        assert len(log) > before
        await a.finish()
        await b.finish()

    run_virtually(scene())


def test_one_that_was_slowed_down_does_not_leave_its_part_to_the_other(tmp_path: Path) -> None:
    async def scene() -> None:
        log: list[float] = []
        a, b = await two_that_share(tmp_path, 500, log)
        for process in (a, b):
            process.pacer.throttled(now(), 0.0)
        await asyncio.sleep(a.pacer.pause_left_s)
        since = now()
        await asyncio.sleep(0.9)
        assert sent(log, since, now()) == pytest.approx(0.9 * 480 / 2, abs=12)
        await a.finish()
        await b.finish()

    run_virtually(scene())


@pytest.mark.parametrize("late", [10, 200])
def test_late_requests_of_one_take_slots_from_all(tmp_path: Path, late: int) -> None:
    async def scene() -> None:
        log: list[float] = []
        a, b = await two_that_share(tmp_path, 500, log)
        for process in (a, b):
            for _ in range(late // 2):
                process.pacer.forfeit()
        await asyncio.sleep(1.1)
        arrived_at = now()
        for process in (a, b):
            for _ in range(late // 2):
                process.pacer.arrived()
        await asyncio.sleep(3)
        since = arrived_at - 1
        assert busiest([time for time in log if time > since] + [arrived_at] * late) <= 500
        assert sent(log, now() - 1, now()) >= 0.95 * 500  # they have their slots again
        await a.finish()
        await b.finish()

    run_virtually(scene())


def test_processes_share_the_limit_of_an_address_as_well(tmp_path: Path) -> None:
    """Both may send from X and Y, but one of them has lost Y."""

    async def scene() -> None:
        log: dict[str, list[float]] = {"X": [], "Y": []}
        ended = False

        async def send(pacer: Pacer, address: str) -> None:
            while not ended:
                log[address].append(await pacer.depart())

        tasks = []
        for addresses in ("XY", "X"):
            limits = SharedLimits(tmp_path, ["p"], "a", now, print)
            account = Pacer(500, slots=limits.add(500, ["account"]))
            both = {
                address: Pacer(
                    300,
                    utilization=0.95,
                    parent=account,
                    slots=limits.add(300, [address], utilization=0.95),
                )
                for address in "XY"
            }
            for address in addresses:
                tasks += [asyncio.create_task(send(both[address], address)) for _ in range(5)]
        await asyncio.sleep(10)
        ended = True
        assert busiest(log["X"]) <= 300
        assert busiest(log["X"] + log["Y"]) <= 500
        assert len(log["X"]) >= 0.9 * 285 * 10
        # Y could send more: its requests wait behind those that wait for X
        assert len(log["X"] + log["Y"]) >= 0.7 * 500 * 10
        await asyncio.gather(*tasks)

    run_virtually(scene())


@pytest.mark.parametrize("addresses", ["X", "XY", "XYZ"])
def test_with_addresses_the_full_rate_is_reached(tmp_path: Path, addresses: str) -> None:
    async def scene() -> None:
        log: list[float] = []
        ended = False
        limits = SharedLimits(tmp_path, ["p"], "a", now, print)
        account = Pacer(500, slots=limits.add(500, ["account"]))

        async def send(pacer: Pacer) -> None:
            while not ended:
                log.append(await pacer.depart())

        tasks = []
        for address in addresses:
            slots = limits.add(300, [address], utilization=0.95)
            pacer = Pacer(300, utilization=0.95, parent=account, slots=slots)
            tasks += [asyncio.create_task(send(pacer)) for _ in range(5)]
        await asyncio.sleep(10)
        ended = True
        assert len(log) >= 0.98 * min(487.5, 285 * len(addresses)) * 10
        await asyncio.gather(*tasks)

    run_virtually(scene(), grain_s=0.001)


# ---- who shares


def test_each_is_told_once_about_the_others(tmp_path: Path) -> None:
    async def scene() -> None:
        notices: dict[str, list[str]] = {"a": [], "b": [], "c": []}
        pacers = {}

        async def send(name: str, seconds: float) -> None:
            end = now() + seconds
            while now() < end:
                await pacers[name].depart()

        def begin(name: str) -> SharedLimits:
            limits = SharedLimits(tmp_path, ["p"], name, now, notices[name].append)
            # an account and a key: both processes agree in both
            slots = limits.add(500, ["account"], ["key"])
            pacers[name] = Pacer(500, slots=slots)
            return limits

        a, b = begin("a"), begin("b")
        await asyncio.gather(send("a", 3), send("b", 3))
        with_b, with_a = (
            "This run shares the ceiling of 500/s with 1 other process on this account:"
            f" run {name}, pid {os.getpid()}."
            for name in "ba"
        )
        assert (notices["a"], notices["b"]) == ([with_b], [with_a])
        assert pacers["a"].sharing == "shares 500/s with run b"
        b.leave()
        await send("a", 2)
        assert pacers["a"].sharing == ""
        begin("c")
        await asyncio.gather(send("c", 3), send("a", 3))
        assert len(notices["a"]) == 2
        assert len(notices["c"]) == 1
        a.leave()

    run_virtually(scene())


def test_one_that_starts_after_another_has_ended_is_alone(tmp_path: Path) -> None:
    async def scene() -> None:
        log: list[float] = []
        first = Process(tmp_path, 500, log)
        first.send(1)
        await asyncio.sleep(0.1)
        await first.finish()
        second = Process(tmp_path, 500, log)
        second.send(1)
        await asyncio.sleep(0.1)
        assert (len(log), second.seen) == (2, [])
        await second.finish()

    run_virtually(scene())


def test_limits_of_other_accounts_are_not_shared(tmp_path: Path) -> None:
    async def scene() -> None:
        counts = []
        for account in ("1", "2"):
            limits = SharedLimits(tmp_path, ["p"], "a", now, print)
            pacer = Pacer(100, slots=limits.add(100, ["account", account]))
            counts.append(asyncio.create_task(departures(pacer, 5)))
        assert min(await asyncio.gather(*counts)) >= 0.97 * 100 * 5

    run_virtually(scene())


async def departures(pacer: Pacer, seconds: float) -> int:
    end = now() + seconds
    while now() < end:
        await pacer.depart()
    return pacer.departures


# ---- the file


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_the_name_of_the_file_shows_neither_account_nor_key(tmp_path: Path) -> None:
    async def scene() -> None:
        limits = SharedLimits(tmp_path / "new", ["p"], "a", now, print)
        await Pacer(500, slots=limits.add(500, ["key", "simulator-key"])).depart()
        (file,) = files(tmp_path / "new")
        assert "simulator" not in file.name + file.read_text(errors="replace")
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700

    run_virtually(scene())


def test_a_file_that_is_removed_is_made_again_and_shared(tmp_path: Path) -> None:
    async def scene() -> None:
        log: list[float] = []
        a, b = await two_that_share(tmp_path, 100, log)
        files(tmp_path)[0].unlink()
        await asyncio.sleep(1.2)
        since = now()
        await asyncio.sleep(5)
        assert busiest([time for time in log if time > since]) <= 100
        assert len(files(tmp_path)) == 1
        await a.finish()
        await b.finish()

    run_virtually(scene())


@pytest.mark.parametrize("content", [b"x", b"rubbish " * 20, bytes(100)])
def test_after_a_file_that_makes_no_sense_nothing_leaves_for_a_second(
    tmp_path: Path, content: bytes
) -> None:
    async def scene() -> None:
        log: list[float] = []
        await Process(tmp_path, 500, log).pacer.depart()
        files(tmp_path)[0].write_bytes(content)
        process = Process(tmp_path, 500, log)
        asked_at = now()
        process.keep_sending()
        await asyncio.sleep(3)
        assert asked_at + 1 < log[0] < asked_at + 1.1
        assert process.errors == []
        await process.finish()

    run_virtually(scene())


@pytest.mark.parametrize(
    "wrong",
    [
        {"next_s": 1e9},
        {"next_s": float("nan")},
        {"paused_until_s": 1e9},
        {"ceiling": 0.0},
    ],
    ids=str,
)
def test_a_file_with_numbers_that_make_no_sense_stops_nobody_for_longer(
    tmp_path: Path, wrong: dict[str, float]
) -> None:
    async def scene() -> None:
        log: list[float] = []
        running = Process(tmp_path, 100, log)
        running.keep_sending()
        await asyncio.sleep(2)
        good = {
            "next_s": now(),
            "paused_until_s": float("-inf"),
            "ceiling": 100.0,
            "late": 0.0,
            "processes": 1.0,
        }
        head = slots._HEAD.pack(slots._MAGIC, *(good | wrong).values())
        with files(tmp_path)[0].open("r+b") as file:
            file.write(head)
        new = Process(tmp_path, 100, log)
        new.keep_sending()
        await asyncio.sleep(1.5)
        since = now()
        await asyncio.sleep(5)
        assert sent(log, since, now()) >= 0.9 * 100 * 5
        assert busiest(log) <= 100
        await running.finish()
        await new.finish()

    run_virtually(scene())


def test_files_of_earlier_boots_are_removed_unless_they_are_used(tmp_path: Path) -> None:
    async def scene() -> None:
        old, recent, locked = (tmp_path / f"{n}.00000000" for n in range(3))
        for path in (old, recent, locked):
            path.touch()
            os.utime(path, (0, 0))
        recent.touch()
        with locked.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            process = Process(tmp_path, 500, [])
            process.send(1)
            await asyncio.sleep(0.1)
        assert {recent, locked} < set(files(tmp_path))
        assert len(files(tmp_path)) == 3
        await process.finish()

    run_virtually(scene())


def test_files_of_this_boot_are_removed_when_nobody_has_used_them_for_a_day(
    tmp_path: Path,
) -> None:
    """Not by the time of day, which may jump."""

    async def scene() -> None:
        def limit(name: str) -> Pacer:
            return Pacer(500, slots=SharedLimits(tmp_path, ["p"], "a", now, print).add(500, [name]))

        first = limit("first")
        await first.depart()
        (of_first,) = files(tmp_path)
        os.utime(of_first, (0, 0))
        await asyncio.sleep(0.9 * slots.UNUSED_S)
        await limit("second").depart()
        assert of_first in files(tmp_path)
        await asyncio.sleep(0.2 * slots.UNUSED_S)
        await limit("third").depart()
        assert of_first not in files(tmp_path)
        assert len(files(tmp_path)) == 2
        await first.depart()
        assert of_first in files(tmp_path)

    run_virtually(scene())


@pytest.mark.parametrize("trouble", ["not a folder", "no locks", "disk full", "no home"])
def test_without_a_usable_file_a_run_goes_on_alone_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    folder = tmp_path / "slots"
    match trouble:
        case "not a folder":
            folder.touch()
        case "no locks":
            monkeypatch.setattr(fcntl, "flock", fail)
        case "disk full":
            monkeypatch.setattr(os, "pwrite", fail)
        case "no home":
            folder = Path("~/.local/state")

    async def scene() -> None:
        notices: list[str] = []
        limits = SharedLimits(folder, ["p"], "a", now, notices.append)
        slots = limits.add(500, ["account"], ["key"])
        assert await departures(Pacer(500, slots=slots), 5) >= 0.97 * 500 * 5
        assert len(notices) == 1
        assert notices[0].startswith(f"{folder} can't be used: ")
        assert "may exceed its ceiling" in notices[0]
        limits.leave()

    run_virtually(scene())


def test_nothing_leaves_while_another_process_has_the_lock_and_that_is_said(
    tmp_path: Path,
) -> None:
    """It was stopped between two instructions. A death would release the lock."""

    async def scene() -> None:
        log: list[float] = []
        process = Process(tmp_path, 500, log)
        process.send(1)
        await asyncio.sleep(0.1)
        with files(tmp_path)[0].open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            process.keep_sending()
            await asyncio.sleep(0.5)
            assert process.pacer.sharing == ""
            before = len(log)
            await asyncio.sleep(2)
            assert len(log) == before
            assert process.pacer.sharing == "another run of this account has been stopped: end it"
        await asyncio.sleep(1)
        assert len(log) >= before + 0.95 * 480
        assert process.pacer.sharing == ""
        await process.finish()

    run_virtually(scene())


def test_a_stopped_run_waits_for_no_slot(tmp_path: Path) -> None:
    async def scene() -> None:
        process = Process(tmp_path, 0.1, [])
        process.send(3)
        await asyncio.sleep(1)
        process.pacer.stop()
        await asyncio.sleep(0.3)
        assert all(task.done() for task in process._tasks)
        for task in process._tasks:
            assert isinstance(task.exception(), StoppedError | None)
        process.file.leave()

    run_virtually(scene())
