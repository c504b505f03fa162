"""The outside commands of a run on several hosts: one of them, the steward, runs them for all.

In: the store, which says who the steward is. Out: this host becomes the steward if no live host is,
and from then on runs `[check]`; `[notify]` asks the store by itself. Every host obeys what the
check says, because all read it from the store. A steward that dies with the check running costs an
interval: the next one begins with a check.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from bulkcert.errors import BulkcertError


class RunsCheck(Protocol):
    """The outside check; see `bulkcert.check.Checker`."""

    def start(self) -> None: ...

    def request(self) -> None: ...

    def stop(self) -> None: ...

    async def close(self) -> None: ...


class Steward:
    """Runs the check of a job, as long as this host is the steward.

    A host that is the steward stays it until its life ends, or until it stops.

    Args:
        be_steward: returns whether this host is the steward; becomes it if no live host is.
        resign: lets another host be it.
        check: the check; None if there is none, and only `[notify]` needs a steward.
        every_s: how often a host asks that is not the steward.
    """

    def __init__(
        self,
        be_steward: Callable[[], Awaitable[bool]],
        resign: Callable[[], object],
        check: RunsCheck | None,
        every_s: float,
    ) -> None:
        self._be_steward, self._resign = be_steward, resign
        self._check, self._every_s = check, every_s
        self._is_steward = self._stopped = False
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask; to be called on the event loop."""
        self._work = asyncio.create_task(self._become_steward())

    def request(self) -> None:
        """Have a check begin soon; the steward has it run, and every other host waits for that."""
        if self._is_steward and self._check is not None:
            self._check.request()

    def stop(self) -> None:
        """Run no more checks: another host does. What runs is killed, and has no result."""
        if self._stopped:
            return
        self._stopped = True
        if self._check is not None:
            self._check.stop()
        if self._work is not None:
            self._work.cancel()
        if self._is_steward:
            self._resign()

    async def close(self) -> None:
        """Run no more checks, and wait until nothing of it is left."""
        self.stop()
        if self._work is not None:
            await asyncio.wait([self._work])
        if self._check is not None:
            await self._check.close()

    async def _become_steward(self) -> None:
        with contextlib.suppress(BulkcertError):  # the run has its own way to fail with its store
            while not await self._be_steward():  # noqa: ASYNC110 - who is it, the store says
                await asyncio.sleep(self._every_s)
            self._is_steward = True
            if self._check is not None:
                self._check.start()
