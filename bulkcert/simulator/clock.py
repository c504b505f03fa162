"""The one clock of the simulator: Unix time in microseconds that never jumps.

In: nothing. Out: integers, so that windows and differences are exact. It must never follow the
system's wall clock after it was made: a clock that is set during a run would reorder the ledger.
"""

from __future__ import annotations

import time

SECOND_US = 1_000_000
DAY_S = 86_400


class Clock:
    """A monotonic clock with a fixed offset, taken once, to Unix time."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_us(self) -> int:
        """Unix time in microseconds."""
        return (time.monotonic_ns() + self._offset_ns) // 1000
