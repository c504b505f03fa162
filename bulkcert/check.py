"""Runs the outside command of `[check]` beside the sender: before it begins, and ever again.

In: the check of a job, and what the run is doing. Out: one `CheckResult` after the other. Must
never block sending, nor decide anything: what a result means for the run is for
`bulkcert.rules`. One check runs at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bulkcert.model import Outcome
from bulkcert.outside_command import Ended, OutsideCommand
from bulkcert.rules import Check
from bulkcert.rules.check import CheckResult, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a check is given: how the run stands. docs/campaigns.md describes it.

    Attributes:
        name: of the run.
        run_dir: its directory.
        wave: the name of the current wave; None if the run has no waves.
        total: operations of the run.
        counts: operations by outcome; those under way are pending.
        open_requests: requests that have left and have not ended.
        requests: all requests that this process has sent; in a shared store, that all have.
        throttled: how many of them the provider put off.
        rate: recent requests per second, of all hosts.
        ceiling: most requests in any rolling second.
        reasons: why nothing is sent at the moment; empty if something is.
    """

    name: str
    run_dir: Path
    wave: str | None
    total: int
    counts: Mapping[Outcome, int]
    open_requests: int
    requests: int
    throttled: int
    rate: float
    ceiling: float
    reasons: Iterable[str] = ()

    def as_object(self) -> dict[str, object]:
        """The JSON object that the command gets on its standard input."""
        return {
            "name": self.name,
            "run_dir": str(self.run_dir.absolute()),
            "wave": self.wave,
            "total": self.total,
            **{str(outcome): self.counts.get(outcome, 0) for outcome in Outcome},
            "open_requests": self.open_requests,
            "requests": self.requests,
            "throttled": self.throttled,
            "requests_per_second": round(self.rate, 1),
            "ceiling": self.ceiling,
            "reasons": list(self.reasons),
        }


class Checker:
    """Checks at once, then every so often, and whenever it is asked to.

    Args:
        check: when to check.
        command: what to run.
        situation: returns how the run stands; awaited before each check.
        on_result: called on the event loop with each result; must not block, nor raise.
        clock: returns the Unix time.

    Attributes:
        latest: the last result; None if there is none yet.
    """

    def __init__(
        self,
        check: Check,
        command: OutsideCommand,
        situation: Callable[[], Awaitable[Situation]],
        on_result: Callable[[CheckResult], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.latest: CheckResult | None = None
        self._check, self._command = check, command
        self._situation, self._on_result, self._clock = situation, on_result, clock
        self._wanted = asyncio.Event()
        self._closed = False
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to check; to be called on the event loop."""
        self._work = asyncio.create_task(self._check_again_and_again())

    def request(self) -> None:
        """Have a check begin soon; one that is running has begun too early, and ends first."""
        self._wanted.set()

    def stop(self) -> None:
        """Check no more. What runs is killed, and has no result."""
        self._closed = True
        self._command.close()
        self._wanted.set()

    async def close(self) -> None:
        """Check no more, and wait until nothing of it is left."""
        self.stop()
        if self._work is not None:
            await self._work

    async def _check_again_and_again(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            self._wanted.clear()
            next_s = loop.time() + self._check.every_s
            await self._check_once()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_s):
                    await self._wanted.wait()

    async def _check_once(self) -> None:
        began_s = self._clock()
        try:
            given = (await self._situation()).as_object()
            ended = await self._command.run(given, self._check.timeout_s)
        except Exception as error:  # a fault of ours: the run must not go on unchecked
            ended = Ended(None, problem=f"can't be run: {error!r}")
        if self._closed:
            return
        verdict, reason = judge(ended.exit_code, ended.line, ended.problem)
        self.latest = CheckResult(began_s, self._clock(), verdict, reason)
        self._on_result(self.latest)
