"""The departure of one request, and when it is given up.

In: the moment at which the connector lets a request leave. Out: its bytes, signed; its deadline is
set, the caller is notified. Must never keep anything of a request that is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bulkcert.providers.call import OnDeparture


class Departure:
    """The departure of one request, made by the task that sends it.

    Args:
        deadlines: cancels the task when the response takes too long.
        on_departure: called when the request leaves.
        to_bytes: returns the request as it is written, authenticated as of now.

    Attributes:
        at: the loop's time at which the request left; None before.
        expired: the request was cancelled because it took too long.
        over: the request is over, whatever came of it.
    """

    __slots__ = ("_deadlines", "_on_departure", "_task", "_to_bytes", "at", "expired", "over")

    def __init__(
        self, deadlines: Deadlines, on_departure: OnDeparture, to_bytes: Callable[[], bytes]
    ) -> None:
        self._deadlines = deadlines
        self._on_departure = on_departure
        self._to_bytes = to_bytes
        self._task = asyncio.current_task()
        self.at: float | None = None
        self.expired = self.over = False

    def leave(self, now: float, source: str) -> bytes:
        """The request leaves now; return the bytes to write at once.

        Args:
            now: the loop's time.
            source: IP address of this machine that it leaves from.

        Raises:
            ValueError: it can't be written. Then it has not left.
        """
        content = self._to_bytes()
        self.at = now
        self._deadlines.begin(self, now)
        self._on_departure(source)
        return content

    def expire(self) -> None:
        """Cancel the request, unless it is over."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def undo_expiry(self) -> bool:
        """Undo the cancellation by `expire`; return False if there was none, or another one too."""
        return self.expired and self._task is not None and self._task.uncancel() == 0

    def end(self) -> None:
        """The request is over: whoever still watches it must not keep the task."""
        self.over, self._task = True, None
        self._deadlines.end(self)


class Deadlines:
    """Cancels requests that take too long.

    All requests may take equally long, so they are due in the order in which they leave, and one
    timer is enough for all. Measured: `asyncio.timeout` took a twentieth of all CPU.

    Args:
        timeout_s: seconds that a request may take.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._due: dict[Departure, float] = {}  # the open ones only, by time
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, departure: Departure, now: float) -> None:
        """Set the deadline of a request that leaves now."""
        self._due[departure] = now + self._timeout_s
        if self._timer is None:
            self._set_timer(now + self._timeout_s)

    def end(self, departure: Departure) -> None:
        """Drop the deadline of a request that is over, if it had one."""
        self._due.pop(departure, None)

    def _set_timer(self, at: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(at, self._expire)

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        self._timer = None
        late = []
        for departure, due in self._due.items():
            if due > now:
                self._set_timer(due)
                break
            late.append(departure)
        for departure in late:
            del self._due[departure]
            departure.expire()
