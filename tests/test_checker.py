"""When a check runs, what it is given, and what it has said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from bulkcert.check import Checker, Situation
from bulkcert.model import Outcome
from bulkcert.outside_command import Ended
from bulkcert.rules import Check
from bulkcert.rules.check import CheckResult, Verdict, judge
from tests.virtual_time import run_virtually, settle

EVERY_S, TAKES_S = 30.0, 4.0

SITUATION = Situation(
    name="campaign",
    run_dir=Path("/runs/campaign"),
    wave="10%",
    total=60_000,
    counts={Outcome.SUCCEEDED: 5_990, Outcome.FAILED: 10, Outcome.PENDING: 54_000},
    open_requests=131,
    requests=6_100,
    throttled=12,
    rate=479.96,
    ceiling=500.0,
    reasons=["waiting (go 10%)"],
)


class Instead:
    """Stands in for the command: takes a while of the virtual clock, and answers as it is told."""

    def __init__(self) -> None:
        self.ended = Ended(0)
        self.fault: Exception | None = None
        self.given: list[Mapping[str, object]] = []
        self.running = self.most_running = 0
        self._closed = asyncio.Event()

    async def run(self, given: Mapping[str, object], timeout_s: float) -> Ended:
        self.given.append(given)
        if self.fault is not None:
            raise self.fault
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAKES_S):
                await self._closed.wait()
        self.running -= 1
        return Ended(None, problem="killed") if self._closed.is_set() else self.ended

    def close(self) -> None:
        self._closed.set()


class Scene:
    """A checker on a virtual clock."""

    def __init__(self) -> None:
        self.command = Instead()
        self.results: list[CheckResult] = []
        self.begun_s = asyncio.get_running_loop().time()
        self.checker = Checker(
            Check(command=("./ok.sh",), every_s=EVERY_S),
            self.command,  # type: ignore[arg-type]
            self.situation,
            self.results.append,
            self.now_s,
        )

    async def situation(self) -> Situation:
        return SITUATION

    def now_s(self) -> float:
        """Seconds since the beginning."""
        return round(asyncio.get_running_loop().time() - self.begun_s, 3)

    def spans(self) -> list[tuple[float, float]]:
        """When checks began and ended."""
        return [(result.began_s, result.ended_s) for result in self.results]


@contextlib.asynccontextmanager
async def checking() -> AsyncIterator[Scene]:
    """A scene whose checker has just started."""
    scene = Scene()
    scene.checker.start()
    await settle()
    yield scene
    await scene.checker.close()


def test_it_checks_at_once_and_then_every_so_often() -> None:
    async def scene() -> list[tuple[float, float]]:
        async with checking() as s:
            await asyncio.sleep(2 * EVERY_S + TAKES_S + 1)
        return s.spans()

    assert run_virtually(scene()) == [(0, 4), (30, 34), (60, 64)]


def test_a_requested_check_begins_at_once() -> None:
    async def scene() -> list[tuple[float, float]]:
        async with checking() as s:
            await asyncio.sleep(10)
            s.checker.request()
            await asyncio.sleep(EVERY_S + TAKES_S + 1)
        return s.spans()

    assert run_virtually(scene()) == [(0, 4), (10, 14), (40, 44)]


def test_a_check_that_had_begun_before_it_was_requested_does_not_count() -> None:
    async def scene() -> tuple[list[tuple[float, float]], int]:
        async with checking() as s:
            await asyncio.sleep(1)
            for _ in range(3):
                s.checker.request()
            await asyncio.sleep(10)
        return s.spans(), s.command.most_running

    assert run_virtually(scene()) == ([(0, 4), (4, 8)], 1)


def test_the_verdict_and_its_reason_are_passed_on() -> None:
    async def scene() -> tuple[CheckResult, CheckResult | None]:
        async with checking() as s:
            s.command.ended = Ended(10, "site Köln is dark")
            await asyncio.sleep(TAKES_S + 1)
        return s.results[0], s.checker.latest

    result, latest = run_virtually(scene())
    assert result == CheckResult(0, 4, Verdict.ABORT, "site Köln is dark")
    assert latest is result


def test_a_check_that_fails_by_a_fault_of_ours_holds_the_run_and_is_tried_again() -> None:
    async def scene() -> list[CheckResult]:
        async with checking() as s:
            await asyncio.sleep(TAKES_S + 1)
            s.command.fault = ValueError("embedded null byte")
            await asyncio.sleep(EVERY_S)
            s.command.fault = None
            await asyncio.sleep(EVERY_S)
        return s.results

    results = run_virtually(scene())
    assert [result.verdict for result in results] == [Verdict.GO, Verdict.HOLD, Verdict.GO]
    assert "embedded null byte" in results[1].reason


def test_a_check_that_is_closed_says_nothing_more() -> None:
    async def scene() -> tuple[float, list[CheckResult], int]:
        async with checking() as s:
            await asyncio.sleep(1)
            await s.checker.close()
            closed_s = s.now_s()
            await asyncio.sleep(100)
        return closed_s, s.results, len(s.command.given)

    assert run_virtually(scene()) == (1, [], 1)


def test_closing_what_has_not_started_is_harmless() -> None:
    async def scene() -> None:
        await Scene().checker.close()

    run_virtually(scene())


def test_it_is_given_how_the_run_stands() -> None:
    assert SITUATION.as_object() == {
        "name": "campaign",
        "run_dir": "/runs/campaign",
        "wave": "10%",
        "total": 60_000,
        "succeeded": 5_990,
        "already_done": 0,
        "failed": 10,
        "unknown": 0,
        "pending": 54_000,
        "open_requests": 131,
        "requests": 6_100,
        "throttled": 12,
        "requests_per_second": 480.0,
        "ceiling": 500.0,
        "reasons": ["waiting (go 10%)"],
    }


@pytest.mark.parametrize(
    ("exit_code", "line", "problem", "judged"),
    [
        (0, "", "", (Verdict.GO, "")),
        (0, "12 sites up", "", (Verdict.GO, "12 sites up")),
        (10, "site Köln is dark", "", (Verdict.ABORT, "site Köln is dark")),
        (10, "", "", (Verdict.ABORT, "exit code 10")),
        (1, "3 sites are down", "", (Verdict.HOLD, "3 sites are down")),
        (127, "", "", (Verdict.HOLD, "exit code 127")),
        (None, "", "killed by SIGSEGV", (Verdict.HOLD, "killed by SIGSEGV")),
        (None, "asking", "no answer", (Verdict.HOLD, "no answer: asking")),
    ],
)
def test_only_a_plain_yes_is_a_yes(
    exit_code: int | None, line: str, problem: str, judged: tuple[Verdict, str]
) -> None:
    assert judge(exit_code, line, problem) == judged
