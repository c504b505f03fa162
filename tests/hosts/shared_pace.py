"""Hosts that send under one ceiling, each with a pacer of its own, in one process."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from bulkcert.hosts.pace import StorePace, member
from bulkcert.providers.clock import boot_time_s
from bulkcert.ratelimit import Pacer
from bulkcert.timings import HostTimings

TIMINGS = HostTimings()


def busiest(times: Sequence[float]) -> int:
    """Most in any rolling second."""
    times = sorted(times)
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


@dataclass
class Sender:
    """A host that sends as fast as it may, through a real store."""

    url: str
    run: int = 1
    scopes: Sequence[str] = ("account",)
    ceiling: float = 500
    per_address: float | None = None
    egress: str = ""
    timings: HostTimings = TIMINGS
    times: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pace = StorePace(
            self.url,
            member(
                id=uuid.uuid4(),
                run=self.run,
                scopes=self.scopes,
                ceiling=self.ceiling,
                timings=self.timings,
                per_address=self.per_address,
                egress=self.egress,
            ),
            self.timings,
            self.notes.append,
        )
        self.pacer = Pacer(
            self.ceiling,
            random.Random(1),
            utilization=self.timings.utilization,
            elapsed_s=boot_time_s,
            slots=self.pace,
        )
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, ready: int = 60) -> None:
        """Always have some requests ready."""
        self.pace.start()
        self._tasks = [asyncio.create_task(self._send()) for _ in range(ready)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.pace.close)

    async def _send(self) -> None:
        while True:
            self.times.append(await self.pacer.depart())
