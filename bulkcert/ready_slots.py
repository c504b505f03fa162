"""How many requests may get ready at the same time: find a connection, wait for the pacer.

In: a task that wants to get ready. Out: a slot, until its request leaves. Few of them mean few
connections that wait, and a storm of new connections at the start is avoided.
"""

from __future__ import annotations

import asyncio

READY_SHARE = 1 / 8
"""Most requests getting ready at once, as a share of the ceiling: enough that new connections, each
taking up to 125 ms, keep up with it."""

FIRST_READY = 8


class Places:
    """A number of places, which may change while they are taken.

    Attributes:
        most: how many there are. Those that are taken beyond that are not replaced.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._taken = 0
        self._changed = asyncio.Event()

    def resize(self, most: int) -> None:
        """Set how many there are."""
        self.most = most
        self._changed.set()

    async def acquire(self) -> None:
        """Take a place, as soon as there is one."""
        while self._taken >= self._available:
            self._changed.clear()
            await self._changed.wait()
        self._taken += 1

    def take_free(self) -> bool:
        """Take a place if there is one; return whether there was."""
        free = self._taken < self._available
        self._taken += free
        return free

    @property
    def may_stay(self) -> bool:
        """Whether who has a place may keep it for what comes next: no fewer are left than taken."""
        return self._taken <= self._available

    def release(self) -> None:
        """Give a place back."""
        self._taken -= 1
        self._changed.set()

    @property
    def _available(self) -> int:
        return self.most


class ReadySlots(Places):
    """Slots for requests that get ready: a few at first, one more for each request that leaves.

    A storm of new connections at the start would delay the very first requests, which would then
    arrive crowded.

    Args:
        share: how many there are, as a share of the rate.

    Attributes:
        most: how many there are when all have been added.
    """

    def __init__(self, share: float = READY_SHARE) -> None:
        super().__init__()
        self._share = share
        self._added = FIRST_READY

    def fit(self, rate: float, in_flight: int) -> None:
        """Set how many there are.

        Args:
            rate: requests per second that may leave.
            in_flight: most requests open at once.
        """
        least = max(1, min(4, int(4 * rate)))
        self.resize(max(least, min(int(rate * self._share), in_flight, 500)))

    def grow(self) -> None:
        """Add one of those that are still missing at the start."""
        self._added += self._added < self.most
        self._changed.set()

    @property
    def _available(self) -> int:
        return min(self.most, self._added)
