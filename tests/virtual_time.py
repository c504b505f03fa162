"""An event loop with a virtual clock: hours pass in milliseconds, and always in the same way.

In: a coroutine. Out: its result, as fast as its callbacks can run: when nothing is ready, the clock
jumps to the next timer. The coroutine must not wait for other threads or processes. Sockets between
two ends in this process need a moment now and then, see `sockets_s`.

    def test_something() -> None:
        async def scene() -> None: ...

        run_virtually(scene())
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

TURN_S = 1e-9
"""How long each turn of the loop takes. A timer that is set for too short a time, by a rounding
error, must not find the same time again forever."""

_Result = TypeVar("_Result")


class NothingLeftError(RuntimeError):
    """All tasks wait, and no timer is set: on a real clock this test would hang."""


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """Event loop with a virtual clock.

    Args:
        grain_s: timers fire at the next multiple of this after they were set, as real selectors do
            with 1 ms; 0 for exact ones.
        sockets_s: real seconds for which sockets may become ready before the clock jumps.
    """

    def __init__(self, grain_s: float = 0.0, sockets_s: float = 0.0) -> None:
        # not 0: floats must be as coarse as on a machine that has been running for a while
        self._now = 1_000_000.0
        super().__init__(_JumpingSelector(self, grain_s, sockets_s))

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._now

    def stall(self, seconds: float) -> None:
        """Let time pass while nothing runs: timers that are due meanwhile fire late."""
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting, moves the clock of its loop."""

    def __init__(self, loop: VirtualClockLoop, grain_s: float, sockets_s: float) -> None:
        super().__init__()
        self._clock = loop
        self._grain_s = grain_s
        self._sockets_s = sockets_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._clock.stall(TURN_S)
        ready = super().select(0 if timeout == 0 else self._sockets_s)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise NothingLeftError("all tasks wait, and no timer is set")
        if self._grain_s:
            timeout = math.ceil(timeout / self._grain_s) * self._grain_s
        self._clock.stall(timeout)
        return ready


def run_virtually(
    main: Coroutine[Any, Any, _Result], *, grain_s: float = 0.0, sockets_s: float = 0.0
) -> _Result:
    """Run a coroutine to its end on a virtual clock of its own; see `VirtualClockLoop`.

    Raises:
        NothingLeftError: it would have waited forever.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(grain_s, sockets_s)) as runner:
        return runner.run(main)


def stall(seconds: float) -> None:
    """Stop the process for a while, as it looks to everything on the virtual clock."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    loop.stall(seconds)


async def settle() -> None:
    """Let all tasks run that can run without waiting for a timer."""
    for _ in range(100):
        await asyncio.sleep(0)
