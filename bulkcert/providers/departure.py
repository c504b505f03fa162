"""The departure of one request, and when it is given up.

In: the moment at which the connector lets a request leave. Out: its headers are signed, its
deadline is set, the caller is notified. Must never keep anything of a request that is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextvars import ContextVar

from bulkcert.providers.call import OnDeparture, Signer


class Departure:
    """The departure of one request, made by the task that sends it.

    Args:
        deadlines: cancels the task when the response takes too long.
        on_departure: called when the request leaves.
        sign: makes the headers that authenticate the request; None if it needs none.

    Attributes:
        at: the loop's time at which the request left; None before.
        expired: the request was cancelled because it took too long.
    """

    __slots__ = ("_deadlines", "_on_departure", "_sign", "_task", "at", "expired")

    def __init__(
        self, deadlines: Deadlines, on_departure: OnDeparture, sign: Signer | None
    ) -> None:
        self._deadlines = deadlines
        self._on_departure = on_departure
        self._sign = sign
        self._task = asyncio.current_task()
        self.at: float | None = None
        self.expired = False

    def leave(self, now: float, headers: MutableMapping[str, str], source: str) -> None:
        """The request leaves now, with these headers and those that authenticate it.

        Args:
            now: the loop's time.
            headers: the request's own headers; those that authenticate it are added.
            source: IP address of this machine that it leaves from.
        """
        if self._sign is not None:
            headers.update(self._sign())
        self.at = now
        self._deadlines.begin(self, now)
        self._on_departure(source)

    @property
    def over(self) -> bool:
        """Whether the request is over, whatever came of it."""
        return self._task is None

    def expire(self) -> None:
        """Cancel the request, unless it is over."""
        if self._task is not None:
            self.expired = True
            self._task.cancel()

    def undo_expiry(self) -> bool:
        """Undo the cancellation by `expire`; return False if there was none, or another one too."""
        return self.expired and self._task is not None and self._task.uncancel() == 0

    def end(self) -> None:
        """The request is over: drop all references.

        The task's context keeps this object, which refers to the task. A reference cycle for each
        request would make the garbage collector stop the program for a long time.
        """
        self._task = None
        self._deadlines.end(self)
        del self._deadlines, self._on_departure, self._sign


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


current: ContextVar[Departure] = ContextVar("departure")
"""The departure of the request that the running task sends."""
